"""Reads and writes safetensors files of float32 with nothing but the standard library and torch."""
import json
import struct

import torch


def write(path, tensors, metadata):
    header = {"__metadata__": {key: str(value) for key, value in metadata.items()}}
    blobs = []
    at = 0
    for name, tensor in tensors.items():
        kind = "I64" if tensor.dtype == torch.int64 else "F32"
        if kind == "F32":
            tensor = tensor.float()
        blob = tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read(path):
    """name -> float32 tensor, and the metadata"""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        begin, end = entry["data_offsets"]
        count = (end - begin) // 4
        flat = torch.frombuffer(data, dtype=torch.float32, count=count, offset=begin)
        tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors, metadata

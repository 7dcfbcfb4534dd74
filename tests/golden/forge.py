#!/usr/bin/python3
"""Writes further files of tests/golden/bad: forge.py GOLDEN-DIR deltas|drops|imports...

Payloads that no encoder makes, under digests and a signature that hold, and hostile files of the
formats that are imported. Like golden_make it was run once: what lies in bad/ is kept. It needs
python3-msgpack and openssl, and takes the files of good/ apart by delta/FORMAT.md.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib

import msgpack

ROOT = sys.argv[1]


def good(name):
    with open(os.path.join(ROOT, "good", name), "rb") as file:
        return file.read()


def put(name, data):
    with open(os.path.join(ROOT, "bad", name), "wb") as file:
        file.write(data)


def sha(data):
    return hashlib.sha256(data).digest()


def padded(data):
    return data + bytes(-len(data) % 64)


def sign(header):
    """The signature block of golden.pem over this header."""
    key = os.path.join(ROOT, "good", "golden.pem")
    der = subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"],
                         check=True, capture_output=True).stdout
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=header,
                               check=True, capture_output=True).stdout
    return msgpack.packb([[sha(der), signature]], use_bin_type=True)


def forge(name, source, change):
    """A delta of good/ with one tensor's payload changed: change(entry, payload) -> payload."""
    data = good(source)
    header_len, block_len, payload_len = struct.unpack("<IIQ", data[8:24])
    header = msgpack.unpackb(data[24:24 + header_len], raw=False)
    area = data[len(data) - payload_len:]
    parts, at = [], 0
    for entry in header["tensors"]:
        at += -at % 64
        parts.append(area[at:at + entry["len"]])
        at += entry["len"]
    rest = area[at + -at % 64:]
    found = False
    for i, entry in enumerate(header["tensors"]):
        made = change(entry, parts[i])
        if made is not None:
            assert not found
            found = True
            parts[i] = made
            entry["len"] = len(made)
            entry["sha"] = sha(made)
    assert found, name
    header.pop("chunks", None)
    area = b"".join(padded(part) for part in parts[:-1]) + parts[-1]
    if rest:
        area = padded(area) + rest
    packed = msgpack.packb(header, use_bin_type=True)
    block = sign(packed)
    front = padded(data[:8] + struct.pack("<IIQ", len(packed), len(block), len(area))
                   + packed + block)
    put(name, front + area)


def headed(name, source, change):
    """A file of good/ with its header changed: change(header)."""
    data = good(source)
    header_len, block_len, payload_len = struct.unpack("<IIQ", data[8:24])
    header = msgpack.unpackb(data[24:24 + header_len], raw=False)
    change(header)
    packed = msgpack.packb(dict(sorted(header.items())), use_bin_type=True)
    block = sign(packed)
    put(name, padded(data[:8] + struct.pack("<IIQ", len(packed), len(block), payload_len)
                     + packed + block) + data[len(data) - payload_len:])


def drops():
    drop = "schema-1-drop.fld"
    headed("FORMAT-drop-without-need.fld", drop, lambda h: h.pop("need"))
    headed("FORMAT-need-without-drop.fld", drop, lambda h: h.pop("drop"))
    headed("FORMAT-drop-nothing.fld", drop, lambda h: h.update(drop=0))
    headed("MISMATCH-drop-more-than-there-are.fld", drop, lambda h: h.update(drop=5))
    headed("MISMATCH-rows-and-drop.fld", drop, lambda h: h.update(drop=1))
    headed("UNSUPPORTED-need.fld", drop, lambda h: h.update(need=["drop", "more"]))
    headed("UNSUPPORTED-need.flm", "schema-1.flm", lambda h: h.update(need=["drop"]))


def on(tensor, make):
    return lambda entry, part: make(entry, part) if entry["name"] == tensor else None


def table_of_one(symbol):
    """A table in which one symbol has all of the 4096: v = 8192, order 11, z = 2, a = 1, b = 0."""
    return bytes([symbol, 0, 11, 2, 0, 0x0c, 0])


def block(count, state=0x10000):
    """Symbols of which each takes no bits."""
    return struct.pack("<H", 0) + struct.pack("<I", state) * (4 if count >= 1024 else 1)


def blocks(n, state=0x10000):
    return b"".join(block(min(32768, n - i), state) for i in range(0, n, 32768))


def int8(entry, symbol=128, exponent=-10, state=0x10000, table=None):
    return (b"\0" + struct.pack("<hB", exponent, 1) + (table or table_of_one(symbol))
            + blocks(entry["n"], state))


def deltas():
    wide = "wide.weight"
    # +0.0 in the place of -0.0: equal as numbers, another version
    forge("DIGEST-negative-zero.fld", "schema-1.fld",
          on("fc.bias", lambda e, p: b"\0\0\0\0" if p == b"\0\0\0\x80" else 1 / 0))
    forge("FORMAT-int8-move-of-minus-128.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, symbol=0)))
    forge("FORMAT-int8-exponent.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, exponent=81)))
    forge("FORMAT-rans-state-too-low.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, state=0xffff)))
    forge("FORMAT-rans-state-left-over.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, state=0x10001)))
    forge("FORMAT-rans-table-sum.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, table=bytes([128, 0, 11, 2, 0, 0x04, 0]))))
    forge("FORMAT-rans-table-beyond-255.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e, table=bytes([255, 1, 11, 2, 0, 0x0c, 0]))))
    forge("FORMAT-payload-goes-on.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e) + b"\0"))
    forge("FORMAT-payload-ends-early.fld", "schema-1-int8.fld",
          on(wide, lambda e, p: int8(e)[:-1]))
    # nothing moves: whole and well-formed, but not what the digest says
    forge("DIGEST-nothing-moves.fld", "schema-1-int8.fld", on(wide, lambda e, p: int8(e)))
    forge("FORMAT-cell-grid.fld", "schema-1-cell.fld",
          on("live.weight", lambda e, p: b"\x81" + p[1:]))
    forge("FORMAT-positions-shift.fld", "schema-1-auto.fld",
          on("sparse.weight", lambda e, p: b"\x10" + p[1:]))
    # symbol 222: a gap of half a billion elements
    forge("FORMAT-position-beyond-the-tensor.fld", "schema-1-auto.fld",
          on("sparse.weight", lambda e, p: b"\0" + table_of_one(222) + block(e["n"])
             + struct.pack("<I", (30 * e["n"] + 7) // 8) + bytes((30 * e["n"] + 7) // 8)))
    # two frames where one belongs
    forge("FORMAT-zstd-two-frames.fld", "schema-1-zstd.fld", on(wide, lambda e, p: p + p[:40]))


def safetensors(name, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    put(name, struct.pack("<Q", len(text)) + text + data)


def tensor(begin, end, shape=(1,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


def imports():
    safetensors("FORMAT-overlap.safetensors", {"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])},
                bytes(12))
    safetensors("FORMAT-gap.safetensors", {"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12))
    safetensors("FORMAT-duplicate-key.safetensors",
                b'{"a":' + json.dumps(tensor(0, 4)).encode() + b',"a":'
                + json.dumps(tensor(0, 4)).encode() + b"}", bytes(4))
    safetensors("FORMAT-nesting.safetensors", b'{"a":' + b"[" * 4000 + b"]" * 4000 + b"}", b"")
    safetensors("LIMIT-shape-two-to-62.safetensors", {"a": tensor(0, 4, [1 << 62])}, bytes(4))
    safetensors("FORMAT-shape-two-to-63.safetensors", {"a": tensor(0, 4, [1 << 63])}, bytes(4))
    safetensors("TRUNCATED-data.safetensors", {"a": tensor(0, 1 << 40, [1 << 38])}, bytes(4))
    put("LIMIT-header-two-to-63.safetensors", struct.pack("<Q", 1 << 63) + b"{}" + bytes(54))
    npz("FORMAT-overlap.npz", [("a.npy", 0), ("a.npy", 0)])
    npz("DIGEST-checksum.npz", [("a.npy", 0)], crc=1)
    npz("UNSUPPORTED-compressed.npz", [("a.npy", 0)], method=8)
    npz("LIMIT-shape-two-to-62.npz", [("a.npy", 0)], npy(1 << 62))
    npz("TRUNCATED-no-end.npz", [("a.npy", 0)], cut=22)


def npy(rows=1):
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % rows
    head += " " * (63 - (10 + len(head)) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + bytes(4)


def npz(name, members, content=None, crc=0, method=0, cut=0):
    content = content or npy()
    sums = zlib.crc32(content) ^ crc
    fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0x21, sums, len(content), len(content),
                         len(members[0][0]), 0)
    text = members[0][0].encode()
    local = b"PK\3\4" + fields + text + content
    directory = b"".join(b"PK\1\2" + struct.pack("<H", 20) + fields
                         + struct.pack("<HHHII", 0, 0, 0, 0, at) + text for _, at in members)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory),
                                  len(local), 0)
    put(name, (local + directory + end)[:len(local + directory + end) - cut])


# signatures differ each time, so that only what is new is made
for made in sys.argv[2:]:
    {"deltas": deltas, "drops": drops, "imports": imports}[made]()

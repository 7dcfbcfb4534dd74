#!/usr/bin/python3
"""A reader of model and delta files by a stranger: written from delta/FORMAT.md alone.

It shares no code with the project. It needs python3-msgpack, and libzstd (RFC 8878) through
ctypes; all else is Python's standard library, ECDSA over P-256 included. Slow and plain: it is
there to prove that the document suffices.

    stranger.py check DIR        reads every golden file below DIR: what good/ holds must decode to
                                 the digests recorded in good/DIGESTS, what bad/ holds be refused
    stranger.py check DIR TOOL   ... and the program TOOL (frostline-delta) must say the same
    stranger.py record DIR       prints good/DIGESTS

Exit status: 0 as it should be, 1 not, 77 cannot run here.
"""
import base64
import ctypes
import ctypes.util
import hashlib
import os
import struct
import subprocess
import sys
import tempfile

try:
    import msgpack
except ImportError:
    print("SKIP: python3-msgpack is not installed for", sys.executable)
    sys.exit(77)


class Refused(Exception):
    """The file breaks a rule of FORMAT.md."""


def need(condition, text):
    if not condition:
        raise Refused(text)


def sha(data):
    return hashlib.sha256(data).digest()


# ---- Canonical MessagePack ----

def scan(data, at, depth, budget):
    """Walks over one value without allocating by any stated length; returns the place behind it."""
    need(depth <= 8, "nested too deep")
    budget[0] -= 1
    need(budget[0] >= 0, "more than 65,536 values")

    def number(size):
        need(at + 1 + size <= len(data), "ends early")
        return int.from_bytes(data[at + 1:at + 1 + size], "big")

    need(at < len(data), "ends early")
    b = data[at]
    if b <= 0x7F or b >= 0xE0 or b in (0xC2, 0xC3):
        return at + 1
    if b in (0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3, 0xCB):
        size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xCB: 8}[b]
        number(size)
        return at + 1 + size
    if 0xA0 <= b <= 0xBF:
        length, body = b & 0x1F, at + 1
    elif b in (0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6):
        size = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}[b]
        length, body = number(size), at + 1 + size
    else:
        if 0x80 <= b <= 0x8F:
            count, place = 2 * (b & 0x0F), at + 1
        elif 0x90 <= b <= 0x9F:
            count, place = b & 0x0F, at + 1
        elif b in (0xDC, 0xDD, 0xDE, 0xDF):
            size = 2 if b in (0xDC, 0xDE) else 4
            count, place = number(size) * (2 if b >= 0xDE else 1), at + 1 + size
        else:
            raise Refused("a type that the subset does not have")
        need(count <= len(data) - place, "ends early")
        for _ in range(count):
            place = scan(data, place, depth + 1, budget)
        return place
    need(length <= len(data) - body, "ends early")
    return body + length


def check_keys(value):
    if isinstance(value, dict):
        keys = list(value)
        need(all(isinstance(k, str) for k in keys), "a key that is no string")
        need(keys == sorted(keys, key=lambda k: k.encode()), "keys out of order")
        for inner in value.values():
            check_keys(inner)
    elif isinstance(value, list):
        for inner in value:
            check_keys(inner)


def unpack(data):
    need(scan(data, 0, 1, [65536]) == len(data), "bytes behind the value")
    seen = []

    def pairs(items):
        keys = [k for k, _ in items]
        need(len(keys) == len(set(keys)), "a key occurs twice")
        seen.append(1)
        return dict(items)

    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=pairs)
    except Refused:
        raise
    except Exception as why:  # whatever msgpack raises
        raise Refused(str(why))
    check_keys(value)
    # shortest forms, float64: a value has one encoding, so packing it again must give the same
    need(msgpack.packb(value, use_bin_type=True, use_single_float=False) == data, "not canonical")
    return value


def get(obj, key, kind, optional=False):
    if key not in obj:
        need(optional, "'%s' is missing" % key)
        return None
    value = obj[key]
    need(isinstance(value, kind) and not (kind is int and isinstance(value, bool)),
         "'%s' has another type" % key)
    if kind is int:
        need(value >= 0, "'%s' is negative" % key)
    if kind is str:
        need(all(0 < ord(c) < 128 for c in value), "'%s' is not ASCII" % key)
    return value


def digest_of(obj, key):
    value = get(obj, key, bytes)
    need(len(value) == 32, "'%s' is no digest" % key)
    return value


# ---- Frame ----

MAGIC = {b"\x89FLM\r\n\x1a": "model", b"\x89FLD\r\n\x1a": "delta"}


class Frame:
    def __init__(self, data):
        need(len(data) >= 24, "truncated")
        self.kind = MAGIC.get(data[:7])
        need(self.kind is not None, "neither model nor delta")
        need(data[7] == 1, "frame version not supported")
        h, s, p = (int.from_bytes(data[a:b], "little") for a, b in ((8, 12), (12, 16), (16, 24)))
        need(h <= 16 << 20 and s <= 1024, "over a limit")
        area = (24 + h + s + 63) // 64 * 64
        need(len(data) == area + p, "truncated, or bytes behind the end")
        self.header = data[24:24 + h]
        self.signatures = data[24 + h:24 + h + s]
        need(not any(data[24 + h + s:area]), "padding is not zero")
        self.payload = data[area:]
        self.at = 0

    def part(self, length, digest, what):
        start = (self.at + 63) // 64 * 64
        need(start + length <= len(self.payload), what + ": payload is truncated")
        need(not any(self.payload[self.at:start]), "padding is not zero")
        self.at = start + length
        part = self.payload[start:self.at]
        need(sha(part) == digest, what + ": digest")
        return part

    def end(self):
        need(self.at == len(self.payload), "bytes behind the last payload part")


# ---- Rules common to both headers ----

def check_common(header, kind):
    need(isinstance(header, dict), "the header is no map")
    need(get(header, "schema", int) == 1, "schema not supported")
    need(get(header, "kind", str) == kind, "kind and magic differ")
    features = get(header, "need", list, True) or []
    need(all(kind == "delta" and f == "drop" for f in features), "needs an unknown feature")


def check_id(text, most=63):
    need(1 <= len(text) <= most, "an id of this length")
    need(all(c in "abcdefghijklmnopqrstuvwxyz0123456789_.-" for c in text), "not a class id")
    need(text[0] not in ".-", "not a class id")


def check_arch(arch):
    need(set(arch) == {"input", "mean", "name", "std", "stem", "width"}, "keys of arch")
    size = get(arch, "input", list)
    need(len(size) == 3 and all(type(n) is int for n in size), "input")
    need(1 <= size[0] <= 3 and all(1 <= n <= 4096 for n in size[1:]), "input")
    for key in ("mean", "std"):
        three = get(arch, key, list)
        need(len(three) == 3 and all(type(v) is float for v in three), key)
        need(all(v == v and abs(v) != float("inf") for v in three), key)
        need(key == "mean" or all(v > 0 for v in three), key)
    check_id(get(arch, "name", str), 31)
    check_id(get(arch, "stem", str), 15)
    need(1 <= get(arch, "width", int) <= 65535, "width")


def check_classes(classes):
    need(len(classes) <= 65535, "too many classes")
    for name in classes:
        need(isinstance(name, str), "a class that is no string")
        check_id(name)
    need(len(set(classes)) == len(classes), "a class occurs twice")


def check_name(name):
    need(1 <= len(name) <= 127 and all(0x21 <= ord(c) <= 0x7E for c in name), "a tensor's name")


def count_of(shape):
    need(isinstance(shape, list) and 1 <= len(shape) <= 4, "rank")
    count = 1
    for n in shape:
        need(type(n) is int and n >= 1, "a dimension")
        count *= n
    need(count <= 1 << 29, "a tensor over 2 GiB")
    return count


def check_bits(bits, count, limit):
    need(1 <= count <= limit, "bits of the freeze plan")
    need(len(bits) == (count + 7) // 8, "bytes of the freeze plan")
    need(count % 8 == 0 or bits[-1] >> (count % 8) == 0, "bits behind the last")


class Tensor:
    def __init__(self, name, shape, values):
        self.name, self.shape, self.values = name, shape, values  # values: bytearray
        self.mode, self.bits, self.nbits = "live", b"", 0

    def count(self):
        return len(self.values) // 4

    def set_plan(self, mode, bits, nbits):
        need(mode in ("live", "all", "rows", "weights"), "freeze mode not supported")
        if mode in ("rows", "weights"):
            check_bits(bits, nbits, self.shape[0] if mode == "rows" else self.count())
        self.mode, self.bits, self.nbits = mode, bits, nbits

    def frozen(self, i):
        if self.mode in ("live", "all"):
            return self.mode == "all"
        if self.mode == "rows":
            i //= self.count() // self.shape[0]
        return i < self.nbits and bool(self.bits[i // 8] >> (i % 8) & 1)


def is_finite(values):
    return all((values[i + 3] & 0x7F) << 1 | values[i + 2] >> 7 != 0xFF
               for i in range(0, len(values), 4))


# ---- Model file ----

class Model:
    def __init__(self, data):
        frame = Frame(data)
        need(frame.kind == "model", "this is a delta")
        header = unpack(frame.header)
        check_common(header, "model")
        need(set(header) == {"arch", "classes", "kind", "parent", "schema", "tensors"}, "keys")
        self.arch = get(header, "arch", dict)
        check_arch(self.arch)
        self.classes = get(header, "classes", list)
        check_classes(self.classes)
        self.parent = get(header, "parent", bytes)
        need(len(self.parent) in (0, 32) and self.parent != bytes(32), "parent")
        entries = get(header, "tensors", list)
        need(len(entries) <= 4096, "tensors")
        self.tensors = {}
        last = ""
        for entry in entries:
            need(isinstance(entry, dict), "tensor")
            name = get(entry, "name", str)
            check_name(name)
            need(name > last, "tensors are out of order")
            last = name
            mode = get(entry, "freeze", str)
            with_bits = mode in ("rows", "weights")
            keys = {"dtype", "freeze", "name", "sha", "shape"}
            need(set(entry) == keys | ({"bits", "bits_sha"} if with_bits else set()), "keys")
            need(get(entry, "dtype", str) == "f32", "dtype not supported")
            shape = get(entry, "shape", list)
            values = frame.part(4 * count_of(shape), digest_of(entry, "sha"), name)
            tensor = Tensor(name, shape, bytearray(values))
            nbits = get(entry, "bits", int) if with_bits else 0
            need(nbits <= 1 << 29, "bits")
            bits = frame.part((nbits + 7) // 8, digest_of(entry, "bits_sha"), name) \
                if with_bits else b""
            tensor.set_plan(mode, bits, nbits)
            self.tensors[name] = tensor
        frame.end()
        self.frame = frame
        self.version = sha(frame.header)

    def make_header(self):
        """The one form that a model's header has."""
        tensors = []
        for name in sorted(self.tensors):
            t = self.tensors[name]
            entry = {}
            if t.mode in ("rows", "weights"):
                entry["bits"] = t.nbits
                entry["bits_sha"] = sha(t.bits)
            entry.update(dtype="f32", freeze=t.mode, name=name, sha=sha(t.values), shape=t.shape)
            tensors.append(entry)
        return msgpack.packb({"arch": self.arch, "classes": self.classes, "kind": "model",
                              "parent": self.parent, "schema": 1, "tensors": tensors},
                             use_bin_type=True)

    def check_finite(self):
        for t in self.tensors.values():
            need(is_finite(t.values), "'%s' holds a number that is not finite" % t.name)


# ---- Delta file: payloads ----

def load_zstd():
    lib = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    lib.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    lib.ZSTD_findFrameCompressedSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.ZSTD_decompress.restype = ctypes.c_size_t
    lib.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
                                    ctypes.c_size_t]
    return lib


def unzstd(payload, size):
    lib = load_zstd()
    need(lib.ZSTD_getFrameContentSize(payload, len(payload)) == size, "zstd: content size")
    need(lib.ZSTD_findFrameCompressedSize(payload, len(payload)) == len(payload), "zstd: one frame")
    out = ctypes.create_string_buffer(size)
    need(lib.ZSTD_decompress(out, size, payload, len(payload)) == size, "zstd: content")
    return out.raw


class Pull:
    """Front to back through a payload."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        need(self.at + size <= len(self.data), "payload ends early")
        self.at += size
        return self.data[self.at - size:self.at]

    def uint(self, size):
        return int.from_bytes(self.take(size), "little")

    def sint(self, size):
        return int.from_bytes(self.take(size), "little", signed=True)

    def end(self):
        need(self.at == len(self.data), "bytes behind the payload's end")


class Bits:
    def __init__(self, data):
        self.value, self.at, self.count = int.from_bytes(data, "little"), 0, 8 * len(data)

    def take(self, width):
        need(self.at + width <= self.count, "bits end early")
        out = self.value >> self.at & ((1 << width) - 1)
        self.at += width
        return out

    def zeros(self, most):
        """Zeros up to and over the next one."""
        z = 0
        while not self.take(1):
            z += 1
            need(z <= most, "too many zero bits")
        return z

    def end(self):
        need(self.count - self.at < 8 and self.value >> self.at == 0, "bits are not at their end")


class Table:
    """Frequencies of the symbols of rANS."""

    def __init__(self, pull):
        first, count, order = pull.uint(1), pull.uint(1) + 1, pull.uint(1)
        need(first + count <= 256 and order <= 11, "table")
        bits = Bits(pull.take(pull.uint(2)))
        self.freq, last = [0] * 256, 0
        for symbol in range(first, first + count):
            z = bits.zeros(13)
            a = bits.take(z)
            v = (((1 << z) - 1 + a) << order) + bits.take(order)
            last += v // 2 if v % 2 == 0 else -(v + 1) // 2
            need(0 <= last <= 4096, "frequency")
            self.freq[symbol] = last
        bits.end()
        need(sum(self.freq) == 4096, "frequencies do not add up")
        self.start, self.slot, total = [], [], 0
        for symbol in range(256):
            self.start.append(total)
            self.slot += [symbol] * self.freq[symbol]
            total += self.freq[symbol]

    def block(self, pull, m):
        words = pull.uint(2)
        states = [pull.uint(4) for _ in range(4 if m >= 1024 else 1)]
        need(all(x >= 1 << 16 for x in states), "state")
        rest = Pull(pull.take(2 * words))
        out = []
        for i in range(m):
            x = states[i % len(states)]
            low = x & 4095
            symbol = self.slot[low]
            x = self.freq[symbol] * (x >> 12) + low - self.start[symbol]
            if x < 1 << 16:
                x = x << 16 | rest.uint(2)
            states[i % len(states)] = x
            out.append(symbol)
        rest.end()
        need(all(x == 1 << 16 for x in states), "final state")
        return out


BLOCK = 32768


def blocks(n):
    return [min(BLOCK, n - at) for at in range(0, n, BLOCK)]


class Values:
    """What a decoder needs besides its payload."""

    def __init__(self, n, entry, new_rows_from):
        self.n, self.shape = n, entry["shape"]
        self.first_row = new_rows_from if entry["scope"] == "new" else 0


class Raw:
    def __init__(self, pull, info):
        pass

    def block(self, pull, base, places):
        return [pull.uint(4) for _ in base]


class Zstd:
    """Not in blocks: one frame of four planes, XOR with the base."""

    def __init__(self, pull, info):
        size = 4 * info.n
        self.planes = unzstd(pull.take(len(pull.data) - pull.at), size)
        self.n, self.at = info.n, 0

    def block(self, pull, base, places):
        out = [b ^ sum(self.planes[k * self.n + self.at + i] << 8 * k for k in range(4))
               for i, b in enumerate(base)]
        self.at += len(base)
        return out


class Diff:
    def __init__(self, pull, info):
        self.data = unzstd(pull.take(len(pull.data) - pull.at), 4 * info.n)
        self.at = 0

    def block(self, pull, base, places):
        m = len(base)
        planes = self.data[self.at:self.at + 4 * m]
        self.at += 4 * m
        out = []
        for i, b in enumerate(base):
            v = sum(planes[k * m + i] << 8 * k for k in range(4))
            out.append((b + (v >> 1 ^ -(v & 1))) % (1 << 32))
        return out


def cell_of(pattern, k):
    """Which cell of size 2^k a pattern lies in."""
    exponent, mantissa = pattern >> 23 & 0xFF, pattern & 0x7FFFFF
    need(exponent < 255, "base is not finite")
    significand, power = (mantissa, -149) if exponent == 0 else (mantissa | 1 << 23, exponent - 150)
    need(exponent == 0 or exponent - 127 < k + 39, "base is too large")
    shift = power - k
    m = significand << shift if shift >= 0 else significand >> -shift
    return -1 - m if pattern >> 31 else m


class Cell:
    width = 23

    def __init__(self, pull, info):
        self.k = pull.sint(1)
        need(self.k >= -126, "k")
        self.table = Table(pull)

    def inside(self, t, bits):
        m, sign = (t, 0) if t >= 0 else (-1 - t, 1)
        if m == 0:
            exponent = self.k + 126 - bits.zeros(16)
            mantissa = bits.take(self.width)
        else:
            top = m.bit_length() - 1
            exponent = self.k + top + 127
            if top <= self.width:
                mantissa = (m << self.width - top) + bits.take(self.width - top)
            else:
                need(m % (1 << top - self.width) == 0, "a cell without values")
                mantissa = m >> top - self.width
            mantissa &= (1 << self.width) - 1
        need(1 <= exponent <= 254, "exponent")
        return sign << 31 | exponent << 23 | mantissa << 23 - self.width

    def block(self, pull, base, places):
        symbols = self.table.block(pull, len(base))
        bits = Bits(pull.take(pull.uint(4)))
        out = []
        for symbol, b in zip(symbols, base):
            if symbol == 0:
                out.append(b)
            elif symbol == 1:
                out.append(bits.take(32))
            else:
                out.append(self.inside(cell_of(b, self.k) + symbol - 128, bits))
        bits.end()
        return out


class Bf16(Cell):
    width = 7


class Int8:
    def __init__(self, pull, info):
        by_row = pull.uint(1)
        need(by_row <= 1, "scales")
        e = pull.sint(2)
        need(-149 <= e <= 80, "e")
        rows = info.shape[0] - info.first_row if by_row else 1
        self.scales = [self.scale(b, e) for b in pull.take(rows)]
        self.first_row, self.by_row = info.first_row, by_row
        self.row = 1
        for n in info.shape[1:]:
            self.row *= n
        self.table = Table(pull)

    @staticmethod
    def scale(b, e):
        return 0.0 if b == 0 else float(8 + (b - 1) % 8) * 2.0 ** (e + (b - 1) // 8)

    def block(self, pull, base, places):
        out = []
        for symbol, b, place in zip(self.table.block(pull, len(base)), base, places):
            need(symbol != 0, "symbol 0")
            if symbol == 128:
                out.append(b)
                continue
            scale = self.scales[place // self.row - self.first_row if self.by_row else 0]
            # float64 adds binary32 numbers exactly enough: rounding twice gives the same where the
            # first one has 53 bits, 2 * 24 + 2 or more (Figueroa 1995)
            value = struct.unpack("<f", struct.pack("<I", b))[0] + (symbol - 128) * scale
            try:
                out.append(struct.unpack("<I", struct.pack("<f", value))[0])
            except OverflowError:
                raise Refused("a sum is not finite")
        return out


ENCODINGS = {"raw": Raw, "zstd": Zstd, "diff": Diff, "cell": Cell, "bf16": Bf16, "int8": Int8}
POSITIONS = ("raw", "cell", "bf16")  # encodings that scope "some" goes with


class Gaps:
    """Positions that travel."""

    def __init__(self, pull, elements):
        self.h = pull.uint(1)
        need(self.h <= 15, "h")
        self.table, self.next, self.elements = Table(pull), 0, elements

    def block(self, pull, m):
        symbols = self.table.block(pull, m)
        bits = Bits(pull.take(pull.uint(4)))
        out = []
        for s in symbols:
            a = bits.take(self.h)
            need(s <= 222, "a gap's symbol")
            g = s if s < 192 else 191 + (1 << s - 192) + bits.take(s - 192)
            out.append(self.next + (g << self.h) + a)
            need(out[-1] < self.elements, "a position behind the end")
            self.next = out[-1] + 1
        bits.end()
        return out


def decode(entry, payload, tensor, places, new_rows_from):
    """Applies a payload to a tensor; `places` is None where positions travel."""
    pull, n = Pull(payload), entry["n"]
    gaps = Gaps(pull, tensor.count()) if places is None else None
    decoder = ENCODINGS[entry["enc"]](pull, Values(n, entry, new_rows_from))
    done = 0
    for m in blocks(n):
        where = gaps.block(pull, m) if gaps else places[done:done + m]
        base = [int.from_bytes(tensor.values[4 * i:4 * i + 4], "little") for i in where]
        for i, pattern in zip(where, decoder.block(pull, base, where)):
            tensor.values[4 * i:4 * i + 4] = pattern.to_bytes(4, "little")
        done += m
    pull.end()


# ---- Delta file ----

class Delta:
    def __init__(self, data):
        frame = Frame(data)
        need(frame.kind == "delta", "this is a model")
        header = unpack(frame.header)
        check_common(header, "delta")
        self.arch = get(header, "arch", dict)
        check_arch(self.arch)
        self.base, self.target = digest_of(header, "base"), digest_of(header, "target")
        self.classes = get(header, "classes", list)
        check_classes(self.classes)
        self.drop = get(header, "drop", int, True)
        need((self.drop is not None) == bool(header.get("need")), "drop and need")
        need(self.drop is None or self.drop >= 1, "drop")
        self.drop = self.drop or 0
        self.parent = get(header, "parent", bytes, True)
        need(self.parent is None or len(self.parent) in (0, 32), "parent")
        self.check_made(get(header, "made", dict, True))
        self.entries, last = [], ""
        entries = get(header, "tensors", list)
        need(len(entries) <= 4096, "tensors")
        for entry in entries:
            need(isinstance(entry, dict), "tensor")
            name = get(entry, "name", str)
            check_name(name)
            need(name > last, "tensors are out of order")
            last = name
            need(get(entry, "enc", str) in ENCODINGS, "encoding not supported")
            need(get(entry, "scope", str) in ("all", "live", "new", "some"), "scope not supported")
            need(entry["scope"] != "some" or entry["enc"] in POSITIONS, "scope with this encoding")
            n = get(entry, "n", int)
            need(1 <= n <= count_of(get(entry, "shape", list)), "n")
            length = get(entry, "len", int)
            need(length <= 2 << 30, "len")
            if entry["scope"] != "some":
                need(length == 4 * n if entry["enc"] == "raw" else length < 4 * n, "len")
            digest_of(entry, "to")
            self.entries.append((entry, frame.part(length, digest_of(entry, "sha"), name)))
        self.plans, last = [], ""
        for plan in get(header, "plan", list, True) or []:
            need(isinstance(plan, dict), "plan")
            name, mode = get(plan, "name", str), get(plan, "mode", str)
            check_name(name)
            need(name > last, "plans are out of order")
            last = name
            need(mode in ("live", "all", "rows", "weights"), "freeze mode not supported")
            bits, nbits = b"", 0
            if mode in ("rows", "weights"):
                nbits = get(plan, "bits", int)
                need(1 <= nbits <= 1 << 29, "bits")
                bits = frame.part((nbits + 7) // 8, digest_of(plan, "sha"), name)
                check_bits(bits, nbits, 1 << 29)
            self.plans.append((name, mode, bits, nbits))
        frame.end()
        self.frame = frame

    @staticmethod
    def check_made(made):
        if made is None:
            return
        for key, most in (("by", 63), ("method", 31), ("sw", 31)):
            text = get(made, key, str)
            need(len(text) <= most and all(0x20 <= ord(c) <= 0x7E for c in text), key)
        get(made, "at", int)
        get(made, "replay", int)
        for key, kinds in (("new", (int, int, float)), ("old", (int, float, float))):
            three = get(made, key, list)
            need([type(v) for v in three] == list(kinds), key)
            need(all(v >= 0 for v in three), key)
            need(all(v <= 1 for v in three if type(v) is float), key)

    def resize(self, tensor, shape):
        need(len(shape) == len(tensor.shape) and shape[1:] == tensor.shape[1:], "shape")
        more = shape[0] - tensor.shape[0]
        if more == 0:
            return
        need(more == len(self.classes) - self.drop, "rows come and go with classes")
        row = len(tensor.values) // tensor.shape[0]
        if more < 0:
            del tensor.values[more * row:]
            tensor.shape = list(shape)
            room = {"rows": shape[0], "weights": tensor.count()}.get(tensor.mode, 0)
            if tensor.nbits > room:
                kept = int.from_bytes(tensor.bits, "little") & (1 << room) - 1
                tensor.bits, tensor.nbits = kept.to_bytes((room + 7) // 8, "little"), room
            return
        if tensor.mode == "all":
            n = tensor.shape[0]
            tensor.mode, tensor.nbits = "rows", n
            tensor.bits = ((1 << n) - 1).to_bytes((n + 7) // 8, "little")
        tensor.values += bytes(more * row)
        tensor.shape = list(shape)

    def apply(self, base):
        """Turns `base` into the target."""
        need(base.version == self.base, "another base")
        need(base.arch == self.arch, "another architecture")
        for entry, payload in self.entries:
            tensor = base.tensors.get(entry["name"])
            need(tensor is not None, "the base has no such tensor")
            before, rows = tensor.count(), tensor.shape[0]
            self.resize(tensor, entry["shape"])
            places = None
            if entry["scope"] == "all":
                places = range(tensor.count())
            elif entry["scope"] == "new":
                places = range(before, tensor.count())
            elif entry["scope"] == "live":
                places = [i for i in range(tensor.count()) if not tensor.frozen(i)]
            need(places is None or len(places) == entry["n"], "another number of places")
            decode(entry, payload, tensor, places, rows)
            need(sha(tensor.values) == entry["to"], "'%s': digest of the target" % tensor.name)
        for name, mode, bits, nbits in self.plans:
            need(name in base.tensors, "the base has no such tensor")
            base.tensors[name].set_plan(mode, bits, nbits)
        need(self.drop <= len(base.classes), "more classes go than there are")
        base.classes = base.classes[:len(base.classes) - self.drop] + self.classes
        check_classes(base.classes)
        base.parent = self.base if self.parent is None else self.parent
        base.version = sha(base.make_header())
        need(base.version == self.target, "digest of the target")
        base.check_finite()
        return base


# ---- Signature block: ECDSA over P-256 (FIPS 186-4, SEC 1) ----

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)


def add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P) % P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P) % P
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k, point):
    out = None
    while k:
        if k & 1:
            out = add(out, point)
        point, k = add(point, point), k >> 1
    return out


def read_integer(der, at):
    need(len(der) >= at + 2 and der[at] == 2 and der[at + 1] < 0x80, "DER")
    end = at + 2 + der[at + 1]
    need(end <= len(der) and der[at + 1] > 0, "DER")
    return int.from_bytes(der[at + 2:end], "big", signed=True), end


def check_ecdsa(key, message, der):
    need(len(der) >= 2 and der[0] == 0x30 and der[1] == len(der) - 2, "DER")
    r, at = read_integer(der, 2)
    s, at = read_integer(der, at)
    need(at == len(der) and 0 < r < N and 0 < s < N, "DER")
    point = (int.from_bytes(key[-64:-32], "big"), int.from_bytes(key[-32:], "big"))
    need((point[1] ** 2 - point[0] ** 3 + 3 * point[0] - B) % P == 0, "key is not on the curve")
    z, w = int.from_bytes(sha(message), "big"), pow(s, -1, N)
    sum_ = add(times(z * w % N, G), times(r * w % N, point))
    need(sum_ is not None and sum_[0] % N == r, "signature does not match")


def check_signatures(frame, keys):
    """keys: DER SubjectPublicKeyInfo of whom the reader trusts, by their SHA-256."""
    need(frame.signatures, "unsigned")
    block = unpack(frame.signatures)
    need(isinstance(block, list) and 1 <= len(block) <= 8, "signature block")
    last, trusted = b"", False
    for pair in block:
        need(isinstance(pair, list) and len(pair) == 2, "signature block")
        need(all(isinstance(part, bytes) for part in pair), "signature block")
        need(len(pair[0]) == 32 and 0 < len(pair[1]) <= 80 and pair[0] > last, "signature block")
        last = pair[0]
        if pair[0] in keys:
            check_ecdsa(keys[pair[0]], frame.header, pair[1])
            trusted = True
    need(trusted, "no key that is trusted here has signed")


def load_keys(path):
    with open(path) as file:
        lines = [line.strip() for line in file if not line.startswith("-----")]
    der = base64.b64decode("".join(lines))
    need(len(der) == 91, "not a P-256 key")
    return {sha(der): der}


# ---- golden files ----

def read(path):
    with open(path, "rb") as file:
        return file.read()


def open_file(path, keys, bases):
    """The model that a golden file holds or leads to; signature first, as a device does."""
    data = read(path)
    check_signatures(Frame(data), keys)
    if Frame(data).kind == "model":
        model = Model(data)
        need(sha(model.make_header()) == model.version, "a header in another form than its model's")
        model.check_finite()
        return model
    delta = Delta(data)
    need(delta.base in bases, "the base is not known here")
    return delta.apply(Model(bases[delta.base]))


def good_files(root):
    names = sorted(os.listdir(os.path.join(root, "good")))
    return [n for n in names if n.endswith(".flm")] + [n for n in names if n.endswith(".fld")]


def load_bases(root):
    bases = {}
    for name in good_files(root):
        if name.endswith(".flm"):
            data = read(os.path.join(root, "good", name))
            bases[Model(data).version] = data
    return bases


def lines_of(name, model):
    yield "%s %s %s" % (name, "-", model.version.hex())
    for tensor in sorted(model.tensors):
        yield "%s %s %s" % (name, tensor, sha(model.tensors[tensor].values).hex())


def compare_tool(tool, root, name, model, bases):
    """Every tensor, as TOOL writes it, and the version's name."""
    path = os.path.join(root, "good", name)
    said = subprocess.run([tool, "digest", path], check=True, capture_output=True, text=True)
    need(said.stdout.split()[0] == model.version.hex(), "the tool names another version")
    with tempfile.TemporaryDirectory() as scratch:
        base = []
        if name.endswith(".fld"):
            base = ["--base", os.path.join(scratch, "base.flm")]
            with open(base[1], "wb") as file:
                file.write(bases[Delta(read(path)).base])
        for tensor in model.tensors.values():
            out = os.path.join(scratch, "t.npy")
            subprocess.run([tool, "cat", path, tensor.name, "--out", out] + base, check=True,
                           stdout=subprocess.DEVNULL)
            npy = read(out)
            values = npy[10 + int.from_bytes(npy[8:10], "little"):]
            need(values == tensor.values, "the tool decodes '%s' otherwise" % tensor.name)


def check_good(root, tool, keys, bases):
    recorded = set(read(os.path.join(root, "good", "DIGESTS")).decode().split("\n")) - {""}
    failed, seen, encodings = 0, set(), set()
    for name in good_files(root):
        try:
            model = open_file(os.path.join(root, "good", name), keys, bases)
            lines = set(lines_of(name, model))
            need(lines <= recorded, "differs from good/DIGESTS")
            seen |= lines
            if name.endswith(".fld"):
                delta = Delta(read(os.path.join(root, "good", name)))
                encodings |= {entry["enc"] for entry, _ in delta.entries}
            if tool:
                compare_tool(tool, root, name, model, bases)
            print("ok      good/%s: %d tensors" % (name, len(model.tensors)))
        except Refused as why:
            print("FAILED  good/%s: %s" % (name, why))
            failed += 1
    if recorded != seen:
        print("FAILED  good/DIGESTS has %d lines that no file gave" % len(recorded - seen))
        failed += 1
    if encodings != set(ENCODINGS):
        print("FAILED  no golden file has", sorted(set(ENCODINGS) - encodings))
        failed += 1
    return failed


def check_bad(root, keys, bases):
    failed = 0
    for name in sorted(os.listdir(os.path.join(root, "bad"))):
        try:
            open_file(os.path.join(root, "bad", name), keys, bases)
            print("FAILED  bad/%s was read" % name)
            failed += 1
        except Refused as why:
            print("ok      bad/%s: %s" % (name, why))
    return failed


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("check", "record"):
        print(__doc__, file=sys.stderr)
        return 2
    root = sys.argv[2]
    keys, bases = load_keys(os.path.join(root, "good", "golden.pub.pem")), load_bases(root)
    if sys.argv[1] == "record":
        for name in good_files(root):
            model = open_file(os.path.join(root, "good", name), keys, bases)
            print("\n".join(lines_of(name, model)))
        return 0
    failed = check_good(root, sys.argv[3] if len(sys.argv) > 3 else None, keys, bases)
    failed += check_bad(root, keys, bases)
    print("%d failures" % failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

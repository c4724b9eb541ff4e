"""Hostile bytes: files that are cut, grown and overwritten, and headers that say what is not so."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from random import Random

import numpy as np

from polyfield.apps.fuzz_values import odd_json

_COUNTS = (
    0, 1, 2, 255, 2**15, 2**16 - 1, 2**16, 2**24, 2**26, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
    2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
_SIDES = (0, 1, 3, 16, 255, 4096, 8192, 16383, 32767, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
_MANY = (50, 3_000, 200_000)
_MOST = 8_000_000  # bytes of a grown file


def odd_bytes(content: bytes, random: Random) -> tuple[bytes, str]:
    """Bytes with a few flipped, cut, inserted, repeated, or overwritten by a forged count."""
    data, said = bytearray(content), []
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        # The beginning is where counts and sizes stand.
        end = len(data) if random.random() < 0.5 else min(len(data), 160)
        at, what = random.randrange(end + 1), random.randrange(8)
        if what == 0:
            del data[at:]
            said.append(f"cut at {at}")
        elif what == 1:
            del data[at : at + random.choice((1, 2, 4, 8, 100))]
            said.append(f"a hole at {at}")
        elif what == 2:
            data[at:at] = random.randbytes(random.choice((1, 2, 4, 8, 100)))
            said.append(f"more at {at}")
        elif what == 3:
            piece = bytes(data[at : at + random.choice((1, 4, 12, 24, 64))]) or b"\0"
            count = min(random.choice(_MANY), _MOST // len(piece))
            data[at:at] = piece * count
            said.append(f"{len(piece)} bytes at {at} {count} times")
        elif what in (4, 5):
            width = random.choice((1, 2, 4, 8))
            order = random.choice(("little", "big"))
            forged = random.choice(_COUNTS) % 256**width
            data[at : at + width] = forged.to_bytes(width, order)
            said.append(f"{forged} in {width} bytes at {at}")
        else:
            for _ in range(random.choice((1, 1, 3, 20))):
                if data:
                    data[min(random.randrange(end + 1), len(data) - 1)] ^= 1 << random.randrange(8)
            said.append("bits turned over")
    return bytes(data), ", ".join(said)


def odd_image(content: bytes, random: Random) -> tuple[bytes, str]:
    """An image whose header says another size, or with chunks of another kind; else odd bytes."""
    if random.random() < 0.5:
        return odd_bytes(content, random)
    if content.startswith(b"\x89PNG"):
        return _odd_png(content, random)
    width, height = random.choice(_SIDES), random.choice(_SIDES)
    said = f"{width}x{height} in its header"
    if content.startswith(b"\xff\xd8"):
        found = re.search(rb"\xff[\xc0-\xc2]..\x08", content, re.DOTALL)
        if found:
            at = found.end()
            size = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
            return content[:at] + size + content[at + 4 :], said
    if content[12:16] == b"VP8X":
        size = (width - 1 & 0xFFFFFF).to_bytes(3, "little")
        size += (height - 1 & 0xFFFFFF).to_bytes(3, "little")
        return content[:24] + size + content[30:], said
    if content[12:16] == b"VP8L":
        bits = (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14
        bits |= int.from_bytes(content[21:25], "little") & 0xF0000000
        return content[:21] + bits.to_bytes(4, "little") + content[25:], said
    if content[12:16] == b"VP8 ":
        size = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
        return content[:26] + size + content[30:], said
    return odd_bytes(content, random)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _odd_png(content: bytes, random: Random) -> tuple[bytes, str]:
    what = random.randrange(6)
    if what < 3:
        size = (random.choice(_SIDES), random.choice(_SIDES)) if what else (4096, 4096)
        form = bytearray(content[24:29])
        if what == 2:
            form[random.randrange(5)] = random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        header = _png_chunk(b"IHDR", struct.pack(">II", *size) + bytes(form))
        return content[:8] + header + content[33:], "{}x{} in its header".format(*size)
    kind = random.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"IDAT", b"PLTE", b"tRNS",
                          b"acTL", b"fdAT", b"xxxx", b"IEND", b"\0\0\0\0"))  # fmt: skip
    if what == 3:
        body = b"a\0\0" + zlib.compress(bytes(1_000_000), 9)
    else:
        body = random.choice((b"", b"\0", b"a\0\0", random.randbytes(30)))
    chunk = _png_chunk(kind, body)
    count = min(random.choice((1, 64, 3_000, 200_000)), _MOST // len(chunk))
    at = random.choice((33, len(content) - 12, len(content)))
    return content[:at] + chunk * count + content[at:], f"{count} chunks {kind!r} at {at}"


def odd_array(content: bytes, random: Random) -> tuple[bytes, str]:
    """A file of numpy's, an array or an archive of them, of other values, types or shapes."""
    what = random.randrange(4)
    if what == 0:
        return odd_bytes(content, random)
    if content.startswith(b"PK"):
        return _odd_archive(content, random)
    if what == 1:
        table = np.load(io.BytesIO(content), allow_pickle=False).copy()
        return _array(_odd_numbers(table, random)), "other numbers"
    if what == 2:
        return _odd_archive(_archive({"a": content}), random)
    shape = random.choice(
        ("()", "(0, 17)", "(1, 17)", "(9,)", "(9, 17, 1)", "(1152921504606846976, 17)", "(-1, 17)",
         "(2000000, 17)", "(60000000, 17)", "(9, 18446744073709551617)", "9", "None", "(True, 17)",
         "(" * 90 + ")" * 90, "(9.0, 17)", "9**9**9", "(9, 17)")
    )  # fmt: skip
    kind = random.choice(("<f8", ">f8", "<f4", "<f2", "|u1", "<i8", "|O", "<c16", "|V8", "<U9999",
                          "|S1", "|b1", "<f16", "<M8[s]", "[('a', '<f8')]", "x" * 999))  # fmt: skip
    return _npy(kind, shape, content[128:]), f"{kind[:20]} of shape {shape[:30]}"


def _npy(kind: str, shape: str, body: bytes) -> bytes:
    words = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text = words.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + body


def _odd_numbers(table: np.ndarray, random: Random) -> np.ndarray:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = table.reshape(-1)
        for _ in range(random.choice((1, 1, 3, len(flat)))):
            factor = random.choice((-1, 0, 1e-12, 1e12, 1e300, np.nan, np.inf, 1.001, 1 + 1e-9))
            flat[random.randrange(len(flat))] *= factor
        kind = random.choice(("f8", "f8", "f4", "f2", "i8", "u1", "c8", "U8", "?"))
        return table.astype(kind)


def _array(table: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, table, allow_pickle=False)
    return out.getvalue()


def _archive(entries: dict[str, bytes], packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, packed)
    return out.getvalue()


def _odd_archive(content: bytes, random: Random) -> tuple[bytes, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name, what = random.choice(list(entries)), random.randrange(6)
    if what == 0:
        del entries[name]
    elif what == 1:
        entries[name] = entries[name] + bytes(random.choice((1, 20_000_000)))
    elif what == 2:
        count = random.choice((100, 20_000, 100_000))
        entries |= {f"x{index}": b"" for index in range(count)}
        return _archive(entries, zipfile.ZIP_STORED), f"{count} entries more"
    elif what == 3:
        entries = {(f"../{key}" if key == name else key): value for key, value in entries.items()}
    elif entries[name].startswith(b"\x93NUMPY"):
        entries[name], said = odd_array(entries[name], random)
        return _archive(entries), f"{name}: {said}"
    else:
        entries[name], said = odd_bytes(entries[name], random)
        return _archive(entries), f"{name}: {said}"
    return _archive(entries), f"{name} taken away, grown or moved"


def odd_tensors(content: bytes, random: Random) -> tuple[bytes, str]:
    """A safetensors file with another header, or odd bytes."""
    if random.random() < 0.4:
        return odd_bytes(content, random)
    (length,) = struct.unpack("<Q", content[:8])
    header, data = content[8 : 8 + length], content[8 + length :]
    if random.random() < 0.2:
        count = random.choice((100, 20_000, 100_000))
        known = json.loads(header)
        empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        known |= {f"t{index}": empty for index in range(count)}
        new, said = json.dumps(known).encode(), f"{count} tensors more"
    else:
        new, said = odd_json(header, random)
    stated = len(new) if random.random() < 0.9 else random.choice(_COUNTS)
    return struct.pack("<Q", stated) + new + data, said

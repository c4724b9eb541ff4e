"""Sound samples of files of Gaussians, and what their headers state."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from polyfield.apps.formats.splat_files import COMPRESSED, SUFFIXES, read_splat_file, write_splats
from polyfield.apps.formats.spz_container import GZIP, MAGIC
from polyfield.apps.fuzz_trees import Tree, read_tree
from polyfield.cuda.errors import InputError
from polyfield.fields.splats import Splats

_COUNT = 20
_DEFLATE = 1032  # bytes that deflate makes of one, at most
_MOST = 1 << 30
_LONGEST = 1 << 27  # bytes of a .splat
_TIMES = 4  # what a reader holds of a Gaussian at once, in Gaussians


def splats() -> list[Tree]:
    """Twenty Gaussians in every format that is read."""
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    model = Splats(
        draw(_COUNT, 3), draw(_COUNT, 3) - 3, draw(_COUNT, 4), draw(_COUNT), draw(_COUNT, 4, 3) / 4
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for suffix in SUFFIXES:
            write_splats(model, folder / f"splats{suffix}")
        write_splats(model, folder / "four.spz", spz_version=4)
        trees: list[Tree] = [{name: content} for name, content in read_tree(folder).items()]
        packed = (folder / "splats.spz").read_bytes()
        table = (folder / "splats.splat").read_bytes()
    # What is not packed has no checksum: what is wrong gets past the first door.
    trees.append({"plain.spz": zlib.decompress(packed, 31)})
    trees.append({"splats.ksplat": _ksplat(table)})
    pictures = _sog()
    trees.append(pictures)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in pictures.items():
            archive.writestr(name, content)
    return [*trees, {"splats.sog": zipped.getvalue()}]


def open_splats(folder: Path) -> None:
    """Reads each file of Gaussians in a folder, and the folder where it is one."""
    for path in sorted(folder.iterdir()):
        # A .splat without end is no lie: each 32 bytes of it are a Gaussian.
        if path.suffix == ".splat" and path.is_file() and path.stat().st_size > _LONGEST:
            raise InputError(path.name, "many Gaussians", "fewer")
        if path.suffix not in (".webp", ".json"):
            read_splat_file(path)
    if (folder / "meta.json").exists():
        read_splat_file(folder)


def stated_bytes(path: Path) -> int:
    """What Gaussians take that a header states, of what so few bytes can hold; 0 of other files."""
    size = path.stat().st_size
    if path.name.endswith(COMPRESSED):
        return 16 * size
    if path.suffix != ".spz":
        return 0
    with path.open("rb") as file, suppress(zlib.error, struct.error):
        start = file.read(1 << 10)
        if start.startswith(GZIP):
            start = zlib.decompressobj(31).decompress(start, 16)
        if start.startswith(MAGIC):
            count, degree = struct.unpack("<IB", start[8:13])
            each = 4 * (11 + 3 * (min(degree, 4) + 1) ** 2)
            return _TIMES * min(count * each, 4 * _DEFLATE * size, _MOST)
    return 0


def _ksplat(table: bytes) -> bytes:
    """At level 1, in one bucket of ten and one of the others, of the rows of a .splat."""
    rows = np.frombuffer(table, [("m", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    found = np.zeros(
        _COUNT, [("m", "<u2", 3), ("s", "<f2", 3), ("q", "<f2", 4), ("c", "u1", 4), ("h", "<f2", 9)]
    )
    found["m"] = np.clip(rows["m"] / (2.5 / 32767) + 32767, 0, 65534)
    found["s"], found["c"], found["q"] = rows["s"], rows["c"], rows["q"] / 128.0 - 1
    head = struct.pack("<BBxxIIIIH", 0, 1, 1, 1, _COUNT, _COUNT, 1).ljust(4096, b"\0")
    section = struct.pack(
        "<IIIIfHxxIIIIH", _COUNT, _COUNT, 10, 2, 5.0, 12, 32767, 0, 1, 1, 1
    ).ljust(1024, b"\0")
    return head + section + struct.pack("<I", _COUNT - 10) + bytes(24) + found.tobytes()


def _sog() -> dict[str, bytes]:
    """Pictures of noise are Gaussians as well."""
    noise = np.random.default_rng(4).integers(0, 256, (8, 64 * 3, 4), np.uint8)
    noise[..., 3] |= 252

    def picture(width: int, height: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(noise[:height, :width]).save(out, "WEBP", lossless=True, exact=True)
        return out.getvalue()

    names = ("means_l", "means_u", "scales", "quats", "sh0", "shN_labels")
    files = {f"{name}.webp": picture(4, 8) for name in names}
    book = np.linspace(-4, 1, 256).tolist()
    meta = {
        "version": 2,
        "count": _COUNT,
        "means": {"mins": [-1] * 3, "maxs": [1.0] * 3, "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
        "shN": {
            "count": 64,
            "bands": 1,
            "codebook": book,
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        },
    }
    files["shN_centroids.webp"] = picture(64 * 3, 1)
    return files | {"meta.json": json.dumps(meta).encode()}

"""Files of Gaussians of every format: known by their bytes, read into the user's world, written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from polyfield.apps.files import open_plain, replacing
from polyfield.apps.formats.compressed_ply import HIGHEST_DEGREE as _COMPRESSED_DEGREE
from polyfield.apps.formats.compressed_ply import compressed_ply_bytes, read_compressed_ply
from polyfield.apps.formats.dot_splat import dot_splat_bytes, lit_beyond, read_dot_splat
from polyfield.apps.formats.glb import Y_UP
from polyfield.apps.formats.ksplat import read_ksplat
from polyfield.apps.formats.sog import read_sog
from polyfield.apps.formats.sog_files import META
from polyfield.apps.formats.splat_gltf import HIGHEST_DEGREE as _GLTF_DEGREE
from polyfield.apps.formats.splat_gltf import has_splats, read_splat_gltf, splat_gltf_bytes
from polyfield.apps.formats.splat_ply import read_splat_ply, splat_ply_bytes
from polyfield.apps.formats.splat_values import SplatFile, World
from polyfield.apps.formats.spz import FRAME, clipped, fractional_bits, read_spz, spz_bytes
from polyfield.apps.formats.spz_container import GZIP, MAGIC
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import Splats, clean, moved, of_degree, turned

COMPRESSED = ".compressed.ply"
SUFFIXES = (".ply", COMPRESSED, ".spz", ".splat", ".glb")
"""Of files that are written; SOG and .ksplat are read alone."""

_HEAD = 1 << 17  # bytes that tell formats apart, of a .glb its whole document
_MOST_DOCUMENT = 1 << 24
_READERS: dict[str, Callable[[Path, str], SplatFile]] = {
    "ply": read_splat_ply,
    "compressed-ply": read_compressed_ply,
    "spz": read_spz,
    "splat": read_dot_splat,
    "ksplat": read_ksplat,
    "sog": read_sog,
    "gltf": read_splat_gltf,
}
_EXPECTED = "a PLY of Gaussians, .compressed.ply, .spz, .splat, .ksplat, .sog or .glb"
_UP_AGAIN = Similarity(1.0, Y_UP.T.contiguous(), Y_UP.new_zeros(3))


def splat_format(path: Path) -> str | None:
    """Which format of Gaussians a file, or the folder of a SOG, is of; None for any other.

    ply, compressed-ply, spz, splat, ksplat, sog or gltf: by bytes, and by suffix for the two that
    have no sign of their own. Other PLY and .glb files, of meshes and points, are none.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return "sog" if _is_meta(path / META) else None
        with open_plain(path) as file:
            head = file.read(_HEAD)
            if head.startswith(b"ply"):
                return _kind_of_ply(head)
            if head.startswith(b"glTF"):
                head += file.read(min(int.from_bytes(head[12:16], "little"), _MOST_DOCUMENT))
                return "gltf" if has_splats(head) else None
            if head.startswith(b"PK"):
                file.seek(-min(_HEAD, file.seek(0, 2)), 2)
                return "sog" if META.encode() in file.read() else None
    except OSError:
        return None
    if head.startswith(MAGIC) or (head.startswith(GZIP) and _is_packed(head)):
        return "spz"
    if path.name == META:
        return "sog" if _is_meta(path) else None
    return suffix[1:] if suffix in (".splat", ".ksplat") else None


def read_splat_file(path: Path, frame: str | None = None, world: World | None = None) -> SplatFile:
    """The Gaussians of a file of any format in the user's world, and what there is to say of them.

    The world is right, down, front as SfM leaves it, or +z up where the file says so; what an
    exporter did is undone. frame: where x, y and z of the file's numbers point, such as "RUB", in
    place of what it says or its format means. world: z-up where the file was made of such a world
    and does not say so; numbers with y up, as in SPZ, are then turned. Gaussians that are not
    finite or fainter than 1/255 are left out and counted in the notes. InputError for another file,
    and where none is left.
    """
    form = splat_format(path)
    if form is None:
        there = path.exists()
        got = "holds no Gaussians that are known" if there else "no such file"
        raise InputError(str(path), got, _EXPECTED)
    file = _READERS[form](path, str(path))
    found = clean(file.splats)
    if not found.splats.count:
        got = f"none of its {file.splats.count} Gaussians is finite and seen"
        raise InputError(str(path), got, "at least one")
    unsaid = [] if frame or file.states_frame else [f"it states no frame: {file.frame} is taken"]
    notes = [*file.notes, *unsaid, *_cleaning(found.mended, found.not_finite, found.transparent)]
    far = int((found.splats.means.abs() > 1e7).any(1).sum())
    if far:
        notes.append(f"warning: {far:,} Gaussians lie beyond 1e7: float32 has no digits there")
    frame = frame or file.frame
    splats, here = _in_world(found.splats, frame, file.world)
    if world == "z-up" and here != "z-up":
        if form == "gltf" or frame[1] == "U":  # the exporter turned it to y up
            splats = moved(turned(splats, "RDF", "RUB"), _UP_AGAIN)
        here = "z-up"
    return replace(file, splats=splats, frame="RFU" if here == "z-up" else "RDF", world=here,
                   notes=tuple(notes))  # fmt: skip


def read_splats(path: Path, frame: str | None = None, world: World | None = None) -> Splats:
    """The Gaussians of `read_splat_file`."""
    return read_splat_file(path, frame, world).splats


def write_splats(
    splats: Splats,
    path: Path,
    world: World = "right-down-forward",
    degree: int | None = None,
    spz_version: int = 3,
    everything: bool = False,
) -> tuple[str, ...]:
    """Writes the Gaussians in the format that the suffix names, whole or not at all; what was lost.

    Numbers of PLY, compressed PLY and .splat are the world's; a .glb turns to y up by its root
    node; those of SPZ are turned, to right, up, back. degree: of the harmonics, where fewer are
    wanted or others are asked for. everything: also what `clean` leaves out. The same bytes each
    time.
    InputError for another suffix, and where the file cannot be written.
    """
    suffix = splat_suffix(path)
    notes: list[str] = []
    if not everything:
        found = clean(splats)
        splats = found.splats
        notes += _cleaning(found.mended, found.not_finite, found.transparent)
    if not splats.count:
        raise InputError(str(path), "no Gaussians", "at least one")
    if degree is not None:
        splats = of_degree(splats, degree)
    notes += _losses(splats, suffix, world)
    parts: Iterator[bytes]
    if suffix == COMPRESSED:
        parts = compressed_ply_bytes(splats)
    elif suffix == ".ply":
        parts = splat_ply_bytes(splats, world)
    elif suffix == ".splat":
        parts = dot_splat_bytes(splats)
    elif suffix == ".glb":
        parts = splat_gltf_bytes(splats, world)
    else:
        to_y_up = Similarity(1.0, Y_UP, Y_UP.new_zeros(3))
        up = moved(splats, to_y_up) if world == "z-up" else turned(splats, "RDF", FRAME)
        parts = iter([spz_bytes(up, spz_version)])
    with replacing(path) as file:
        file.writelines(parts)
    return tuple(notes)


def splat_suffix(path: Path) -> str:
    """Which of SUFFIXES a file to be written has; InputError for another."""
    name = path.name.lower()
    if name.endswith(COMPRESSED):
        return COMPRESSED
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(str(path), f"suffix {path.suffix!r}", f"one of {', '.join(SUFFIXES)}")
    return path.suffix.lower()


def _in_world(splats: Splats, frame: str, world: World) -> tuple[Splats, World]:
    if frame[1:2] in ("F", "B"):
        return turned(splats, frame, "RFU"), "z-up"
    return turned(splats, frame, "RDF"), world


def _cleaning(mended: int, not_finite: int, transparent: int) -> Iterator[str]:
    if mended:
        yield f"{mended:,} Gaussians with an opacity without end or a scale of 0 now have numbers"
    if not_finite:
        yield f"warning: {not_finite:,} Gaussians with numbers that are not finite are left out"
    if transparent:
        yield f"{transparent:,} Gaussians fainter than 1/255 are left out"


def _losses(splats: Splats, suffix: str, world: World) -> Iterator[str]:
    """What a format has no place for, a sentence each."""
    most = {COMPRESSED: _COMPRESSED_DEGREE, ".glb": _GLTF_DEGREE, ".splat": 0}.get(suffix, 4)
    if splats.degree > most:
        what = "the view dependence" if most == 0 else f"harmonics beyond degree {most}"
        yield f"warning: {what} is lost: {suffix} has no place for it"
    if splats.antialiased and suffix in (".splat", ".glb"):
        yield f"warning: that the model is antialiased is lost: {suffix} has no place for it"
    if world == "z-up" and suffix in (COMPRESSED, ".splat"):
        yield f"{suffix} does not say that +z is up"
    beyond = 0
    if suffix == ".spz":
        beyond = clipped(splats)
        if (bits := fractional_bits(splats)) < 12:
            yield f"positions have {bits} fractional bits, for some lie beyond 2,048"
    elif suffix == ".splat":
        beyond = lit_beyond(splats)
    elif suffix == COMPRESSED:
        rest = splats.harmonics[:, 1:].abs() > 4
        beyond = int((rest.any(2).any(1) | (splats.log_scales.abs() > 20).any(1)).sum())
    if beyond:
        yield f"warning: {beyond:,} Gaussians go beyond what {suffix} holds: cut to its ends"


def _kind_of_ply(head: bytes) -> str | None:
    """Of Gaussians, if its header has their columns, whether or not it can be read."""
    header = head.partition(b"end_header")[0]
    if b" packed_position" in header:
        return "compressed-ply"
    colors = b" red" in header and b" scale_0" in header
    return "ply" if b" f_dc_0" in header or colors else None


def _is_packed(head: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(head, 4) == MAGIC
    except zlib.error:
        return False


def _is_meta(path: Path) -> bool:
    """Whether a meta.json is a SOG's. It is read again, with care, by whoever wants it."""
    try:
        with open_plain(path) as file:
            return json.dumps("means").encode() in file.read(_HEAD)
    except OSError:
        return False

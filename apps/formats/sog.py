"""Gaussians in SOG files: every property a picture, one pixel a Gaussian, and a JSON that says how.

Source: PlayCanvas' splat-transform and engine; specification. Version 2, and 1 without a number.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.sog_files import (
    Files,
    check_name,
    of_splats,
    open_files,
    pixels,
    read_meta,
)
from polyfield.apps.formats.splat_values import (
    BYTE_LOGITS,
    MOST_SPLATS,
    SplatFile,
    check_count,
    in_pieces,
    pieces,
    splats_of,
    three_and_largest,
)

_BANDS = (3, 8, 15)  # coefficients of degree 1, 2 and 3 beyond the first
_ENTRIES = 64  # of the palette in a row of its picture
_MOST_ROWS = 1 << 10  # of it: labels have 16 bits
_MOST_PALETTE = 1 << 24  # bytes of its picture
_FIRST_TAG = 252


def read_sog(path: Path, where: str) -> SplatFile:
    """The Gaussians of a .sog, a folder with a meta.json, or that file, in the file's order.

    InputError, which begins with `where`, for another file, names that lead elsewhere, and pictures
    that do not hold what the JSON states.
    """
    with open_files(path, where) as files:
        return _read(files, where)


def _read(files: Files, where: str) -> SplatFile:
    meta = read_meta(files, where)
    version = meta.whole("version", 2, 2) if "version" in meta else 1
    if version == 2:
        count = meta.whole("count", 1, MOST_SPLATS)
    else:
        shape = meta.part("means").items("shape") or [None]
        count = Fields(meta.name("means.shape"), {"[0]": shape[0]}).whole("[0]", 1, MOST_SPLATS)
    check_count(where, count, 3 if "shN" in meta else 0)

    def picture(part: str, index: int = 0) -> np.ndarray:
        name = _file(meta.part(part), index)
        return of_splats(files, name, where, count)

    low, high = picture("means"), picture("means", 1)
    ends = [np.array(_numbers(meta.part("means"), key, 3)) for key in ("mins", "maxs")]
    means = in_pieces(count, 3, lambda rows: _positions(low[rows], high[rows], *ends))
    scale = picture("scales")
    tables = _tables(meta.part("scales"), version, 3)
    log_scales = in_pieces(count, 3, lambda rows: _looked_up(tables, scale[rows]))
    turn = picture("quats")
    turns = in_pieces(count, 4, lambda rows: _quaternions(turn[rows]))
    color = picture("sh0")
    shades = _tables(meta.part("sh0"), version, 4)
    # Version 1 holds logits, version 2 opacities.
    logits = BYTE_LOGITS[color[:, 3]] if version == 2 else shades[3][color[:, 3]]
    palette, labels, held = np.empty((0, 0, 3), np.float32), None, 0
    if "shN" in meta:
        palette = _palette(meta.part("shN"), files, where, version)
        labels, held = picture("shN", 1), palette.shape[1]

    def harmonics_of(rows: slice) -> np.ndarray:
        constant = _looked_up(shades[:3], color[rows])
        if labels is None:
            return constant
        label = labels[rows, 0].astype(np.int64) + 256 * labels[rows, 1].astype(np.int64)
        known = label < len(palette)
        rest = palette[np.where(known, label, 0)] * known[:, None, None]
        return np.concatenate([constant, rest.reshape(len(rest), -1)], 1)

    harmonics = in_pieces(count, 3 + 3 * held, harmonics_of).reshape(count, 1 + held, 3)
    kind = meta.text("model") or "default"
    mip = kind == "antialiased" or meta.flag("antialias")
    notes = ("2D Gaussians",) if kind == "2dgs" else ()
    splats = splats_of(means, log_scales, turns, np.ascontiguousarray(logits), harmonics, mip)
    return SplatFile(splats, f"SOG of version {version}", notes=notes)


def _file(part: Fields, index: int) -> str:
    names = part.items("files") or []
    if len(names) <= index:
        raise part.refuse("files", f"{index + 1} names of files")
    return check_name(names[index], part.name("files"))


def _numbers(part: Fields, key: str, count: int) -> list[float]:
    found = part.numbers(key, count)
    if found is None:
        raise part.refuse(key, f"{count} numbers")
    return found


def _tables(part: Fields, version: int, channels: int) -> list[np.ndarray]:
    """What the bytes of each channel mean, float32 [256]: one codebook for all, or even steps."""
    if version == 2:
        return [_codebook(part)] * channels
    share = np.arange(256) / 255
    low, high = (_numbers(part, key, channels) for key in ("mins", "maxs"))
    return [(a + (b - a) * share).astype(np.float32) for a, b in zip(low, high, strict=True)]


def _codebook(part: Fields) -> np.ndarray:
    entries = list(part.items("codebook") or [])
    if len(entries) == 256 and entries[0] is None:  # a fault of an old writer
        later = _numbers(Fields(part.where, {"codebook": entries[1:]}), "codebook", 255)
        entries[0] = later[0] + (later[0] - later[-1]) / 255
    found = _numbers(Fields(part.where, {"codebook": entries}), "codebook", 256)
    return np.array(found, np.float32)


def _looked_up(tables: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    return np.stack([table[codes[:, i]] for i, table in enumerate(tables[:3])], 1)


def _positions(
    low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray
) -> np.ndarray:
    share = (low[:, :3] + 256.0 * high[:, :3]) / 65535
    n = least + (most - least) * share
    with np.errstate(over="ignore"):
        return np.sign(n) * np.expm1(np.abs(n))


def _quaternions(codes: np.ndarray) -> np.ndarray:
    three = (codes[:, :3] / np.float32(255) - np.float32(0.5)) * np.float32(np.sqrt(2))
    tag = codes[:, 3].astype(np.int64) - _FIRST_TAG
    found = three_and_largest(three, np.maximum(tag, 0))
    found[tag < 0] = (1, 0, 0, 0)
    return found


def _palette(part: Fields, files: Files, where: str, version: int) -> np.ndarray:
    """Float32 [entries, coefficients, 3] beyond the first."""
    name = _file(part, 0)
    bands, count = list(_BANDS), 1
    if version == 2:
        bands = [_BANDS[part.whole("bands", 1, 3) - 1]]
        count = part.whole("count", 1, _MOST_ROWS * _ENTRIES)

    def fits(width: int, height: int) -> bool:
        wide = width in [_ENTRIES * k for k in bands]
        return wide and -(-count // _ENTRIES) <= height <= _MOST_ROWS

    expected = f"{' or '.join(str(_ENTRIES * k) for k in bands)} wide, a row for 64 of {count}"
    found = pixels(files(name, _MOST_PALETTE), f"{where}/{name}", fits, expected)
    k = found.shape[1] // _ENTRIES
    codes = found.reshape(-1, k, 4)[: count if version == 2 else None, :, :3]
    if version == 2:
        table = _codebook(part)
    else:
        low, high = (part.real(key, -1e9, 1e9) for key in ("mins", "maxs"))
        table = (low + (high - low) * np.arange(256) / 255).astype(np.float32)
    palette = np.empty(codes.shape, np.float32)
    for rows in pieces(len(codes)):
        palette[rows] = table[codes[rows]]
    return palette

"""Gaussians in binary glTF: KHR_gaussian_splatting, or an SPZ file inside it.

Source: KHR_gaussian_splatting and the draft KHR_gaussian_splatting_compression_spz_2. Quaternions
are (x, y, z, w), scales and opacities activated, the world LUF: x left, y up, z front.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyfield.apps.formats.glb import Y_UP, glb_head
from polyfield.apps.formats.gltf_accessors import (
    Glb,
    accessor_count,
    accessor_values,
    buffer_view,
    entry,
    parse_glb,
)
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.formats.splat_values import (
    SplatFile,
    World,
    array_of,
    check_count,
    log_scales_of,
    logits_of,
    mapped,
    opacities_of,
    pieces,
    rounded_bytes,
    splats_of,
)
from polyfield.apps.formats.spz import splats_of_spz
from polyfield.cuda.errors import InputError
from polyfield.cuda.rotations import matrices
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import CONSTANT, Splats, moved, of_degree, turned
from polyfield.render.srgb import linear_from_srgb

EXTENSION = "KHR_gaussian_splatting"
HIGHEST_DEGREE = 3
_SPZ = "KHR_gaussian_splatting_compression_spz_2"
_FLOAT, _BYTE = 5126, 5121
_OFF = 1e-5  # that a rotation may be
_HALF_TURN = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
_TURNS: dict[World, tuple[str, Tensor]] = {
    "right-down-forward": ("y_up_from_right_down_forward", _HALF_TURN),
    "z-up": ("y_up_from_z_up", Y_UP),
}
"""The root node of each world: it leads to glTF's."""


def has_splats(content: bytes) -> bool:
    """Whether the first bytes of a .glb, with its document, mention Gaussians."""
    return content[:4] == b"glTF" and EXTENSION.encode() in content


def read_splat_gltf(path: Path, where: str) -> SplatFile:
    """All Gaussians of the scene in a .glb, each node's where the node places them.

    A scene whose nodes turn +z up to glTF's +y up is a +Z-up world, and its numbers stay what they
    are; any other comes back in right, down, forward. InputError, which begins with `where`, for
    another file, for nodes that shear or mirror, and for accessors that lie beyond their bytes.
    """
    content = mapped(path, where, "a .glb of Gaussians")
    glb = parse_glb(content, where)
    placed = [
        (turn, scale, shift, primitive)
        for turn, scale, shift, mesh in _placed_meshes(glb)
        for primitive in _primitives(glb, mesh)
    ]
    if not placed:
        raise InputError(where, "no primitive with Gaussians", f"one with {EXTENSION}")
    counts = [accessor_count(glb, _position(primitive)) for *_, primitive in placed]
    check_count(where, sum(counts), 0)
    z_up = all(bool((turn - Y_UP).abs().max() < _OFF) for turn, _, _, _ in placed)
    world: World = "z-up" if z_up else "right-down-forward"
    back = _TURNS[world][1].T
    found = []
    for turn, scale, shift, primitive in placed:
        to_world = back @ turn
        # Our own nodes, and half-turns of others, to the last digit.
        near = to_world.round()
        to_world = near if bool((near - to_world).abs().max() < _OFF) else to_world
        found.append(moved(_splats(glb, primitive), Similarity(scale, to_world, back @ shift)))
    degree = max(splats.degree for splats in found)
    check_count(where, sum(splats.count for splats in found), degree)
    whole = _joined([of_degree(splats, degree) for splats in found])
    return SplatFile(whole, f"glTF with {EXTENSION}", world=world)


def splat_gltf_bytes(splats: Splats, world: World = "right-down-forward") -> Iterator[bytes]:
    """The .glb, piece by piece: numbers stay in their world, which the one root node turns to y up.

    Float32 throughout, with COLOR_0 for viewers of points. Bands beyond 3 have no place.
    """
    splats = of_degree(splats, min(splats.degree, HIGHEST_DEGREE))
    columns = {
        "POSITION": array_of(splats.means),
        f"{EXTENSION}:ROTATION": array_of(splats.quaternions)[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(array_of(splats.log_scales)),
        f"{EXTENSION}:OPACITY": opacities_of(array_of(splats.opacity_logits))[:, None],
    }
    turn = columns[f"{EXTENSION}:ROTATION"]
    columns[f"{EXTENSION}:ROTATION"] = turn / np.linalg.norm(turn, axis=1, keepdims=True)
    harmonics = array_of(splats.harmonics)
    for k in range(harmonics.shape[1]):
        band = math.isqrt(k)
        columns[f"{EXTENSION}:SH_DEGREE_{band}_COEF_{k - band * band}"] = harmonics[:, k]
    shown = torch.from_numpy(0.5 + CONSTANT * harmonics[:, 0]).double().clamp(0, 1)
    light = linear_from_srgb(shown).numpy()
    alpha = columns[f"{EXTENSION}:OPACITY"]
    columns["COLOR_0"] = rounded_bytes(255 * np.concatenate([light, alpha], 1))
    views, accessors, at = [], [], 0
    for index, values in enumerate(columns.values()):
        views.append({"buffer": 0, "byteOffset": at, "byteLength": values.nbytes, "target": 34962})
        accessors.append(
            {
                "bufferView": index,
                "componentType": _BYTE if values.dtype == np.uint8 else _FLOAT,
                "count": len(values),
                "type": "SCALAR" if values.shape[1] == 1 else f"VEC{values.shape[1]}",
            }
            | ({"normalized": True} if values.dtype == np.uint8 else {})
        )
        at += values.nbytes
    means = columns["POSITION"]
    accessors[0] |= {"min": means.min(0).tolist(), "max": means.max(0).tolist()}
    name, turn_up = _TURNS[world]
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = turn_up
    kind = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    primitive = {
        "mode": 0,
        "attributes": {name: index for index, name in enumerate(columns)},
        "extensions": {EXTENSION: kind},
    }
    document = {
        "asset": {"version": "2.0", "generator": "polyfield"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        # glTF lists matrices column by column.
        "nodes": [{"name": name, "matrix": matrix.T.flatten().tolist(), "mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": at}],
    }
    yield from glb_head(document, at)
    for values in columns.values():
        for rows in pieces(len(values)):
            yield (
                np.ascontiguousarray(values[rows]).astype(values.dtype.newbyteorder("<")).tobytes()
            )


Placed = tuple[Tensor, float, Tensor, object]
"""Rotation, scale and translation into the scene's world, and the index of a mesh."""


def _placed_meshes(glb: Glb) -> Iterator[Placed]:
    """The meshes of the scene that is shown, or the first; without scenes those of all nodes."""
    document = glb.document
    if document.items("scenes"):
        first = document.values["scene"] if "scene" in document else 0
        roots = entry(document, "scenes", first).items("nodes") or []
    else:
        roots = list(range(len(document.items("nodes") or [])))
    waiting = [(root, Similarity.identity()) for root in reversed(roots)]
    seen = set()
    while waiting:
        index, above = waiting.pop()
        node = entry(document, "nodes", index)
        if index in seen:  # also a node that is its own child
            raise InputError(node.where, "a node of two parents", "a tree")
        seen.add(index)
        here = above.compose(_placement(node)) if _has_place(node) else above
        if "mesh" in node:
            yield here.rotation, here.scale, here.translation, node.values["mesh"]
        waiting += [(child, here) for child in reversed(node.items("children") or [])]


def _has_place(node: Fields) -> bool:
    return any(key in node for key in ("matrix", "rotation", "scale", "translation"))


def _placement(node: Fields) -> Similarity:
    """What a node does: T R S of one scale, which alone leaves a Gaussian what it is."""
    if "matrix" in node:
        numbers = node.numbers("matrix", 16) or []
        matrix = torch.tensor(numbers, dtype=torch.float64).view(4, 4).T
        linear, shift = matrix[:3, :3], matrix[:3, 3]
    else:
        factors = node.numbers("scale", 3) if "scale" in node else None
        turn = node.numbers("rotation", 4) if "rotation" in node else None
        there = node.numbers("translation", 3) if "translation" in node else None
        factor = torch.tensor(factors or [1.0] * 3, dtype=torch.float64)
        x, y, z, w = turn or [0.0, 0.0, 0.0, 1.0]
        linear = matrices(torch.tensor([[w, x, y, z]], dtype=torch.float64))[0] * factor
        shift = torch.tensor(there or [0.0] * 3, dtype=torch.float64)
    determinant = float(torch.linalg.det(linear))
    scale = max(determinant, 0.0) ** (1 / 3)
    if not 1e-12 < scale < 1e12:
        raise InputError(node.where, "a node that mirrors or flattens", "a rotation and a scale")
    rotation = linear / scale
    if bool((rotation @ rotation.T - torch.eye(3)).abs().max() > 1e-4):
        got = "a node that shears, or scales by more than one factor"
        raise InputError(node.where, got, "a rotation and one scale")
    return Similarity(scale, rotation, shift)


def _primitives(glb: Glb, mesh: object) -> Iterator[Fields]:
    """Those of a mesh that are Gaussians."""
    found = entry(glb.document, "meshes", mesh)
    for index in range(len(found.items("primitives") or [])):
        primitive = entry(found, "primitives", index)
        if "extensions" in primitive and EXTENSION in primitive.part("extensions"):
            yield primitive


def _splats(glb: Glb, primitive: Fields) -> Splats:
    """The Gaussians of one primitive, as glTF has them; those of an SPZ in the same frame."""
    extension = primitive.part("extensions").part(EXTENSION)
    kernel = extension.text("kernel")
    if kernel not in (None, "ellipse"):
        raise extension.refuse("kernel", '"ellipse"')
    attributes = primitive.part("attributes").values
    position = _position(primitive)
    count = accessor_count(glb, position)
    packed = "extensions" in extension and _SPZ in extension.part("extensions")
    if packed:
        inner = extension.part("extensions").part(_SPZ)
        data, _ = buffer_view(glb, inner.values.get("bufferView"))
        file = splats_of_spz(data, inner.name("bufferView"))
        if file.splats.count != count:
            got = f"an SPZ of {file.splats.count} Gaussians"
            raise InputError(inner.name("bufferView"), got, f"{count}, as its accessors say")
        return turned(file.splats, file.frame, "LUF")
    names = [
        [f"{EXTENSION}:SH_DEGREE_{band}_COEF_{n}" for n in range(2 * band + 1)]
        for band in range(HIGHEST_DEGREE + 1)
    ]
    degree = max((band for band in range(4) if names[band][0] in attributes), default=0)
    wanted = [f"{EXTENSION}:{name}" for name in ("ROTATION", "SCALE", "OPACITY")]
    wanted += [name for band in names[: degree + 1] for name in band]
    if missing := [name for name in ("POSITION", *wanted) if name not in attributes]:
        raise InputError(primitive.name("attributes"), f"no {missing[0]}", "all of a degree")
    check_count(primitive.where, count, degree)
    # Accessors without bytes are zeros of any number: positions at least must be there.
    if "bufferView" not in entry(glb.document, "accessors", position):
        raise InputError(primitive.name("attributes.POSITION"), "no bytes", "a buffer view")
    read = [
        accessor_values(glb, attributes[name], 4 - i, count) for i, name in enumerate(wanted[:2])
    ]
    opacity = accessor_values(glb, attributes[wanted[2]], 1, count)[:, 0]
    harmonics = np.empty((count, (degree + 1) ** 2, 3), np.float32)
    for k, name in enumerate(wanted[3:]):
        harmonics[:, k] = accessor_values(glb, attributes[name], 3, count)
    return splats_of(
        accessor_values(glb, position, 3, count),
        log_scales_of(read[1]),
        np.ascontiguousarray(read[0][:, [3, 0, 1, 2]]),
        logits_of(opacity),
        harmonics,
    )


def _position(primitive: Fields) -> object:
    return primitive.part("attributes").values.get("POSITION")


def _joined(parts: list[Splats]) -> Splats:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        means=torch.cat([part.means for part in parts]),
        log_scales=torch.cat([part.log_scales for part in parts]),
        quaternions=torch.cat([part.quaternions for part in parts]),
        opacity_logits=torch.cat([part.opacity_logits for part in parts]),
        harmonics=torch.cat([part.harmonics for part in parts]),
        antialiased=any(part.antialiased for part in parts),
    )

"""One mesh as binary glTF 2.0: baked colours without light, the data in the user's frame."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from polyfield.apps.png_files import png_bytes
from polyfield.extract.mesh import Mesh
from polyfield.render.srgb import linear_from_srgb

Y_UP = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)
"""Turns a +Z-up world into glTF's +Y-up one: (x, y, z) -> (x, z, -y)."""

_FLOAT, _UINT32 = 5126, 5125  # component types
_LINEAR, _MIPMAPS, _CLAMP = 9729, 9987, 33071
_VERTICES, _INDICES = 34962, 34963  # what a buffer view is bound to


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture of a surface's colours, sRGB, and where in it each vertex lies: u right, v down."""

    coordinates: Float[Tensor, "v 2"]
    image: UInt8[np.ndarray, "height width 3"]


def glb_bytes(mesh: Mesh, texture: Texture | None = None) -> bytes:
    """The mesh as the content of a .glb file.

    Vertices stay in their frame (+Z up); the one root node turns them to +Y up. Colours are linear
    float32 COLOR_0 on an unlit, double-sided material that is not metallic where a viewer has no
    unlit one; a texture, sRGB as it is, takes their place. Source: glTF 2.0, KHR_materials_unlit.
    """
    columns: list[tuple[str, np.ndarray]] = [("POSITION", _float32(mesh.vertices))]
    if mesh.normals is not None:
        columns.append(("NORMAL", _float32(mesh.normals)))
    if texture is not None:
        columns.append(("TEXCOORD_0", _float32(texture.coordinates)))
    elif mesh.colors is not None:
        columns.append(("COLOR_0", _float32(linear_from_srgb(mesh.colors.double().clamp(0, 1)))))
    parts = [values.tobytes() for _, values in columns]
    parts.append(mesh.faces.cpu().numpy().astype("<u4").tobytes())
    if texture is not None:
        picture = png_bytes(texture.image)
        parts.append(picture + b"\0" * (-len(picture) % 4))
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    views: list[dict] = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(part), "target": _VERTICES}
        for start, part in zip(starts, parts, strict=False)
    ]
    views[len(columns)]["target"] = _INDICES
    accessors: list[dict] = [
        {"bufferView": i, "componentType": _FLOAT, "count": len(values), "type": _type(values)}
        for i, (_, values) in enumerate(columns)
    ]
    accessors[0] |= {
        "min": columns[0][1].min(0).tolist(),
        "max": columns[0][1].max(0).tolist(),
    }
    count = mesh.faces.numel()
    accessors.append(
        {"bufferView": len(columns), "componentType": _UINT32, "count": count, "type": "SCALAR"}
    )
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = Y_UP
    primitive = {
        "attributes": {name: i for i, (name, _) in enumerate(columns)},
        "indices": len(columns),
        "material": 0,
    }
    material: dict = {
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "doubleSided": True,
        "extensions": {"KHR_materials_unlit": {}},
    }
    pictures: dict[str, object] = {}
    if texture is not None:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
        del views[-1]["target"]
        views[-1]["byteLength"] = len(picture)
        smooth = {"magFilter": _LINEAR, "minFilter": _MIPMAPS, "wrapS": _CLAMP, "wrapT": _CLAMP}
        pictures = {
            "images": [{"bufferView": len(views) - 1, "mimeType": "image/png"}],
            "samplers": [smooth],
            "textures": [{"source": 0, "sampler": 0}],
        }
    document = pictures | {
        "asset": {"version": "2.0", "generator": "polyfield"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        # glTF lists matrices column by column.
        "nodes": [{"name": "y_up_from_z_up", "matrix": turn.T.flatten().tolist(), "mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    return b"".join([*glb_head(document, starts[-1]), *parts])


def glb_head(document: dict, binary_bytes: int) -> list[bytes]:
    """What a .glb holds before the bytes of its one buffer, which must be a multiple of 4."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + binary_bytes)
    head = struct.pack("<I4s", len(text), b"JSON"), text
    return [header, *head, struct.pack("<I4s", binary_bytes, b"BIN\0")]


def _type(values: np.ndarray) -> str:
    return f"VEC{values.shape[1]}"


def _float32(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype("<f4")

"""Meshes in files: PLY, OBJ and GLB, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.files import read_plain, replacing
from polyfield.apps.formats.glb import Y_UP, Texture, glb_bytes
from polyfield.apps.formats.obj import parse_obj
from polyfield.apps.formats.off import parse_off
from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.render.srgb import srgb_from_linear

SUFFIXES = (".ply", ".glb", ".obj")
READ_SUFFIXES = (*SUFFIXES, ".off", ".stl")
MOST_BYTES = 1 << 28  # of a file that is read


def write_mesh(path: Path, mesh: Mesh, texture: Texture | None = None) -> None:
    """Writes the mesh in the format that the suffix names; the old file stays until all is written.

    The mesh is in the user's frame and stays in it: .ply (binary; colours uint8, normals) and .obj
    hold its numbers, .glb too, under a root node that turns +Z up to +Y up. Colours are written as
    they are, sRGB, but linear in .glb as glTF asks; a texture goes into a .glb in their place.
    Raises InputError for another suffix, a mesh without faces or with vertices that are not finite,
    and where the file cannot be written.
    """
    suffix = _suffix(path)
    if not len(mesh.faces) or not bool(mesh.vertices.isfinite().all()):
        got = f"{len(mesh.faces)} faces over {len(mesh.vertices)} vertices"
        raise InputError(f"{path}", got, "at least one face, and finite vertices")
    if texture is not None and suffix != ".glb":
        raise InputError(f"{path}", f"a texture in {suffix}", ".glb, which holds it")
    if suffix == ".glb":
        content = glb_bytes(mesh, texture)
    elif suffix == ".ply":
        content = trimesh.exchange.ply.export_ply(
            _to_trimesh(mesh), vertex_normal=mesh.normals is not None
        )
    else:
        # Nine digits tell any two float32 numbers of ordinary size apart.
        content = trimesh.exchange.obj.export_obj(
            _to_trimesh(mesh), include_normals=mesh.normals is not None, digits=9
        ).encode()
    with replacing(path) as file:
        file.write(content)


def write_points(path: Path, mesh: Mesh) -> None:
    """Writes the vertices alone, with their colours, as a binary .ply; its numbers are the mesh's.

    Raises InputError where the file cannot be written.
    """
    cloud = trimesh.PointCloud(mesh.vertices.cpu().numpy(), colors=_colors_8bit(mesh))
    with replacing(path) as file:
        file.write(trimesh.exchange.ply.export_ply(cloud))


def read_mesh(path: Path) -> Mesh:
    """The mesh of a .ply, .obj, .glb, .off or .stl file, all parts as one, in write_mesh's frame.

    What a .glb places in its +Y-up world comes back turned to +Z up, colours as sRGB. No file that
    it names, such as a material, is opened. Raises InputError for another suffix, a missing file,
    or one that holds no triangles.
    """
    suffix = _suffix(path, READ_SUFFIXES)
    try:
        content = read_plain(path, MOST_BYTES)
        parse = _PARSERS.get(suffix)
        parts = [parse(content)] if parse is not None else _parts(content, suffix)
    except OSError as error:
        raise InputError(f"{path}", error.strerror or str(error), "a mesh file") from error
    except Exception as error:  # a broken file raises whatever trimesh met in it
        got = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}", got, f"a valid {suffix} file") from error
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise InputError(f"{path}", "no triangles", "a mesh")
    return _joined(parts)


_BEGINS = {".ply": b"ply", ".glb": b"glTF"}
_PLY_HEADER = 1 << 16  # bytes
_PARSERS = {".off": parse_off, ".obj": parse_obj}


def _parts(content: bytes, suffix: str) -> list[Mesh]:
    if not content.startswith(_BEGINS.get(suffix, b"")):
        raise ValueError("it does not begin as such a file does")
    if suffix == ".ply" and b"end_header" not in content[:_PLY_HEADER]:
        raise ValueError("its header does not end")
    file = io.BytesIO(content)  # nameless: it has no neighbours to look for
    kind = suffix.removeprefix(".")
    loaded = trimesh.load_scene(file, file_type=kind, process=False, maintain_order=True)
    return [
        _from_trimesh(loaded.geometry[name], torch.from_numpy(np.array(to_world)), suffix)
        for to_world, name in (loaded.graph[node] for node in loaded.graph.nodes_geometry)
        if isinstance(loaded.geometry[name], trimesh.Trimesh)
    ]


def _suffix(path: Path, known: tuple[str, ...] = SUFFIXES) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise InputError(f"{path}", f"suffix {suffix!r}", f"one of {', '.join(known)}")
    return suffix


def _to_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    def array(values: Tensor | None) -> np.ndarray | None:
        return None if values is None else values.detach().cpu().numpy()

    return trimesh.Trimesh(
        array(mesh.vertices),
        array(mesh.faces),
        vertex_normals=array(mesh.normals),
        vertex_colors=_colors_8bit(mesh),
        process=False,
        validate=False,
    )


def _colors_8bit(mesh: Mesh) -> np.ndarray | None:
    if mesh.colors is None:
        return None
    return (mesh.colors.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()


def _from_trimesh(part: trimesh.Trimesh, to_world: Tensor, suffix: str) -> Mesh:
    turn, shift = to_world[:3, :3], to_world[:3, 3]
    if suffix == ".glb":
        turn, shift = Y_UP.T @ turn, Y_UP.T @ shift
    vertices = torch.from_numpy(np.array(part.vertices, dtype=np.float64)) @ turn.T + shift
    faces = torch.from_numpy(np.array(part.faces, dtype=np.int64))
    normals = None
    # Asking a mesh without normals for them would compute some.
    if "vertex_normals" in part._cache:
        normals = torch.from_numpy(np.array(part.vertex_normals, dtype=np.float64))
        normals = normalize(normals @ torch.linalg.inv(turn), dim=1).float()
    colors = _colors(part)
    if colors is not None and suffix == ".glb":
        colors = srgb_from_linear(colors)
    if torch.linalg.det(turn) < 0:
        faces = faces.flip(1)
    return Mesh(vertices.float(), faces, None if colors is None else colors.float(), normals)


def _colors(part: trimesh.Trimesh) -> Tensor | None:
    visual = part.visual
    if isinstance(visual, trimesh.visual.ColorVisuals) and visual.kind == "vertex":
        values = np.array(visual.vertex_colors)
    elif isinstance(visual, trimesh.visual.TextureVisuals) and "color" in visual.vertex_attributes:
        values = np.array(visual.vertex_attributes["color"])
    else:
        return None
    full = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    return torch.from_numpy(values[:, :3].astype(np.float64) / full)


def _joined(parts: list[Mesh]) -> Mesh:
    starts = np.cumsum([0, *[len(part.vertices) for part in parts]]).tolist()
    faces = [part.faces + start for part, start in zip(parts, starts, strict=False)]
    colors = [part.colors for part in parts if part.colors is not None]
    normals = [part.normals for part in parts if part.normals is not None]
    return Mesh(
        torch.cat([part.vertices for part in parts]),
        torch.cat(faces),
        torch.cat(colors) if len(colors) == len(parts) else None,
        torch.cat(normals) if len(normals) == len(parts) else None,
    )

"""Sound samples of what `fit` reads and writes: meshes, packed fields, light."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from polyfield.apps.compact_file import read_compact, write_compact
from polyfield.apps.fit_settings import FitSettings
from polyfield.apps.fitted import build_fitted, load_fitted
from polyfield.apps.formats.mesh_files import read_mesh, write_mesh
from polyfield.apps.fuzz_trees import Tree
from polyfield.extract.mesh import Mesh


def meshes() -> list[Tree]:
    """A pyramid in each format."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 0.8]])
    faces = [(0, 2, 1), (0, 3, 2), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4)]
    mesh = Mesh(points, torch.tensor(faces))
    trees: list[Tree] = []
    with tempfile.TemporaryDirectory() as place:
        for suffix in (".ply", ".obj", ".glb"):
            write_mesh(Path(place) / f"mesh{suffix}", mesh)
            trees.append({f"mesh{suffix}": (Path(place) / f"mesh{suffix}").read_bytes()})
    rows = [" ".join(f"{x:g}" for x in point) for point in points.tolist()]
    rows += [f"3 {a} {b} {c}" for a, b, c in faces]
    trees.append({"mesh.off": "\n".join([f"OFF\n{len(points)} {len(faces)} 0", *rows]).encode()})
    triangles = [points[list(face)].flatten().tolist() for face in faces]
    packed = [struct.pack("<12fH", 0, 0, 0, *corners, 0) for corners in triangles]
    trees.append({"mesh.stl": bytes(80) + struct.pack("<I", len(faces)) + b"".join(packed)})
    return trees


def packed_field() -> Tree:
    """The small file of a field that has not learned anything."""
    arguments = {"levels": 2, "log2_table_size": 6, "finest_resolution": 32, "hidden": 16}
    settings = FitSettings("image", "hash-grid", arguments, 3, "a.png", 0, 1024, (1, 24, 32))
    signal = build_fitted(settings, torch.device("cpu")).signal
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "field.safetensors.zst"
        write_compact(path, signal.state_dict(), {"settings": asdict(settings)})
        return {path.name: path.read_bytes()}


def open_mesh(folder: Path) -> None:
    """Reads each mesh of a folder."""
    for path in sorted(folder.glob("mesh.*")):
        read_mesh(path)


def open_packed(folder: Path) -> None:
    """Reads the packed field of a folder, as a file and as a field."""
    path = folder / "field.safetensors.zst"
    read_compact(path)
    load_fitted(path, torch.device("cpu"))

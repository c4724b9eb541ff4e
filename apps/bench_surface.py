"""Races of marching cubes: a noisy ball on a lattice, against other people's extractors."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.bench_race import Absent, Race
from polyfield.extract.marching_cubes import marching_cubes

SIDE = 256
NEAR_A_NODE = 1e-3  # of a cell: there it is a matter of rounding on which edge a vertex lies


def noisy_ball(side: int) -> Float[Tensor, "{side} {side} {side}"]:
    """How far within a ball of radius 0.7 the nodes of [-1, 1]^3 lie, and half a cell of noise."""
    axis = torch.linspace(-1, 1, side)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    noise = torch.rand(side, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    return 0.7 - (x * x + y * y + z * z).sqrt() + noise * 2 / (side - 1)


def vertices_on_edges(
    vertices: Float[Tensor, "v 3"], values: Float[Tensor, "n n n"]
) -> Float[Tensor, "edges 3"]:
    """Those on edges of the lattice of `values`, in the order of these, cut at 0.

    Left out are those very near a node, by the values and not by where they were put: of both sides
    of a race the same.
    """
    vertices = vertices.double()
    off = (vertices - vertices.round()).abs()
    farthest, axis = off.max(1)
    kept = (farthest > NEAR_A_NODE / 2) & (off.sum(1) - farthest < NEAR_A_NODE / 10)
    vertices, axis = vertices[kept], axis[kept]
    node = vertices.round().long()
    rows = torch.arange(len(node))
    node[rows, axis] = vertices[rows, axis].floor().long()
    other = node.clone()
    other[rows, axis] += 1
    low, high = (values.double()[tuple(ends.unbind(1))] for ends in (node, other))
    along = low / (low - high)
    clear = (along > NEAR_A_NODE) & (along < 1 - NEAR_A_NODE)
    side = len(values)
    key = ((node[:, 0] * side + node[:, 1]) * side + node[:, 2]) * 3 + axis
    return vertices[clear][key[clear].argsort()]


def _race(
    against: str,
    package: str,
    values: Float[Tensor, "n n n"],
    theirs: Callable[[], Any],
    vertices: Callable[[Any], Tensor],
) -> Race:
    """vertices: out of what `theirs` returned, in index coordinates."""
    return Race(
        against=against,
        version=version(package),
        ours=lambda: marching_cubes(values, 0.0),
        theirs=theirs,
        tolerance=1e-4 / len(values),  # of a cell
        read=lambda found: (vertices_on_edges(vertices(found), values),),
        shown=lambda found: (vertices_on_edges(found[0], values),),
    )


def surface_against_pymcubes(side: int = SIDE) -> Race:
    """Vertices and triangles; the classic 256 cases."""
    try:
        import mcubes
    except ImportError as error:
        raise Absent("PyMCubes is not installed: pip install 'polyfield[bench]'") from error
    values = noisy_ball(side)
    array = values.numpy()

    def vertices(found: Any) -> Tensor:
        return torch.from_numpy(np.asarray(found[0]))

    return _race(
        "PyMCubes", "PyMCubes", values, lambda: mcubes.marching_cubes(array, 0.0), vertices
    )


def surface_against_scikit_image(side: int = SIDE) -> Race:
    """Vertices, triangles and, for them, normals; marching cubes 33."""
    try:
        from skimage.measure import marching_cubes as theirs
    except ImportError as error:
        raise Absent("scikit-image is not installed: pip install 'polyfield[bench]'") from error
    values = noisy_ball(side)
    array = values.numpy()

    def vertices(found: Any) -> Tensor:
        return torch.from_numpy(found[0].copy())

    return _race("scikit-image", "scikit-image", values, lambda: theirs(array, 0.0), vertices)


def surface_against_vtk(side: int = SIDE) -> Race:
    """Vertices and triangles; Flying Edges, on as many threads as ours."""
    try:
        from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
        from vtkmodules.vtkCommonCore import vtkSMPTools
        from vtkmodules.vtkCommonDataModel import vtkImageData
        from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D
    except ImportError as error:
        raise Absent("vtk is not installed: pip install 'polyfield[bench]'") from error
    values = noisy_ball(side)
    vtkSMPTools.Initialize(torch.get_num_threads())
    image = vtkImageData()
    image.SetDimensions(side, side, side)  # their first axis is the one that lies in a row
    image.GetPointData().SetScalars(numpy_to_vtk(values.numpy().reshape(-1)))

    def extract(given: vtkImageData) -> object:
        edges = vtkFlyingEdges3D()
        edges.SetInputData(given)
        edges.SetValue(0, 0.0)
        edges.ComputeNormalsOff()
        edges.ComputeGradientsOff()
        edges.ComputeScalarsOff()
        edges.Update()
        return edges.GetOutput()

    def read(found: Any) -> Tensor:
        return torch.from_numpy(vtk_to_numpy(found.GetPoints().GetData()).copy()).flip(1)

    return _race("VTK Flying Edges", "vtk", values, lambda: extract(image), read)

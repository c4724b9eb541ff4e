"""Colours of a surface as a picture: charts of a mesh laid out flat, a field painted on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.mesh import Mesh

CHUNK = 1 << 16  # points that colours are asked for at once
PADDING = 4  # texels between charts
GROWN = 16  # rings of texels that a chart's colours are carried beyond its rim, for smaller copies
LEAST, MOST = 64, 8192  # texels a side
AROUND = 6  # directions beside a point's normal that its colour is the mean of
TILT = 0.6  # radians from the normal to these
TRIES = 24  # to fit all charts into the square
_CANDIDATES = 1 << 22  # pairs of a face and a texel that are looked at at once

Color = Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]
"""Of points and directions of view: sRGB in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """A mesh cut along seams, and where each of its vertices lies in the unit square.

    Vertices on a seam come once for each chart. coordinates: u to the right, v down, texel centres
    at (i + 0.5) / size.
    """

    mesh: Mesh
    coordinates: Float[Tensor, "v 2"]
    size: int


def unwrapped(mesh: Mesh, size: int) -> Unwrapped:
    """Charts of the mesh in a square of size x size texels. Its colours and normals go with it.

    Raises InputError for a size out of range or a mesh without faces, MissingExtraError without the
    package for it.
    """
    if not LEAST <= size <= MOST:
        raise InputError("texture", f"{size} texels a side", f"{LEAST} to {MOST}")
    if not len(mesh.faces):
        raise InputError("texture", "a mesh without faces", "one with some")
    try:
        import xatlas
    except ImportError as error:
        raise MissingExtraError("xatlas", "surfaces", "A texture") from error
    # Of the size of the unit cube, whatever the mesh's: the package has tolerances of its own.
    scaled = mesh.vertices.double() / max(mesh.diagonal(), 1e-30)
    shape = scaled.float().cpu().numpy(), mesh.faces.cpu().numpy().astype("uint32")
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_iterations = 1
    packing.resolution, packing.padding, packing.bilinear = size, PADDING, True
    for _ in range(TRIES):
        atlas = xatlas.Atlas()
        atlas.add_mesh(*shape)
        atlas.generate(charts, packing)
        larger = max(atlas.width, atlas.height) / size
        if larger <= 1 and atlas.atlas_count == 1:
            break
        # At first the package guesses what charts fill; told their size, it takes several squares.
        less = 0.98 / larger**0.5 if larger > 1 else 0.94
        packing.texels_per_unit = atlas.texels_per_unit * less
    else:
        got = f"charts for {atlas.atlas_count} squares of {atlas.width} x {atlas.height}"
        raise InputError("texture", got, str(size), "Ask for more texels, or for fewer faces.")
    old, faces, coordinates = (torch.from_numpy(each.copy()) for each in _of_numbers(atlas[0]))
    device = mesh.vertices.device
    old = old.long().to(device)
    cut = Mesh(
        mesh.vertices[old],
        faces.long().to(device),
        None if mesh.colors is None else mesh.colors[old],
        None if mesh.normals is None else mesh.normals[old],
    )
    # In texels of the square that was filled, which need not be the whole one.
    share = torch.tensor([atlas.width, atlas.height], dtype=torch.float32) / size
    return Unwrapped(cut, (coordinates * share).clamp(0, 1).to(device), size)


def baked(
    made: Unwrapped, normals: Float[Tensor, "v 3"], color: Color
) -> Float[Tensor, "size size 3"]:
    """The texture: at each texel's middle, the colour of the surface there, sRGB in [0, 1].

    Colour is the mean over views along the inward normal and AROUND others tilted from it. Texels
    beyond a chart's rim repeat its colours, so that no filter mixes in what lies between charts.
    normals: unit, outward, of the mesh's vertices.
    """
    face, weights = texels(made)
    there = torch.nonzero(face >= 0)[:, 0]
    image = torch.zeros(made.size**2, 3, device=face.device)
    for some in there.split(CHUNK):
        corners = made.mesh.faces[face[some]]
        share = weights[some, :, None]
        points = (made.mesh.vertices[corners] * share).sum(1)
        outward = normalize((normals[corners] * share).sum(1), dim=1)
        image[some] = _mean_color(color, points, outward)
    known = (face >= 0).view(made.size, made.size)
    return _grown(image.view(made.size, made.size, 3), known)


def texels(
    made: Unwrapped,
) -> tuple[Int64[Tensor, " texels"], Float[Tensor, "texels 3"]]:
    """The face at each texel's middle, row after row from the top, or -1; barycentric weights."""
    size, device = made.size, made.coordinates.device
    corners = made.coordinates.double()[made.mesh.faces] * size - 0.5  # middles are whole numbers
    low = corners.amin(1).ceil().long().clamp(0, size)
    high = corners.amax(1).floor().long().clamp(-1, size - 1) + 1
    count = (high - low).clamp_min(0).prod(1)
    face = torch.full((size * size,), -1, dtype=torch.int64, device=device)
    weights = torch.zeros(size * size, 3, device=device)
    total = count.cumsum(0)
    begin = 0
    while begin < len(count):
        before = int(total[begin - 1]) if begin else 0
        end = int(torch.searchsorted(total, before + _CANDIDATES, right=True))
        end = max(end, begin + 1)
        some = torch.arange(begin, end, device=device)
        own = some.repeat_interleave(count[begin:end])
        first = (total - count)[own]
        index = torch.arange(before, int(total[end - 1]), device=device) - first
        wide = (high - low)[own, 0]
        x, y = low[own, 0] + index % wide, low[own, 1] + index // wide
        found = _barycentric(corners[own], torch.stack([x, y], 1).double())
        inside = (found >= -1e-9).all(1)
        place = (y * size + x)[inside]
        face[place] = own[inside]
        weights[place] = found[inside].float()
        begin = end
    return face, weights


def _barycentric(corners: Tensor, p: Tensor) -> Float[Tensor, "n 3"]:
    """Weights of corners [n, 3, 2] at points of the plane; below 0 outside, NaN for flat faces."""

    def twice(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        one, other = b - a, c - a
        return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]

    a, b, c = corners.unbind(1)
    return (
        torch.stack([twice(p, b, c), twice(a, p, c), twice(a, b, p)], 1) / twice(a, b, c)[:, None]
    )


def _mean_color(color: Color, points: Tensor, outward: Tensor) -> Tensor:
    least = outward.abs().argmin(1)
    axis = torch.zeros_like(outward)
    axis[torch.arange(len(outward)), least] = 1
    one = normalize(torch.linalg.cross(outward, axis), dim=1)
    other = torch.linalg.cross(outward, one)
    turns = torch.arange(AROUND, device=points.device) * (2 * torch.pi / AROUND)
    total = color(points, -outward)
    tilt = torch.tensor(TILT)
    for turn in turns:
        aside = turn.cos() * one + turn.sin() * other
        total = total + color(points, -(tilt.cos() * outward + tilt.sin() * aside))
    return (total / (AROUND + 1)).clamp(0, 1).float()


def _grown(image: Float[Tensor, "h w 3"], known: Bool[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Texels that are not known take the mean of known neighbours, ring after ring."""
    planes = torch.cat([image * known[..., None], known[..., None].float()], 2).permute(2, 0, 1)
    for _ in range(GROWN):
        sums = 9 * torch.nn.functional.avg_pool2d(planes[None], 3, 1, 1)[0]
        fresh = (planes[3] == 0) & (sums[3] > 0.5)
        if not bool(fresh.any()):
            break
        planes = torch.where(fresh, sums / sums[3].clamp_min(1), planes)
    return planes[:3].permute(1, 2, 0).contiguous()


def _of_numbers(found: tuple) -> tuple:
    """Old vertices, faces and coordinates, in types that torch knows."""
    old, faces, coordinates = found
    return old.astype("int64"), faces.astype("int64"), coordinates.astype("float32")

"""Faces between the vertices of neighbouring cells, and which of them a surface has."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from polyfield.cuda.tangent_planes import NONE, PLANE, Vertices, quads_that_go
from polyfield.extract.unsigned_samples import Samples, number_of

EdgeFilter = Literal["none", "smooth", "robust", "sharp"]
OPPOSED = {"none": 2.0, "smooth": 0.0, "robust": 0.5, "sharp": 0.5}


def quads(
    leaves: Int64[Tensor, "n 3"], vertices: Vertices, samples: Samples, cells: int, kept: EdgeFilter
) -> Int64[Tensor, "quads 4"]:
    """The four cells around each edge of their lattice that all have a vertex, in a ring.

    Unsigned distances have no sign that would change along a crossed edge, but gradients at its
    ends point away from each other: of an edge whose ends' unit gradients have a product of 0.5 and
    more ("robust"), or of 0 ("smooth"), no face is made; "sharp" makes it all the same where one of
    the four vertices lies on a crease or in a corner; "none" makes them all.
    """
    has = vertices.kind != NONE
    there = leaves[has]
    row = torch.nonzero(has)[:, 0]
    key = number_of(there, cells + 1)
    found = []
    for axis in range(3):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        corners = []
        ok = (there[:, one] > 0) & (there[:, other] > 0)
        for back in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = there.clone()
            cell[:, one] -= back[0]
            cell[:, other] -= back[1]
            wanted = number_of(cell, cells + 1)
            at = torch.searchsorted(key, wanted).clamp(max=max(0, len(key) - 1))
            ok = ok & (key[at] == wanted)
            corners.append(row[at])
        quad = torch.stack(corners, 1)[ok]
        # The edge that the four cells share begins at the low corner of the last one.
        begin = 2 * there[ok]
        end = begin.clone()
        end[:, axis] += 2
        ends = [samples.rows(number_of(node, 2 * cells + 1)) for node in (begin, end)]
        product = (samples.gradient[ends[0]] * samples.gradient[ends[1]]).sum(1)
        crossed = product < OPPOSED[kept]
        if kept == "sharp":
            crossed |= (vertices.kind[quad] != PLANE).any(1)
        found.append(quad[crossed])
    return torch.cat(found)


def triangles(
    quad: Int64[Tensor, "quads 4"], vertices: Vertices, mended: bool = True
) -> Int64[Tensor, "faces 3"]:
    """Quads that go with what their vertices say of the surface, split in two; no others.

    Four corners in a plane: normals must be near its own, creases must lie in it. Others: every
    corner on a flat part must have its triangle, and creases run along the diagonal. mended: quads
    that were left out come back where that closes all of their sides: their corners lie so close
    together that what they say of them is noise.
    Source: DualMesh-UDF (arXiv:2309.08878), section 3.4, and its authors' code.
    """
    if not len(quad):
        return quad.new_zeros(0, 3)
    keep, first = quads_that_go(quad, vertices)
    faces = _split(quad[keep], first[keep])
    if not mended:
        return faces
    back = _that_close(quad[~keep], faces)
    shorter = _diagonal(vertices, back, 0) <= _diagonal(vertices, back, 1)
    return torch.cat([faces, _split(back, shorter)])


def _that_close(quad: Tensor, faces: Tensor) -> Tensor:
    """Those quads of whose sides each would have two faces with them, one of them there or back."""
    most = int(torch.cat([quad.reshape(-1), faces.reshape(-1), quad.new_zeros(1)]).max()) + 1
    sides = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    number, count = (sides[:, 0] * most + sides[:, 1]).unique(return_counts=True)
    while len(quad) and len(number):
        ring = torch.stack([quad, quad.roll(-1, 1)], 2).sort(2).values
        ring = ring[..., 0] * most + ring[..., 1]
        at = torch.searchsorted(number, ring).clamp(max=len(number) - 1)
        there = torch.where(number[at] == ring, count[at], 0)
        _, which, back = ring.unique(return_inverse=True, return_counts=True)
        closes = (there + back[which] == 2).all(1)
        if bool(closes.all()):
            return quad
        quad = quad[closes]
    return quad[:0]


def _diagonal(vertices: Vertices, quad: Tensor, start: int) -> Tensor:
    ends = vertices.position[quad[:, start]], vertices.position[quad[:, start + 2]]
    return (ends[0] - ends[1]).norm(dim=1)


def _split(quad: Tensor, first: Tensor) -> Tensor:
    """Two triangles of each, along the diagonal from its first corner or from its second."""
    a, b, c, d = quad.unbind(1)
    one = torch.where(first[:, None], torch.stack([a, b, c], 1), torch.stack([b, c, d], 1))
    two = torch.where(first[:, None], torch.stack([c, d, a], 1), torch.stack([d, a, b], 1))
    return torch.stack([one, two], 1).view(-1, 3)


def oriented(position: Float64[Tensor, "v 3"], faces: Int64[Tensor, "f 3"]) -> Int64[Tensor, "f 3"]:
    """The faces so turned that neighbours across edges with two faces agree, where they can.

    Each such component then looks outward by most of its area, seen from its middle.
    """
    if not len(faces):
        return faces
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    face = torch.arange(len(faces), device=faces.device).repeat(3)
    most = int(faces.max()) + 1
    low, high = directed.amin(1), directed.amax(1)
    order = (low * most + high).argsort(stable=True)
    key = (low * most + high)[order]
    begins = torch.ones_like(key, dtype=torch.bool)
    begins[1:] = key[1:] != key[:-1]
    start = torch.nonzero(begins)[:, 0]
    count = torch.diff(start, append=start.new_tensor([len(key)]))
    pair = start[count == 2]
    one, other = face[order[pair]], face[order[pair + 1]]
    forward = directed[:, 0] < directed[:, 1]
    turned = forward[order[pair]] == forward[order[pair + 1]]
    root, flip = _components(len(faces), one, other, turned)
    flipped = torch.where(flip[:, None], faces.flip(1), faces)
    a, b, c = position[flipped].unbind(1)
    vector = torch.linalg.cross(b - a, c - a)
    area = vector.norm(dim=1)
    middle = (a + b + c) / 3
    total = torch.zeros_like(area).index_add_(0, root, area).clamp_min(1e-300)
    center = torch.zeros_like(middle).index_add_(0, root, middle * area[:, None]) / total[:, None]
    outward = ((middle - center[root]) * vector).sum(1)
    says = torch.zeros_like(area).index_add_(0, root, outward)
    return torch.where((says < 0)[root][:, None], flipped.flip(1), flipped)


def _components(
    count: int, one: Int64[Tensor, " n"], other: Int64[Tensor, " n"], turned: Tensor
) -> tuple[Tensor, Tensor]:
    """The component of each of so many faces by pairs of neighbours, and whether it is turned.

    Roots join the least root beside them, all at once, until none is left to join; pairs that
    contradict the rest, as on a Moebius strip, are let be.
    """
    root = torch.arange(count, device=one.device)
    flip = torch.zeros(count, dtype=torch.bool, device=one.device)
    both = torch.cat([one, other]), torch.cat([other, one]), torch.cat([turned, turned])
    while True:
        a, b, differ = both
        apart = root[a] != root[b]
        if not bool(apart.any()):
            return root, flip
        a, b, differ = a[apart], b[apart], differ[apart]
        both = a, b, differ
        low = root[b] < root[a]
        a, b, differ = a[low], b[low], differ[low]
        # Of each root, the pair that leads to the least root.
        rank = root[b] * len(root) + torch.arange(len(a), device=a.device) % len(root)
        best = torch.full_like(root, 1 << 62).scatter_reduce(0, root[a], rank, "amin")
        chosen = rank == best[root[a]]
        joined = root[a[chosen]]
        parity = flip[a[chosen]] ^ flip[b[chosen]] ^ differ[chosen]
        target = root[b[chosen]]
        root[joined], flip[joined] = target, parity
        while not torch.equal(root[root], root):
            flip, root = flip ^ flip[root], root[root]

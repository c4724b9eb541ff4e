"""The part of a mesh where a function of place is not above 0: cut along the line where it is 0."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh

LEAST = 1e-3  # of an edge: as near to its end as a cut comes


def trimmed(mesh: Mesh, values: Float[Tensor, " v"]) -> Mesh:
    """What is left of the mesh where values, one a vertex, are not above 0.

    Faces that the line of zeros crosses are cut along it, linearly between their vertices: one new
    vertex a crossed edge, shared by both of its faces, so that what was manifold stays so and the
    line becomes a border. Faces keep their orientation; colours and normals are left out. Raises
    InputError for values that are not one a vertex, or NaN.
    """
    if values.shape != (len(mesh.vertices),) or bool(values.isnan().any()):
        got = f"shape {tuple(values.shape)}" if not bool(values.isnan().any()) else "NaN"
        raise InputError("trimmed: values", got, f"{len(mesh.vertices)} numbers, one a vertex")
    kept = values <= 0
    count = kept[mesh.faces].sum(1)
    whole = mesh.faces[count == 3]
    # Of a cut face the corner that is alone on its side comes first.
    cut = mesh.faces[(count == 1) | (count == 2)]
    alone = (kept[cut] == (kept[cut].sum(1) == 1)[:, None]).int().argmax(1)
    turned = (alone[:, None] + torch.arange(3, device=cut.device)) % 3
    one, two, three = cut.gather(1, turned).unbind(1)
    ends = torch.stack([torch.cat([one, one]), torch.cat([two, three])], 1).sort(1).values
    ends, number = ends.unique(dim=0, return_inverse=True)
    first, second = values.double()[ends].unbind(1)
    share = (first / (first - second)).clamp(LEAST, 1 - LEAST)
    begin, end = mesh.vertices.double()[ends].unbind(1)
    line = torch.lerp(begin, end, share[:, None]).float()
    on_two, on_three = (number + len(mesh.vertices)).view(2, -1).unbind(0)
    tip = kept[one]
    faces = [
        whole,
        torch.stack([one, on_two, on_three], 1)[tip],
        torch.stack([two, three, on_three], 1)[~tip],
        torch.stack([two, on_three, on_two], 1)[~tip],
    ]
    found = Mesh(torch.cat([mesh.vertices, line]), torch.cat(faces))
    return found.with_faces(torch.ones(len(found.faces), dtype=torch.bool, device=tip.device))

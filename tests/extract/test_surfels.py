"""Discs on a surface: where they lie, which way they face, how wide they are."""

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.rotations import matrices
from polyfield.extract.mesh import Mesh
from polyfield.extract.surfels import FEWEST, OPACITY, surfels
from polyfield.fields.splats import CONSTANT


def sheet(turned=False):
    """A square of side 2 across a slanted axis: one large face, and many small beside it."""
    ticks = torch.linspace(0, 1, 21)
    a, b = torch.meshgrid(ticks, ticks, indexing="ij")
    flat = torch.stack([2 * a.reshape(-1), 2 * b.reshape(-1)], 1)
    number = torch.arange(441).view(21, 21)
    p, q, r, s = number[:-1, :-1], number[1:, :-1], number[1:, 1:], number[:-1, 1:]
    upper = torch.stack([p, r, s], 2).reshape(-1, 3)  # of each cell
    lower = torch.stack([p, q, r], 2).reshape(-1, 3)
    below = (flat[lower].sum(1)[:, 0] - flat[lower].sum(1)[:, 1]) > 0  # of the diagonal
    above = (flat[upper].sum(1)[:, 0] - flat[upper].sum(1)[:, 1]) < 0
    large = torch.tensor([[0, 420, 440]])
    rest = torch.cat([upper[above], lower[~below]])
    faces = torch.cat([large, rest.flip(1) if turned else rest])
    x, y = torch.tensor([0.6, 0.8, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    return Mesh(flat[:, :1] * x + flat[:, 1:] * y, faces), torch.linalg.cross(x, y)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_discs_are_even_flat_and_as_wide_as_they_are_apart(scale):
    mesh, normal = sheet()
    found = surfels(Mesh(scale * mesh.vertices, mesh.faces), 600, seed=3)
    assert found.count == 600
    assert float((found.means @ normal).abs().max()) < 1e-5 * scale
    sizes = found.log_scales.exp() / scale
    assert torch.equal(sizes[:, 0], sizes[:, 1]) and (sizes[:, 2] < 0.2 * sizes[:, 0]).all()
    apart = (2 / 3**0.5 * 4 / 600) ** 0.5  # of points on a lattice of triangles
    inner = ((found.means / scale).amax(1) < 1.4) & ((found.means / scale).amin(1) > 0.15)
    assert (sizes[inner, 0].median() / apart - 0.66).abs() < 0.08
    assert sizes[inner, 0].std() < 0.14 * sizes[inner, 0].mean()
    rows = nearest(found.means, center_tree(found.means), 2).long()[:, 1]
    gaps = (found.means[rows] - found.means).norm(dim=1) / scale
    assert gaps.quantile(0.05) > 0.3 * apart  # of random points 0.12
    assert torch.allclose(found.opacity_logits.sigmoid(), torch.tensor(OPACITY))


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_thin_axis_is_the_normal(axis, sign):
    normal = sign * torch.cat([torch.eye(3), torch.tensor([[0.48, 0.64, -0.6]])])[axis]
    a = torch.linalg.cross(normal, torch.tensor([0.3, -0.5, 0.81]))
    b = torch.linalg.cross(normal, a)
    mesh = Mesh(torch.stack([a, b, -a - b]), torch.tensor([[0, 1, 2]]))
    found = surfels(mesh, 40)
    thin = matrices(found.quaternions)[:, :, 2]
    assert torch.allclose((thin @ normal).abs(), torch.ones(found.count), atol=1e-5)
    assert (found.log_scales.argmin(1) == 2).all()


def test_sides_may_be_turned_anyhow():
    """Then normals agree where they are seen, and colours do not tell one from the other."""
    mesh, normal = sheet(turned=True)
    found = surfels(mesh, 300, two_sided=True)
    thin = matrices(found.quaternions)[:, :, 2]
    assert ((thin @ normal).abs() > 0.999).all()
    colors = 0.5 + CONSTANT * found.harmonics[:, 0]
    assert (colors - colors[:1]).abs().max() < 1e-4 and colors.min() > 0 and colors.max() < 1
    one = 0.5 + CONSTANT * surfels(mesh, 300).harmonics[:, 0]
    assert (one - one[:1]).abs().max() > 0.1


def test_the_same_seed_gives_the_same_and_nothing_is_refused_in_silence():
    mesh, _ = sheet()
    one, again, other = (surfels(mesh, 50, seed) for seed in (1, 1, 2))
    assert torch.equal(one.means, again.means) and not torch.equal(one.means[:9], other.means[:9])
    with pytest.raises(InputError, match=f"{FEWEST} at least"):
        surfels(mesh, FEWEST - 1)
    with pytest.raises(InputError, match="area"):
        surfels(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), 50)

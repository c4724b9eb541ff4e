import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.density_surface import extract_surface, surface_level
from polyfield.extract.mesh_checks import (
    enclosed_volume,
    euler_characteristic,
    is_closed_and_oriented,
)
from polyfield.fields.similarity import Similarity

RING, TUBE = 0.28, 0.1
FLOATERS = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.85, 0.9], [0.12, 0.9, 0.3]])


def torus_distance(points):
    x, y, z = (points - 0.5).unbind(1)
    return torch.hypot(torch.hypot(x, y) - RING, z) - TUBE


def density(points):
    """A torus of density 150 behind a soft wall, and three small balls in the air."""
    balls = (points[:, None] - FLOATERS).norm(dim=2).amin(1) - 0.015
    return 150 * torch.sigmoid(-150 * torch.minimum(torus_distance(points), balls))


def color(points, directions):
    """What is seen depends on where from: half of the direction, as the test looks it up."""
    return 0.5 - 0.5 * directions


def to_field():
    c, s = math.cos(0.6), math.sin(0.6)
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    return Similarity(0.2, rotation, torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64))


def rays(count=400):
    generator = torch.Generator().manual_seed(0)
    around = torch.rand(count, generator=generator) * math.tau
    target = torch.stack([0.5 + RING * around.cos(), 0.5 + RING * around.sin()], 1)
    target = torch.cat([target, torch.full((count, 1), 0.5)], 1)
    away = torch.randn(count, 3, generator=generator)
    directions = -away / away.norm(dim=1, keepdim=True)
    return target - 2 * directions, directions


def test_a_density_with_floaters_gives_the_torus_alone_in_the_users_frame():
    level = surface_level(density, *rays())
    mesh = extract_surface(density, color, to_field(), level, resolution=64)
    assert is_closed_and_oriented(mesh.faces) and euler_characteristic(mesh.faces) == 0
    at = to_field().apply(mesh.vertices)
    # A ray at right angles loses half its light 0.008 within the soft wall or nearer.
    assert float(torus_distance(at).abs().max()) < 0.008
    exact = 2 * math.pi**2 * RING * TUBE**2 / 0.2**3
    assert enclosed_volume(mesh.vertices, mesh.faces) == pytest.approx(exact, rel=0.12)


def test_colors_are_seen_along_the_inward_normal_of_the_field_frame():
    mesh = extract_surface(density, color, to_field(), 75.0, resolution=48)
    outward = mesh.normals @ to_field().rotation.T.float()
    torch.testing.assert_close(mesh.colors, 0.5 + 0.5 * outward, atol=1e-5, rtol=0)
    points = to_field().apply(mesh.vertices).requires_grad_()
    (exact,) = torch.autograd.grad(torus_distance(points).sum(), points)
    assert float((outward * exact).sum(1).min()) > 0.98


def test_colors_stay_within_their_range():
    mesh = extract_surface(density, lambda x, d: 9 * d, Similarity.identity(), 75.0, resolution=32)
    assert float(mesh.colors.min()) == 0 and float(mesh.colors.max()) == 1


def test_unseen_parts_go_in_the_field_frame():
    def visible(points):
        return points[:, 2] > 0.5

    mesh = extract_surface(density, color, to_field(), 75.0, resolution=48, visible=visible)
    at = to_field().apply(mesh.vertices)
    assert 0.5 - TUBE < float(at[:, 2].min()) < 0.5
    assert float(at[:, 2].max()) == pytest.approx(0.5 + TUBE, abs=0.003)


def test_a_level_above_the_density_is_refused():
    with pytest.raises(InputError, match="no density above 151"):
        extract_surface(density, color, to_field(), 151.0, resolution=16)
    with pytest.raises(InputError, match="visible"):
        extract_surface(
            density, color, to_field(), 75.0, resolution=16, visible=lambda x: x[:, 0] > 2
        )

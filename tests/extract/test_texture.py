"""Surfaces laid out flat and painted: every texel shows its own place, seams show nothing."""

import math
import sys

import pytest
import torch
from torch.nn.functional import grid_sample, normalize

from polyfield.cuda.errors import InputError, MissingExtraError
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.texture import TILT, Unwrapped, baked, texels, unwrapped

SIZE = 256


def paint(points, directions):
    """A colour of the place alone, smooth over the unit cube."""
    return 0.5 + 0.4 * torch.sin(6 * points.float())


@pytest.fixture(scope="module")
def ball():
    return distance_mesh(lambda x: (x - 0.5).norm(dim=1) - 0.35, 24)


@pytest.fixture(scope="module")
def made(ball):
    return unwrapped(ball, SIZE)


def test_the_surface_stays_the_same_and_charts_do_not_overlap(ball, made):
    assert len(made.mesh.faces) == len(ball.faces)
    first, second = (
        mesh.vertices[mesh.faces].sort(1).values.view(-1, 9) for mesh in (ball, made.mesh)
    )
    assert torch.equal(first.unique(dim=0), second.unique(dim=0))
    assert (made.coordinates >= 0).all() and (made.coordinates <= 1).all()
    corners = made.coordinates[made.mesh.faces].double()
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs().sum() / 2
    face, weights = texels(made)
    covered = float((face >= 0).double().mean())
    assert 0.35 < covered == pytest.approx(float(area), rel=0.03)  # each texel of one face
    sums = weights[face >= 0].sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("size", [256, 512])  # of 512 charts fill a part of the square
def test_charts_keep_their_shape_whatever_they_fill_of_the_square(size):
    corners = torch.tensor([[0.0, 0, 0], [4, 0, 0], [4, 1, 0], [0, 1, 0]])
    made = unwrapped(Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])), size)
    sides = [made.mesh.vertices, made.coordinates * size]
    lengths = [(x[made.mesh.faces] - x[made.mesh.faces.roll(1, 1)]).norm(dim=2) for x in sides]
    scale = lengths[1] / lengths[0]
    assert scale.max() / scale.min() < 1.02 and lengths[1].max() > 0.9 * size


def test_texels_are_looked_up_at_their_middles():
    """One large triangle: weights are those of the plane's own equation, rows from the top."""
    corners = torch.tensor([[0.05, 0.1], [0.9, 0.2], [0.3, 0.85]])
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    face, weights = texels(Unwrapped(mesh, corners, 64))
    there = torch.nonzero(face == 0)[:, 0]
    middles = torch.stack([there % 64 + 0.5, there // 64 + 0.5], 1) / 64
    torch.testing.assert_close(weights[there] @ corners, middles, atol=1e-5, rtol=0)
    edges = corners[[1, 2, 0]] - corners
    area = float(edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0]) / 2
    assert len(there) / 64**2 == pytest.approx(area, rel=0.02)


def test_a_renderer_finds_the_field_s_colour_all_over_the_surface_seams_included(made):
    image = baked(made, made.mesh.vertex_normals(), paint)
    assert image.shape == (SIZE, SIZE, 3)
    random = torch.Generator().manual_seed(0)
    face = torch.randint(len(made.mesh.faces), (20_000,), generator=random)
    weights = -torch.rand(20_000, 3, generator=random).clamp_min(1e-9).log()
    weights = (weights / weights.sum(1, keepdim=True))[..., None]
    corners = made.mesh.faces[face]
    points = (made.mesh.vertices[corners] * weights).sum(1)
    where = 2 * (made.coordinates[corners] * weights).sum(1) - 1
    seen = grid_sample(image.permute(2, 0, 1)[None], where[None, None], align_corners=False)
    off = (seen[0, :, 0].T - paint(points, points)).abs().amax(1)
    assert off.max() < 0.03, off.max()  # of what lies between charts, black, nothing


def test_colours_are_the_mean_over_views_about_the_normal(made):
    """Of what depends on the angle linearly, and on the direction around not at all."""
    normals = normalize(made.mesh.vertices - 0.5, dim=1)

    def shiny(points, directions):
        outward = normalize(points - 0.5, dim=1)
        facing = -(directions * outward).sum(1, keepdim=True)
        return facing.expand(-1, 3) * 0.9

    image = baked(made, normals, shiny)
    face, _ = texels(made)
    found = image.view(-1, 3)[face >= 0]
    expected = 0.9 * (1 + 6 * math.cos(TILT)) / 7
    assert (found - expected).abs().max() < 5e-3

    def lopsided(points, directions):
        return 0.5 + 0.5 * directions  # odd: all but its part along the normal cancels

    image = baked(made, normals, lopsided).view(-1, 3)[face >= 0]
    expected = 0.5 - 0.5 * (1 + 6 * math.cos(TILT)) / 7
    assert image.amin() == pytest.approx(expected, abs=0.01)


def test_rims_are_carried_on_into_what_lies_between(made):
    image = baked(made, made.mesh.vertex_normals(), lambda x, d: torch.full_like(x, 0.7))
    face, _ = texels(made)
    filled = (image == 0).all(2).view(-1)
    assert torch.isclose(image[image > 0], torch.tensor(0.7)).all()
    grown = torch.nn.functional.max_pool2d((face >= 0).view(1, SIZE, SIZE).float(), 9, 1, 4)
    assert not filled[grown.view(-1) > 0].any()


@pytest.mark.parametrize("size", [32, 1 << 14])
def test_sizes_that_make_no_picture_are_refused(ball, size):
    with pytest.raises(InputError, match=f"{size} texels a side"):
        unwrapped(ball, size)


def test_nothing_has_no_texture():
    with pytest.raises(InputError, match="without faces"):
        unwrapped(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)), SIZE)


def test_without_the_package_its_extra_is_named(ball, monkeypatch):
    monkeypatch.setitem(sys.modules, "xatlas", None)
    with pytest.raises(MissingExtraError, match=r"polyfield\[surfaces\]"):
        unwrapped(ball, SIZE)

"""Projection, covariances and colours of Gaussians as gsplat has them, in its plain torch form."""

import math

import pytest
import torch

from polyfield.cuda.rotations import matrices
from polyfield.cuda.splat_color import splat_color_reference
from polyfield.cuda.splat_project import SplatCamera, splat_project

gsplat = pytest.importorskip("gsplat.cuda._torch_impl")

pytestmark = pytest.mark.kernels
WIDTH, HEIGHT = 160, 120
FOCAL, CENTER = (140.0, 150.0), (76.0, 64.0)


def crowd(n=400, seed=0):
    """Gaussians before a camera that stands and looks somehow, some beside its picture."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    means = normal(n, 3) * torch.tensor([1.5, 1.2, 0.8]) + torch.tensor([0.0, 0, 4])
    return means, -2.5 + 0.6 * normal(n, 3), normal(n, 4), normal(n)


def pose():
    turn = matrices(torch.tensor([[1.0, 0.08, -0.05, 0.1]]))[0]
    return torch.cat([turn, torch.tensor([[0.1], [-0.2], [0.3]])], 1)


def theirs(numbers, model, dilation=0.3):
    means, log_scales, quaternions, _ = numbers
    covariances, _ = gsplat._quat_scale_to_covar_preci(quaternions, log_scales.exp(), True, False)
    view = torch.eye(4)
    view[:3] = pose()
    intrinsics = torch.tensor([[FOCAL[0], 0, CENTER[0]], [0, FOCAL[1], CENTER[1]], [0, 0, 1]])
    return gsplat._fully_fused_projection(
        means,
        covariances,
        view[None],
        intrinsics[None],
        WIDTH,
        HEIGHT,
        dilation,
        0.01,
        calc_compensations=True,
        camera_model=model,
    )


def ours(numbers, model, device, antialiased=False):
    camera = SplatCamera(
        pose().to(device),
        torch.tensor(FOCAL, device=device),
        torch.tensor(CENTER, device=device),
        torch.zeros(4, device=device),
        WIDTH,
        HEIGHT,
        model,
    )
    return splat_project(*(t.to(device) for t in numbers), camera, antialiased=antialiased)


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_places_depths_and_conics_are_theirs(device, model):
    numbers = crowd()
    seen = ours(numbers, model, device)
    _, means2d, depths, conics, _ = theirs(numbers, model)
    rows = seen.rows.cpu()
    assert len(rows) > 250
    # Theirs keeps a fisheye's center apart from 0 by a number in its radius: 1e-4 of a pixel.
    torch.testing.assert_close(seen.means2d.cpu(), means2d[0, rows], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(seen.conics.cpu(), conics[0, rows], rtol=2e-3, atol=1e-5)
    if model == "pinhole":
        torch.testing.assert_close(seen.depths.cpu(), depths[0, rows], rtol=1e-5, atol=1e-5)


def test_gradients_of_places_and_conics_are_theirs(device):
    numbers = [t.requires_grad_() for t in crowd()]
    seen = ours(numbers, "pinhole", device)
    _, means2d, _, conics, _ = theirs(numbers, "pinhole")
    rows = seen.rows.cpu()
    random = torch.Generator().manual_seed(3)
    pulls = [torch.randn(len(rows), k, generator=random) for k in (2, 3)]
    found = torch.autograd.grad(
        (seen.means2d.cpu() * pulls[0]).sum() + (seen.conics.cpu() * pulls[1]).sum(), numbers[:3]
    )
    wanted = torch.autograd.grad(
        (means2d[0, rows] * pulls[0]).sum() + (conics[0, rows] * pulls[1]).sum(), numbers[:3]
    )
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=5e-3, atol=2e-3 * float(want.abs().mean()))


def test_opacities_shrink_as_theirs_where_that_is_asked_for(device):
    numbers = crowd()
    plain, shrunk = (ours(numbers, "pinhole", device, flag) for flag in (False, True))
    compensations = theirs(numbers, "pinhole")[4][0]
    expected = numbers[3].sigmoid() * compensations
    torch.testing.assert_close(
        shrunk.opacities.cpu(), expected[shrunk.rows.cpu()], rtol=2e-3, atol=1e-4
    )
    assert (plain.opacities.cpu() == numbers[3].sigmoid()[plain.rows.cpu()]).float().mean() > 0.9


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_are_theirs(degree):
    random = torch.Generator().manual_seed(degree)
    means, eye = torch.randn(200, 3, generator=random), torch.randn(3, generator=random)
    harmonics = torch.randn(200, 16, 3, generator=random) / math.sqrt(16)
    found = splat_color_reference(means, harmonics, eye, torch.arange(200), degree)
    expected = (gsplat._spherical_harmonics(degree, means - eye, harmonics) + 0.5).clamp_min(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

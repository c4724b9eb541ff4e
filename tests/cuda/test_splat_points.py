"""Gaussians through a lens that bends: against plain torch, finite differences, and random rays."""

import math

import pytest
import torch
from splat_scenes import gaussians, loss_of

from polyfield.cuda.splat_points import (
    UNBOUNDED,
    BentCamera,
    bent,
    fold,
    splat_points,
    splat_points_reference,
)
from polyfield.cuda.splat_project import SplatCamera, splat_project

pytestmark = pytest.mark.kernels

PHONE = torch.tensor([-0.12, 0.04, 0.002, -0.001, 0.01, 0.02, -0.01, 0.003])
STRAIGHT = torch.zeros(8)


def camera(distortion=PHONE, width=64, height=48, focal=60.0, pose=None):
    if pose is None:
        turn = torch.linalg.matrix_exp(
            torch.tensor([[0.0, -0.1, 0.05], [0.1, 0, -0.2], [-0.05, 0.2, 0]])
        )
        pose = torch.cat([turn, torch.tensor([[0.1], [-0.2], [0.3]])], 1)
    center = torch.tensor([0.52 * width, 0.47 * height])
    return BentCamera(pose, torch.tensor([focal, 1.1 * focal]), center, distortion, width, height)


def on(view, device, dtype):
    return view._replace(
        **{n: t.to(device, dtype) for n, t in view._asdict().items() if torch.is_tensor(t)}
    )


@pytest.mark.parametrize("antialiased", [False, True])
def test_what_is_seen_and_its_gradients_are_those_of_the_specification(device, antialiased):
    results = []
    for dtype in (torch.float32, torch.float64):
        numbers = [t.to(device, dtype).requires_grad_() for t in gaussians(200)]
        view = on(camera(), device, dtype)
        pose = view.world_to_camera.requires_grad_()
        seen = splat_points(*numbers, view._replace(world_to_camera=pose), antialiased=antialiased)
        results.append((seen, torch.autograd.grad(loss_of(seen), [*numbers, pose])))
    (seen, grads), (expected, expected_grads) = results
    assert 60 < len(seen.rows) < 200
    assert torch.equal(seen.rows, expected.rows)
    for got, want in zip(seen[1:], expected[1:], strict=True):
        bound = 1e-5 * float(want.detach().abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=bound)
    for got, want in zip(grads, expected_grads, strict=True):
        bound = 3e-5 * float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=2e-3, atol=bound)


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_of_the_specification_are_finite_differences(antialiased):
    means, scales, turns, logits = (t.double() for t in gaussians(12, seed=3))
    means = means * torch.tensor([0.2, 0.2, 0.3]) + torch.tensor([0.0, 0, 3])
    leaves = [t.requires_grad_() for t in (means, scales - 1, turns, logits)]
    view = on(camera(), "cpu", torch.float64)
    pose = view.world_to_camera.requires_grad_()

    def numbers(*leaves):
        view_here = view._replace(world_to_camera=leaves[4])
        found = splat_points_reference(*leaves[:4], view_here, antialiased=antialiased)
        return found.means2d, found.conics, found.opacities, found.depths

    assert torch.autograd.gradcheck(numbers, (*leaves, pose))


def test_of_small_gaussians_through_a_straight_lens_slopes_say_the_same(device):
    means, scales, turns, logits = (t.to(device) for t in gaussians(120))
    scales = scales.clamp(max=-6)
    view = camera(STRAIGHT)
    straight = SplatCamera(
        view.world_to_camera,
        view.focal,
        view.center,
        torch.zeros(4),
        view.width,
        view.height,
    )
    found = splat_points(means, scales, turns, logits, on(view, device, torch.float32))
    expected = splat_project(
        means,
        scales,
        turns,
        logits,
        straight._replace(
            **{n: t.to(device) for n, t in straight._asdict().items() if torch.is_tensor(t)}
        ),
    )
    both = torch.isin(expected.rows, found.rows)
    assert len(found.rows) > 40 and int(both.sum()) == len(found.rows)
    torch.testing.assert_close(found.means2d, expected.means2d[both], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.conics, expected.conics[both], rtol=1e-3, atol=1e-4)


def test_a_wide_gaussian_is_as_its_own_points_fall(device):
    """A million of them through the lens: their mean and their scatter, dilation left out."""
    turn = torch.tensor([[0.9, 0.2, -0.3, 0.1]])
    numbers = (
        torch.tensor([[0.35, -0.2, 2.0]]),
        torch.tensor([[0.12, 0.2, 0.07]]).log(),
        turn,
        torch.tensor([3.0]),
    )
    view = camera(PHONE, 200, 160, 160.0, torch.cat([torch.eye(3), torch.zeros(3, 1)], 1))
    seen = splat_points(
        *(t.to(device) for t in numbers), on(view, device, torch.float32), dilation=0.0
    )
    random = torch.Generator().manual_seed(0)
    cloud = torch.randn(1_000_000, 3, generator=random) * numbers[1].exp()
    from polyfield.cuda.rotations import matrices

    local = cloud @ matrices(turn)[0].T + numbers[0]
    plane, there = bent(local, PHONE, 0.01)
    assert there.all()
    pixels = plane * view.focal + view.center
    torch.testing.assert_close(seen.means2d[0].cpu(), pixels.mean(0), rtol=0, atol=0.25)
    a, b, c = seen.conics[0].tolist()
    covariance = torch.linalg.inv(torch.tensor([[a, b], [b, c]]))
    torch.testing.assert_close(covariance, torch.cov(pixels.T), rtol=0.05, atol=2.0)


def test_what_lies_past_the_fold_or_behind_is_not_seen(device):
    """1 - 0.3 r^2 grows no more from r^2 = 1 / 0.9 on."""
    distortion = torch.zeros(8)
    distortion[0] = -0.3
    assert fold(distortion) == pytest.approx(1 / 0.9)
    straight = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)
    view = on(camera(distortion, 400, 400, 150.0, straight), device, torch.float32)
    places = torch.tensor([[1.0, 0, 1], [1.1, 0, 1], [0, -2.5, 1], [0.1, 0.1, -1], [0, 0, 0.005]])
    n = len(places)
    seen = splat_points(
        places.to(device),
        torch.full((n, 3), -6.0, device=device),
        torch.tensor([[1.0, 0, 0, 0]], device=device).expand(n, 4).contiguous(),
        torch.full((n,), 3.0, device=device),
        view,
    )
    assert seen.rows.tolist() == [0]


def test_a_lens_without_a_fold_has_none():
    assert fold(STRAIGHT) == UNBOUNDED
    rational = torch.zeros(8)
    rational[5] = -0.25  # 1 / (1 - r^2 / 4) has no value at r = 2
    assert fold(rational) == pytest.approx(4.0)


@pytest.mark.parametrize("size", [1e-12, 1e6])
def test_extreme_sizes_leave_only_numbers(device, size):
    numbers = [t.to(device) for t in gaussians(50)]
    numbers[1] = torch.full_like(numbers[1], math.log(size))
    numbers = [t.requires_grad_() for t in numbers]
    seen = splat_points(*numbers, on(camera(), device, torch.float32))
    for part in seen:
        assert part.isfinite().all()
    if len(seen.rows):
        grads = torch.autograd.grad(loss_of(seen), numbers)
        assert all(grad.isfinite().all() for grad in grads)

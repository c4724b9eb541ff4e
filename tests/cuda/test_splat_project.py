"""Gaussians on a sensor: against plain torch, against finite differences, and what is left out."""

import math

import pytest
import torch
from splat_scenes import camera, gaussians, loss_of

from polyfield.cuda.errors import InputError
from polyfield.cuda.splat_project import (
    MODELS,
    SplatCamera,
    splat_project,
    splat_project_reference,
)

pytestmark = pytest.mark.kernels

STRAIGHT = torch.cat([torch.eye(3), torch.zeros(3, 1)], 1)


def ahead(width=64, height=48, focal=100.0):
    center = torch.tensor([width / 2, height / 2])
    return SplatCamera(STRAIGHT, torch.full((2,), focal), center, torch.zeros(4), width, height)


def on(view, device):
    """A camera's tensors on a device."""
    return {name: t.to(device) for name, t in view._asdict().items() if torch.is_tensor(t)}


def one(mean, size=0.1, opacity=0.5, **changes):
    """A round Gaussian."""
    numbers = {
        "means": torch.tensor([mean]),
        "log_scales": torch.full((1, 3), math.log(size)),
        "quaternions": torch.tensor([[1.0, 0, 0, 0]]),
        "opacity_logits": torch.tensor([opacity]).logit(),
    }
    return list((numbers | changes).values())


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_seen_and_its_gradients_are_those_of_the_specification(device, model, antialiased):
    results = []
    for dtype in (torch.float32, torch.float64):
        numbers = [t.to(device, dtype).requires_grad_() for t in gaussians(150)]
        view = camera(model)
        pose = view.world_to_camera.to(device, dtype).requires_grad_()
        seen = splat_project(*numbers, view._replace(world_to_camera=pose), antialiased=antialiased)
        results.append((seen, torch.autograd.grad(loss_of(seen), [*numbers, pose])))
    (seen, grads), (expected, expected_grads) = results
    assert 100 < len(seen.rows) < 150
    assert torch.equal(seen.rows, expected.rows)
    for got, want in zip(seen[1:], expected[1:], strict=True):
        bound = 2e-6 * float(want.detach().abs().max())
        torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=bound)
    for got, want in zip(grads, expected_grads, strict=True):
        bound = 1e-5 * float(want.abs().max())
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=bound)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_gradients_of_the_specification_are_finite_differences(model, antialiased):
    """Within the sensor's sides, where slopes follow their points."""
    means, *rest = gaussians(12, seed=3)
    means[:3, 2] = 3
    means[:, :2] *= 0.5
    view = camera(model)

    def columns(means, log_scales, quaternions, logits, pose):
        seen = splat_project_reference(
            means,
            log_scales,
            quaternions,
            logits,
            view._replace(world_to_camera=pose),
            antialiased=antialiased,
        )
        return seen.means2d, seen.conics, seen.opacities, seen.depths

    inputs = [t.requires_grad_() for t in (means, *rest, view.world_to_camera)]
    assert torch.autograd.gradcheck(columns, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_a_round_gaussian_on_the_axis_is_a_disc(device):
    seen = splat_project(*(t.to(device) for t in one([0.0, 0, 2], 0.1, 0.5)), ahead())
    variance = (100 * 0.1 / 2) ** 2 + 0.3
    assert seen.means2d[0].tolist() == [32, 24] and seen.depths.tolist() == [2]
    assert seen.conics[0].tolist() == pytest.approx([1 / variance, 0, 1 / variance])
    reach = math.sqrt(2 * math.log(255 * 0.5) * variance)
    assert seen.extents[0].tolist() == pytest.approx([reach, reach], rel=1e-5)
    assert seen.opacities.item() == pytest.approx(0.5)


def test_where_it_is_spread_an_antialiased_gaussian_is_fainter(device):
    numbers = [t.to(device) for t in one([0.0, 0, 2], 0.005, 0.5)]
    variance = (100 * 0.005 / 2) ** 2
    seen = splat_project(*numbers, ahead(), antialiased=True)
    assert seen.opacities.item() == pytest.approx(0.5 * variance / (variance + 0.3), rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_a_tiny_gaussian_lies_where_the_lens_has_its_middle(device, model):
    from polyfield.render.cameras import Cameras

    view = camera(model)
    turn = view.world_to_camera[:, :3]
    pose = torch.cat([turn.T, -turn.T @ view.world_to_camera[:, 3:]], 1)
    names = {"pinhole": "PINHOLE", "fisheye": "OPENCV_FISHEYE"}
    whole = Cameras(
        pose[None], view.focal[None], view.center[None], view.distortion[None],
        torch.tensor([view.width]), torch.tensor([view.height]), names[model],
    )  # fmt: skip
    numbers = gaussians(80, size=-9)
    pixels, _ = whole.project(torch.zeros(80, dtype=torch.int64), numbers[0])
    seen = splat_project(*(t.float().to(device) for t in numbers), view)
    off = seen.means2d.cpu().double() - pixels[seen.rows.cpu()]
    assert len(off) > 40 and off.abs().max() < 1e-4


def test_what_no_pixel_can_show_is_left_out(device):
    cases = {
        "behind": one([0.0, 0, -2]),
        "nearer than near": one([0.0, 0, 0.009]),
        "beside": one([3.0, 0, 2], 0.01),
        "above": one([0.0, -3, 2], 0.01),
        "too faint": one([0.0, 0, 2], opacity=0.0039),
        "no rotation": one([0.0, 0, 2], quaternions=torch.zeros(1, 4)),
        "no number": one([0.0, math.nan, 2]),
        "no size": one([0.0, 0, 2], log_scales=torch.full((1, 3), math.inf)),
    }
    for name, numbers in cases.items():
        assert not len(splat_project(*(t.to(device) for t in numbers), ahead()).rows), name
    for mean in ([0.0, 0, 0.011], [0.69, 0, 2], [-0.69, 0, 2], [0.0, 0.52, 2]):
        seen = splat_project(*(t.to(device) for t in one(mean, 0.02, 0.9)), ahead())
        assert len(seen.rows) == 1, mean


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_no_size_breaks_a_projection(device, size):
    seen = splat_project(*(t.to(device) for t in one([0.0, 0, 2], size, 0.9)), ahead())
    assert len(seen.rows) == 1
    assert all(bool(column.isfinite().all()) for column in seen)
    assert bool((seen.conics[:, 0] * seen.conics[:, 2] > seen.conics[:, 1] ** 2).all())


def test_beside_the_sensor_slopes_are_those_at_its_side(device):
    """A wide Gaussian there would be a spike across the image; its depth still moves it."""
    far = [t.to(device) for t in one([1.5, 0, 1], 0.5, 0.9)]
    seen = splat_project(*far, ahead())
    side = (32 + 0.15 * 64) / 100
    variance = (100 * 0.5) ** 2 * (1 + side**2) + 0.3
    assert 1 / seen.conics[0, 0].item() == pytest.approx(variance, rel=1e-4)


def test_a_quaternion_s_length_and_sign_say_nothing(device):
    numbers = [t.float().to(device) for t in gaussians(40)]
    expected = splat_project(*numbers, camera(dtype=torch.float32))
    for by in (-1.0, 3.0):
        quaternions = (by * numbers[2]).requires_grad_()
        seen = splat_project(numbers[0], numbers[1], quaternions, numbers[3], camera())
        torch.testing.assert_close(seen.conics, expected.conics, rtol=1e-4, atol=1e-7)
        (grad,) = torch.autograd.grad(loss_of(seen), quaternions)
        along = (grad * quaternions).sum(1).abs()
        assert bool((along <= 1e-4 * grad.norm(dim=1) * quaternions.norm(dim=1) + 1e-9).all())


def test_none_at_all_are_seen_and_have_gradients(device):
    numbers = [t[:0].float().to(device).requires_grad_() for t in gaussians(3)]
    seen = splat_project(*numbers, ahead())
    grads = torch.autograd.grad(loss_of(seen) + 0 * numbers[0].sum(), numbers, allow_unused=True)
    assert [len(column) for column in seen] == [0] * 6
    assert all(
        grad is None or grad.shape == t.shape for grad, t in zip(grads, numbers, strict=True)
    )


def test_another_model_is_refused():
    with pytest.raises(InputError, match="camera of splats: orthographic"):
        splat_project(*one([0.0, 0, 2]), ahead()._replace(model="orthographic"))


@pytest.mark.parametrize("place", [(-0.55, 0.0), (0.55, 0.0), (0.0, -0.5), (0.0, 0.5)])
def test_what_reaches_into_the_picture_from_any_side_is_seen(device, place):
    """Its middle 30 pixels beside the border, it is 12 pixels wide, and drawn to thrice that."""
    view = ahead(48, 40, 100.0)
    numbers = [t.to(device) for t in one([*place, 1.0], size=0.12, opacity=0.9)]
    seen = splat_project(*numbers, view._replace(**on(view, device)))
    assert len(seen.rows) == 1
    middle, reach = seen.means2d[0].cpu(), seen.extents[0].cpu()
    outside = (middle < 0) | (middle > torch.tensor([48.0, 40.0]))
    assert outside.any() and (middle + reach > 0).all()
    beyond = [t.to(device) for t in one([10 * x for x in place] + [1.0], size=0.12, opacity=0.9)]
    assert not len(splat_project(*beyond, view._replace(**on(view, device))).rows)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("place", [(2.2, 0.3), (-0.4, 2.0), (1.9, -1.8)])
def test_far_beside_the_picture_gradients_are_those_of_the_specification(device, model, place):
    """There a pinhole's slopes are those of its border, which depth alone still moves."""
    found = []
    for dtype in (torch.float32, torch.float64):
        flat = {
            "log_scales": torch.tensor([[-0.1, 0.3, -0.8]]),
            "quaternions": torch.tensor([[0.9, 0.1, -0.3, 0.2]]),
        }
        gaussian = one([*place, 2.0], opacity=0.8, **flat)
        numbers = [t.to(device, dtype).requires_grad_() for t in gaussian]
        view = ahead()._replace(model=model)
        where = {name: tensor.to(dtype) for name, tensor in on(view, device).items()}
        seen = splat_project(*numbers, view._replace(**where))
        assert len(seen.rows) == 1
        found.append(torch.autograd.grad(loss_of(seen), numbers))
    for got, want in zip(*found, strict=True):
        bound = 1e-4 * float(want.abs().max()) + 1e-12
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=bound)


def test_a_share_that_is_the_least_moves_with_nothing(device):
    """Of a Gaussian so narrow that only the floor of its opacity is left of it."""
    means, log_scales, turns, logits = (t.float().to(device) for t in gaussians(20, 0))
    log_scales = torch.full_like(log_scales, -14.0).requires_grad_()
    logits = torch.full_like(logits, 6.0)
    seen = splat_project(means, log_scales, turns, logits, camera(), antialiased=True)
    assert len(seen.rows) > 3
    expected = 0.005 * logits.sigmoid()[seen.rows]
    torch.testing.assert_close(seen.opacities, expected, rtol=1e-4, atol=0)
    (grad,) = torch.autograd.grad(seen.opacities.sum(), log_scales)
    assert not grad.any()

"""Corrections of poses: rigid, centred, and kept only while they are ones."""

import math

import torch

from polyfield.render.pose_refinement import (
    MOST_SHIFT,
    MOST_TURN,
    PoseRefinement,
    held_out_pixels,
)


def pose():
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.3, 0.2], [0.3, 0, -0.5], [-0.2, 0.5, 0]]))
    return torch.cat([turn, torch.tensor([[1.0], [2.0], [3.0]])], 1)


def test_a_pose_is_as_it_was_before_anything_is_learned():
    made = PoseRefinement(3, 2.0)
    torch.testing.assert_close(made(pose(), 1), pose(), rtol=0, atol=0)


def test_a_correction_turns_a_camera_about_itself_and_shifts_it_along_the_axes_of_the_world():
    made = PoseRefinement(2, 4.0)
    with torch.no_grad():
        made.moves[1] = torch.tensor([0, 0, math.pi / 2, 0.5, 0, 0])
    moved = made(pose(), 1)
    x, y, z = pose()[:, :3].unbind(0)
    torch.testing.assert_close(moved[:, :3], torch.stack([-y, x, z]))  # a quarter about z
    torch.testing.assert_close(moved[:, 3], pose()[:, 3] + torch.tensor([4.0 * 0.5, 0, 0]))
    torch.testing.assert_close(made(pose(), 0), pose())


def test_its_gradient_is_that_of_finite_differences():
    made = PoseRefinement(1, 1.5).double()
    with torch.no_grad():
        made.moves.copy_(torch.tensor([[0.1, -0.2, 0.05, 0.3, 0.1, -0.2]]))
    weights = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()

    def value(moves):
        made.moves.data.copy_(moves)
        return (made(pose().double(), 0) * weights).sum()

    at = made.moves.detach().clone()
    value(at).backward()
    for axis in range(6):
        step = torch.zeros(1, 6).double()
        step[0, axis] = 1e-6
        slope = float(value(at + step) - value(at - step)) / 2e-6
        assert abs(slope - float(made.moves.grad[0, axis])) < 1e-6


def test_poses_do_not_drift_together_nor_far():
    made = PoseRefinement(4, 1.0)
    with torch.no_grad():
        made.moves.add_(0.1)
        made.moves[0, 0] += 9.0
        made.moves[1, 3] += 9.0
    made.center_()
    assert made.moves[:, 1].abs().max() < 1e-6
    assert made.moves[:, :3].abs().max() <= MOST_TURN
    assert made.moves[:, 3:].abs().max() <= MOST_SHIFT


def test_a_correction_that_helps_is_kept_and_one_that_does_not_is_taken_back():
    made = PoseRefinement(2, 1.0)
    with torch.no_grad():
        made.moves.add_(0.1)
    assert made.judge_(0, 0.5, 0.6)
    assert not made.judge_(1, 0.6, 0.5)
    assert (made.accepted[0] == 0.1).all() and (made.moves[0] == 0.1).all()
    assert not made.accepted[1].any() and not made.moves[1].any()
    torch.testing.assert_close(made.trusted(pose(), 0), made(pose(), 0))
    torch.testing.assert_close(made.trusted(pose(), 1), pose())


def test_one_pixel_of_sixteen_is_held_out_and_none_beside_another():
    held = held_out_pixels(48, 64)
    assert int(held.sum()) == 48 * 64 // 16
    assert not (held[:, 1:] & held[:, :-1]).any() and not (held[1:] & held[:-1]).any()

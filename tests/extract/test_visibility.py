import torch

from polyfield.extract.visibility import seen_in_depth_maps

SIZE = 64


def project(view, points):
    """Two pinholes of focal 64 at (0, 0, -2) and (0, 0, 2), looking at the origin."""
    turned = torch.where((view == 1)[:, None], points * torch.tensor([-1.0, 1, -1]), points)
    depth = turned[:, 2] + 2
    return 64 * turned[:, :2] / depth[:, None] + SIZE / 2, depth


def disc_maps(views):
    """What the views show of a disc of radius 0.4 in the plane z = 0."""
    axis = (torch.arange(SIZE) + 0.5 - SIZE / 2) / 64 * 2
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    return torch.where(radius < 0.4, 2.0, torch.inf)[None].expand(views, -1, -1).contiguous()


POINTS = torch.tensor(
    [
        [0.0, 0.0, 0.0],  # on the disc
        [0.0, 0.0, 0.5],  # behind it for the first view
        [0.0, 0.0, -0.5],  # in front of it
        [0.7, 0.0, 0.5],  # beside it: nothing is in the way
        [0.0, 5.0, 0.0],  # out of the picture
        [0.0, 0.0, -3.0],  # behind the first camera
    ]
)


def test_points_behind_what_a_view_shows_are_hidden_from_it():
    seen = seen_in_depth_maps(project, disc_maps(1), tolerance=0.01)(POINTS)
    assert seen.tolist() == [True, False, True, True, False, False]


def test_one_view_that_sees_a_point_suffices():
    seen = seen_in_depth_maps(project, disc_maps(2), tolerance=0.01)(POINTS)
    assert seen.tolist() == [True, True, True, True, False, False]
    # The second view alone sees what the first does not.
    assert not bool(seen_in_depth_maps(project, disc_maps(1), 0.4)(POINTS[1:2]))


def test_tolerance_is_a_length_along_the_view():
    behind = torch.tensor([[0.1, 0.1, 0.09], [0.1, 0.1, 0.11]])
    assert seen_in_depth_maps(project, disc_maps(1), 0.1)(behind).tolist() == [True, False]


def test_rows_and_columns_are_not_mixed_up():
    maps = torch.full((1, SIZE, SIZE), torch.inf)
    maps[0, 10, 50] = 1.0  # row 10, column 50: something close up hides what lies behind
    x, y = (50.5 - 32) / 64 * 2, (10.5 - 32) / 64 * 2
    points = torch.tensor([[x, y, 0.0], [y, x, 0.0]])
    assert seen_in_depth_maps(project, maps, 0.1)(points).tolist() == [False, True]


def test_no_points_no_answer():
    assert seen_in_depth_maps(project, disc_maps(1), 0.1)(torch.zeros(0, 3)).shape == (0,)

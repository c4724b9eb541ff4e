import ball_views
import torch

from polyfield.extract.visibility import HIDDEN, color_in_views, seen_in_depth_maps

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


def ball_colors(points):
    """A colour of each place."""
    return 0.5 + 0.4 * torch.sin(9 * points)


def ball_images():
    """What the views of `ball_views` show of such a ball: exact, grey beside it."""
    ticks = torch.arange(ball_views.SIZE) + 0.5 - ball_views.SIZE / 2
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    rays = torch.stack([x, y, torch.full_like(x, ball_views.FOCAL)], 2)
    rays = torch.nn.functional.normalize(rays, dim=2)
    depth = ball_views.depth_maps()
    images = []
    for view in range(12):
        at = ball_views.PLACE[view] + depth[view][..., None] * (rays @ ball_views.ROTATION[view])
        there = depth[view].isfinite()[..., None]
        images.append(torch.where(there, ball_colors(at.nan_to_num()), 0.5))
    return depth, torch.stack(images)


def on_the_ball(count=500):
    random = torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(count, 3, generator=random), dim=1)
    return ball_views.CENTER + ball_views.RADIUS * way, -way


def test_a_point_has_the_colour_that_views_see_there():
    depth, images = ball_images()
    points, inward = on_the_ball()
    color = color_in_views(ball_views.project, depth, images, ball_views.PLACE, 0.02)
    error = (color(points, inward) - ball_colors(points)).abs()
    assert error.mean() < 0.015 and error.max() < 0.1


def two_views(colors=((1.0, 0, 0), (0, 1.0, 0))):
    images = torch.tensor(colors)[:, None, None].expand(2, SIZE, SIZE, 3).contiguous()
    return images, torch.tensor([[0.0, 0, -2], [0, 0, 2]])


FORWARD, BACK = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.0, 0, -1]])


def test_a_hidden_point_has_none_of_what_hides_it_where_another_view_sees_it():
    """0.5 behind the disc for the first view, and before it for the second."""
    images, origins = two_views()
    color = color_in_views(project, disc_maps(2), images, origins, 0.01)
    behind, before = torch.tensor([[0.0, 0, 0.5]]), torch.tensor([[0.0, 0, -0.5]])
    for way in (FORWARD, BACK):
        torch.testing.assert_close(color(behind, way)[0], images[1, 0, 0], atol=2e-3, rtol=0)
        torch.testing.assert_close(color(before, way)[0], images[0, 0, 0], atol=2e-3, rtol=0)


def test_views_from_ahead_count_most():
    images, origins = two_views()
    nothing = torch.full((2, SIZE, SIZE), torch.inf)
    color = color_in_views(project, nothing, images, origins, 0.01)
    middle = torch.zeros(1, 3)
    torch.testing.assert_close(color(middle, FORWARD)[0], images[0, 0, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(color(middle, BACK)[0], images[1, 0, 0], atol=2e-3, rtol=0)
    across = torch.tensor([[1.0, 0, 0]])  # both graze it
    torch.testing.assert_close(color(middle, across)[0], torch.tensor([0.5, 0.5, 0]))
    aside = torch.tensor([[0.1, 0.0, -1.5]])
    way = torch.nn.functional.normalize(aside - origins[0], dim=1)
    shares = 1.001, HIDDEN  # the second looks the other way
    expected = (shares[0] * images[0, 0, 0] + shares[1] * images[1, 0, 0]) / sum(shares)
    torch.testing.assert_close(color(aside, way)[0], expected, atol=1e-4, rtol=0)


def test_what_no_view_sees_has_the_colour_of_what_hides_it_and_beside_all_views_it_is_grey():
    images, origins = two_views()
    close = torch.full((2, SIZE, SIZE), 0.5)
    color = color_in_views(project, close, images, origins, 0.01)
    between = color(torch.zeros(1, 3), FORWARD)[0]
    torch.testing.assert_close(between, torch.tensor([0.5, 0.5, 0]), atol=1e-3, rtol=0)
    points = torch.tensor([[0.0, 5.0, 0.0], [9.0, 0, 0]])
    torch.testing.assert_close(color(points, FORWARD.expand(2, 3)), torch.full((2, 3), 0.5))
    assert color(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)

import torch

from polyfield.cuda.march import Samples
from polyfield.render.losses import Measured, distance_error, huber, ray_loss, squared_error


def test_squared_error_is_the_mean_over_channels():
    found = squared_error(torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.5, 0.5]]))
    torch.testing.assert_close(found, torch.tensor([(1 + 0.25) / 3]))


def test_huber_is_the_square_up_to_a_tenth_and_a_line_beyond():
    d = torch.tensor([0.0, 0.03, -0.1, 0.1, 0.2, -0.75, 1.0], dtype=torch.float64)
    expected = torch.tensor(
        [0.0, 0.0009, 0.01, 0.01, 0.15 / 5, 0.7 / 5, 0.95 / 5], dtype=torch.float64
    )
    torch.testing.assert_close(huber(d[:, None], torch.zeros(7, 1).double()), expected)


def test_huber_is_a_mean_over_channels_and_a_value_a_ray():
    prediction = torch.tensor([[0.05, 0.55, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([(0.0025 + 0.1) / 3, 0.0])
    torch.testing.assert_close(huber(prediction, torch.zeros(2, 3)), expected)


def test_huber_has_the_stated_gradient():
    d = torch.tensor([0.0, 0.03, -0.09, 0.11, -0.75], dtype=torch.float64, requires_grad=True)
    huber(d[:, None], torch.zeros(5, 1).double()).sum().backward()
    torch.testing.assert_close(
        d.grad, torch.tensor([0.0, 0.06, -0.18, 0.2, -0.2], dtype=torch.float64)
    )


def test_colour_losses_match_finite_differences():
    random = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 6, 3, generator=random, dtype=torch.float64)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: huber(p, target), prediction)
    assert torch.autograd.gradcheck(lambda p: squared_error(p, target), prediction)


def two_rays():
    """Samples at 1, 2, 3 of one ray and at 4 of another; weights of what each shows."""
    samples = Samples(
        ray_offsets=torch.tensor([0, 3, 4], dtype=torch.int32),
        distance=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        length=torch.ones(4),
        position=torch.zeros(4, 3),
        ray=torch.tensor([0, 0, 0, 1], dtype=torch.int32),
    )
    return samples, torch.tensor([0.2, 0.5, 0.2, 0.6])


def test_distance_error_is_the_expected_miss_as_a_share():
    samples, weights = two_rays()
    found = distance_error(weights, samples, torch.tensor([2.0, 4.0]))
    first = 0.2 * 0.5 + 0.5 * 0 + 0.2 * 0.5 + 0.1  # what passes misses by everything
    torch.testing.assert_close(found, torch.tensor((first + 0.4) / 2))


def test_distance_error_grows_with_the_distance_and_not_with_its_square():
    samples, weights = two_rays()
    found = distance_error(weights, samples, torch.tensor([2.5, 5.0]))
    first = 0.2 * 0.6 + 0.5 * 0.2 + 0.2 * 0.2 + 0.1
    torch.testing.assert_close(found, torch.tensor((first + 0.6 * 0.2 + 0.4) / 2))


def test_measured_distances_count_by_their_weight_beside_the_colours():
    samples, weights = two_rays()
    color, target = torch.full((2, 3), 0.5), torch.zeros(2, 3)
    distance = torch.tensor([2.0, 4.0])
    found = ray_loss(target, "squared", measured=Measured(distance, 0.1))(color, weights, samples)
    torch.testing.assert_close(found, 0.25 + 0.1 * distance_error(weights, samples, distance))


def test_distance_error_leaves_out_rays_that_nobody_measured():
    samples, weights = two_rays()
    found = distance_error(weights, samples, torch.tensor([0.0, 4.0]))
    torch.testing.assert_close(found, torch.tensor(0.4))
    nothing = distance_error(weights.requires_grad_(), samples, torch.zeros(2))
    nothing.backward()
    assert float(nothing.detach()) == 0 and not weights.grad.any()


def test_distance_error_is_least_where_all_weight_is_at_the_distance():
    samples, _ = two_rays()
    exact = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert float(distance_error(exact, samples, torch.tensor([2.0, 4.0]))) == 0
    spread = torch.tensor([0.5, 0.0, 0.5, 1.0])  # the same mean distance
    assert float(distance_error(spread, samples, torch.tensor([2.0, 4.0]))) > 0.2

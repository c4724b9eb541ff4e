import torch

from polyfield.render.exposure import MOST_STOPS, Exposure, at_mean_exposure
from polyfield.render.srgb import linear_from_srgb, srgb_from_linear


def test_a_stop_is_twice_the_light():
    mean = torch.linspace(0.0, 0.7, 30).view(10, 3)
    twice = srgb_from_linear(2 * linear_from_srgb(mean))
    found = at_mean_exposure(twice, torch.ones(10, 3))
    torch.testing.assert_close(found, mean, atol=1e-6, rtol=1e-5)


def test_each_photograph_and_channel_has_its_own():
    exposure = Exposure(3)
    with torch.no_grad():
        exposure.stops[1] = torch.tensor([1.0, 0.0, -1.0])
    color = torch.full((2, 3), 0.5)
    shown = exposure(color, torch.tensor([0, 1]))
    light = linear_from_srgb(shown) / linear_from_srgb(color)
    torch.testing.assert_close(light, torch.tensor([[1.0, 1.0, 1.0], [0.5, 1.0, 2.0]]))


def test_a_target_brighter_than_white_stays_so():
    # Or else a photograph could be learned by calling it all white.
    exposure = Exposure(1)
    with torch.no_grad():
        exposure.stops -= 1
    target = exposure(torch.ones(1, 3), torch.zeros(1, dtype=torch.int64))
    assert target.min() > 1.3
    target.sum().backward()
    assert exposure.stops.grad.max() < 0


def test_the_mean_over_the_photographs_is_held_at_zero():
    exposure = Exposure(5)
    with torch.no_grad():
        exposure.stops += torch.randn(5, 3, generator=torch.Generator().manual_seed(1)) + 3
    before = exposure.stops.detach().clone()
    exposure.center_()
    torch.testing.assert_close(exposure.stops.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(exposure.stops, before - before.mean(0))


def test_stops_stay_where_a_photograph_shows_something():
    exposure = Exposure(2)
    with torch.no_grad():
        exposure.stops[0] = 100.0
    exposure.center_()
    assert exposure.stops.abs().max() == MOST_STOPS


def test_gradients_are_those_of_finite_differences():
    color = torch.rand(6, 3, dtype=torch.float64) * 0.5 + 0.1
    stops = torch.linspace(-0.4, 0.6, 18, dtype=torch.float64).view(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: at_mean_exposure(color, s), stops)

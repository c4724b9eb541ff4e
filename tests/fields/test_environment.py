import torch
from torch.nn.functional import normalize

from polyfield.fields.environment import Environment
from polyfield.fields.optimiser import FieldOptimiser

COLOR = (0.2, 0.5, 0.9)


def directions(count, seed=0):
    return normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=1)


def sky(direction):
    """Blue above, brown below, a red glow in the east."""
    above = 0.5 + 0.5 * direction[:, 2:]
    east = direction[:, :1].clamp(min=0)
    top, bottom = torch.tensor([0.3, 0.5, 0.9]), torch.tensor([0.4, 0.3, 0.2])
    return (above * top + (1 - above) * bottom + east * torch.tensor([0.2, 0.0, -0.1])).clamp(0, 1)


def test_before_it_has_learned_it_is_one_colour():
    shown = Environment(COLOR)(directions(200))
    torch.testing.assert_close(shown, torch.tensor(COLOR).expand(200, 3))


def test_black_and_white_can_still_be_left():
    for color in [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]:
        environment = Environment(color)
        shown = environment(directions(50))
        assert (shown - torch.tensor(color)).abs().max() < 0.011
        shown.sum().backward()
        assert environment.weights.grad[0].abs().min() > 0


def test_it_learns_a_sky_and_shows_it_in_directions_it_was_not_taught():
    environment = Environment((0.4, 0.4, 0.5))
    optimiser = FieldOptimiser(environment)
    for step in range(300):
        way = directions(512, seed=step)
        optimiser.clear()
        (environment(way) - sky(way)).square().mean().backward()
        optimiser.step(step, 1 - step / 300)
    way = directions(4000, seed=10_000)
    error = (environment(way) - sky(way)).square().mean().sqrt()
    assert error < 0.02 < (sky(way).mean(0) - sky(way)).square().mean().sqrt() / 4

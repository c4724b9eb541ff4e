import math

import pytest
import torch
from torch import Generator, nn

from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.cuda.rbf import rbf_blend, rbf_weights
from polyfield.fields.field import AdaptiveEncoding
from polyfield.fields.hash_grid import HashGrid
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.rbf import (
    PACE,
    SETTLES_AT,
    Rbf,
    RbfArguments,
    RbfShape,
    RbfSignal,
    rbf_field,
    rbf_signal,
)
from polyfield.fields.table import build_field


def random(seed=0):
    return Generator().manual_seed(seed)


def points(n=300, d=2, seed=0):
    return torch.rand(n, d, generator=random(seed))


def made(count=60, d=2, seed=0, partner=None, **shape):
    shape = RbfShape(d, count, **{"channels": 8} | shape)
    return Rbf(shape, partner, generator=random(seed))


def crowded(encoding, seed=1):
    """The kernels put about one corner."""
    x = points(2000, encoding.dimensions, seed) ** 3
    encoding.settle(x, torch.ones(2000), random(seed))
    return encoding


def radiance_of_sizes(released):
    return rbf_field(RbfArguments(kernels=9, log2_table_size=4, released=released)).encoding


def signal_of_sizes(released):
    return rbf_signal(RbfSignal(kernels=9, log2_table_size=4, released=released), 2, 3).encoding


def test_frequencies_are_spaced_evenly_by_their_logarithms_with_exact_ends():
    found = RbfShape(2, 5, 32).frequencies.reshape(-1)
    assert found[0] == 0.125 and found[-1] == 4096 and len(found) == 32
    ratio = found[1:] / found[:-1]
    torch.testing.assert_close(ratio, ratio[0].expand(31))
    assert not RbfShape(2, 5, 16, low=0.0, high=0.0).frequencies.any()


def test_features_are_those_of_the_nearest_kernels_and_the_partners_with_a_bias():
    partner = HashGrid(2, 2, 8, 4, 16, generator=random(5))
    encoding = crowded(made(d=3, partner=partner, neighbours=3, form="d"))
    x = points(d=3)
    index = nearest(x, center_tree(encoding.centers), 3)
    weights = rbf_weights(x, encoding.centers, encoding.factors, index, "ivq")
    blended = rbf_blend(weights, index, encoding.features, encoding.frequencies)
    expected = torch.cat([partner(x), blended], 1) + encoding.bias
    assert encoding.width == 12
    torch.testing.assert_close(encoding(x), expected)
    torch.testing.assert_close(encoding(x, encoding.neighbours(x)), expected)


@pytest.mark.parametrize("form", ["s", "d", "a"])
def test_kernels_begin_on_a_lattice_that_covers_the_cube(form):
    encoding = made(70, form=form)
    index = encoding.neighbours(points(2000))
    assert index.max() == 63 and len(index.unique()) == 64  # eight a side; six have no place


def test_settling_puts_kernels_where_points_weigh_and_begins_features_anew():
    encoding = made(40)
    with torch.no_grad():
        encoding.features.fill_(7.0)
    x = points(3000)
    encoding.settle(x, (x[:, 0] < 0.25).float(), random(3))
    assert (encoding.centers[:, 0] < 0.25).all() and encoding.features.abs().max() <= 1e-4
    assert encoding.factors.isfinite().all() and (encoding.factors[:, 0] > 2).all()
    assert len(encoding.neighbours(x[x[:, 0] < 0.25]).unique()) == 40
    assert isinstance(encoding, AdaptiveEncoding)


def test_points_without_weight_settle_nothing():
    encoding, before = made(40), made(40)
    encoding.settle(points(), torch.zeros(300), random())
    for name, value in before.state_dict().items():
        assert torch.equal(encoding.state_dict()[name], value), name


def test_centres_and_shapes_are_kept_and_not_learned_unless_they_are_released():
    frozen, free = made(), made(released=True)
    learned = [{name for name, _ in each.named_parameters()} for each in (frozen, free)]
    assert learned == [{"features", "bias"}, {"features", "bias", "centers", "factors"}]
    assert frozen.state_dict().keys() == free.state_dict().keys()
    free(points()).square().sum().backward()
    assert free.centers.grad.any() and free.factors.grad.any()


def test_released_kernels_are_looked_for_where_they_moved():
    encoding = made(released=True)
    x = points()
    encoding.neighbours(x)
    with torch.no_grad():
        encoding.centers.mul_(0.1)
    there = encoding.centers[(encoding.factors != 0).any(1)]
    assert torch.equal(encoding.neighbours(x), nearest(x, center_tree(there), 4))


def test_released_kernels_move_by_parts_of_their_spacing_beside_features_that_learn_faster():
    """Adam's first step is as long as the rate: so the rates can be read off it."""
    encoding = made(64, released=True)
    encoding.learning_rate = 1e-2
    before = {name: value.clone() for name, value in encoding.state_dict().items()}
    optimiser = FieldOptimiser(encoding)
    encoding(points()).square().sum().backward()
    optimiser.step(0, 1.0)
    moved = {n: (p.detach() - before[n]).abs().max() for n, p in encoding.named_parameters()}
    spacing = 1 / 8
    rate = 1e-2 * PACE
    expected = {"features": 1e-2, "centers": rate * spacing, "factors": rate / spacing}
    for name, length in expected.items():  # a centre moves by a few roundings of its place
        assert moved[name].item() == pytest.approx(length, rel=5e-2), name


@pytest.mark.parametrize("build", [radiance_of_sizes, signal_of_sizes])
def test_sizes_say_whether_kernels_are_released(build):
    assert not build(0).shape.released and build(1).shape.released


def test_a_file_brings_its_own_kernels():
    encoding, other = crowded(made()), made(seed=9)
    x = points()
    other(x)  # knows where its own lie
    other.load_state_dict(encoding.state_dict())
    assert torch.equal(other(x), encoding(x))


def test_kernels_in_another_order_show_the_same():
    encoding, other = crowded(made()), made()
    order = torch.randperm(60, generator=random())
    with torch.no_grad():
        encoding.features.normal_(generator=random())
        other.features.copy_(encoding.features[:, order])
        other.bias.copy_(encoding.bias)
    other.place(encoding.centers[order], encoding.factors[order])
    torch.testing.assert_close(other(points()), encoding(points()), atol=1e-5, rtol=1e-5)


def edge(n=64):
    """An image of a rippled disc on flat ground, and its pixels."""
    y, x = torch.meshgrid((torch.arange(n) + 0.5) / n, (torch.arange(n) + 0.5) / n, indexing="ij")
    disc = (x - 0.4).square() + (y - 0.55).square() < 0.2**2
    image = 0.1 * x + disc * (0.6 + 0.3 * torch.sin(60 * x))
    return torch.stack([x, y], 2).view(-1, 2), image


def residual(encoding, x, wanted):
    """What is left of a signal after the best features in the sense of least squares, in dB."""
    index = encoding.neighbours(x)
    shape = encoding.shape
    weights = rbf_weights(x, encoding.centers, encoding.factors, index, "ivq", shape.normalize)
    dense = torch.zeros(len(x), shape.count, dtype=torch.float64)
    dense.scatter_add_(1, index.long(), weights.double())
    found = torch.linalg.lstsq(dense, wanted.double()[:, None], driver="gelsd").solution
    return -10 * math.log10(float((dense @ found - wanted[:, None]).square().mean()))


@pytest.mark.parametrize("count", [196, 400])
def test_placed_kernels_say_more_than_those_on_a_lattice(count):
    """By the best features there are: no training is in it."""
    from polyfield.fields.rbf_placement import gradient_weights

    x, image = edge()
    weights = gradient_weights(image[:, :, None])
    lattice, placed = made(count, form="s"), made(count, form="s")
    placed.settle(x, weights, random())
    assert residual(placed, x, image.view(-1)) > residual(lattice, x, image.view(-1)) + 3


def test_the_radiance_field_settles_after_its_warm_up_unless_it_is_told_not_to():
    sizes = RbfArguments(kernels=30, channels=8, levels=2, log2_table_size=8, hidden=16)
    assert rbf_field(sizes).encoding.settles_at == SETTLES_AT
    lattice = RbfArguments(30, 8, placed=0, levels=2, log2_table_size=8, hidden=16)
    assert rbf_field(lattice).encoding.settles_at == -1
    alone = rbf_field(RbfArguments(30, 8, levels=0, hidden=16))
    assert alone.encoding.partner is None and alone.density_widths[0] == 8
    waves = rbf_field(RbfArguments(30, 8, sines=1, levels=0, hidden=16))
    assert waves.encoding.frequencies.all() and not alone.encoding.frequencies.any()


def test_the_moments_of_what_begins_anew_are_forgotten_and_no_others():
    field = rbf_field(RbfArguments(30, 8, levels=2, log2_table_size=8, hidden=16), random())
    optimiser = FieldOptimiser(field)
    for moment in optimiser.moments.values():
        moment.fill_(1.0)
    optimiser.forget("encoding")
    zeroed = {key for key, moment in optimiser.moments.items() if not moment.any()}
    orders = ("first", "second")
    assert zeroed == {f"{o}.encoding.{name}" for o in orders for name in ("features", "bias")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 4}, "dimensions: 4; expected 2 or 3"),
        ({"count": 0}, "count: 0"),
        ({"channels": 12}, "channels: 12; expected a multiple of 8"),
        ({"neighbours": 17}, "neighbours: 17"),
        ({"low": 0.0}, "low: 0.0"),
        ({"low": 9.0, "high": 8.0}, "low: 9.0"),
        ({"high": 1e5}, "high: 100000.0"),
    ],
)
def test_shapes_that_make_no_kernels_are_refused(change, message):
    with pytest.raises(InputError, match=f"RbfShape.{message}"):
        RbfShape(**{"dimensions": 2, "count": 9} | change)


def test_more_kernels_than_there_is_room_for_and_partners_of_other_dimensions_are_refused():
    encoding = made(9)
    with pytest.raises(InputError, match="Rbf.place: 10 centres"):
        encoding.place(points(10), torch.ones(10, 3))
    with pytest.raises(InputError, match="Rbf: a partner of 3 dimensions"):
        made(partner=HashGrid(2, 2, 8, 4, 16))
    with pytest.raises(InputError, match="kernels: 'many'|count: 0"):
        build_field("rbf", {"kernels": 0})


def test_it_moves_with_its_module():
    encoding = nn.Sequential(made())[0]
    x = points()
    expected = encoding(x)
    torch.testing.assert_close(encoding.double()(x.double()).float(), expected)

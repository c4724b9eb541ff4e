from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.nn.functional import normalize

from polyfield.cuda.errors import InputError
from polyfield.fields.appearance import InLightOf, rows_of
from polyfield.fields.table import FIELDS, build_field, with_appearance

SMALL = {
    "hash-grid": {"levels": 2, "log2_table_size": 10, "finest_resolution": 32, "hidden": 16},
    "mlp": {"layers": 2, "width": 16, "position_frequencies": 4},
    "rbf": {"kernels": 30, "channels": 8, "levels": 2, "log2_table_size": 8, "hidden": 16},
    "tri-plane": {"scales": 2, "finest_resolution": 16, "channels": 8, "hidden": 16},
}
PHOTOGRAPHS, NUMBERS = 4, 6


@pytest.fixture(params=SMALL)
def field(request):
    arguments = SMALL[request.param] | {"appearance": NUMBERS, "photographs": PHOTOGRAPHS}
    made = build_field(request.param, arguments, torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.codes.copy_(torch.randn(made.codes.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture
def rays():
    random = torch.Generator().manual_seed(2)
    x = torch.rand(40, 3, generator=random)
    return x, normalize(torch.randn(40, 3, generator=random), dim=1)


def colors(field, x, directions):
    density, features = field.density(x)
    return density, field.color(features, field.encode_directions(directions))


def test_every_field_of_the_table_takes_a_code():
    assert SMALL.keys() == FIELDS.keys()


def test_colour_depends_on_the_photograph_and_density_does_not(field, rays):
    one = colors(InLightOf(field, field.codes, torch.zeros(40, dtype=torch.int64)), *rays)
    other = colors(InLightOf(field, field.codes, 2), *rays)
    assert torch.equal(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 0.01


def test_each_ray_has_the_light_of_its_own_photograph(field, rays):
    photograph = torch.arange(40) % PHOTOGRAPHS
    mixed = colors(InLightOf(field, field.codes, photograph), *rays)[1]
    for number in range(PHOTOGRAPHS):
        alone = colors(InLightOf(field, field.codes, number), *rays)[1]
        own = photograph == number
        torch.testing.assert_close(mixed[own], alone[own])


def test_without_a_photograph_it_shows_the_light_of_the_mean_code(field, rays):
    mean = InLightOf(field, field.codes.detach().mean(0, keepdim=True), 0)
    torch.testing.assert_close(colors(field, *rays)[1], colors(mean, *rays)[1])


def test_gradients_reach_the_codes_of_the_photographs_that_were_seen(field, rays):
    photograph = torch.arange(40) % 2
    colors(InLightOf(field, field.codes, photograph), *rays)[1].sum().backward()
    moved = field.codes.grad.abs().sum(1) > 0
    assert moved.tolist() == [True, True, False, False]


def test_gradients_of_rows_repeat_bit_by_bit():
    random = torch.Generator().manual_seed(0)
    index = torch.randint(3, (200_000,), generator=random)
    grad = torch.randn(200_000, 4, generator=random)
    table = torch.randn(3, 4, generator=random, requires_grad=True)
    assert torch.equal(rows_of(table, index), table[index])
    (first,) = torch.autograd.grad(rows_of(table, index), table, grad)
    expected = torch.zeros(3, 4).double().index_add(0, index, grad.double())
    torch.testing.assert_close(first.double(), expected, rtol=1e-4, atol=1e-2)
    for _ in range(20):
        assert torch.equal(torch.autograd.grad(rows_of(table, index), table, grad)[0], first)


def test_codes_are_none_where_nobody_asked_for_them():
    made = build_field("hash-grid", SMALL["hash-grid"])
    assert made.codes is None and "codes" not in dict(made.named_parameters())


@pytest.mark.parametrize("changes", [{"appearance": 65, "photographs": 2}, {"appearance": 3}])
def test_codes_that_cannot_be_are_refused(changes):
    with pytest.raises(InputError, match="--appearance"):
        build_field("mlp", SMALL["mlp"] | changes)


def test_arguments_without_a_code_are_refused():
    @dataclass(frozen=True)
    class Plain:
        samples_per_step: ClassVar[int] = 1
        side: int = 16

        @classmethod
        def fitted(cls, resolution, parameters):
            return cls(resolution)

    with pytest.raises(InputError, match="no such code"):
        with_appearance(Plain(), 3, 2)

import sys
from importlib.util import find_spec

import pytest
import torch

from polyfield.apps.bench_networks import (
    WIDTHS,
    composite_against_nerfacc,
    linear_layers,
    mlp_against_torch,
)
from polyfield.apps.bench_race import Absent, hold
from polyfield.cuda.composite import composite_reference
from polyfield.cuda.mlp import initial_weights, mlp_reference

needs_nerfacc = pytest.mark.skipif(find_spec("nerfacc") is None, reason="nerfacc is not installed")


def test_linear_layers_are_the_reference_in_values_and_gradients():
    random = torch.Generator().manual_seed(1)
    weights = initial_weights(WIDTHS, random).requires_grad_()
    x = torch.randn(50, WIDTHS[0], generator=random, requires_grad=True)
    layers = linear_layers(weights.detach())
    right = mlp_reference(x, weights, WIDTHS)
    torch.testing.assert_close(layers(x), right)
    grad = torch.randn(right.shape, generator=random)
    grad_x, grad_weights = torch.autograd.grad(right, [x, weights], grad)
    got = torch.autograd.grad(layers(x), [x, *layers.parameters()], grad)
    torch.testing.assert_close(got[0], grad_x)
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in got[1:]]), grad_weights)


def test_both_sides_of_the_network_race_do_the_same_work():
    race = mlp_against_torch(300)
    hold("mlp-both/torch", race, 2)
    shapes = [tuple(part.shape) for part in race.ours()]
    assert shapes == [(300, 3), (300, 32), (32 * 64 + 64 * 64 + 64 * 3,)]


@needs_nerfacc
def test_nerfacc_is_the_reference_in_values_and_gradients():
    nerfacc = pytest.importorskip("nerfacc")
    random = torch.Generator().manual_seed(0)
    edges = torch.rand(5, 9, generator=random).sort(1).values
    density = (4 * torch.rand(5, 8, generator=random)).requires_grad_()
    color = torch.rand(5, 8, 3, generator=random).requires_grad_()
    weights, _, _ = nerfacc.render_weight_from_density(edges[:, :-1], edges[:, 1:], density)
    theirs = nerfacc.accumulate_along_rays(weights, color)
    length, offsets = edges.diff(dim=1).reshape(-1), (8 * torch.arange(6)).int()
    right = composite_reference(density.reshape(-1), length, color.reshape(-1, 3), offsets).values
    torch.testing.assert_close(theirs, right)
    grad = torch.randn(5, 3, generator=random)
    got = torch.autograd.grad(theirs, [density, color], grad)
    torch.testing.assert_close(got, torch.autograd.grad(right, [density, color], grad))


@needs_nerfacc
def test_both_sides_of_the_compositing_race_do_the_same_work():
    race = composite_against_nerfacc(7, 5)
    hold("composite-both/nerfacc", race, 2)
    assert [tuple(part.shape) for part in race.ours()] == [(7, 3), (35,), (35, 3)]


def test_without_nerfacc_it_is_absent_for_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "nerfacc", None)
    with pytest.raises(Absent, match="polyfield\\[bench\\]"):
        composite_against_nerfacc(7, 5)

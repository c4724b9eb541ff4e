"""What several photographs agree on: which are cloned, split, pruned, and when they are asked."""

import pytest
import torch
from growing_gaussians import (
    at,
    carried,
    numbers,
    optimised,
    pulled,
    resumed,
    same,
    whole_state,
)

from polyfield.cuda.errors import InputError
from polyfield.fields.agreement import Agreement
from polyfield.fields.densification import Look

PULL = 1.01e-4


def photographs(views):
    """What is seen in photographs, each a row's number: (weight, wrong); and what was asked for."""
    asked = []

    def looks(count, random):
        assert torch.is_grad_enabled()  # what a share of light is found by
        asked.append((count, random))
        for view in views:
            weight, wrong = torch.tensor(list(view.values())).view(-1, 2).unbind(1)
            yield Look(torch.tensor(list(view), dtype=torch.int64), weight, wrong)

    return looks, asked


def columns(seen, count=8):
    """Views, of what each Gaussian is in each of them, None where it is not in the frame."""
    return [
        {row: views[k] for row, views in enumerate(seen) if len(views) > k and views[k]}
        for k in range(count)
    ]


def refined(seen, widths=None, opacities=0.5, most=1000, lengths=None):
    n = len(seen)
    gaussians, optimiser = optimised([0.005] * n if widths is None else widths, opacities)
    strategy = Agreement(optimiser, most)
    pulled(strategy, [PULL] * n if lengths is None else lengths)
    counts = strategy.refine(at(600, looks=photographs(columns(seen))[0]))
    return gaussians, optimiser, counts


RIGHT, WRONG, HIDDEN, GONE = (5.0, 0.0), (5.0, 2.0), (0.009, 0.009), None


@pytest.mark.parametrize(
    ("views", "more"),
    [
        ([WRONG] * 8, True),
        ([WRONG] * 4 + [RIGHT] * 4, True),  # half of them
        ([WRONG] * 3 + [RIGHT] * 5, False),
        ([WRONG] * 2 + [GONE] * 6, True),  # in the frame of two alone
        ([WRONG] + [GONE] * 7, False),  # what is wrong in one may be that one's
        ([WRONG] * 2 + [HIDDEN] * 6, True),  # hidden from the others, which say nothing
        ([HIDDEN] * 6 + [RIGHT] * 2, False),
        ([WRONG, RIGHT, RIGHT] + [GONE] * 5, False),
        ([(5.0, 1.51)] * 8, True),  # three tenths of its light
        ([(5.0, 1.49)] * 8, False),
        ([(0.02, 0.01)] * 8, True),  # however little that is
        ([(50.0, 50.0)] + [(5.0, 1.4)] * 7, False),  # one view never speaks for all
        ([GONE] * 8, False),
    ],
)
def test_there_are_more_where_enough_of_the_views_that_show_it_are_wrong(views, more):
    _, optimiser, counts = refined([[RIGHT] * 8, views])
    assert counts == {"cloned": int(more), "split": 0, "pruned": 0}
    assert carried(optimiser) == [1, 2, 0][: 2 + more]


@pytest.mark.parametrize(
    ("views", "gone"),
    [
        ([HIDDEN] * 3, True),
        ([HIDDEN] * 8, True),
        ([(0.0, 0.0)] * 3, True),
        ([(0.0, 0.0)] * 2, False),  # by few that would have seen it
        ([HIDDEN] * 7 + [(0.011, 0.0)], False),  # one needs it
        ([(0.011, 0.0)] + [HIDDEN] * 7, False),
        ([], False),
    ],
)
def test_what_is_in_the_frame_of_several_and_gives_no_light_goes(views, gone):
    _, optimiser, counts = refined([[RIGHT] * 8, views])
    assert counts == {"cloned": 0, "split": 0, "pruned": int(gone)}
    assert carried(optimiser) == [1, 2][: 2 - gone]


def test_small_ones_are_cloned_large_ones_split_and_faint_ones_go():
    widths = [0.0099, 0.0099, 0.0101, 0.005, 0.005]
    opacities = torch.tensor([0.5, 0.6, 0.7, 0.0049, 0.0051])
    lengths = [0.99e-4, PULL, PULL, PULL, 0.0]  # the sieve: what is not pulled about stays
    gaussians, optimiser, counts = refined([[WRONG] * 8] * 5, widths, opacities, lengths=lengths)
    assert counts == {"cloned": 1, "split": 1, "pruned": 1}
    assert carried(optimiser) == [1, 2, 5, 0, 0, 0]
    logits = gaussians.opacity_logits.detach().sigmoid()
    torch.testing.assert_close(logits, torch.tensor([0.5, 0.6, 0.0051, 0.6, 0.7, 0.7]))
    size = gaussians.log_scales.detach().exp().amax(1) / 2
    wanted = [0.0099, 0.0099, 0.005, 0.0099, 0.0101 / 1.6, 0.0101 / 1.6]
    torch.testing.assert_close(size, torch.tensor(wanted))


def test_slopes_are_a_mean_over_the_views_that_see_it():
    _, optimiser = optimised([0.005] * 3)
    strategy = Agreement(optimiser, 10)
    lengths = 1e-4 * torch.tensor([[1.3], [1.3], [0.9]]) * torch.tensor([0.6, 0.8])
    strategy.observe(torch.arange(3), lengths, None)
    strategy.observe(torch.tensor([1, 2]), -0.5 * lengths[1:], None)
    looks, _ = photographs(columns([[WRONG] * 8] * 3))
    assert strategy.refine(at(600, looks=looks))["cloned"] == 1
    assert carried(optimiser) == [1, 2, 3, 0]


def test_those_with_the_most_wrong_light_win_where_there_is_no_room_for_all():
    """Over all photographs; of equals the first. What goes leaves room in the same change."""
    seen = [
        [(5.0, 3.0)] * 8,
        [(20.0, 7.0)] * 3 + [GONE] * 5,
        [(5.0, 3.0)] * 8,
        [(9.0, 9.0)] * 8,
        [(50.0, 10.0)] * 8,  # the most, but a small share
        [(4.0, 3.1)] * 8,
    ]
    opacities = torch.tensor([0.5, 0.5, 0.5, 0.001, 0.5, 0.5])
    gaussians, optimiser, counts = refined(seen, opacities=opacities, most=7)
    assert counts == {"cloned": 2, "split": 0, "pruned": 1} and len(gaussians) == 7
    assert gaussians.means.detach()[5:, 0].tolist() == [0, 5]


@pytest.mark.parametrize("most", [0, 2])
def test_more_than_may_be_are_left_but_not_added_to(most):
    _, _, counts = refined([[WRONG] * 8] * 2, most=most)
    assert counts == {"cloned": 0, "split": 0, "pruned": 0}


@pytest.mark.parametrize("planned", [2000, 30_000])
def test_photographs_are_asked_for_between_a_sixtieth_and_a_half_of_training(planned):
    """Eight, drawn by the moment's generator. No opacity is ever reset."""
    gaussians, optimiser = optimised([0.005])
    strategy = Agreement(optimiser, 10)
    before = numbers(gaussians)
    changes = []
    period = max(50, planned // 300)
    for step in range(0, planned + 1, 50):
        looks, asked = photographs([{0: RIGHT}])
        now = at(step, planned, looks)
        if strategy.refine(now):
            changes.append(step)
        assert [count for count, _ in asked] == [8] * (step in changes)
        assert all(random is now.random for _, random in asked)
    assert changes == [s for s in range(0, planned, period) if planned / 60 < s < planned / 2]
    assert same(numbers(gaussians), before) and carried(optimiser) == [1]


def test_statistics_begin_anew_after_a_change():
    gaussians, optimiser = optimised([0.005, 0.02, 0.005])
    strategy = Agreement(optimiser, 100)
    looks, _ = photographs(columns([[WRONG] * 8] * 3))
    pulled(strategy, [3e-4, 3e-4, 0.5e-4])
    strategy.refine(at(600, looks=looks))
    state = strategy.state()
    assert all(len(kept) == len(gaussians) == 5 and not kept.any() for kept in state.values())
    pulled(strategy, [0.6e-4] * 5)
    assert strategy.refine(at(700, looks=looks))["cloned"] == 0


def test_none_may_be_left():
    gaussians, optimiser = optimised([0.005] * 3, 0.001)
    strategy = Agreement(optimiser, 20)
    looks, _ = photographs([{}] * 8)
    assert strategy.refine(at(600, looks=looks)) == {"cloned": 0, "split": 0, "pruned": 3}
    pulled(strategy, torch.zeros(0))
    assert strategy.refine(at(700, looks=looks)) == {"cloned": 0, "split": 0, "pruned": 0}
    assert len(gaussians) == 0


def drawn_looks(n):
    """Photographs by the generator, of what it draws."""

    def looks(count, random):
        for _ in range(count):
            weight = 3 * torch.rand(n, generator=random)
            yield Look(torch.arange(n), weight, weight * 0.6 * torch.rand(n, generator=random))

    return looks


def train(optimiser, strategy, steps, planned=3000):
    for step in steps:
        random = torch.Generator().manual_seed(10_000 + step)
        n = len(optimiser.gaussians)
        rows = torch.nonzero(torch.rand(n, generator=random) < 0.6)[:, 0]
        strategy.observe(rows, 0.8e-4 * torch.randn(len(rows), 2, generator=random), None)
        strategy.refine(at(step, planned, drawn_looks(n)))


def test_training_goes_on_where_it_was_left():
    def make(optimiser):
        return Agreement(optimiser, 200)

    _, optimiser = optimised(torch.linspace(0.004, 0.02, 40))
    strategy = make(optimiser)
    train(optimiser, strategy, range(120, 173))
    saved = whole_state(optimiser, strategy)
    again, other = resumed(saved, optimiser, make)
    forgetful = resumed((*saved[:2], make(again).state()), optimiser, make)
    assert saved[2]["slopes"].any() and len(again.gaussians) > 40
    for one, two in [(optimiser, strategy), (again, other), forgetful]:
        train(one, two, range(173, 302))
    ends = [whole_state(*pair) for pair in [(optimiser, strategy), (again, other)]]
    assert all(same(one, two) for one, two in zip(*ends, strict=True))
    assert not same(numbers(forgetful[0].gaussians), ends[0][0])


def test_what_is_restored_is_a_copy_and_so_is_the_state():
    _, optimiser = optimised([0.005] * 2)
    strategy = Agreement(optimiser, 10)
    given = {"views": torch.ones(2), "slopes": torch.full((2,), 0.5)}
    strategy.restore(given)
    found = strategy.state()
    pulled(strategy, [1.0] * 2)
    assert given["views"].tolist() == found["views"].tolist() == [1, 1]
    assert strategy.state()["slopes"].tolist() == [1.5] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"views": torch.ones(2), "slopes": torch.ones(2), "absolute": torch.ones(2)},
        {"views": torch.ones(3), "slopes": torch.ones(3)},
        {"views": torch.ones(2), "slopes": torch.ones(2).double()},
    ],
)
def test_a_state_of_another_is_refused_and_leaves_its_own(wrong):
    _, optimiser = optimised([0.005] * 2)
    strategy = Agreement(optimiser, 10)
    pulled(strategy, [1.0, 2.0])
    before = strategy.state()
    with pytest.raises(InputError, match="densification: tensor"):
        strategy.restore(wrong)
    assert same(strategy.state(), before)


def test_neither_gradients_nor_absolute_slopes_are_its_business():
    gaussians, optimiser = optimised([0.005])
    strategy = Agreement(optimiser, 10)
    strategy.pull()
    assert all(parameter.grad is None for parameter in gaussians.parameters())
    assert not strategy.absolute

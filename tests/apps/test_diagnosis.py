"""What tells a fault from variety."""

import math

import pytest
import torch

from polyfield.apps.diagnosis import deviations


def test_deviations_are_those_of_a_normal_distribution():
    values = 3 + 2 * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(deviations(values, 1e-3), (values - 3) / 2, atol=0.1, rtol=0.05)


def test_what_lies_far_off_does_not_hide_itself():
    values = torch.tensor([0.0, 1, 2, 3, 4, 1000])
    found = deviations(values, 1e-3)
    assert found[:5].abs().max() < 2 and found[5] > 100


def test_of_nearly_equal_values_none_is_an_outlier():
    values = torch.tensor([1.0, 1, 1, 1, 1.01])
    assert deviations(values, 0.1)[4] == pytest.approx(0.1, rel=1e-3)


def test_what_is_not_known_stays_so_and_does_not_count():
    found = deviations(torch.tensor([math.nan, 0.0, 1.0, 2.0]), 1e-3)
    assert found[0].isnan() and found[2] == 0 and found[1] == -found[3]
    assert deviations(torch.full((3,), math.nan), 1.0).isnan().all()

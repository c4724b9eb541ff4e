import pytest
import torch

from polyfield.render.srgb import linear_from_srgb, srgb_from_linear


def test_the_curve_and_its_inverse():
    color = torch.linspace(0, 1, 300, dtype=torch.float64)
    light = linear_from_srgb(color)
    torch.testing.assert_close(srgb_from_linear(light), color, atol=1e-7, rtol=0)
    assert bool((light.diff() > 0).all()) and float(light[-1]) == 1
    known = linear_from_srgb(torch.tensor([0.5, 0.04045, 0.02], dtype=torch.float64))
    assert known.tolist() == pytest.approx([0.21404, 0.0031308, 0.02 / 12.92], abs=1e-5)

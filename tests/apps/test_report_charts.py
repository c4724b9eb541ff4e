import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.apps import report_charts as charts
from polyfield.apps.report_charts import Curve, line_chart, short, smoothed, ticks


def drawn(svg):
    """Coordinates of every curve in an SVG, which must be well-formed."""
    root = ElementTree.fromstring(svg)
    lines = [e for e in root.iter("path") if e.get("class", "").startswith("line")]
    return [[tuple(map(float, p.split())) for p in re.split("[ML]", e.get("d"))[1:]] for e in lines]


def labels(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter("text")]


def test_points_lie_in_proportion_inside_the_axes():
    svg = line_chart("n", "step", [Curve("a", ((0.0, 10.0), (50.0, 20.0), (100.0, 30.0)))])
    [(first, middle, last)] = drawn(svg)
    assert first[0] == charts.LEFT and last[0] == charts.WIDTH - charts.RIGHT
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.11)
    assert middle[1] == pytest.approx((first[1] + last[1]) / 2, abs=0.11)
    assert charts.TOP < last[1] < first[1] < charts.HEIGHT - charts.BOTTOM  # up is more


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances():
    points = ((0.0, 0.001), (1.0, 0.01), (2.0, 0.1), (3.0, 0.0), (4.0, -1.0))
    svg = line_chart("n", "step", [Curve("a", points)], logarithmic=True)
    [(a, b, c)] = drawn(svg)  # the last two have no logarithm
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.11)
    assert {"0.001", "0.01", "0.1"} <= set(labels(svg))


def test_a_tick_is_written_where_its_value_is():
    svg = line_chart("n", "step", [Curve("a", ((0.0, 0.0), (10.0, 10.0)))])
    root = ElementTree.fromstring(svg)
    texts = {e.text: float(e.get("y")) for e in root.iter("text") if e.get("text-anchor") == "end"}
    assert texts["0"] - 4 == pytest.approx(drawn(svg)[0][0][1], abs=0.11)
    assert texts["10"] - 4 == pytest.approx(drawn(svg)[0][-1][1], abs=0.11)


@pytest.mark.parametrize("last", [1200.0, 123_400.0, 1e6])
def test_the_last_tick_is_not_cut_off_at_the_border(last):
    svg = line_chart("n", "step", [Curve("a", ((0.0, 0.0), (last, 1.0)))])
    ends = [
        float(e.get("x")) + 3.5 * len(e.text)  # half a word of digits 7 pixels wide
        for e in ElementTree.fromstring(svg).iter("text")
        if e.get("text-anchor") == "middle"
    ]
    assert max(ends) <= charts.WIDTH


def test_values_that_are_no_numbers_are_left_out():
    points = ((0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0))
    svg = line_chart("n", "step", [Curve("a", points)])
    assert len(drawn(svg)[0]) == 2 and "nan" not in svg and "inf" not in svg


@pytest.mark.parametrize("points", [(), ((0.0, math.nan),)])
def test_nothing_to_draw_is_said(points):
    assert labels(line_chart("n", "step", [Curve("a", points)])) == ["no values"]


@pytest.mark.parametrize("points", [((5.0, 3.0),), ((0.0, 2.0), (9.0, 2.0)), ((0.0, 0.0),)])
def test_a_single_point_or_an_even_curve_has_axes(points):
    for x, y in drawn(line_chart("n", "step", [Curve("a", points)]))[0]:
        assert charts.LEFT <= x <= charts.WIDTH and charts.TOP <= y <= charts.HEIGHT


def test_long_curves_are_thinned_and_keep_both_ends():
    points = tuple((float(n), float(n)) for n in range(12345))
    svg = line_chart("n", "step", [Curve("a", points)])
    [line] = drawn(svg)
    assert short(points[-1][0]) in svg  # the last value itself, not one near it
    assert 200 < len(line) <= charts.MOST_POINTS + 1
    assert line[0][0] == charts.LEFT and line[-1][0] == charts.WIDTH - charts.RIGHT


def test_names_are_text():
    svg = line_chart('<b>"', "<i>", [Curve("\"'<u>", ((0.0, 1.0), (1.0, 2.0)))])
    assert "<i>" in labels(svg) and not re.search("<[biu]>", svg)


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6))
@settings(max_examples=50, deadline=None)
def test_ticks_are_few_even_and_inside(low, extent):
    found = ticks(low, low + extent)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-6 * extent <= t <= low + extent * (1 + 1e-6) for t in found)
    step = found[1] - found[0]
    mantissa = step / 10 ** math.floor(math.log10(step * 1.001))
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 0.01


def test_numbers_on_axes_are_short():
    given_numbers = [0.0, 250.0, 9000.0, 12000.0, 1.5e6, 0.002, 2e-5, -20000.0]
    expected = ["0", "250", "9000", "12k", "1.5M", "0.002", "2e-05", "-20k"]
    assert [short(value) for value in given_numbers] == expected


def test_smoothing_keeps_constants_and_averages_noise_without_a_start_from_zero():
    constant = [(float(n), 3.0) for n in range(500)]
    assert all(y == pytest.approx(3) for _, y in smoothed(constant))
    noise = [(float(n), 1.0 + (-1) ** n) for n in range(1000)]
    calm = [y for _, y in smoothed(noise)]
    assert max(calm[100:]) - min(calm[100:]) < 0.3
    assert [x for x, _ in smoothed(noise)] == [x for x, _ in noise]

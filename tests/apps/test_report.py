import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from polyfield.apps.report import (
    FULL_ERROR,
    ComparedView,
    ReportData,
    duration,
    report_page,
    write_report,
)
from polyfield.apps.report_pictures import data_uri, error_map, frame_sheet, heat
from polyfield.cuda.errors import InputError

VOID = {"meta", "img", "path", "circle"}


class Page(HTMLParser):
    """Elements, text and attributes of a page; fails where tags do not nest."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.attributes, self.open = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def picture(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def full_data():
    views = [
        ComparedView("r_0", picture(0), picture(1), 30.0, 0.9),
        ComparedView("r_1", picture(2), picture(3), 33.0, 0.95),
    ]
    metrics = [{"step": s, "loss": 1 / (s + 1), "seconds": 0.1 * s} for s in range(50)]
    metrics[49]["psnr"] = 31.25
    return ReportData(
        scene="still life",
        plan={"field": "hash-grid", "steps": 50},
        metrics=metrics,
        views=views,
        protocol={"background": "white", "rounding": "8 bits"},
        seconds={"training": 171.0, "loading": 0.5},
        orbit=[picture(n) for n in range(72)],
        notes=["one image was scaled"],
    )


def test_everything_given_is_on_the_page():
    text = Page(report_page(full_data())).text
    for piece in ("still life", "hash-grid", "r_0", "30.00", "0.9500", "white", "8 bits"):
        assert piece in text
    assert "2 min 51 s" in text and "0.50 s" in text
    assert "31.50" in text and "0.9250" in text  # means of the two views
    assert "31.25 dB at the end" in text
    assert "one image was scaled" in text and "72 rendered frames" in text
    assert f"{FULL_ERROR:g} of 1" in text  # the scale of the error map


def test_the_page_asks_for_nothing_outside_of_itself():
    page = report_page(full_data())
    parsed = Page(page)
    for tag, name, value in parsed.attributes:
        if name in ("src", "href", "data-sheet", "srcset", "action", "poster"):
            assert value.startswith("data:image/"), (tag, name)
    assert "link" not in parsed.tags and "iframe" not in parsed.tags
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp", page)
    policy = [v for tag, name, v in parsed.attributes if tag == "meta" and name == "content"][0]
    assert policy.startswith("default-src 'none'")


def test_text_of_the_user_is_never_markup():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
    plain = full_data()
    data = replace(
        plain,
        scene=evil,
        plan={evil: evil},
        protocol={evil: evil},
        seconds={evil: 1.0},
        notes=[evil],
        views=[replace(plain.views[0], name=evil)],
    )
    parsed, ordinary = Page(report_page(data)), Page(report_page(plain))
    assert parsed.tags.count("script") == ordinary.tags.count("script") == 1
    assert not any(name.startswith("on") for _, name, _ in parsed.attributes)
    assert parsed.text.count(evil) >= 8  # shown as it is written, the ampersand too
    assert sum(tag == "img" for tag in parsed.tags) == 4  # one view's three pictures and the scale


@pytest.mark.parametrize(
    "part, gone",
    [
        ({"orbit": ()}, "rendered frames"),
        ({"metrics": ()}, "Training"),
        ({"views": ()}, "Held-out views"),
        ({"seconds": {}}, "Times"),
        ({"protocol": {}}, "Protocol"),
    ],
)
def test_a_part_that_is_missing_leaves_no_empty_frame(part, gone):
    assert gone in Page(report_page(full_data())).text
    assert gone not in Page(report_page(replace(full_data(), **part))).text


def test_a_bare_scene_is_a_page_already():
    assert "bare" in Page(report_page(ReportData("bare"))).text


def test_scores_of_all_views_may_outnumber_the_pictures():
    scores = [("a", 20.0, 0.5), ("b", 30.0, 0.7), ("c", math.inf, 1.0)]
    text = Page(report_page(replace(full_data(), scores=scores[:2]))).text
    assert "25.00" in text and "0.6000" in text and "mean of 2" in text
    assert "∞" in Page(report_page(replace(full_data(), scores=scores))).text


def test_lines_without_numbers_are_passed_over():
    metrics = [{"event": "resumed"}, {"step": 1, "loss": math.nan}, {"step": 2, "loss": "much"}]
    assert "Training" not in Page(report_page(ReportData("x", metrics=metrics))).text
    assert "nan" not in report_page(
        replace(full_data(), metrics=[*metrics, {"step": 3, "loss": 1}])
    )


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, full_data())
    first = path.read_text(encoding="utf-8")
    assert first == report_page(full_data())
    bad = replace(full_data(), views=[ComparedView("r", picture(0), picture(0, 4, 4), 1.0, 1.0)])
    with pytest.raises(InputError, match="report: view r: prediction of shape"):
        write_report(path, bad)
    with pytest.raises(InputError, match="report: orbit"):
        write_report(path, replace(full_data(), orbit=[picture(0), picture(0, 4, 4)]))
    assert path.read_text(encoding="utf-8") == first and list(tmp_path.iterdir()) == [path]


def test_heat_rises_evenly_in_lightness_from_black_to_white():
    ramp = heat(np.linspace(0, 1, 101)).astype(float)
    assert (ramp[0] == 0).all() and (ramp[-1] == 255).all()
    lightness = ramp @ np.array([0.30, 0.59, 0.11]) / 255
    assert np.abs(lightness - np.linspace(0, 1, 101)).max() < 0.01
    assert np.abs(ramp - ramp.mean(1, keepdims=True)).max() > 25  # a hue is there, too


def test_error_map_shows_size_not_sign_and_saturates():
    truth = np.full((1, 4, 3), 100, np.uint8)
    prediction = truth + np.array([0, 10, 26, 100], np.uint8)[None, :, None]
    found = error_map(prediction, truth, 26 / 255)
    expected = heat(np.array([[0, 10 / 26, 1, 1]]))
    assert np.array_equal(found, expected)
    assert np.array_equal(error_map(truth, prediction, 26 / 255), expected)
    one_channel = truth.copy()
    one_channel[0, 0, 0] += 30
    assert np.array_equal(error_map(one_channel, truth, 0.1)[0, 0], heat(np.array(10 / 25.5)))


def decode(uri):
    head, data = uri.split(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def test_pictures_survive_their_uri():
    original = picture(5)
    head, exact = decode(data_uri(original, lossless=True))
    assert head == "data:image/png;base64" and np.array_equal(exact, original)
    smooth = np.repeat(np.arange(0, 240, 10, dtype=np.uint8), 3).reshape(1, 24, 3).repeat(20, 0)
    head, near = decode(data_uri(smooth))
    assert head == "data:image/jpeg;base64" and np.abs(near.astype(int) - smooth).max() < 12


def test_large_pictures_are_scaled_in_proportion():
    _, small = decode(data_uri(np.zeros((500, 1000, 3), np.uint8)))
    assert small.shape == (240, 480, 3)


def test_noise_is_a_picture_too():
    noise = np.random.default_rng(0).integers(0, 256, (72, 135, 240, 3), np.uint8)
    sheet = frame_sheet(list(noise))
    assert decode(sheet.uri)[1].shape == (8 * sheet.cell_height, 9 * sheet.cell_width, 3)
    assert decode(data_uri(np.concatenate(noise[:4])))[1].shape == (540, 240, 3)


@pytest.mark.parametrize("count, height, width", [(72, 20, 24), (5, 17, 33), (1, 16, 16)])
def test_each_frame_lies_in_its_cell_untouched_by_its_neighbours(count, height, width):
    levels = np.linspace(0, 255, count).round().astype(np.uint8)
    frames = [np.full((height, width, 3), (v, 255 - v, 128), np.uint8) for v in levels]
    sheet = frame_sheet(frames)
    assert (sheet.frames, sheet.height, sheet.width) == (count, height, width)
    _, pixels = decode(sheet.uri)
    assert pixels.shape[1] == sheet.columns * sheet.cell_width
    assert pixels.shape[0] == -(-count // sheet.columns) * sheet.cell_height
    for number, frame in enumerate(frames):
        top = number // sheet.columns * sheet.cell_height
        left = number % sheet.columns * sheet.cell_width
        found = pixels[top : top + height, left : left + width].astype(int)
        assert np.abs(found - frame).max() < 8


def test_the_page_tells_its_script_where_the_frames_lie():
    parsed = Page(report_page(full_data()))
    canvas = {name: value for tag, name, value in parsed.attributes if tag == "canvas"}
    sheet = frame_sheet(list(full_data().orbit))
    assert canvas["data-sheet"] == sheet.uri
    assert [int(canvas[f"data-{k}"]) for k in ("frames", "columns")] == [72, sheet.columns]
    assert [int(canvas[f"data-cell-{k}"]) for k in ("width", "height")] == [
        sheet.cell_width,
        sheet.cell_height,
    ]
    assert [int(canvas[k]) for k in ("width", "height")] == [sheet.width, sheet.height]


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "0.00 s"),
        (0.418, "0.42 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 0 s"),
        (185.0, "3 min 5 s"),
        (7440.0, "2 h 4 min"),
        (3599.0, "59 min 59 s"),
        (7195.0, "2 h 0 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_name_that_is_no_utf_8_does_not_stop_the_report(tmp_path):
    write_report(tmp_path / "report.html", ReportData(scene="\udcff & co"))
    assert "\\udcff &amp; co" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("value", [5e-324, 1e308, -1e308, 10**400, math.nan])
def test_numbers_that_no_axis_can_show_are_left_out_of_the_curves(value):
    lines = [{"step": step, "loss": 0.5, "psnr": 20.0} for step in (1, 2)]
    whole = report_page(ReportData(scene="disc", metrics=lines))
    odd = [{"step": 3, "loss": value, "psnr": value}, {"step": 1e300, "loss": 1.0}]
    assert report_page(ReportData(scene="disc", metrics=[*lines, *odd])) == whole

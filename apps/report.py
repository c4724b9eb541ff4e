"""A run's report: one HTML file that opens offline, with curves, pictures and figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from polyfield.apps.files import replacing
from polyfield.apps.report_charts import Curve, line_chart, smoothed
from polyfield.apps.report_pictures import data_uri, error_map, frame_sheet, heat
from polyfield.apps.report_style import SCRIPT, STYLE
from polyfield.cuda.errors import InputError

FULL_ERROR = 0.1  # the error, of 1, at which the map is white
# The page asks for nothing beyond itself, whatever text got into it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True, eq=False)
class ComparedView:
    """A rendered view beside the true one, sRGB on the protocol's background, and its figures."""

    name: str
    prediction: UInt8[np.ndarray, "_ _ 3"]
    truth: UInt8[np.ndarray, "_ _ 3"]
    psnr: float | None = None
    ssim: float | None = None
    error: UInt8[np.ndarray, "_ _ 3"] | None = None
    """Where it is wrong; None for the difference of the two pictures."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a report shows. Everything but scene may be empty; its part is then left out.

    plan, protocol and figures: name -> value, shown as they are. metrics: the lines of
    metrics.jsonl, of which step, loss, psnr and error are drawn where they are there; watched says
    of what the last two are. views: those with pictures, under views_title; scores: (name, psnr,
    ssim) of all of them, where None those of views. seconds: what took how long. orbit: frames of
    one size around the scene. errors and full_error: what the map of errors shows, and at which
    value it is white.
    """

    scene: str
    plan: Mapping[str, object] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, object]] = ()
    views: Sequence[ComparedView] = ()
    scores: Sequence[tuple[str, float, float]] | None = None
    protocol: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    orbit: Sequence[UInt8[np.ndarray, "_ _ 3"]] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    views_title: str = "Held-out views"
    watched: str = "on one held-out view"
    errors: str = "Absolute error, mean over channels"
    full_error: str = f"{FULL_ERROR:g} of 1 ({FULL_ERROR * 255:.0f} of 255)"


def write_report(path: Path, data: ReportData) -> None:
    """Write the report as one self-contained HTML file: pictures inside, no request to anywhere.

    The file appears whole or not at all. Pictures wider than 480 pixels are shown smaller; the
    figures are those given, of the full ones. All text is escaped. Raises InputError for a view
    whose two pictures, or an orbit whose frames, differ in size.
    """
    for view in data.views:
        if view.prediction.shape != view.truth.shape:
            raise InputError(
                f"report: view {view.name}",
                f"prediction of shape {view.prediction.shape}",
                f"that of the truth, {view.truth.shape}",
            )
    sizes = {frame.shape for frame in data.orbit}
    if len(sizes) > 1:
        raise InputError("report: orbit", f"frames of shapes {sorted(sizes)}", "one shape")
    page = report_page(data).encode(errors="backslashreplace")  # names need not be UTF-8
    with replacing(Path(path)) as file:
        file.write(page)


def report_page(data: ReportData) -> str:
    """The report's HTML."""
    title = f"{data.scene} · polyfield"
    sections = [_hero(data), _curves(data), _views(data), _scores(data), _times(data)]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head>
<body><main>
<h1>{escape(data.scene)}</h1><p class="soft">A field trained by polyfield</p>
{"".join(sections)}
</main><script>{SCRIPT}</script></body></html>
"""


def _hero(data: ReportData) -> str:
    orbit = _orbit(data.orbit) if len(data.orbit) > 0 else ""
    scores = _all_scores(data)
    tiles = []
    if scores:
        tiles.append(("mean PSNR", f"{_decibels(_mean(s[1] for s in scores))}"))
        tiles.append(("mean SSIM", f"{_mean(s[2] for s in scores):.4f}"))
        tiles.append(("held-out views", str(len(scores))))
    tiles += [(name, value) for name, value in data.figures.items()]
    tiles += [(name, duration(taken)) for name, taken in list(data.seconds.items())[:1]]
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in tiles
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
    side = f'<div class="tiles">{shown}</div>' if tiles else ""
    if data.plan:
        side += f'<div class="card">{_facts(data.plan)}</div>'
    side += f"<ul>{notes}</ul>" if notes else ""
    return f'<section class="hero{"" if orbit else " plain"}">{orbit}<div>{side}</div></section>'


def _orbit(frames: Sequence[np.ndarray]) -> str:
    sheet = frame_sheet(list(frames))
    return (
        f'<div class="card orbit"><canvas class="turn" width="{sheet.width}" '
        f'height="{sheet.height}" tabindex="0" role="slider" aria-label="Turn the scene" '
        f'aria-valuemin="1" aria-valuemax="{sheet.frames}" aria-valuenow="1" '
        f'data-frames="{sheet.frames}" data-columns="{sheet.columns}" '
        f'data-cell-width="{sheet.cell_width}" data-cell-height="{sheet.cell_height}" '
        f'data-sheet="{sheet.uri}"></canvas>'
        f'<p class="soft">Drag to turn, or use the arrow keys. {sheet.frames} rendered frames.</p>'
        "</div>"
    )


def _curves(data: ReportData) -> str:
    loss = _series(data.metrics, "loss")
    psnr = _series(data.metrics, "psnr")
    cards = []
    if loss:
        curves = [Curve("loss", tuple(loss), faint=True), Curve("loss", tuple(smoothed(loss)))]
        chart = line_chart("Loss by step", "step", curves, logarithmic=True)
        cards.append(_chart_card("Loss, logarithmic", "smoothed; as logged in grey", chart))
    if psnr:
        chart = line_chart("PSNR by step", "step", [Curve("PSNR", tuple(psnr))])
        last = f"{_decibels(psnr[-1][1])} at the end"
        cards.append(_chart_card(f"PSNR {data.watched}, dB", last, chart))
    if error := _series(data.metrics, "error"):
        curve = [Curve("error", tuple(error))]
        chart = line_chart("Error by step", "step", curve, logarithmic=True)
        last = f"{error[-1][1]:.3g} at the end"
        cards.append(_chart_card(f"Error {data.watched}, logarithmic", last, chart))
    if not cards:
        return ""
    return f'<h2>Training</h2><section class="pair">{"".join(cards)}</section>'


def _chart_card(name: str, remark: str, chart: str) -> str:
    caption = f'<div class="caption"><b>{escape(name)}</b><output>{escape(remark)}</output></div>'
    return f'<div class="card">{caption}{chart}</div>'


def _views(data: ReportData) -> str:
    if not data.views:
        return ""
    ramp = data_uri(heat(np.tile(np.linspace(0, 1, 180), (12, 1))), lossless=True)
    legend = (
        f'<p class="legend"><span>{escape(data.errors)}: 0</span>'
        f'<img src="{ramp}" alt="colour scale"><span>{escape(data.full_error)} and more</span></p>'
    )
    title = f"<h2>{escape(data.views_title)}</h2>"
    return title + legend + "".join(_figure(view) for view in data.views)


def _figure(view: ComparedView) -> str:
    error = view.error
    if error is None:
        error = error_map(view.prediction, view.truth, FULL_ERROR)
    pictures = (
        ("rendered", data_uri(view.prediction)),
        ("truth", data_uri(view.truth)),
        ("error", data_uri(error)),
    )
    name = escape(view.name)
    cells = "".join(
        f'<div><img src="{uri}" alt="{name}: {what}" loading="lazy"><small>{what}</small></div>'
        for what, uri in pictures
    )
    known = [_decibels(view.psnr)] if view.psnr is not None else []
    known += [f"SSIM {view.ssim:.4f}"] if view.ssim is not None else []
    figures = " · ".join(known)
    return (
        f"<figure><figcaption><b>{name}</b><span>{figures}</span></figcaption>"
        f'<div class="row">{cells}</div></figure>'
    )


def _scores(data: ReportData) -> str:
    scores = _all_scores(data)
    if not scores:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{_number(psnr)}</td>'
        f'<td class="number">{ssim:.4f}</td></tr>'
        for name, psnr, ssim in scores
    )
    mean = (
        f'<tr class="mean"><td>mean of {len(scores)}</td>'
        f'<td class="number">{_number(_mean(s[1] for s in scores))}</td>'
        f'<td class="number">{_mean(s[2] for s in scores):.4f}</td></tr>'
    )
    head = '<tr><th>image</th><th class="number">PSNR, dB</th><th class="number">SSIM</th></tr>'
    table = f'<div class="card scroll"><table>{head}{rows}{mean}</table></div>'
    protocol = ""
    if data.protocol:
        protocol = f'<div class="card"><b>Protocol</b>{_facts(data.protocol)}</div>'
    return f'<h2>Figures</h2><section class="pair">{table}<div>{protocol}</div></section>'


def _times(data: ReportData) -> str:
    if not data.seconds:
        return ""
    taken = {name: duration(seconds) for name, seconds in data.seconds.items()}
    return f'<h2>Times</h2><div class="card">{_facts(taken)}</div>'


def _facts(values: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f'<table class="facts">{rows}</table>'


def _series(metrics: Sequence[Mapping[str, object]], name: str) -> list[tuple[float, float]]:
    """(step, value) of the lines that hold a number of that name, of a size that can be drawn."""
    points = []
    for line in metrics:
        step, value = line.get("step"), line.get(name)
        if isinstance(step, int | float) and isinstance(value, int | float):
            if abs(step) < 1e15 and (value == 0 or 1e-30 < abs(value) < 1e30):
                points.append((float(step), float(value)))
    return points


def _all_scores(data: ReportData) -> list[tuple[str, float, float]]:
    if data.scores is not None:
        return list(data.scores)
    views = data.views
    return [(v.name, v.psnr, v.ssim) for v in views if v.psnr is not None and v.ssim is not None]


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def _number(decibels: float) -> str:
    return "∞" if math.isinf(decibels) else f"{decibels:.2f}"


def _decibels(value: float) -> str:
    return f"{_number(value)} dB"


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.42 s, 12.3 s, 3 min 5 s, 2 h 4 min."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"

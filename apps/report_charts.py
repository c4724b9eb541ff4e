"""Curves of a run as inline SVG, in the colours of the page around them."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 24.0, 12.0, 38.0
MOST_POINTS = 400  # more than a chart has pixels for


@dataclass(frozen=True)
class Curve:
    """Points (x ascending, y) of one quantity; label names it, faint draws it in the background."""

    label: str
    points: tuple[tuple[float, float], ...]
    faint: bool = False


def line_chart(name: str, x_name: str, curves: list[Curve], logarithmic: bool = False) -> str:
    """An SVG of the curves over common axes. Values that are not finite are left out.

    With logarithmic, y is: values of 0 and below are left out too. Without any point the chart says
    so. All text is escaped.
    """
    kept = [(curve, _drawable(curve, logarithmic)) for curve in curves]
    every = [point for _, points in kept for point in points]
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"
    head = f'<svg class="chart" viewBox="{box}" role="img" aria-label="{escape(name)}">'
    if not every:
        middle = f'x="{WIDTH / 2}" y="{HEIGHT / 2}"'
        return f'{head}<text class="label" {middle} text-anchor="middle">no values</text></svg>'

    x_low, x_high = _range([x for x, _ in every])
    height = math.log10 if logarithmic else float
    y_low, y_high = _range([height(y) for _, y in every], margin=0.05)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_low) / (x_high - x_low)
        up = (height(y) - y_low) / (y_high - y_low)
        return (
            LEFT + right * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [head]
    for y in _log_ticks(y_low, y_high) if logarithmic else ticks(y_low, y_high):
        _, at = place(x_low, y)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 7, at + 4, short(y), "end"))
    for x in ticks(x_low, x_high):
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        parts.append(_text(across, HEIGHT - BOTTOM + 16, short(x), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_name, "middle"))
    for curve, points in kept:
        parts.append(_line(curve, points, place))
    return "".join([*parts, "</svg>"])


def smoothed(points: list[tuple[float, float]], over: float = 0.015) -> list[tuple[float, float]]:
    """Exponential mean of y, weighted backwards over that share of all points.

    The weights of each mean add to 1 from the first point on, so the start is not drawn to zero.
    """
    keep = 1 - 1 / max(1.0, over * len(points))
    total = weight = 0.0
    result = []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        result.append((x, total / weight))
    return result


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) from low to high."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda round_one: abs(round_one - raw / power))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 0, 250, 12k, 1.5M, 0.002, 2e-05."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= (size if unit == "M" else 1e4):
            return f"{value / size:g}{unit}"
    return f"{value:.4g}"


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [factor * 10.0**power for power in powers for factor in factors]
    return [v for v in values if low <= math.log10(v) <= high] or [10.0 ** ((low + high) / 2)]


def _drawable(curve: Curve, positive: bool) -> list[tuple[float, float]]:
    points = [p for p in curve.points if math.isfinite(p[0]) and math.isfinite(p[1])]
    points = [p for p in points if p[1] > 0 or not positive]
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    # Counted from the end: the last value is the one that people look for. The first stays, too.
    kept = points[::-1][::stride][::-1]
    return kept if kept[:1] == points[:1] else points[:1] + kept


def _range(values: list[float], margin: float = 0.0) -> tuple[float, float]:
    low, high = min(values), max(values)
    spare = margin * (high - low) or (0.0 if high > low else max(abs(low) * 0.05, 1e-6))
    return low - spare, high + spare


def _line(curve: Curve, points: list, place) -> str:
    if not points:
        return ""
    shown = [place(x, y) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
    kind = "line faint" if curve.faint else "line"
    drawn = f'<path class="{kind}" d="{path}"/>'
    if curve.faint:
        return drawn
    marks = " ".join(
        f"{x:.1f},{y:.1f},{short(px)},{py:.4g}"
        for (x, y), (px, py) in zip(shown, points, strict=True)
    )
    x, y = shown[-1]
    last = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    # The page's script moves the dot to the point that the pointer is nearest to.
    label = escape(curve.label)
    return f'<g class="series" data-label="{label}" data-points="{marks}">{drawn}{last}</g>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )

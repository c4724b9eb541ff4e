"""Cameras, bounds and points of a scene as inline SVG, seen from three sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

import torch
from jaxtyping import Float64
from torch import Tensor

from polyfield.apps.diagnosis_cameras import finest_box
from polyfield.apps.scene import Scene
from polyfield.render.paths import up_axis

_SIDE, _MARGIN = 340.0, 10.0
_MOST_CAMERAS, _MOST_POINTS = 400, 1500
_LENGTH = 0.09  # of a frustum, of the drawing's width
_EDGES = [(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)]

DRAWING_STYLE = """
.world { display: block; width: 100%; height: auto; }
.world path { fill: none; stroke-linejoin: round; vector-effect: non-scaling-stroke; }
.world .box { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
.world .whole { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 1 4; }
.world .camera { stroke: var(--accent); stroke-width: 1; }
.world .held { stroke: var(--soft); stroke-width: 1; }
.world .marked { stroke: #d4381e; stroke-width: 1.6; }
.world .point { fill: var(--soft); opacity: .55; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 16px; }
@media (max-width: 760px) { .three { grid-template-columns: minmax(0, 1fr); } }
"""


def scene_drawings(scene: Scene, marked: Mapping[int, str]) -> dict[str, str]:
    """An SVG by the name of each direction of view: from above, from the side, at a slant.

    Frusta of at most 400 cameras: those to train on, held-out ones in grey, and in red, always
    drawn, those that `marked` says something of (their tooltip). Dashed: the cube with the finest
    grid, dotted the whole bounds where they are in sight; sparse points where there are any.
    """
    up = up_axis(scene.cameras.camera_to_world)
    level = torch.linalg.cross(up, torch.eye(3).double()[up.abs().argmin()])
    level = level / level.norm()
    front = torch.linalg.cross(up, level)
    slant = (0.6 * level + 0.75 * front) / math.hypot(0.6, 0.75)
    across = torch.linalg.cross(slant, up)
    raised = 0.87 * up + 0.5 * slant
    return {
        "from above": _drawing(scene, marked, torch.stack([level, front]), "from above"),
        "from the side": _drawing(scene, marked, torch.stack([-front, -up]), "from the side"),
        "at a slant": _drawing(scene, marked, torch.stack([-across, -raised]), "at a slant"),
    }


def _drawing(
    scene: Scene, marked: Mapping[int, str], axes: Float64[Tensor, "2 3"], name: str
) -> str:
    position = scene.cameras.camera_to_world[:, :, 3].double()
    low, high = finest_box(scene)
    corners = _corners(low, high)
    # What a single lost camera would make a dot of everything else stays in sight.
    places = torch.cat([position, corners]) @ axes.T
    middle = places.median(0).values
    reach = (places - middle).abs().amax(1)
    limit = max(4 * float(reach.median()), float(((corners @ axes.T) - middle).abs().max()))
    near = places[reach <= limit]
    middle = (near.amin(0) + near.amax(0)) / 2
    half = 1.15 * float((near - middle).abs().max())
    scale = (_SIDE / 2 - _MARGIN) / max(half, 1e-300)

    def flat(points: Tensor) -> list[tuple[float, float]]:
        drawn = ((points @ axes.T - middle) * scale + _SIDE / 2).clamp(-1e4, 1e4)
        return [(x, y) for x, y in drawn.nan_to_num(0.0).tolist()]

    parts = [
        f'<svg class="world" viewBox="0 0 {_SIDE:g} {_SIDE:g}" role="img" '
        f'aria-label="Cameras {escape(name)}">'
    ]
    if scene.points is not None and len(scene.points):
        chosen = torch.linspace(0, len(scene.points) - 1, min(_MOST_POINTS, len(scene.points)))
        for x, y in flat(scene.points[chosen.round().long()].double()):
            if 0 < x < _SIDE and 0 < y < _SIDE:
                parts.append(f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="0.9"/>')
    if scene.grid_levels > 1:
        unit = torch.tensor([[0.0] * 3, [1.0] * 3]).double()
        parts.append(_box("whole", flat(_corners(*scene.to_field.inverse().apply(unit)))))
    parts.append(_box("box", flat(corners)))
    train = set(scene.splits["train"].tolist())
    length = _LENGTH * 2 * half
    for frame in _shown(len(position), marked):
        kind = "marked" if frame in marked else "camera" if frame in train else "held"
        label = scene.frame_names[frame]
        label += f": {marked[frame]}" if frame in marked else ""
        title = f"<title>{escape(label)}</title>"
        parts.append(
            f'<path class="{kind}" d="{_frustum(scene, frame, length, flat)}">{title}</path>'
        )
    return "".join([*parts, "</svg>"])


def _shown(count: int, marked: Mapping[int, str]) -> list[int]:
    """Frames to draw, those in red last, so that they lie on top."""
    spread = torch.linspace(0, count - 1, min(_MOST_CAMERAS, count)).round().long().tolist()
    red = sorted(marked)[:_MOST_CAMERAS]
    return [frame for frame in dict.fromkeys(spread) if frame not in marked] + red


def _corners(low: Tensor, high: Tensor) -> Float64[Tensor, "8 3"]:
    picks = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    return low + picks * (high - low)


def _box(kind: str, corners: list[tuple[float, float]]) -> str:
    lines = "".join(
        f"M{corners[a][0]:.1f} {corners[a][1]:.1f}L{corners[b][0]:.1f} {corners[b][1]:.1f}"
        for a, b in _EDGES
    )
    return f'<path class="{kind}" d="{lines}"/>'


def _frustum(scene: Scene, frame: int, length: float, flat) -> str:
    pose = scene.cameras.camera_to_world[frame].double()
    width, height = scene.sizes[frame]
    focal = scene.cameras.focal[frame].double()
    # Wide lenses would fill the drawing.
    x = min(0.5 * width / float(focal[0]), 0.8) * length
    y = min(0.5 * height / float(focal[1]), 0.8) * length
    local = torch.tensor(
        [[0, 0, 0], [-x, -y, length], [x, -y, length], [x, y, length], [-x, y, length]]
    ).double()
    tip, *rim = flat(local @ pose[:, :3].T + pose[:, 3])
    around = "L".join(f"{px:.1f} {py:.1f}" for px, py in rim)
    spokes = "".join(f"M{tip[0]:.1f} {tip[1]:.1f}L{px:.1f} {py:.1f}" for px, py in rim)
    return f"M{around}Z{spokes}"

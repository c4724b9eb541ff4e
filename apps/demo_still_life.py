"""What stands in the demo: painted solids on a round checkered slab."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps import demo_solids as shapes
from polyfield.apps.demo_solids import Paint, Solid
from polyfield.render.srgb import linear_from_srgb

GROUND = -0.5  # height of the slab's top


def still_life() -> list[Solid]:
    """The solids, the slab first. All lie in [-1.2, 1.2]^3, z up, and touch in points only."""
    return [
        _slab(thickness=0.14, disc=1.1),
        _ball("glossy ball", (0.42, -0.34), 0.40, "#1d4fc4", gloss=0.10),
        _ring((-0.40, 0.46), circle=0.345, radius=0.125, heading=20.0),
        _cube((-0.46, -0.42), half=0.21, radius=0.05, turn=35.0),
        _pillar((0.45, 0.52), radius=0.14, half=0.33),
        _ball("yellow marble", (-0.02, -0.80), 0.13, "#f4b52a"),
        _ball("green marble", (-0.88, 0.02), 0.11, "#4f9d69"),
        _ball("coral marble", (0.90, 0.20), 0.10, "#e8553a"),
        _ball("violet marble", (0.02, 0.10), 0.09, "#8b5fb0"),
    ]


def linear(colour: str) -> Float[Tensor, " 3"]:
    """A colour "#rrggbb" of sRGB as linear RGB in [0, 1]."""
    return linear_from_srgb(torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255)


def _ball(
    name: str, place: tuple[float, float], radius: float, colour: str, gloss: float = 0.0
) -> Solid:
    return Solid(
        name=name,
        nearest=shapes.to_point,
        radius=radius,
        reach=radius,
        convex=True,
        position=_standing(place, radius),
        rotation=_upright(),
        paint=_plain(colour),
        surface=shapes.ball_surface(radius, steps=72 if radius > 0.2 else 36),
        gloss=gloss,
    )


def _slab(thickness: float, disc: float) -> Solid:
    radius = thickness / 2
    return Solid(
        name="slab",
        nearest=shapes.to_disc(disc),
        radius=radius,
        reach=disc + radius,
        convex=True,
        position=_standing((0.0, 0.0), -radius),
        rotation=_upright(),
        paint=_slab_paint(tile=0.26, disc=disc),
        surface=shapes.slab_surface(radius, disc),
    )


def _ring(place: tuple[float, float], circle: float, radius: float, heading: float) -> Solid:
    turn, raised = _about_z(heading), torch.tensor([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).double()
    return Solid(
        name="ring",
        nearest=shapes.to_circle(circle),
        radius=radius,
        reach=circle + radius,
        convex=False,
        position=_standing(place, circle + radius),
        rotation=turn @ raised,
        paint=_sectors("#f7efe0", "#ee7b30", 16),
        surface=shapes.torus_surface(radius, circle),
    )


def _cube(place: tuple[float, float], half: float, radius: float, turn: float) -> Solid:
    third, sixth, root = math.sqrt(1 / 3), math.sqrt(1 / 6), math.sqrt(1 / 2)
    corner_up = torch.tensor(  # the cube's diagonal (1, 1, 1) becomes z
        [[root, -root, 0.0], [sixth, sixth, -2 * sixth], [third, third, third]], dtype=torch.float64
    )
    return Solid(
        name="cube",
        nearest=shapes.to_box(half),
        radius=radius,
        reach=math.sqrt(3) * half + radius,
        convex=True,
        position=_standing(place, math.sqrt(3) * half + radius),
        rotation=_about_z(turn) @ corner_up,
        paint=_blocks("#c2185b", "#f8bbd0", 2 * (half + radius) / 3),
        surface=shapes.cube_surface(radius, half),
    )


def _pillar(place: tuple[float, float], radius: float, half: float) -> Solid:
    return Solid(
        name="pillar",
        nearest=shapes.to_segment(half),
        radius=radius,
        reach=half + radius,
        convex=True,
        position=_standing(place, half + radius),
        rotation=_upright(),
        paint=_spiral("#0f8b8d", "#e9f5db", rise=0.28),
        surface=shapes.capsule_surface(radius, half),
    )


def _standing(place: tuple[float, float], height: float) -> Float[Tensor, " 3"]:
    return torch.tensor([*place, GROUND + height], dtype=torch.float64)


def _upright() -> Float[Tensor, "3 3"]:
    return torch.eye(3, dtype=torch.float64)


def _about_z(degrees: float) -> Float[Tensor, "3 3"]:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


# Paints: albedo as a function of the point in the solid's own frame.


def _two(choice: Tensor, yes: str, no: str) -> Tensor:
    return torch.where(choice[:, None], linear(yes), linear(no)).to(torch.float32)


def _plain(colour: str) -> Paint:
    shade = linear(colour)
    return lambda points: shade.expand(len(points), 3)


def _blocks(first: str, second: str, size: float) -> Paint:
    def paint(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        # Three blocks a side. Clamped: the faces themselves lie where a fourth would begin.
        block = (points / size + 0.5).floor().clamp(-1, 1)
        return _two(block.sum(1) % 2 == 0, first, second)

    return paint


def _sectors(first: str, second: str, count: int) -> Paint:
    def paint(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        around = torch.atan2(points[:, 1], points[:, 0]) * (count / (2 * math.pi))
        return _two(around.floor() % 2 == 0, first, second)

    return paint


def _spiral(first: str, second: str, rise: float) -> Paint:
    def paint(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        around = torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi)
        return _two((points[:, 2] / rise + around) % 1 < 0.5, first, second)

    return paint


def _slab_paint(tile: float, disc: float) -> Paint:
    def paint(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        from_axis = points[:, :2].norm(dim=1)
        tiles = _two((points[:, :2] / tile).floor().sum(1) % 2 == 0, "#efe3cb", "#a9b8b4")
        rings = _two((from_axis / 0.22) % 1 < 0.5, "#d9c9ac", "#8fa39f")
        rim = _two(from_axis > disc - 0.06, "#7a5c46", "#7a5c46")
        inside = torch.where(points[:, 2:] > 0, tiles, rings)
        return torch.where((from_axis > disc - 0.06)[:, None], rim, inside)

    return paint

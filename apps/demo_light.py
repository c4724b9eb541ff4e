"""The demo's light: which solid a ray meets, and what colour leaves it there."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.apps.demo_solids import Solid, dot
from polyfield.render.srgb import srgb_from_linear

SUN = (0.42, -0.52, 0.745)  # towards the sun, normalised below
SUN_COLOUR = (1.42, 1.33, 1.18)
SKY_COLOUR = (0.50, 0.55, 0.62)  # what falls on a surface that looks up
BOUNCE_COLOUR = (0.46, 0.43, 0.40)  # and on one that looks down
PENUMBRA = 0.11  # half the sun's apparent size: blur of a shadow over the distance it falls
NEAR_ENOUGH = 2e-6  # distance at which a ray has arrived
MOST_STEPS = 160


def first_hit(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], solids: list[Solid]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Distance along each ray to the first solid, and the solid's number: infinity, -1 for none.

    Directions are unit; rays start outside of all solids.
    """
    best = origins.new_full((len(origins),), math.inf)
    which = torch.full((len(origins),), -1)
    from_zero, onward = dot(origins, origins), dot(origins, directions)
    for number, solid in enumerate(solids):
        centre = solid.position.to(origins.dtype)
        middle = directions @ centre - onward
        apart = from_zero - 2 * (origins @ centre) + centre @ centre
        # A little more than the reach: these differences lose digits that the march still has.
        spare = solid.reach**2 + 1e-4 - apart + middle.square()
        near = ((spare > 0) & (middle + solid.reach > 0)).nonzero()[:, 0]
        half = spare[near].sqrt()
        enter = (middle[near] - half).clamp(min=0)
        leave = torch.minimum(middle[near] + half, best[near])
        travelled = _march(solid, origins[near], directions[near], enter, leave)
        closer = travelled < best[near]
        best[near[closer]] = travelled[closer]
        which[near[closer]] = number
    return best, which


def _march(
    solid: Solid, origins: Tensor, directions: Tensor, enter: Tensor, leave: Tensor
) -> Tensor:
    """Distance to the solid along each ray between enter and leave; infinity for a miss.

    A convex solid's distance is convex along a ray, so that Newton's method never passes the first
    root, doubles its digits a step, and has missed as soon as the ray moves away. Otherwise the
    step is the distance itself, which no surface can lie within.
    """
    # In its own frame and from the entry on: near the solid float32 has digits to spare.
    origins = solid.to_own(origins + enter[:, None] * directions)
    directions = directions @ solid.rotation.to(origins.dtype)
    limit = leave - enter
    travelled = torch.full_like(enter, math.inf)
    alive = (limit > 0).nonzero()[:, 0]
    start, heading, end = origins[alive], directions[alive], limit[alive]
    along = torch.zeros_like(end)
    for _ in range(MOST_STEPS):
        if len(alive) == 0:
            break
        distance, outward = solid.own_gap(start + along[:, None] * heading)
        slope = dot(outward, heading)
        # Newton may pass a hollow surface by a little and comes back; a start inside stays.
        arrived = (distance.abs() < NEAR_ENOUGH) | ((distance < 0) & (along <= 0))
        travelled[alive[arrived]] = along[arrived]
        step = distance
        if solid.convex:
            # A ray that moves away from a convex solid gets an endless step: it is out.
            step = torch.where(slope < 0, distance / -slope, math.inf)
        else:
            # Close to the surface and steeply downwards Newton is safe, and much faster.
            closing = (slope < -0.3) & (distance < 0.02 * solid.radius)
            step = torch.where(closing, distance / -slope, distance)
        along = along + step
        going = (~arrived & (along < end)).nonzero()[:, 0]
        alive, start, heading = alive[going], start[going], heading[going]
        end, along = end[going], along[going]
    return travelled + enter


def shade(
    points: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    which: Int[Tensor, " n"],
    solids: list[Solid],
    mirror: bool = True,
) -> Float[Tensor, "n 3"]:
    """Linear RGB that leaves surface points against the rays' directions (unit, towards the point).

    Diffuse light of a broad sun and of the sky, both with their shadows: a smooth function of the
    point alone. Glossy solids add, if mirror, one reflection of the scene and the sun's highlight.
    """
    normal, albedo = torch.empty_like(points), torch.empty_like(points)
    gloss = points.new_zeros(len(points))
    for number, solid in enumerate(solids):
        mine = (which == number).nonzero()[:, 0]
        normal[mine] = solid.normal(points[mine])
        albedo[mine] = solid.albedo(points[mine])
        gloss[mine] = solid.gloss
    colour = albedo * irradiance(points, normal, which, solids)
    shiny = (gloss > 0).nonzero()[:, 0] if mirror else which[:0]
    if len(shiny) > 0:
        toward, facing = directions[shiny], normal[shiny]
        cosine = -dot(toward, facing)[:, None]
        bounced = toward + 2 * cosine * facing
        share = gloss[shiny, None]
        share = share + (1 - share) * (1 - cosine.clamp(0, 1)) ** 5  # Schlick's Fresnel term
        colour[shiny] = torch.lerp(
            colour[shiny], _reflected(points[shiny], facing, bounced, solids), share
        )
    return colour


def _reflected(points: Tensor, normal: Tensor, bounced: Tensor, solids: list[Solid]) -> Tensor:
    light = _sky(bounced)
    distance, which = first_hit(points + 1e-3 * normal, bounced, solids)
    met = (which >= 0).nonzero()[:, 0]
    places = points[met] + 1e-3 * normal[met] + distance[met, None] * bounced[met]
    light[met] = shade(places, bounced[met], which[met], solids, mirror=False)
    return light


def _sky(directions: Tensor) -> Tensor:
    """What a mirror sees beyond the scene: horizon to zenith, earth below, and a soft sun."""
    new = directions.new_tensor
    up = directions[:, 2:]
    blue = torch.lerp(new([0.86, 0.90, 0.95]), new([0.25, 0.45, 0.85]), up.clamp(0, 1) ** 0.6)
    sky = torch.lerp(blue, new([0.42, 0.38, 0.35]), torch.sigmoid(-up * 18))
    toward_sun = (directions @ _sun(directions))[:, None]
    return sky + 9 * new(SUN_COLOUR) * torch.exp((toward_sun - 1) * 260)


def irradiance(
    points: Float[Tensor, "n 3"],
    normal: Float[Tensor, "n 3"],
    which: Int[Tensor, " n"],
    solids: list[Solid],
) -> Float[Tensor, "n 3"]:
    """Light that falls on surface points, RGB: times albedo it is the diffuse colour."""
    new = points.new_tensor
    facing = normal @ _sun(points)
    lit = facing.clamp(min=0) * sunlight(points, facing, which, solids)
    sky = torch.lerp(new(BOUNCE_COLOUR), new(SKY_COLOUR), (normal[:, 2:] + 1) / 2)
    return lit[:, None] * new(SUN_COLOUR) + openness(points, normal, solids)[:, None] * sky


def sunlight(
    points: Float[Tensor, "n 3"],
    facing: Float[Tensor, " n"],
    which: Int[Tensor, " n"],
    solids: list[Solid],
) -> Float[Tensor, " n"]:
    """Share of the sun in [0, 1] that surface points see; facing is the cosine of their normal.

    A solid hides as much as the narrowest gap it leaves, in angles, says: smooth and without noise.
    """
    sun = _sun(points)
    share = torch.ones_like(facing)
    for number, solid in enumerate(solids):
        relative = solid.position.to(points.dtype) - points
        ahead = relative @ sun
        aside = dot(relative, relative) - ahead.square()
        width = solid.reach + PENUMBRA * (ahead + solid.reach)
        may = (facing > 0) & (ahead > -solid.reach) & (aside < width.square())
        index = may.nonzero()[:, 0]
        if solid.convex:
            # A convex solid's distance grows at least as fast as it does here: rays that leave it
            # faster than the penumbra widens, those from its own lit side too, see it nowhere.
            away = (solid.normal(points[index]) @ sun) > PENUMBRA
            index = index[~away & (which[index] != number)]
        share[index] *= _unhidden(solid, points[index], ahead[index], which[index] == number, sun)
    return share


def _unhidden(solid: Solid, points: Tensor, ahead: Tensor, own: Tensor, sun: Tensor) -> Tensor:
    points, sun = solid.to_own(points), sun @ solid.rotation.to(points.dtype)
    # A point's own solid is near all the way at first: begin beyond that.
    along = torch.where(own, 0.5 * solid.radius, 0.01) + (ahead - solid.reach).clamp(min=0)
    end = ahead + solid.reach
    gap = torch.ones_like(along)
    for _ in range(28):
        distance, _ = solid.own_gap(points + along[:, None] * sun)
        inside = along < end
        gap = torch.where(inside, torch.minimum(gap, distance / (PENUMBRA * along)), gap)
        along = along + distance.abs().clamp(0.02, 0.2)
    gap = gap.clamp(-1, 1)
    return 0.25 * (1 + gap).square() * (2 - gap)


def openness(
    points: Float[Tensor, "n 3"], normal: Float[Tensor, "n 3"], solids: list[Solid]
) -> Float[Tensor, " n"]:
    """How much of the sky surface points see, in [0, 1]: darker where other solids are near."""
    closed = points.new_zeros(len(points))
    for height, weight in ((0.05, 1.6), (0.14, 0.9), (0.32, 0.55)):
        lifted = points + height * normal
        room = torch.full_like(closed, height)
        for solid in solids:
            away = solid.position.to(points.dtype) - lifted
            near = (dot(away, away) < (solid.reach + height) ** 2).nonzero()[:, 0]
            room[near] = torch.minimum(room[near], solid.distance(lifted[near]))
        closed += weight * (height - room).clamp(min=0) / height * 0.32
    return torch.exp(-closed)


def _sun(like: Tensor) -> Tensor:
    return torch.nn.functional.normalize(like.new_tensor(SUN), dim=0)


def encoded(colour: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Linear RGB as sRGB in [0, 1], bright values rolled off instead of cut."""
    shoulder = 0.75
    over = (colour - shoulder).clamp(min=0)
    kept = colour.clamp(0, shoulder) + (1 - shoulder) * (1 - torch.exp(-over / (1 - shoulder)))
    return srgb_from_linear(kept)

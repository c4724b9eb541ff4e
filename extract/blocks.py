"""A surface on a lattice too large to be held: block by block, only where it may run through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int32, Int64
from torch import Tensor

from polyfield.cuda.surface import surfaces
from polyfield.extract.mesh import Mesh

CHUNK = 1 << 16  # points that a field is asked for at once
SIDE = 16  # cells of a block
COARSEST = 64  # of the blocks that are looked at first
BYTES_A_NODE = 64  # of a batch of blocks: value, place, and whether it is asked for
NEAR = 1e-4  # of a field's values near the level: far more than it rounds by
_NEAREST = 1e-4  # of an edge, from a vertex to its end: closer ones would make flat triangles


Axes = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A field on the nodes 0 to resolution of the unit cube, inside where it is above the level.

    The border of the cube counts as outside, so that every surface closes there. field: of points
    float32 [n, 3] of the cube. asked: of nodes by their places along x, y and z, each [blocks, k],
    which need the field, as something that broadcasts to [blocks, k, k, k]; None where all do.
    The others have the value `unasked`, which is outside. crossed: of blocks, by their lowest nodes
    [n, 3] and how many cells they have a side, through which the surface may run; None where it
    may run everywhere.
    """

    resolution: int
    level: float
    field: Callable[[Tensor], Tensor]
    unasked: float
    asked: Callable[[Axes], Tensor] | None = None
    crossed: Callable[[Tensor, int], Tensor] | None = None


def lattice_mesh(
    lattice: Lattice, memory_bytes: int, bisections: int, device: torch.device
) -> Mesh:
    """The closed surface, in the unit cube; vertices bisected against the field along their edges.

    Memory beyond the result stays near memory_bytes; the result does not depend on it. Raises
    InputError where the field is NaN.
    """
    return _mesh(lattice, memory_bytes, bisections, device, placed=False)[0]


def placed_lattice_mesh(
    lattice: Lattice, memory_bytes: int, bisections: int, device: torch.device
) -> tuple[Mesh, Int32[Tensor, "v 3"]]:
    """As `lattice_mesh`, and where on the lattice each vertex belongs, free of rounding.

    Twice the middle of its edge, in cells: odd along the edge, even across. Of vertices within a
    cell, twice its middle: odd along all axes.
    """
    return _mesh(lattice, memory_bytes, bisections, device, placed=True)


def _mesh(
    lattice: Lattice, memory_bytes: int, bisections: int, device: torch.device, placed: bool
) -> tuple[Mesh, Int32[Tensor, "places 3"]]:
    blocks = active_blocks(lattice, device)
    if not len(blocks):
        none = torch.zeros(0, 3, device=device)
        return Mesh(none, none.long()), none.int()
    batch = max(1, memory_bytes // (BYTES_A_NODE * (SIDE + 1) ** 3))
    near = _NearLevel.none(device)
    parts = []
    for some in blocks.split(batch):
        part, near = _cut(lattice, some, bisections, near, placed)
        parts.append(part)
    return _welded(parts)


def active_blocks(lattice: Lattice, device: torch.device) -> Int64[Tensor, "blocks 3"]:
    """The lowest nodes of the blocks of SIDE cells that the surface may run through.

    From large blocks to small ones: where a large one is not crossed, nor are those within. In the
    order of their nodes.
    """
    side = SIDE if lattice.crossed is None else COARSEST
    ticks = torch.arange(0, lattice.resolution, side, device=device)
    corners = torch.cartesian_prod(ticks, ticks, ticks).view(-1, 3)
    halves = torch.cartesian_prod(*[torch.arange(2, device=device)] * 3)
    while lattice.crossed is not None:
        corners = corners[lattice.crossed(corners, side)]
        if side == SIDE:
            break
        side //= 2
        corners = (corners[:, None] + side * halves).view(-1, 3)
        corners = corners[(corners < lattice.resolution).all(1)]
    return corners[_number(corners, lattice.resolution).argsort()]


@dataclass(frozen=True, eq=False)
class _Part:
    """Of some blocks: vertices in the unit cube, and triangles of them."""

    vertices: Float[Tensor, "v 3"]
    corners: Int32[Tensor, "f 3"]
    shared: Bool[Tensor, " v"]
    """Those on sides of their blocks, which others may have as well."""
    keys: Int64[Tensor, " shared"]
    """Of these, 3 * the node of the lattice where their edge begins + its axis."""
    place: Int32[Tensor, "placed 3"]
    """As `placed_lattice_mesh`; none where nobody asked."""


@dataclass(frozen=True, eq=False)
class _NearLevel:
    """Values of nodes on sides of blocks that are within a rounding of the level.

    A field may round by where a point stands among those that it is asked for. Two blocks that
    took such a node for different sides of the surface would leave a crack: they take the value
    that the first of them found.
    """

    nodes: Int64[Tensor, " n"]
    values: Float[Tensor, " n"]

    @staticmethod
    def none(device: torch.device) -> _NearLevel:
        return _NearLevel(
            torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, device=device)
        )

    def agreed(self, nodes: Tensor, values: Tensor) -> tuple[Tensor, _NearLevel]:
        """The values that those nodes are to have, and what is known with them."""
        every, number = torch.cat([self.nodes, nodes]).unique(return_inverse=True)
        order = torch.arange(len(number), device=number.device)
        first = torch.full_like(every, len(number)).scatter_reduce(0, number, order, "amin")
        found = torch.cat([self.values, values])[first]
        return found[number[len(self.nodes) :]], _NearLevel(every, found)


def _number(nodes: Int64[Tensor, "n 3"], resolution: int) -> Int64[Tensor, " n"]:
    """Of nodes, in their order; blocks may reach beyond the lattice."""
    side = resolution + SIDE + 1
    return (nodes[:, 0] * side + nodes[:, 1]) * side + nodes[:, 2]


def _cut(
    lattice: Lattice,
    corners: Int64[Tensor, "blocks 3"],
    bisections: int,
    near: _NearLevel,
    placed: bool,
) -> tuple[_Part, _NearLevel]:
    """What lies in some blocks, and the values on their sides that others have to take over."""
    values, near = _values(lattice, corners, near)
    found = surfaces(values, lattice.level)
    nodes = (SIDE + 1) ** 3
    node, axis = found.keys // 4, found.keys % 4
    at = node % nodes
    within = torch.stack([at // (SIDE + 1) ** 2, at // (SIDE + 1) % (SIDE + 1), at % (SIDE + 1)], 1)
    origin = corners[node // nodes]
    begin = origin + within
    # On a side of its block: by the two axes across an edge; never what lies within a cell.
    across = torch.arange(3, device=axis.device) != axis[:, None]
    shared = (((within == 0) | (within == SIDE)) & across).any(1) & (axis < 3)
    position = found.position.double() + origin
    on_edge = axis < 3
    position[on_edge] = _bisect(
        lattice, begin[on_edge], axis[on_edge], found.ends[on_edge], bisections
    )
    vertices = (position / lattice.resolution).float()
    keys = 3 * _number(begin[shared], lattice.resolution) + axis[shared]
    along = (axis[:, None] == 3) | ~across
    place = (2 * begin + along).int() if placed else corners.new_zeros(0, 3).int()
    return _Part(vertices, found.corners.int(), shared, keys, place), near


def _values(
    lattice: Lattice, corners: Int64[Tensor, "blocks 3"], near: _NearLevel
) -> tuple[Float[Tensor, "blocks k k k"], _NearLevel]:
    resolution = lattice.resolution
    ticks = torch.arange(SIDE + 1, device=corners.device)
    x, y, z = (place[:, None] + ticks for place in corners.unbind(1))
    shape = (len(corners), *[SIDE + 1] * 3)
    inner = [(place > 0) & (place < resolution) for place in (x, y, z)]
    asked = inner[0][:, :, None, None] & inner[1][:, None, :, None] & inner[2][:, None, None, :]
    if lattice.asked is not None:
        asked = asked & lattice.asked((x, y, z))
    broadcast = torch.broadcast_tensors(
        x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]
    )
    if bool(asked.all()):
        points = torch.stack([(place / resolution).float() for place in broadcast], -1)
        values = _evaluate(lattice.field, points.view(-1, 3)).view(shape)
    else:
        points = torch.stack([(place[asked] / resolution).float() for place in broadcast], -1)
        values = torch.full(shape, lattice.unasked, device=corners.device)
        values[asked] = _evaluate(lattice.field, points)
    off = (values.clamp(-1e30, 1e30) - lattice.level).abs()
    on_side = torch.zeros(shape[1:], dtype=torch.bool, device=corners.device)
    for axis in range(3):
        on_side.select(axis, 0)[:] = on_side.select(axis, SIDE)[:] = True
    # What a field rounds by goes with its values: with the level, or what lies about a level of 0.
    scale = torch.where(asked, off, 0).amax((1, 2, 3), keepdim=True)
    if lattice.level:
        scale = torch.full_like(scale, abs(lattice.level))
    risky = asked & on_side & (off < NEAR * scale)
    if bool(risky.any()):
        nodes = torch.stack([place[risky] for place in broadcast], 1)
        values[risky], near = near.agreed(_number(nodes, resolution), values[risky])
    return values, near


def _welded(parts: list[_Part]) -> tuple[Mesh, Int32[Tensor, "places 3"]]:
    """One mesh, in which blocks share the vertices on their common sides. Empties the list."""
    keys = torch.cat([part.keys for part in parts])
    edges, number = keys.unique(return_inverse=True)
    # The first block that has a vertex places it.
    first = torch.full_like(edges, len(keys)).scatter_reduce(
        0, number, torch.arange(len(keys), device=keys.device), "amin"
    )
    count = len(edges) + sum(len(part.vertices) - len(part.keys) for part in parts)
    vertices = torch.empty(count, 3, device=keys.device)
    vertices[: len(edges)] = torch.cat([part.vertices[part.shared] for part in parts])[first]
    placed = any(len(part.place) for part in parts)
    places = torch.empty(count if placed else 0, 3, dtype=torch.int32, device=keys.device)
    if placed:
        places[: len(edges)] = torch.cat([part.place[part.shared] for part in parts])[first]
    drawn = sum(len(part.corners) for part in parts)
    faces = torch.empty(drawn, 3, dtype=torch.int64, device=keys.device)
    begun, seen, done = len(edges), 0, 0
    while parts:
        part = parts.pop(0)
        alone = ~part.shared
        own, mine = len(part.vertices) - len(part.keys), len(part.keys)
        place = torch.empty(len(part.vertices), dtype=torch.int64, device=keys.device)
        place[part.shared] = number[seen : seen + mine]
        place[alone] = torch.arange(begun, begun + own, device=keys.device)
        vertices[begun : begun + own] = part.vertices[alone]
        if placed:
            places[begun : begun + own] = part.place[alone]
        faces[done : done + len(part.corners)] = place[part.corners.long()]
        begun, seen, done = begun + own, seen + mine, done + len(part.corners)
    return Mesh(vertices, faces), places


def _bisect(
    lattice: Lattice,
    nodes: Int64[Tensor, "v 3"],
    axis: Int64[Tensor, " v"],
    ends: Float[Tensor, "v 2"],
    steps: int,
) -> Float64[Tensor, "v 3"]:
    """Places on edges, between brackets halved `steps` times, linear within the last bracket.

    Each stays on its edge, between a point inside and one outside, so connections stay true.
    """
    result = [nodes.new_zeros(0, 3).double()]
    for begin, along, both in _chunks(nodes, axis, ends):
        direction = torch.nn.functional.one_hot(along, 3).double()
        # An infinite value is merely large here: differences of values must stay numbers.
        low_value, high_value = both.double().clamp(-1e300, 1e300).unbind(1)
        rises = high_value > low_value
        low, high = torch.zeros_like(low_value), torch.ones_like(low_value)
        for _ in range(steps):
            middle = (low + high) / 2
            points = (begin + middle[:, None] * direction) / lattice.resolution
            value = _evaluate(lattice.field, points.float()).double()
            value = value.nan_to_num().clamp(-1e300, 1e300)
            beyond = (value > lattice.level) == rises
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            low_value = torch.where(beyond, low_value, value)
            high_value = torch.where(beyond, value, high_value)
        part = ((lattice.level - low_value) / (high_value - low_value)).clamp(
            _NEAREST, 1 - _NEAREST
        )
        place = (low + (high - low) * part).clamp(_NEAREST, 1 - _NEAREST)
        result.append(begin + place[:, None] * direction)
    return torch.cat(result)


def _chunks(*columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(column.split(CHUNK) for column in columns), strict=True)


def _evaluate(field: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    if not len(points):
        return points.new_zeros(0)
    with torch.no_grad():
        return torch.cat([field(part).to(points.dtype) for part in points.split(CHUNK)])

"""A field along given rays, as the functions that nerfacc's estimators and rendering call."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from polyfield.cuda.errors import InputError
from polyfield.fields.field import RadianceField, SurfaceField
from polyfield.fields.similarity import Similarity
from polyfield.render.cones import density_of
from polyfield.render.occupancy import OccupancyGrid


@dataclasses.dataclass(frozen=True, eq=False)
class FieldAlongRays:
    """Density and colour at intervals of rays: `sigma_fn` and `rgb_sigma_fn` for nerfacc.

    origins and directions [rays, 3], one of each a ray, none zero-length, on the field's device.
    to_field leads from their frame into the unit cube; without it they lie in the unit cube. grid:
    where it is off, nothing is there, as in our own views; outside the unit cube nothing is.
    Intervals reach from t_starts to t_ends, counted in lengths of the ray's direction: distance,
    where it is a unit vector. Packed, [samples], they come with the number of each one's ray;
    batched, [rays, samples], a row is a ray. Densities are those per t, so that density * (t_ends -
    t_starts) is the optical depth in any frame. Differentiable in the field's parameters and the
    rays, not in t. Raises InputError where shapes disagree.
    """

    field: RadianceField
    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    to_field: Similarity = dataclasses.field(default_factory=Similarity.identity)
    grid: OccupancyGrid | None = None

    def __post_init__(self) -> None:
        if self.origins.shape != self.directions.shape:
            got = f"origins {tuple(self.origins.shape)}, directions {tuple(self.directions.shape)}"
            raise InputError("FieldAlongRays", got, "both [rays, 3]")

    def sigma_fn(
        self,
        t_starts: Float[Tensor, "*intervals"],
        t_ends: Float[Tensor, "*intervals"],
        ray_indices: Int[Tensor, " samples"] | None = None,
    ) -> Float[Tensor, "*intervals"]:
        """Densities at the middles of intervals, or over them, at least 0, in 1 / t.

        For OccGridEstimator packed, for PropNetEstimator, which gives two arguments, batched.
        """
        x, extent, ray, there, lengths, _ = self._points(t_starts, t_ends, ray_indices)
        density = density_of(self.field, x, extent)[0] * lengths[ray]
        return _spread(density, there).view(t_starts.shape)

    def rgb_sigma_fn(
        self,
        t_starts: Float[Tensor, "*intervals"],
        t_ends: Float[Tensor, "*intervals"],
        ray_indices: Int[Tensor, " samples"] | None = None,
    ) -> tuple[Float[Tensor, "*intervals 3"], Float[Tensor, "*intervals"]]:
        """Colours in [0, 1], black where nothing is, and densities, for `nerfacc.rendering`."""
        x, extent, ray, there, lengths, directions = self._points(t_starts, t_ends, ray_indices)
        density, features = density_of(self.field, x, extent)
        color = self.field.color(features, self.field.encode_directions(directions)[ray])
        density = _spread(density * lengths[ray], there)
        return _spread(color, there).view(*t_starts.shape, 3), density.view(t_starts.shape)

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density at points of the rays' frame, in 1 / unit of it.

        Times a step, in a column, it is what an estimator's occ_eval_fn returns.
        """
        x = self.to_field.apply(points)
        there = self._holds(x, torch.zeros_like(x[:, 0]))
        return _spread(self.field.density(x[there])[0] * self.to_field.scale, there)

    def _points(
        self, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor]:
        """Of intervals where something may be: middles in the unit cube, halves as vectors where
        the field wants them, rays, which of all.

        Then of every ray: what t counts in, in the unit cube, and its unit direction there.
        """
        every = self._ray_of(t_starts, t_ends, ray_indices)
        # Made anew each time: estimators ask without gradients first, rendering with them.
        directions = self.directions @ self.to_field.rotation.T.to(self.directions)
        norms = directions.norm(dim=1)
        directions, lengths = directions / norms[:, None], norms * self.to_field.scale
        first, last = t_starts.detach().reshape(-1), t_ends.detach().reshape(-1)
        middle = 0.5 * (first + last) * lengths[every]
        x = self.to_field.apply(self.origins)[every] + middle[:, None] * directions[every]
        there = self._holds(x.detach(), (last - first) * lengths.detach()[every])
        extent = None
        if isinstance(self.field, SurfaceField):
            half = 0.5 * (last - first) * lengths[every]
            extent = (half[:, None] * directions[every])[there]
        return x[there], extent, every[there], there, lengths, directions

    def _ray_of(self, t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor | None) -> Tensor:
        """The ray of every interval, flat."""
        if t_starts.shape != t_ends.shape:
            got = f"shapes {tuple(t_starts.shape)} and {tuple(t_ends.shape)}"
            raise InputError("t_starts and t_ends", got, "one shape")
        if ray_indices is not None:
            if t_starts.ndim != 1 or ray_indices.shape != t_starts.shape:
                got = f"shape {tuple(ray_indices.shape)} beside t of {tuple(t_starts.shape)}"
                raise InputError("ray_indices", got, "both [samples]")
            return ray_indices.long()
        rays = len(self.origins)
        if t_starts.ndim != 2 or len(t_starts) != rays:
            expected = f"[{rays}, samples], a row a ray, or [samples] with ray_indices"
            raise InputError("t_starts", f"shape {tuple(t_starts.shape)}", expected)
        each = torch.arange(rays, device=t_starts.device)
        return each.repeat_interleave(t_starts.shape[1])

    def _holds(self, x: Tensor, length: Tensor) -> Tensor:
        """Where something may be."""
        if self.grid is not None:
            return self.grid.holds(x, length)
        return ((x >= 0) & (x <= 1)).all(1)


def _spread(values: Tensor, there: Tensor) -> Tensor:
    """Values in the rows that are marked, 0 in the others."""
    everywhere = values.new_zeros(len(there), *values.shape[1:])
    return everywhere.index_put((there,), values)

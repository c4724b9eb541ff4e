"""Training a radiance field from posed images, one step at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.apps.depth_images import DepthImages
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import TURN_STEPS, ImageStore
from polyfield.apps.scene import Scene
from polyfield.apps.trained import Trained, check_tensors, part_of
from polyfield.apps.true_view import TrueView
from polyfield.apps.watched_view import watched_view
from polyfield.cuda.errors import InputError
from polyfield.fields.appearance import InLightOf
from polyfield.fields.coarse_to_fine import CoarseToFine
from polyfield.fields.field import AdaptiveEncoding, Gradual, RadianceField, SurfaceField
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.render.cameras import Cameras
from polyfield.render.cones import pixel_radius
from polyfield.render.hard_examples import HardPool, hardest
from polyfield.render.losses import Measured, color_error
from polyfield.render.matter import matter
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import (
    UPDATE_EVERY,
    OccupancyGrid,
    forget_unseen,
    step_generator,
    update_grid,
)
from polyfield.render.samplers import learn_rays
from polyfield.render.surface_losses import distance_error, points_of_space
from polyfield.render.volume import Sampling

FIRST_SAMPLES = 256  # of a ray, while every cell is occupied and nothing hides anything
RAYS = 16  # their number is a multiple of it
MOST_RAYS = 1 << 14
MOST_MARCHED = 8  # times the samples of a full batch: what is marched takes memory before it is cut
MANY_VIEWS = 8  # from which on a place that one view alone shows is taken for empty
HALVES = torch.tensor([[0.0, 0.0], [0.5, 0.5]])  # two points of a pixel, apart in both directions
DRAWS = 32  # of a batch's pixels, until enough of them are none that a mask ignores
HARD_RAYS = 5000  # that are remembered
FULL_BATCH = 1 << 14  # samples: a costly field's grid is looked at once in 16 such batches
DISTANCES = 1 << 11  # points a step whose slopes are looked at
COARSE, FINE = 1 / 32, 1 / 512  # of the unit cube, between which they are: any scale in turn


class Batch(NamedTuple):
    """Rays of a step, in the unit cube, and what the photographs show there."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    pixels: Float[Tensor, "rays channels"]
    background: Float[Tensor, "rays 3"]
    frames: Int64[Tensor, " rays"]
    points: Float[Tensor, "rays 2"]
    """Of the images, that rays go through."""


class RadianceTask:
    """Pixels of all training views against what the field shows: the task `train` gives the loop.

    A step's rays, backgrounds and jitter are functions of (seed, step). Where rays go through
    their pixels, `settings.pixel` says. The number of rays follows the samples that the last
    step could see, so that the batch of samples stays full.
    """

    def __init__(self, trained: Trained, scene: Scene, images: ImageStore, device: torch.device):
        self.trained, self.scene, self.images, self.device = trained, scene, images, device
        self.cameras = scene.cameras.transformed(trained.to_field).to(device)
        self.frames = scene.splits["train"]
        self.drawable, self.turn = self.frames, -1
        self.offered = set(self.frames.tolist()) if images.all_fit else set()
        """The frames that batches drew from so far."""
        self.watched: tuple[Cameras, TrueView] | None = None
        views = self.cameras.select(self.frames.to(device))
        forget_unseen(trained.grid, views, 2 if len(views) >= MANY_VIEWS else 1)
        self.depths = DepthImages(scene) if trained.settings.depth else None
        self.photograph = torch.zeros(len(scene.frame_names), dtype=torch.int64, device=device)
        self.photograph[self.frames.to(device)] = torch.arange(len(self.frames), device=device)
        self._check_photographs()
        self.width, self.height = scene.cameras.width, scene.cameras.height
        self.update_every = UPDATE_EVERY
        if trained.field.costly:
            self.update_every *= max(1, FULL_BATCH // trained.settings.samples_per_step)
        self.optimisers = {name: FieldOptimiser(part) for name, part in trained.parts.items()}
        for optimiser in self.optimisers.values():
            optimiser.to(device)
        self.rays = max(RAYS, trained.settings.samples_per_step // FIRST_SAMPLES // RAYS * RAYS)
        self.hard: HardPool | None = None
        """Frames and points of rays that were wrong, in files of a run part of the optimiser."""
        if trained.settings.hard_rays and images.all_fit:
            self.hard = HardPool(torch.zeros(HARD_RAYS, 3))
        self.drawn = torch.zeros(0, dtype=torch.int64)  # of them, those in the batch
        self.rays_per_pixel = 2 if trained.settings.pixel == "mean" else 1
        opaque = scene.backdrop is not None or not scene.has_alpha
        self.backdrop = torch.tensor(trained.settings.background) if opaque else None

    def _check_photographs(self) -> None:
        """InputError where a run has learned the light of other photographs than the scene has."""
        exposure, codes = self.trained.exposure, self.trained.field.codes
        for learned in (exposure.stops if exposure is not None else None, codes):
            if learned is not None and len(learned) != len(self.frames):
                got = f"{len(self.frames)} photographs to train on"
                expected = f"{len(learned)}, as when the run began"
                raise InputError(str(self.scene.folder), got, expected)

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        settings, grid = self.trained.settings, self.trained.grid
        for _, part in self.trained.field.named_modules():
            if isinstance(part, Gradual):
                part.at_step(step)
        if step % self.update_every == 0:
            field: RadianceField = self.trained.field
            followed = field.near_surface() if isinstance(field, SurfaceField) else field
            update_grid(grid, followed, settings.sampling.step, step, settings.seed)
        self._settle(step)
        for optimiser in self.optimisers.values():
            optimiser.clear()
        batch = self._batch(step)
        target, background = self._wanted(batch)
        seen, loss = learn_rays(
            self._field_of(batch),
            self.trained.guide,
            batch.origins,
            batch.directions,
            background.detach(),
            target.detach(),
            self._sampling_of(batch),
            seed=settings.seed,
            stream=step,
            rays_per_pixel=self.rays_per_pixel,
            loss_kind=settings.loss,
            distortion_weight=settings.distortion * rate,
            measured=self._measured(batch),
            thin=True,
        )
        if background.requires_grad or target.requires_grad:
            error = color_error(settings.loss, self.rays_per_pixel)
            behind = (1 - seen.opacity)[:, None] * (background - background.detach())
            error(seen.color + behind, target).backward()
        self._keep_hard(batch, (seen.color - target.detach()).abs().sum(1))
        loss = loss + self._distances(step)
        optimisers = self.optimisers.values()
        finite = bool(torch.isfinite(loss)) and all(each.finite() for each in optimisers)
        if finite:
            for optimiser in optimisers:
                optimiser.step(step, rate)
            if self.trained.exposure is not None:
                self.trained.exposure.center_()
        rays = len(batch.origins)
        wanted = rays * settings.samples_per_step / max(1, seen.samples_shaded)
        marched = rays * MOST_MARCHED * settings.samples_per_step / max(1, seen.samples_marched)
        wanted = min(wanted, marched, 2 * rays, MOST_RAYS)
        self.rays = max(RAYS, int(wanted) // RAYS * RAYS)
        return {
            "loss": float(loss),
            "samples": float(seen.samples_shaded),
            "marched": float(seen.samples_marched),
            "rays": float(rays),
            "finite": float(finite),
        }

    def _keep_hard(self, batch: Batch, errors: Float[Tensor, " rays"]) -> None:
        """Remembers where the field was most wrong, in place of what it was asked again."""
        if self.hard is not None:
            worst = hardest(errors, self.trained.settings.hard_rays)
            rays = torch.cat([batch.frames[worst, None].float(), batch.points[worst]], 1)
            self.hard.take(rays.cpu(), self.drawn)

    def _distances(self, step: int) -> Tensor:
        """What is wrong with distances as such; its gradients are left with the field."""
        settings, field = self.trained.settings, self.trained.field
        eikonal, curvature = settings.eikonal, settings.curvature
        if not isinstance(field, SurfaceField) or not (eikonal or curvature):
            return torch.zeros((), device=self.device)
        random = torch.rand(1, generator=step_generator(settings.seed, step))
        apart = COARSE * (FINE / COARSE) ** float(random)
        for _, part in field.named_modules():
            if isinstance(part, CoarseToFine):
                apart, curvature = part.cell, curvature * part.share
        x = points_of_space(self.trained.grid, DISTANCES, step, settings.seed)
        error = distance_error(field.signed_distances, x, apart, eikonal, curvature)
        error.backward()
        return error.detach()

    def _settle(self, step: int) -> None:
        """Puts encodings where there is something, in the step that they do so."""
        settings, field = self.trained.settings, self.trained.field
        for name, part in field.named_modules():
            if isinstance(part, AdaptiveEncoding) and part.settles_at == step:
                length = settings.sampling.step
                x, weights = matter(field, self.trained.grid, length, step, settings.seed)
                part.settle(
                    field.warp(x) if field.warp is not None else x,
                    weights,
                    step_generator(settings.seed, step),
                )
                self.optimisers["field"].forget(name)

    def _sampling_of(self, batch: Batch) -> Sampling:
        """Rays as lines, or as the cones behind their pixels where the field is seen so."""
        sampling = self.trained.settings.sampling
        if not self.trained.field.cones:
            return sampling
        return replace(sampling, pixel=pixel_radius(self.cameras.focal[batch.frames]))

    def _field_of(self, batch: Batch) -> RadianceField:
        """The field in the light of the batch's photographs."""
        field = self.trained.field
        if field.codes is None:
            return field
        return InLightOf(field, field.codes, self.photograph[batch.frames])

    def _measured(self, batch: Batch) -> Measured | None:
        """How far the rays go, by the depth images."""
        if self.depths is None:
            return None
        frames = batch.frames.cpu()
        sizes = torch.stack([self.width[frames], self.height[frames]], 1)
        depth = self.depths.gather(frames, batch.points.cpu(), sizes).to(self.device)
        forward = self.cameras.camera_to_world[batch.frames, :, 2]
        along = (batch.directions * forward).sum(1)
        # At the rim of a fisheye, and behind, a depth along the axis says next to nothing.
        known = along > 0.1
        distance = depth * self.trained.to_field.scale / along.where(known, 1.0)
        return Measured(distance.where(known, 0.0), self.trained.settings.depth)

    def _wanted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Colours [rays, 3] that rays should show, and what lies behind the field along them.

        With gradients to what is learned beside it.
        """
        background = batch.background
        if self.trained.environment is not None:
            background = self.trained.environment(batch.directions)
        target = batch.pixels[:, :3]
        if self.trained.exposure is not None:
            target = self.trained.exposure(target, self.photograph[batch.frames])
        if batch.pixels.shape[1] == 4:
            opacity = batch.pixels[:, 3:]
            target = target * opacity + background.detach() * (1 - opacity)
        return target, background

    def _batch(self, step: int) -> Batch:
        random = step_generator(self.trained.settings.seed, step)
        drawable = self.frames
        if not self.images.all_fit:
            turn = step // TURN_STEPS
            if turn != self.turn:
                self.drawable, self.turn = self.images.turn_to(turn, self.frames), turn
                self.offered.update(self.drawable.tolist())
            drawable = self.drawable
        count = self.rays // self.rays_per_pixel
        frames, point = self._points(drawable, count, random)
        if self.hard is not None:
            self.drawn = self.hard.draw(int(self.trained.settings.hard_rays * count), random)
            rows = self.hard.rows[self.drawn]
            frames[: len(rows)], point[: len(rows)] = rows[:, 0].long(), rows[:, 1:]
        background = torch.rand(count, 3, generator=random)
        if self.backdrop is not None:
            background = self.backdrop.expand(count, 3)
        column, row = point.long().unbind(1)
        pixels = self.images.gather(frames, row, column)
        if self.trained.settings.pixel == "centre":
            point = point.floor() + 0.5
        elif self.trained.settings.pixel == "mean":
            frames, background, pixels = (
                tensor.repeat_interleave(2, 0) for tensor in (frames, background, pixels)
            )
            inside = (point.remainder(1)[:, None] + HALVES).remainder(1)
            point = (point.floor()[:, None] + inside).view(-1, 2)
        frames, point = frames.to(self.device), point.to(self.device)
        origins, directions = self.cameras.rays(frames, point)
        pixels = pixels.to(self.device) / 255
        return Batch(origins, directions, pixels, background.to(self.device), frames, point)

    def _points(
        self, drawable: Tensor, count: int, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Frames, and points of their images, of pixels that no mask ignores."""
        frames, point = self._any_points(drawable, count, random)
        if not self.images.ignoring:
            return frames, point
        found: list[tuple[Tensor, Tensor]] = []
        enough = 0
        for _ in range(DRAWS):
            column, row = point.long().unbind(1)
            kept = self.images.kept(frames, row, column)
            found.append((frames[kept], point[kept]))
            enough += len(found[-1][0])
            if enough >= count:
                break
            frames, point = self._any_points(drawable, count, random)
        if not enough:
            return self._rare_points(count, random)
        frames, point = (torch.cat(parts) for parts in zip(*found, strict=True))
        # Where masks leave next to nothing, some pixels come twice.
        again = torch.arange(count) % enough
        return frames[again], point[again]

    def _any_points(
        self, drawable: Tensor, count: int, random: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        frames = drawable[torch.randint(len(drawable), (count,), generator=random)]
        place = torch.rand(count, 2, generator=random)
        # A uniform place in the image is a uniform pixel and a uniform point of it at once.
        size = torch.stack([self.width[frames], self.height[frames]], 1)
        return frames, torch.minimum(place * size, size - 1e-3)

    def _rare_points(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """As above, of the first view, from a random one on, that has any such pixel."""
        first = int(torch.randint(len(self.frames), (), generator=random))
        for frame in self.frames.roll(-first).tolist():
            places = self.images.kept_image(frame).nonzero()
            if len(places):
                chosen = places[torch.randint(len(places), (count,), generator=random)]
                inside = torch.rand(count, 2, generator=random) * 0.999
                return torch.full((count,), frame), chosen.flip(1) + inside
        raise InputError("masks", "ignore every pixel of all training views", "something to see")

    def validate(self, step: int) -> dict[str, float]:
        """PSNR in dB of the first held-out view of which masks leave something, one ray a pixel.

        Of a large view every third, fifth, ... pixel a side is looked at, see `watched_view`.
        """
        if self.watched is None:
            background = self.trained.settings.background
            self.watched = watched_view(self.scene, self.images, self.cameras, background)
        camera, truth = self.watched
        color = self.trained.color(camera, 0, samples_per_pixel=1)
        return {
            "psnr": psnr_8bit(color, truth.color, truth.kept),
            "occupied": self.trained.grid.occupied,
        }

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on."""
        grid = self.trained.grid
        tensors: dict[str, Tensor] = {}
        for name, part in self.trained.parts.items():
            tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
            moments = self.optimisers[name].moments
            tensors |= {f"optimiser.{name}.{key}": value for key, value in moments.items()}
        tensors |= {"grid.values": grid.values, "grid.bits": grid.bits}
        if self.hard is None:
            return tensors, {"rays": self.rays}
        tensors |= {"optimiser.hard_rays": self.hard.rows}
        return tensors, {"rays": self.rays, "hard_rays": self.hard.held}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        check_tensors(tensors, self.state()[0], "state")
        rays = Fields("state", values).whole("rays", RAYS, MOST_RAYS)
        hard = self._hard_of(tensors, values)
        for name, part in self.trained.parts.items():
            part.load_state_dict(part_of(tensors, f"{name}."))
            optimiser = self.optimisers[name]
            for key, moment in optimiser.moments.items():
                moment.copy_(tensors[f"optimiser.{name}.{key}"])
            optimiser.clear()
        grid = self.trained.grid
        self.trained.grid = OccupancyGrid(
            tensors["grid.values"].to(self.device, copy=True),
            tensors["grid.bits"].to(self.device, copy=True),
            grid.resolution,
        )
        self.rays = rays
        self.hard = hard

    def _hard_of(self, tensors: dict[str, Tensor], values: dict) -> HardPool | None:
        """The hard rays of a state. InputError for any that go through no pixel."""
        if self.hard is None:
            return None
        held = Fields("state", values).whole("hard_rays", 0, HARD_RAYS)
        rows = tensors["optimiser.hard_rays"].clone()
        frames = rows[:, 0].clamp(0, len(self.scene.frame_names) - 1).long()
        size = torch.stack([self.width[frames], self.height[frames]], 1)
        sound = (rows[:, 0] == frames) & ((rows[:, 1:] >= 0) & (rows[:, 1:] < size)).all(1)
        if not bool(sound.all()):
            where = "state: tensor 'optimiser.hard_rays'"
            raise InputError(where, "points beside their images", "points within them")
        return HardPool(rows, held)

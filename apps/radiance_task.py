"""Training a radiance field from posed images, one step at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import ImageStore
from polyfield.apps.scene import Scene
from polyfield.apps.trained import Color, Trained, check_tensors, part_of
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import (
    UPDATE_EVERY,
    OccupancyGrid,
    forget_unseen,
    step_generator,
    update_grid,
)
from polyfield.render.samplers import learn_rays

FIRST_SAMPLES = 256  # of a ray, while every cell is occupied and nothing hides anything
RAYS = 16  # their number is a multiple of it
MOST_RAYS = 1 << 14
MOST_MARCHED = 8  # times the samples of a full batch: what is marched takes memory before it is cut
MANY_VIEWS = 8  # from which on a place that one view alone shows is taken for empty
HALVES = torch.tensor([[0.0, 0.0], [0.5, 0.5]])  # two points of a pixel, apart in both directions
FULL_BATCH = 1 << 14  # samples: the grid is looked at once in 16 such batches, or as many samples
WINDOW_STEPS = 64  # between two changes of the resident images, where not all fit


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
        views = self.cameras.select(self.frames.to(device))
        forget_unseen(trained.grid, views, 2 if len(views) >= MANY_VIEWS else 1)
        self.width, self.height = scene.cameras.width, scene.cameras.height
        self.optimiser = FieldOptimiser(trained.field)
        self.optimiser.to(device)
        self.proposal_optimiser = None
        if trained.proposal is not None:
            self.proposal_optimiser = FieldOptimiser(trained.proposal)
            self.proposal_optimiser.to(device)
        self.rays = max(RAYS, trained.settings.samples_per_step // FIRST_SAMPLES // RAYS * RAYS)
        self.rays_per_pixel = 2 if trained.settings.pixel == "mean" else 1
        held_out = scene.splits.get("val", scene.splits.get("test", self.frames))
        self.held_out = int(held_out[0]) if len(held_out) else int(self.frames[0])
        opaque = scene.backdrop is not None
        self.backdrop = torch.tensor(trained.settings.background) if opaque else None

    def step(self, step: int, rate: float) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        settings, grid = self.trained.settings, self.trained.grid
        if step % (UPDATE_EVERY * max(1, FULL_BATCH // settings.samples_per_step)) == 0:
            update_grid(grid, self.trained.field, settings.sampling.step, step, settings.seed)
        origins, directions, pixels, background = self._batch(step)
        target = pixels[:, :3]
        if pixels.shape[1] == 4:
            target = target * pixels[:, 3:] + background * (1 - pixels[:, 3:])
        optimisers = [self.optimiser]
        if self.proposal_optimiser is not None:
            optimisers.append(self.proposal_optimiser)
        for optimiser in optimisers:
            optimiser.clear()
        seen, loss = learn_rays(
            self.trained.field,
            self.trained.guide,
            origins,
            directions,
            background,
            target,
            settings.sampling,
            seed=settings.seed,
            stream=step,
            rays_per_pixel=self.rays_per_pixel,
            loss_kind=settings.loss,
            distortion_weight=settings.distortion,
        )
        finite = bool(torch.isfinite(loss)) and all(each.finite() for each in optimisers)
        if finite:
            for optimiser in optimisers:
                optimiser.step(step, rate)
        rays = len(origins)
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

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        random = step_generator(self.trained.settings.seed, step)
        drawable = self.frames
        if not self.images.all_fit:
            drawable = self.images.frames_resident(step // WINDOW_STEPS, self.frames)
            self.images.load(drawable)
        count = self.rays // self.rays_per_pixel
        frames = drawable[torch.randint(len(drawable), (count,), generator=random)]
        place = torch.rand(count, 2, generator=random)
        background = torch.rand(count, 3, generator=random)
        if self.backdrop is not None:
            background = self.backdrop.expand(count, 3)
        # A uniform place in the image is a uniform pixel and a uniform point of it at once.
        size = torch.stack([self.width[frames], self.height[frames]], 1)
        point = torch.minimum(place * size, size - 1e-3)
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
        return origins, directions, pixels.to(self.device) / 255, background.to(self.device)

    def validate(self, step: int) -> dict[str, float]:
        """PSNR in dB of one held-out view, one ray a pixel."""
        view = self.trained.view(self.cameras, self.held_out, samples_per_pixel=1)
        truth = shown_image(self.images.image(self.held_out), self.trained.settings.background)
        return {
            "psnr": psnr_8bit(view.color.cpu(), truth),
            "occupied": self.trained.grid.occupied,
        }

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on."""
        grid = self.trained.grid
        tensors = {f"field.{k}": v for k, v in self.trained.field.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.optimiser.moments.items()}
        if self.trained.proposal is not None and self.proposal_optimiser is not None:
            moments = self.proposal_optimiser.moments
            tensors |= {f"proposal.{k}": v for k, v in self.trained.proposal.state_dict().items()}
            tensors |= {f"optimiser.proposal.{k}": v for k, v in moments.items()}
        tensors |= {"grid.values": grid.values, "grid.bits": grid.bits}
        return tensors, {"rays": self.rays}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        check_tensors(tensors, self.state()[0], "state")
        rays = Fields("state", values).whole("rays", RAYS, MOST_RAYS)
        self.trained.field.load_state_dict(part_of(tensors, "field."))
        for name, moment in self.optimiser.moments.items():
            moment.copy_(tensors[f"optimiser.{name}"])
        if self.trained.proposal is not None and self.proposal_optimiser is not None:
            self.trained.proposal.load_state_dict(part_of(tensors, "proposal."))
            for name, moment in self.proposal_optimiser.moments.items():
                moment.copy_(tensors[f"optimiser.proposal.{name}"])
            self.proposal_optimiser.clear()
        grid = self.trained.grid
        self.trained.grid = OccupancyGrid(
            tensors["grid.values"].to(self.device, copy=True),
            tensors["grid.bits"].to(self.device, copy=True),
            grid.resolution,
        )
        self.optimiser.clear()
        self.rays = rays


def shown_image(
    pixels: UInt8[Tensor, "height width channels"], background: Color
) -> Float[Tensor, "height width 3"]:
    """An sRGB image of 3 channels, or of 4 with straight alpha, in [0, 1] on a background."""
    image = pixels.float() / 255
    if image.shape[-1] == 3:
        return image
    return image[..., :3] * image[..., 3:] + torch.tensor(background) * (1 - image[..., 3:])

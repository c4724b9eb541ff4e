"""Training a field of rays on what a teacher shows, and on where along rays it shows it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from polyfield.apps.images import ImageStore
from polyfield.apps.point_teacher import PointTeacher
from polyfield.apps.scene import Scene
from polyfield.apps.shown import Shown
from polyfield.apps.trained import check_tensors, orbit_cameras, part_of
from polyfield.apps.trained_rays import PIECE, TrainedRays
from polyfield.apps.true_view import TrueView
from polyfield.apps.watched_view import watched_view
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.ray_distribution import SHORTEST
from polyfield.render.cameras import Cameras
from polyfield.render.learning import density_in_pieces
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import step_generator

PROFILED = 1 / 16  # of a step's rays, along which the teacher is asked
FINER = 4  # points of the teacher for a sample of the student
LOOKS, LOOK_PIXELS = 32, 64  # views that a box is found by, and their longer side
RARE = 1e-3  # of the places met, that a side of the box leaves out
MARGIN = 0.03  # of the cube's side, about it
PROFILE = 0.02  # weight of the error of weights along a ray


class Rays(NamedTuple):
    """Rays of a step, in the unit cube, and what the teacher shows there on their backgrounds."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]
    near: Float[Tensor, " rays"]
    far: Float[Tensor, " rays"]
    wanted: Float[Tensor, "rays 3"]
    background: Float[Tensor, "rays 3"]


class RayTask:
    """Rays of a teacher's views against what a field of rays shows: a task for the loop.

    A step's rays, backgrounds, points and samples are functions of (seed, step). Where points of
    the teacher have a density, the weights of a part of the rays are learned as well.
    """

    def __init__(
        self,
        trained: TrainedRays,
        scene: Scene,
        images: ImageStore,
        teacher: PointTeacher | None,
    ):
        self.trained, self.scene, self.images = trained, scene, images
        self.device = trained.device
        self.cameras = scene.cameras.transformed(trained.to_field).to(self.device)
        self.frames = scene.splits["train"]
        self.offered = set(self.frames.tolist())
        """The frames that batches draw from."""
        self.width, self.height = scene.cameras.width, scene.cameras.height
        self.watched: tuple[Cameras, TrueView] | None = None
        self.teacher = teacher
        self.optimiser = FieldOptimiser(trained.field)
        self.optimiser.to(self.device)

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`. Rays that miss the field's box teach nothing."""
        field, random = self.trained.field, step_generator(self.trained.settings.seed, step)
        count = self.trained.settings.samples_per_step
        rays = self._rays(count, random)
        places = int(torch.randint(2**31, (), generator=random))  # of samples, alike in all pieces
        self.optimiser.clear()
        loss = torch.zeros((), device=self.device)
        for first in range(0, len(rays.origins), PIECE):
            part = Rays(*(tensor[first : first + PIECE] for tensor in rays))
            coefficients = field(part.origins, part.directions, part.near, part.far, random)
            asked = int(len(part.origins) * PROFILED) if self.teacher is not None else 0
            samples = torch.Generator().manual_seed(places)
            seen = field.seen(coefficients, samples)
            shown = seen.color + (1 - seen.opacity)[:, None] * part.background
            error = (shown - part.wanted).square().sum() / (3 * count)
            if asked:
                few = Rays(*(tensor[:asked] for tensor in part))
                off = self._profile_error(few, coefficients[:asked])
                error = error + PROFILE * off / (PROFILED * count)
            error.backward()
            loss += error.detach()
        finite = bool(loss.isfinite()) and self.optimiser.finite()
        if finite:
            self.optimiser.step(step, rate)
        found = {"loss": float(loss), "samples": float(len(rays.origins)), "rays": float(count)}
        return found | {"finite": float(finite)}

    def _rays(self, count: int, random: torch.Generator) -> Rays:
        """Of random pixels of all views, those that meet the field's box."""
        frames = self.frames[torch.randint(len(self.frames), (count,), generator=random)]
        place = torch.rand(count, 2, generator=random)
        background = torch.rand(count, 3, generator=random).to(self.device)
        size = torch.stack([self.width[frames], self.height[frames]], 1)
        column, row = (place * size).long().minimum(size - 1).unbind(1)
        pixels = self.images.gather(frames, row, column).to(self.device) / 255
        points = torch.stack([column, row], 1).to(self.device) + 0.5
        origins, directions = self.cameras.rays(frames.to(self.device), points)
        near, far = self.trained.field.bounds(origins, directions)
        opacity = pixels[:, 3:]
        wanted = pixels[:, :3] * opacity + background * (1 - opacity)
        found = Rays(origins, directions, near, far, wanted, background)
        hit = torch.nonzero(far - near > SHORTEST)[:, 0]
        return Rays(*(tensor[hit] for tensor in found))

    def _profile_error(self, rays: Rays, coefficients: Tensor) -> Float[Tensor, ""]:
        """Squared errors of weights, summed over rays: of samples in the middles of equal parts."""
        field, teacher = self.trained.field, self.teacher
        if teacher is None:
            return coefficients.new_zeros(())
        own = field.seen(coefficients, weights=True).weights
        wanted = teacher_weights(teacher, rays, field.sizes.samples)
        return coefficients.new_zeros(()) if own is None else (own - wanted).square().sum()

    def validate(self, step: int) -> dict[str, float]:
        """PSNR in dB of the first held-out view of the teacher."""
        if self.watched is None:
            background = self.trained.settings.background
            self.watched = watched_view(self.scene, self.images, self.cameras, background)
        camera, truth = self.watched
        return {"psnr": psnr_8bit(self.trained.color(camera, 0), truth.color, truth.kept)}

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on, the teacher left aside."""
        tensors = {f"field.{k}": v for k, v in self.trained.field.state_dict().items()}
        return tensors | {f"optimiser.{k}": v for k, v in self.optimiser.moments.items()}, {}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this field's."""
        check_tensors(tensors, self.state()[0], "state")
        self.trained.field.load_state_dict(part_of(tensors, "field."))
        for key, moment in self.optimiser.moments.items():
            moment.copy_(tensors[f"optimiser.{key}"])
        self.optimiser.clear()


@torch.no_grad()
def teacher_weights(
    teacher: PointTeacher, rays: Rays, samples: int
) -> Float[Tensor, "rays {samples}"]:
    """How much of what is seen along rays a teacher has in each of so many equal parts of them.

    The parts are those of the student's interval; in each FINER points are asked.
    """
    count = samples * FINER
    share = (torch.arange(count, device=rays.near.device) + 0.5) / count
    length = (rays.far - rays.near)[:, None]
    along = rays.near[:, None] + length * share
    x = (rays.origins[:, None] + along[..., None] * rays.directions[:, None]).view(-1, 3)
    density = torch.zeros_like(x[:, 0])
    there = torch.arange(len(x), device=x.device)
    if teacher.hides_off_cells:
        there = torch.nonzero(teacher.grid.holds(x))[:, 0]
    if len(there):
        density[there] = density_in_pieces(teacher.field, x[there])
    depth = density.view(-1, count) * length / count
    light = torch.exp(-depth.cumsum(1))
    after = light.view(-1, samples, FINER)[:, :, -1]
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    return before - after


@torch.no_grad()
def box_of(teacher: Shown) -> Float[Tensor, "2 3"]:
    """A box about what the views of a teacher meet, in the unit cube; all of it if that is nothing.

    The shorter a ray's interval is, the finer is what a series of so many coefficients draws: of
    lego's views 21.6 dB against 20.1 in the whole cube, after a minute of one core each. Found
    by small views from where the teacher learned, so that it holds for a teacher of any kind; what
    is as rare as floaters is left out.
    """
    poses = torch.tensor(teacher.settings.orbit["camera_to_world"])
    poses = poses[torch.linspace(0, len(poses) - 1, min(len(poses), LOOKS)).long()]
    width, height = teacher.settings.orbit["size"]
    side = LOOK_PIXELS / max(width, height)
    size = max(1, round(side * width)), max(1, round(side * height))
    cameras = orbit_cameras(teacher.settings, poses, size).to(teacher.device)
    met = []
    for index in range(len(poses)):
        view = teacher.view(cameras, index)
        row, column = torch.nonzero(view.opacity > 0.5).unbind(1)
        camera = torch.full_like(row, index)
        origins, directions = cameras.rays(camera, torch.stack([column, row], 1) + 0.5)
        met.append((origins + view.depth[row, column, None] * directions).cpu())
    places = torch.cat(met)
    if not len(places):
        return torch.stack([torch.zeros(3), torch.ones(3)])
    ordered = places.sort(0).values
    rare = int(RARE * len(places))
    low, high = ordered[rare], ordered[len(places) - 1 - rare]
    return torch.stack([low - MARGIN, high + MARGIN]).clamp(0, 1)

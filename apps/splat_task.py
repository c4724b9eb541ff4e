"""Training Gaussians from posed images, one whole view at a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import Parameter

from polyfield.apps.depth_images import DepthImages
from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import ImageStore
from polyfield.apps.scene import Scene
from polyfield.apps.splat_photographs import Photographs
from polyfield.apps.train_options import Densify
from polyfield.apps.trained import check_tensors, part_of
from polyfield.apps.trained_splats import TrainedSplats, arguments_of_splats, read_splats_state
from polyfield.apps.true_view import TrueView
from polyfield.apps.watched_view import watched_view
from polyfield.cuda.errors import InputError
from polyfield.cuda.ssim import image_error
from polyfield.fields.agreement import Agreement
from polyfield.fields.clone_and_split import CloneAndSplit
from polyfield.fields.densification import Densification, Look, Moment, Relocation
from polyfield.fields.gaussians import (
    GaussianArguments,
    GaussianOptimiser,
    GaussianRates,
    Gaussians,
    gaussians_at,
)
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.splats import Splats
from polyfield.render.cameras import Cameras
from polyfield.render.light import Light
from polyfield.render.metrics import psnr_8bit
from polyfield.render.occupancy import step_generator
from polyfield.render.pose_refinement import held_out_pixels
from polyfield.render.splats import SplatView, light_on, splat_view

MATTE = 0.1  # weight of the error of opacities, where photographs have alpha
BANDS = (0.1, 0.4, 0.7)  # of training, when one more band of the harmonics opens
USUAL_STEPS = 30_000
QUICKEST = 1.6  # times the usual rates, that shorter runs have
SETTLING, SETTLED = 0.9, 0.3  # from which part of training on rates are that much smaller
WRONG = 0.1  # mean absolute error over channels, from which on a view is wrong
POSED = 0.05  # of training, before which Gaussians say nothing about poses
JUDGED = 4  # a photograph's pose is judged whenever it has been taken so many times
TRIED, COUNTED = 6, 4  # steps that say how long a step takes; of them, those that count
USUAL_COST = 0.85  # of a step at the largest number of Gaussians and pixels, over a whole run


def densification(optimiser: GaussianOptimiser, kind: Densify, most: int) -> Densification:
    """The way of that name to change their number, up to `most`."""
    if kind == "mcmc":
        return Relocation(optimiser, most)
    if kind == "multi-view":
        return Agreement(optimiser, most)
    return CloneAndSplit(optimiser, most, absolute=kind == "absgrad")


class SplatTask:
    """Views of Gaussians against photographs: the task `train` gives the loop.

    A step's photograph and background are functions of (seed, step); its size in pixels, which
    bands there are and the rates follow from the part of the planned steps that is done.
    """

    def __init__(
        self, trained: TrainedSplats, scene: Scene, images: ImageStore, device: torch.device
    ):
        self.trained, self.scene, self.images, self.device = trained, scene, images, device
        self.cameras = scene.cameras.transformed(trained.to_field).to(device)
        self.frames = scene.splits["train"]
        seed, scale = trained.settings.seed, trained.to_field.scale
        self.photographs = Photographs(images, self.cameras, self.frames, seed, scale)
        self.photograph = {frame: index for index, frame in enumerate(self.frames.tolist())}
        self.watched: tuple[Cameras, TrueView] | None = None
        self.optimiser = GaussianOptimiser(trained.gaussians, GaussianRates(), trained.extent)
        arguments = arguments_of_splats(trained.settings, "settings")
        self.degree = arguments.degree
        self.densify = densification(self.optimiser, trained.settings.densify, arguments.splats)
        self.beside = {name: FieldOptimiser(part) for name, part in trained.beside.items()}
        self.depths = DepthImages(scene) if trained.settings.depth else None
        self._check_photographs()
        opaque = scene.backdrop is not None or not scene.has_alpha
        self.backdrop = torch.tensor(trained.settings.background) if opaque else None

    @property
    def offered(self) -> set[int]:
        """The frames that steps drew from so far."""
        return self.photographs.offered

    @property
    def behind(self) -> Float[Tensor, " 3"]:
        """What photographs are looked at on: their own background, grey behind transparent ones."""
        return torch.full((3,), 0.5) if self.backdrop is None else self.backdrop

    def _check_photographs(self) -> None:
        """InputError where a run has learned of other photographs than the scene has."""
        settings = self.trained.settings
        for count in (settings.exposures, settings.poses):
            if count not in (0, len(self.frames)):
                got = f"{len(self.frames)} photographs to train on"
                raise InputError(str(self.scene.folder), got, f"{count}, as when the run began")

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        settings = self.trained.settings
        planned = planned or USUAL_STEPS
        progress = min(1.0, step / planned)
        random = step_generator(settings.seed, step)
        frame = self.photographs.frame(step)
        background = torch.rand(3, generator=random) if self.backdrop is None else self.backdrop
        coarser = self.photographs.coarser(frame, progress)
        picture = self.photographs.picture(frame, coarser)
        camera, kept = picture.camera, picture.kept
        if self.trained.poses is not None:
            self._judge(step, frame, progress)
            camera = self._refined(camera, frame, progress)
        view = self._view(camera, background, progress)
        color = self._exposed(view, frame, background)
        target, matte = picture.on(background)
        if kept is not None:  # of what is left out windows of SSIM beside it see nothing either
            color, target = color * kept[..., None], target * kept[..., None]
        opacity = view.opacity
        if self.trained.poses is not None:
            held = held_out_pixels(*target.shape[:2]).to(self.device)
            color = torch.where(held[..., None], target, color)
            opacity = opacity if matte is None else torch.where(held, matte, opacity)
        loss = image_error(color[None], target[None])
        if matte is not None:
            off = (opacity - matte).abs()
            loss = loss + MATTE * (off if kept is None else off * kept).mean()
        if self.depths is not None and view.depth is not None:
            measured = self.photographs.measured(self.depths, camera, frame, coarser)
            loss = loss + self.trained.settings.depth * self._depth_error(view, measured)
        loss.backward()
        finite = bool(loss.isfinite()) and self._gradients_finite()
        if finite:
            self._improve(view, camera, step, progress, rate, planned, random)
        self._clear()
        return {
            "loss": float(loss.detach()),
            "samples": float(len(view.seen.rows)),
            "rays": float(target.shape[0] * target.shape[1]),
            "gaussians": float(len(self.trained.gaussians)),
            "finite": float(finite),
        }

    def seconds_a_step(self) -> float:
        """What a step will take on the whole, found with as many Gaussians as there may be.

        Nothing of the training state is changed.
        """
        settings = self.trained.settings
        arguments = arguments_of_splats(settings, "settings")
        trial = TrainedSplats(
            settings,
            Gaussians(_as_many(self.trained.gaussians, arguments)).to(self.device),
            self.trained.to_field,
            deepcopy(self.trained.exposure),
            deepcopy(self.trained.poses),
        )
        task = SplatTask(trial, self.scene, self.images, self.device)
        times = []
        for number in range(TRIED):
            begin = time.monotonic()
            task.step(USUAL_STEPS // 2 + 1 + number, 1e-3, USUAL_STEPS)
            times.append(time.monotonic() - begin)
        return USUAL_COST * sum(sorted(times)[:COUNTED]) / COUNTED

    def _improve(
        self,
        view: SplatView,
        camera: Cameras,
        step: int,
        progress: float,
        rate: float,
        planned: int,
        random: Generator,
    ) -> None:
        """The optimiser's step, then what there is to do about the number of Gaussians."""
        half = torch.tensor([int(camera.width), int(camera.height)], device=self.device) / 2
        slopes = view.seen.means2d.grad
        absolute = None if view.spread is None else view.spread.grad
        if slopes is not None:
            spread = None if absolute is None else absolute * half
            self.densify.observe(view.seen.rows, slopes * half, spread)
        self.densify.pull()
        quicker = min(QUICKEST, max(1.0, USUAL_STEPS / planned) ** 0.5)
        settled = SETTLED if progress > SETTLING else 1.0
        self.optimiser.step(step + 1, progress, rate * quicker * settled)
        for name, optimiser in self.beside.items():
            optimiser.step(step, rate * settled)
            self.trained.beside[name].center_()
        self.densify.refine(Moment(step + 1, planned, random, self._looks))

    def _view(self, camera: Cameras, background: Tensor, progress: float) -> SplatView:
        degree = min(self.degree, sum(progress >= opens for opens in BANDS))
        view = splat_view(
            self.trained.gaussians,
            camera,
            0,
            background,
            degree,
            self.trained.near,
            absolute=self.densify.absolute,
            depth=self.depths is not None,
        )
        if view.seen.means2d.requires_grad:
            view.seen.means2d.retain_grad()
        return view

    def _refined(self, camera: Cameras, frame: int, progress: float) -> Cameras:
        """The camera where its photograph is found to have been taken; learned once there is what
        it can be found by."""
        poses = self.trained.poses
        if poses is None or progress < POSED:
            return camera
        moved = poses(camera.camera_to_world[0], self.photograph[frame])
        return replace(camera, camera_to_world=moved[None])

    @torch.no_grad()
    def _judge(self, step: int, frame: int, progress: float) -> None:
        """Now and then, whether a photograph's correction is one, by what was not trained on."""
        poses = self.trained.poses
        turn = step // len(self.frames)
        if poses is None or progress < POSED or turn % JUDGED:
            return
        picture = self.photographs.picture(frame, 1)
        camera, (target, _) = picture.camera, picture.on(self.behind)
        counted = held_out_pixels(*target.shape[:2]).to(self.device)
        if picture.kept is not None:
            counted = counted & picture.kept
        errors = []
        for pose in (poses.forward, poses.trusted):
            moved = pose(camera.camera_to_world[0], self.photograph[frame])
            view = self._view(replace(camera, camera_to_world=moved[None]), self.behind, progress)
            color = self._exposed(view, frame, self.behind)
            errors.append(float((color - target).abs()[counted].mean()))
        if not poses.judge_(self.photograph[frame], *errors):
            for moment in self.beside["poses"].moments.values():
                moment[self.photograph[frame]] = 0

    def _depth_error(
        self, view: SplatView, measured: Float[Tensor, "height width"]
    ) -> Float[Tensor, ""]:
        """Mean difference of inverse depths in inverse extents, where both are known."""
        if view.depth is None:
            return view.opacity.new_zeros(())
        known = (measured > 0) & (view.opacity > 0.5) & (view.depth > 0)
        off = 1 / torch.where(known, view.depth, 1) - 1 / torch.where(known, measured, 1)
        return self.trained.extent * (off.abs() * known).sum() / known.sum().clamp_min(1)

    def _exposed(
        self, view: SplatView, frame: int, background: Tensor
    ) -> Float[Tensor, "height width 3"]:
        """What the view shows in the light of its photograph."""
        exposure = self.trained.exposure
        if exposure is None:
            return view.color
        light = Light(exposure.stops[self.photograph[frame]], None, self.backdrop is not None)
        return light.on(view.color, view.opacity, background.to(view.color))

    def _looks(self, count: int, random: Generator) -> Iterator[Look]:
        """What photographs say of the Gaussians in them, see `densification.Looks`."""
        drawable = self.photographs.drawable
        order = torch.randperm(len(drawable), generator=random)[:count]
        for frame in drawable[order].tolist():
            picture = self.photographs.picture(frame, 1)
            camera = self._refined(picture.camera, frame, 1.0)
            with torch.no_grad():
                view = self._view(camera, self.behind, 1.0)
                color = self._exposed(view, frame, self.behind)
            target, _ = picture.on(self.behind)
            wrong = ((color - target).abs().mean(2) > WRONG).float()
            if picture.kept is not None:
                wrong = wrong * picture.kept
            marks = torch.stack([torch.ones_like(wrong), wrong], 2)
            yield Look(view.seen.rows, *light_on(view.seen, marks).unbind(1))

    def _gradients_finite(self) -> bool:
        found = [p.grad.sum() for p in self.trained.gaussians.parameters() if p.grad is not None]
        return not found or bool(torch.stack(found).isfinite().all())

    def _clear(self) -> None:
        for parameter in self.trained.gaussians.parameters():
            parameter.grad = None
        for optimiser in self.beside.values():
            optimiser.clear()

    def validate(self, step: int) -> dict[str, float]:
        """PSNR in dB of the first held-out view of which masks leave something."""
        if self.watched is None:
            background = self.trained.settings.background
            self.watched = watched_view(self.scene, self.images, self.cameras, background)
        camera, truth = self.watched
        color = self.trained.color(camera, 0)
        return {"psnr": psnr_8bit(color, truth.color, truth.kept)}

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """Everything a step depends on."""
        tensors = {f"gaussians.{k}": v for k, v in self.trained.gaussians.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in self.optimiser.moments.items()}
        tensors |= {f"densification.{k}": v for k, v in self.densify.state().items()}
        for name, part in self.trained.beside.items():
            tensors |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
            moments = self.beside[name].moments
            tensors |= {f"optimiser.{name}.{k}": v for k, v in moments.items()}
        return tensors, {"gaussians": len(self.trained.gaussians)}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned.

        InputError for what is none of this run's; then nothing has changed.
        """
        settings = self.trained.settings
        count = Fields("state", values).whole("gaussians", 0, 1 << 30)
        splats = read_splats_state(tensors, settings, "state")
        if splats.count != count:
            raise Fields("state", values).refuse("gaussians", f"{splats.count}, as there are")
        fresh = Gaussians(splats).to(self.device)
        known = {
            f"optimiser.{k}": torch.empty_like(getattr(fresh, k.rpartition(".")[0]))
            for k in self.optimiser.moments
        }
        for name, part in self.trained.beside.items():
            known |= {f"{name}.{k}": v for k, v in part.state_dict().items()}
            known |= {f"optimiser.{name}.{k}": v for k, v in self.beside[name].moments.items()}
        own = "gaussians.", "densification."
        others = {k: v for k, v in tensors.items() if not k.startswith(own)}
        check_tensors(others, known, "state")
        before = {name: getattr(self.trained.gaussians, name) for name in Gaussians.NAMES}
        self._hold({name: getattr(fresh, name) for name in Gaussians.NAMES})
        try:
            self.densify.restore(part_of(tensors, "densification."))
        except InputError:
            self._hold(before)
            raise
        adam = part_of(tensors, "optimiser.")
        for key in self.optimiser.moments:
            self.optimiser.moments[key] = adam[key].to(self.device, copy=True)
        for name, part in self.trained.beside.items():
            part.load_state_dict(part_of(tensors, f"{name}."))
            for key, moment in self.beside[name].moments.items():
                moment.copy_(adam[f"{name}.{key}"])
        self._clear()

    def _hold(self, parameters: dict[str, Parameter]) -> None:
        for name, parameter in parameters.items():
            setattr(self.trained.gaussians, name, parameter)


def _as_many(gaussians: Gaussians, arguments: GaussianArguments) -> Splats:
    """So many of the Gaussians again and again, nudged apart and as much narrower."""
    splats = gaussians.splats
    times = -(-arguments.splats // max(1, splats.count))
    random = Generator().manual_seed(0)
    rows = torch.arange(splats.count).repeat(times)[: arguments.splats]
    means = splats.means.cpu()[rows]
    width = splats.log_scales.cpu()[rows].exp() / 0.3  # as far as neighbours are
    means = means + width * (torch.rand(means.shape, generator=random) - 0.5)
    colors = 0.5 + torch.zeros_like(means)
    return gaussians_at(means, colors, arguments.degree, 0.3, 0.6)

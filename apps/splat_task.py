"""Training Gaussians from posed images, one whole view at a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn.functional import avg_pool2d

from polyfield.apps.formats.json_fields import Fields
from polyfield.apps.images import ImageStore
from polyfield.apps.radiance_task import TURN_STEPS
from polyfield.apps.scene import Scene
from polyfield.apps.trained import check_tensors, part_of
from polyfield.apps.trained_splats import TrainedSplats, arguments_of_splats, read_splats_state
from polyfield.apps.true_view import TrueView
from polyfield.apps.watched_view import watched_view
from polyfield.cuda.ssim import ssim
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
from polyfield.render.splats import SplatView, light_on, splat_view

STRUCTURE = 0.2  # of the loss, that SSIM has; the rest is the mean absolute error
MATTE = 0.1  # weight of the error of opacities, where photographs have alpha
COARSER = ((0.05, 4), (0.2, 2))  # up to these parts of training, pixels this many times as wide
FEWEST_PIXELS = 32  # a side, of a coarser view
BANDS = (0.1, 0.4, 0.7)  # of training, when one more band of the harmonics opens
USUAL_STEPS = 30_000
QUICKEST = 1.6  # times the usual rates, that shorter runs have
SETTLING, SETTLED = 0.9, 0.3  # from which part of training on rates are that much smaller
WRONG = 0.1  # mean absolute error over channels, from which on a view is wrong
TRIED, COUNTED = 6, 4  # steps that say how long a step takes; of them, those that count
USUAL_COST = 0.85  # of a step at the largest number of Gaussians and pixels, over a whole run


def densification(optimiser: GaussianOptimiser, kind: str, most: int) -> Densification:
    """The way of that name to change their number, up to `most`."""
    return Relocation(optimiser, most)


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
        self.drawable, self.turn = self.frames, -1
        self.offered = set(self.frames.tolist()) if images.all_fit else set()
        """The frames that steps drew from so far."""
        self.photograph = {frame: index for index, frame in enumerate(self.frames.tolist())}
        self.watched: tuple[Cameras, TrueView] | None = None
        self.optimiser = GaussianOptimiser(trained.gaussians, GaussianRates(), trained.extent)
        arguments = arguments_of_splats(trained.settings, "settings")
        self.degree = arguments.degree
        self.densify = densification(self.optimiser, trained.settings.densify, arguments.splats)
        self.exposing = None if trained.exposure is None else FieldOptimiser(trained.exposure)
        opaque = scene.backdrop is not None or not scene.has_alpha
        self.backdrop = torch.tensor(trained.settings.background) if opaque else None

    def step(self, step: int, rate: float, planned: int | None = None) -> dict[str, float]:
        """One optimisation step, see `task.Task`."""
        settings = self.trained.settings
        planned = planned or USUAL_STEPS
        progress = min(1.0, step / planned)
        random = step_generator(settings.seed, step)
        frame = self._frame(step)
        background = torch.rand(3, generator=random) if self.backdrop is None else self.backdrop
        camera, target, matte, kept = self._photograph(frame, self._coarser(frame, progress))
        view = self._view(camera, background, progress)
        color = self._exposed(view, frame, background)
        if kept is not None:
            color = torch.where(kept[..., None], color, target)
        if matte is not None:
            target = target + (1 - matte)[..., None] * background.to(target)
        loss = image_error(color, target)
        if matte is not None:
            off = (view.opacity - matte).abs()
            loss = loss + MATTE * (off if kept is None else off * kept).mean()
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
            self.trained.exposure,
        )
        task = SplatTask(trial, self.scene, self.images, self.device)
        task.exposing = None  # it is the run's own
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
        if self.exposing is not None and self.trained.exposure is not None:
            self.exposing.step(step, rate * settled)
            self.trained.exposure.center_()
        self.densify.refine(Moment(step + 1, planned, random, self._looks))

    def _frame(self, step: int) -> int:
        """The photograph of a step: all in turn, each time in another order."""
        seed = self.trained.settings.seed
        if self.images.all_fit:
            turn, place = divmod(step, len(self.frames))
            order = np.random.Generator(np.random.Philox(key=[seed, turn]))
            return int(self.frames[order.permutation(len(self.frames))[place]])
        turn = step // TURN_STEPS
        if turn != self.turn:
            self.drawable, self.turn = self.images.turn_to(turn, self.frames), turn
            self.offered.update(self.drawable.tolist())
        # A generator of its own: what else a step draws does not depend on the cache.
        random = np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, 0, 1]))
        return int(self.drawable[int(random.integers(len(self.drawable)))])

    def _coarser(self, frame: int, progress: float) -> int:
        smaller = min(self.scene.sizes[frame])
        for until, times in COARSER:
            if progress < until and smaller // times >= FEWEST_PIXELS:
                return times
        return 1

    def _photograph(
        self, frame: int, coarser: int
    ) -> tuple[
        Cameras,
        Float[Tensor, "height width 3"],
        Float[Tensor, "height width"] | None,
        Bool[Tensor, "height width"] | None,
    ]:
        """Camera, colours (times alpha, where there is one), alpha, and the pixels that count.

        In pixels as many times as wide.
        """
        camera = self.cameras.select(torch.tensor([frame], device=self.device))
        pixels = self.images.image(frame).to(self.device).float() / 255
        kept = self.images.kept_image(frame).to(self.device) if self.images.ignoring else None
        if pixels.shape[2] == 4:
            pixels = torch.cat([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], 2)
        if coarser > 1:
            pixels = _pooled(pixels, coarser)
            kept = None if kept is None else _pooled(kept[..., None].float(), coarser)[..., 0] == 1
            camera = replace(
                camera,
                focal=camera.focal / coarser,
                center=camera.center / coarser,
                width=camera.width // coarser,
                height=camera.height // coarser,
            )
        matte = pixels[..., 3].contiguous() if pixels.shape[2] == 4 else None
        return camera, pixels[..., :3].contiguous(), matte, kept

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
        )
        if view.seen.means2d.requires_grad:
            view.seen.means2d.retain_grad()
        return view

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
        drawable = self.frames if self.images.all_fit else self.drawable
        order = torch.randperm(len(drawable), generator=random)[:count]
        behind = torch.full((3,), 0.5) if self.backdrop is None else self.backdrop
        for frame in drawable[order].tolist():
            camera, target, matte, kept = self._photograph(frame, 1)
            with torch.no_grad():
                view = self._view(camera, behind, 1.0)
                color = self._exposed(view, frame, behind)
            if matte is not None:
                target = target + (1 - matte)[..., None] * behind.to(target)
            wrong = ((color - target).abs().mean(2) > WRONG).float()
            if kept is not None:
                wrong = wrong * kept
            marks = torch.stack([torch.ones_like(wrong), wrong], 2)
            yield Look(view.seen.rows, *light_on(view.seen, marks).unbind(1))

    def _gradients_finite(self) -> bool:
        found = [p.grad.sum() for p in self.trained.gaussians.parameters() if p.grad is not None]
        return not found or bool(torch.stack(found).isfinite().all())

    def _clear(self) -> None:
        for parameter in self.trained.gaussians.parameters():
            parameter.grad = None
        if self.exposing is not None:
            self.exposing.clear()

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
        if self.exposing is not None and self.trained.exposure is not None:
            tensors |= {f"exposure.{k}": v for k, v in self.trained.exposure.state_dict().items()}
            tensors |= {f"optimiser.exposure.{k}": v for k, v in self.exposing.moments.items()}
        return tensors, {"gaussians": len(self.trained.gaussians)}

    def restore(self, tensors: dict[str, Tensor], values: dict) -> None:
        """Take on a state that `state` returned. InputError for what is none of this run's."""
        settings = self.trained.settings
        count = Fields("state", values).whole("gaussians", 0, 1 << 30)
        splats = read_splats_state(tensors, settings, "state")
        if splats.count != count:
            raise Fields("state", values).refuse("gaussians", f"{splats.count}, as there are")
        fresh = Gaussians(splats).to(self.device)
        for name in Gaussians.NAMES:
            setattr(self.trained.gaussians, name, getattr(fresh, name))
        moments = {
            k: torch.zeros_like(getattr(fresh, k.rpartition(".")[0]))
            for k in self.optimiser.moments
        }
        found = part_of(tensors, "optimiser.")
        if self.exposing is not None and self.trained.exposure is not None:
            known = self.trained.exposure.state_dict()
            check_tensors(part_of(tensors, "exposure."), known, "state: of exposure")
            self.trained.exposure.load_state_dict(part_of(tensors, "exposure."))
            adam = part_of(found, "exposure.")
            check_tensors(adam, self.exposing.moments, "state: of exposure's moments")
            for key, moment in self.exposing.moments.items():
                moment.copy_(adam[key])
            found = {k: v for k, v in found.items() if not k.startswith("exposure.")}
        check_tensors(found, moments, "state: of moments")
        for key in moments:
            self.optimiser.moments[key] = found[key].to(self.device, copy=True)
        self.densify.restore(part_of(tensors, "densification."))
        self._clear()


def image_error(
    color: Float[Tensor, "height width 3"], target: Float[Tensor, "height width 3"]
) -> Float[Tensor, ""]:
    """0.8 of the mean absolute error and 0.2 of what SSIM lacks of 1.

    Source: 3D Gaussian splatting (arXiv:2308.04079), equation 7.
    """
    unlike = 1 - ssim(color[None], target[None])
    return (1 - STRUCTURE) * (color - target).abs().mean() + STRUCTURE * unlike


def _pooled(pixels: Float[Tensor, "h w c"], times: int) -> Float[Tensor, "_ _ c"]:
    """Means of squares of pixels; what is left over at the lower and right border is cut off."""
    return avg_pool2d(pixels.permute(2, 0, 1)[None], times)[0].permute(1, 2, 0).contiguous()


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

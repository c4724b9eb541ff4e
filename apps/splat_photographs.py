"""The photographs that Gaussians learn from, one whole picture at a step."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d

from polyfield.apps.depth_images import DepthImages
from polyfield.apps.images import TURN_STEPS, ImageStore
from polyfield.cuda.photograph import photograph
from polyfield.render.cameras import Cameras
from polyfield.render.splats import ray_lengths

COARSER = ((0.05, 4), (0.2, 2))  # up to these parts of training, pixels this many times as wide
FEWEST_PIXELS = 32  # a side, of a coarser picture


class Picture(NamedTuple):
    """A photograph as a step takes it."""

    camera: Cameras
    """One, with the pixels of the picture."""
    pixels: UInt8[Tensor, "height width c"]
    """As they were taken; alpha is the fourth, where there is one."""
    coarser: int
    """How many times as wide pixels of the picture are."""
    kept: Bool[Tensor, "h w"] | None
    """What no mask ignores; None: all."""

    def on(
        self, background: Float[Tensor, " 3"]
    ) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"] | None]:
        """The colours, on a background where they are transparent; and alpha, if there is any."""
        return photograph(self.pixels, background, self.coarser)


class Photographs:
    """Which photograph a step takes, and how much of it.

    cameras: of all frames, in the unit cube, where the pictures go too. frames: of them, those to
    train on. scale: sides of the unit cube in a unit of the scene.
    """

    def __init__(
        self,
        images: ImageStore,
        cameras: Cameras,
        frames: Int64[Tensor, " n"],
        seed: int,
        scale: float,
    ):
        self.images, self.cameras, self.frames = images, cameras, frames
        self.seed, self.scale = seed, scale
        self.drawable, self.turn = frames, -1
        self.offered = set(frames.tolist()) if images.all_fit else set()
        """The frames that steps drew from so far."""

    def frame(self, step: int) -> int:
        """The photograph of a step: all in turn, each time in another order.

        Where not all fit into the cache, any of those that are in it by then.
        """
        if self.images.all_fit:
            turn, place = divmod(step, len(self.frames))
            order = np.random.Generator(np.random.Philox(key=[self.seed, turn]))
            return int(self.frames[order.permutation(len(self.frames))[place]])
        turn = step // TURN_STEPS
        if turn != self.turn:
            self.drawable, self.turn = self.images.turn_to(turn, self.frames), turn
            self.offered.update(self.drawable.tolist())
        # A generator of its own: what else a step draws does not depend on the cache.
        random = np.random.Generator(np.random.Philox(key=[self.seed, step], counter=[0, 0, 0, 1]))
        return int(self.drawable[int(random.integers(len(self.drawable)))])

    def coarser(self, frame: int, progress: float) -> int:
        """How many times as wide pixels are taken, that far in training."""
        smaller = min(self.images.sizes[frame])
        for until, times in COARSER:
            if progress < until and smaller // times >= FEWEST_PIXELS:
                return times
        return 1

    def picture(self, frame: int, coarser: int) -> Picture:
        """A photograph in pixels as many times as wide: means of squares of them."""
        device = self.cameras.focal.device
        camera = self.cameras.select(torch.tensor([frame], device=device))
        kept = self.images.kept_image(frame).to(device) if self.images.ignoring else None
        if coarser > 1:
            kept = None if kept is None else _all_of(kept, coarser)
            camera = replace(
                camera,
                focal=camera.focal / coarser,
                center=camera.center / coarser,
                width=camera.width // coarser,
                height=camera.height // coarser,
            )
        return Picture(camera, self.images.image(frame).to(device), coarser, kept)

    def measured(
        self, depths: DepthImages, camera: Cameras, frame: int, coarser: int
    ) -> Float[Tensor, "height width"]:
        """What a depth image says of a picture's pixels, in its measure; 0 where it does not."""
        width, height = int(camera.width), int(camera.height)
        place = torch.arange(width * height)
        middle = (torch.stack([place % width, place // width], 1) + 0.5) * coarser
        sizes = torch.tensor(self.images.sizes[frame]).expand(len(place), 2)
        depth = depths.gather(torch.full_like(place, frame), middle, sizes)
        depth = depth.view(height, width).to(camera.focal.device) * self.scale
        if camera.model == "OPENCV_FISHEYE":
            depth = depth * ray_lengths(camera, 0)
        return depth


def _all_of(kept: Bool[Tensor, "height width"], times: int) -> Bool[Tensor, "h w"]:
    """Squares of pixels all of which are kept; what is left over at the border is cut off."""
    return avg_pool2d(kept[None].float(), times)[0] == 1

"""Measured distances along training rays, out of the depth images of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from polyfield.apps.formats.depth_files import MILLIMETRES, check_depth, read_depth
from polyfield.apps.scene import Scene
from polyfield.cuda.errors import InputError

MOST_STEPS = 65535  # of a depth image's pixel


def depth_bytes(scene: Scene) -> int:
    """Memory that the depth images of the training views take, all of them kept decoded."""
    return sum(2 * width * height for width, height in map(check_depth, _paths(scene)))


class DepthImages:
    """The depth images of the training views, decoded and kept, two bytes a pixel.

    Raises InputError where no training view has one, or one does not decode.
    """

    def __init__(self, scene: Scene):
        paths = _paths(scene)
        if not paths:
            expected = "a depth image for some training view (depth_file_path)"
            raise InputError("--depth", "the scene has none", expected, "Leave it out.")
        self.unit = scene.depth_unit
        sizes = [check_depth(path) for path in paths]
        number = {path: index for index, path in enumerate(paths)}
        training = set(scene.splits["train"].tolist())
        self._image = torch.tensor(
            [
                number[path] if path is not None and frame in training else -1
                for frame, path in enumerate(scene.depth_paths)
            ]
        )
        self._width, self._height = (torch.tensor(side) for side in zip(*sizes, strict=True))
        counts = torch.tensor([0, *(width * height for width, height in sizes)])
        self._start = counts.cumsum(0)
        self._steps = torch.empty(int(self._start[-1]), dtype=torch.uint16)
        for index, path in enumerate(paths):
            steps = (read_depth(path, MILLIMETRES) / MILLIMETRES).round().clamp(0, MOST_STEPS)
            part = self._steps[self._start[index] : self._start[index + 1]]
            part.copy_(steps.flatten().to(torch.int32))

    def gather(
        self,
        frames: Int64[Tensor, " n"],
        points: Float[Tensor, "n 2"],
        sizes: Int64[Tensor, "n 2"],
    ) -> Float[Tensor, " n"]:
        """Depth along the optical axis in the input's unit, 0 where it is not known.

        points: places (x, y) in images of these (width, height): a depth image may have fewer
        pixels than its photograph.
        """
        image = self._image[frames]
        known = image >= 0
        image = image.clamp(min=0)
        width, height = self._width[image], self._height[image]
        share = points.double() / sizes
        column = torch.minimum((share[:, 0] * width).long(), width - 1)
        row = torch.minimum((share[:, 1] * height).long(), height - 1)
        steps = self._steps[self._start[image] + row * width + column].to(torch.int32)
        return torch.where(known, steps * self.unit, 0.0).float()


def _paths(scene: Scene) -> Sequence[Path]:
    if not scene.depth_paths:
        return ()
    found = (scene.depth_paths[frame] for frame in scene.splits["train"].tolist())
    return tuple(dict.fromkeys(path for path in found if path is not None))

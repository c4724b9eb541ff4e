"""The one held-out view that training watches."""

from __future__ import annotations

import torch

from polyfield.apps.images import ImageStore
from polyfield.apps.scene import Scene
from polyfield.apps.settings import Color
from polyfield.apps.true_view import TrueView, true_view
from polyfield.render.cameras import Cameras

WATCHED_PIXELS = 1 << 17  # of a larger one, every third, fifth, ... a side


def watched_view(
    scene: Scene, images: ImageStore, cameras: Cameras, background: Color
) -> tuple[Cameras, TrueView]:
    """The camera of the first held-out view of which masks leave something, and what it shows.

    Of the validation views, else the test views, else those that are trained on. cameras: of all
    frames. Of a view of more than WATCHED_PIXELS only some pixels are looked at.
    """
    train = scene.splits["train"]
    held_out = scene.splits.get("val", scene.splits.get("test", train))
    frames = (*held_out.tolist(), *train.tolist())
    for frame in frames:
        camera = cameras.select(torch.tensor([frame], device=cameras.focal.device))
        pixels, stride = int(camera.width * camera.height), 1
        while pixels > WATCHED_PIXELS * stride**2:
            stride += 2
        truth = true_view(scene, images, frame, background, stride)
        if truth.measurable:
            break
    return camera.every(stride), truth

"""A scene that a trained field makes up: cameras between and about those that it learned from."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Generator

from polyfield.apps.images import ImageStore
from polyfield.apps.scene import Scene
from polyfield.apps.shown import Shown
from polyfield.apps.trained import Trained, orbit_cameras
from polyfield.render.cameras import Cameras
from polyfield.render.invented_poses import invented_poses

HELD_OUT = 8  # views that nothing is taught on
USUAL_VIEWS, FEWEST_VIEWS = 100, 16  # to learn from
SHARE = 0.25  # of the time, that they may take
CLEAR = 1e-3  # opacity, below which a pixel has no colour


def usual_views(teacher: Shown, minutes: float | None) -> int:
    """How many views to learn from: USUAL_VIEWS, or as many as a part of the time is enough for."""
    if minutes is None:
        return USUAL_VIEWS
    width, height = teacher.settings.orbit["size"]
    poses = torch.tensor(teacher.settings.orbit["camera_to_world"])[:1]
    cameras = orbit_cameras(teacher.settings, poses, (int(width), int(height)))
    begin = time.perf_counter()
    teacher.view(cameras.to(teacher.device), 0)
    seconds = time.perf_counter() - begin
    return max(FEWEST_VIEWS, min(USUAL_VIEWS, int(SHARE * 60 * minutes / seconds)))


def taught_scene(teacher: Shown, views: int, seed: int) -> Scene:
    """So many views to train on, and some more held out, of what a trained field shows.

    They are as large as the photographs that it learned from, by a pinhole camera, and may lie
    anywhere between and about those. Nothing of these is needed. A function of the seed.
    """
    settings, count = teacher.settings, views + HELD_OUT
    known = torch.tensor(settings.orbit["camera_to_world"])
    random = Generator().manual_seed(seed)
    poses = invented_poses(known, count, random, around=settings.grid_levels == 1)
    width, height = settings.orbit["size"]
    cameras = orbit_cameras(settings, poses, (int(width), int(height)))
    cameras = cameras.transformed(teacher.to_field.inverse(), torch.float64)
    names = tuple(f"taught-{number:04}" for number in range(count))
    folder = Path(settings.scene)
    return Scene(
        name=folder.name,
        folder=folder,
        kind="taught",
        frame_names=names,
        image_paths=tuple(folder / f"{name}.png" for name in names),
        cameras=cameras,
        splits={"train": torch.arange(views), "test": torch.arange(views, count)},
        to_field=teacher.to_field,
        grid_levels=settings.grid_levels,
        near=settings.sampling.near,
        focus=settings.sampling.fade,
        has_alpha=True,
        mean_color=settings.background,
        backdrop=None,
        notes=(f"{views} views of what {settings.field} shows",),
    )


class TaughtViews(ImageStore):
    """The views of a taught scene: rendered where others are decoded."""

    def __init__(self, teacher: Shown, scene: Scene, limit_bytes: int, seed: int = 0):
        super().__init__(scene.image_paths, scene.sizes, 4, limit_bytes, seed)
        self.teacher = teacher
        self.cameras: Cameras = scene.cameras.transformed(teacher.to_field).to(teacher.device)
        self._threads = ThreadPoolExecutor(1)  # one view takes all of the machine

    def _decode(self, frame: int, start: int) -> float:
        """A view's pixels, with straight alpha, into the pool; the seconds it took."""
        begin = time.perf_counter()
        width, height = self.sizes[frame]
        slot = self._pool[start : start + width * height].view(height, width, 4)
        behind = isinstance(self.teacher, Trained) and self.teacher.environment is not None
        top = 0
        with torch.no_grad():
            black = None if behind else (0.0, 0.0, 0.0)
            for band in self.teacher.bands(self.cameras, frame, background=black):
                opacity = torch.ones_like(band.opacity) if behind else band.opacity
                color = band.color / opacity[..., None].clamp_min(CLEAR)
                pixels = torch.cat([color, opacity[..., None]], 2).clamp(0, 1)
                rows = (255 * pixels).round().to("cpu", torch.uint8)
                slot[top : top + len(rows)] = rows
                top += len(rows)
        return time.perf_counter() - begin

"""Small tasks of Gaussians, what they learn from, and whether two of them came to the same."""

from dataclasses import replace

import torch

from polyfield.apps.images import ImageStore
from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.splat_task import SplatTask
from polyfield.apps.trained_splats import build_splats
from polyfield.fields.gaussians import gaussians_at

CPU = torch.device("cpu")
STRATEGIES = ["mcmc", "classic", "absgrad", "multi-view"]
SIZE, MOST = 16, 90


def crowd(count=60, seed=0):
    """Gaussians about the middle of the unit cube, where cameras look."""
    random = torch.Generator().manual_seed(seed)
    points = 0.5 + 0.4 * (torch.rand(count, 3, generator=random) - 0.5)
    return gaussians_at(points, torch.rand(count, 3, generator=random), 2, 0.6, 0.5)


class Pictures(ImageStore):
    """Photographs that a test made up, and what masks keep of them."""

    def __init__(self, images, kept=None):
        self.images, self.keep, self.ignoring = images, kept, kept is not None
        self.all_fit = True
        self.sizes = [(image.shape[1], image.shape[0]) for image in images]

    def image(self, frame):
        return self.images[frame].clone()

    def kept_image(self, frame):
        return self.keep[frame].clone()


def task_of(disc_scene, masks=(), limit=1 << 24, images=None, train=None, splats=None, **changes):
    """A task of the six views of a disc: their photographs, or `images`, which may be opaque."""
    scene = replace(load_scene(disc_scene), masks=tuple(masks))
    if images is not None:
        height, width, channels = images.images[0].shape
        cameras = scene.cameras.resized(width, height)
        scene = replace(scene, cameras=cameras, has_alpha=channels == 4)
    if train:
        scene = replace(scene, splits=scene.splits | {"train": torch.tensor(train)})
    arguments = {"splats": MOST, "degree": 2}
    settings = settings_of(scene, "gaussians", arguments, 3, SIZE * SIZE, 1 << 24)
    store = images or ImageStore(scene.image_paths, scene.sizes, 4, limit, masks=masks)
    trained = build_splats(replace(settings, **changes), splats or crowd(), CPU)
    return SplatTask(trained, scene, store, CPU)


def stepped(made, steps, planned=None):
    for step in range(steps):
        made.step(step, 1.0, planned or steps)
    return made


def state_of(made):
    tensors, values = made.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, dict(values)


def same(one, other):
    return (
        one[1] == other[1]
        and one[0].keys() == other[0].keys()
        and all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())
    )


def noise(*shape, seed=0, channels=4):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, channels), generator=random).to(torch.uint8)


def pictures(height=SIZE, width=SIZE, channels=4, kept=None):
    """Of the scene's eight frames, nothing but noise."""
    made = [noise(height, width, seed=frame, channels=channels) for frame in range(8)]
    return Pictures(made, kept)

"""The weights of LPIPS, where they lie on this machine already. Nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from polyfield.apps.formats.torch_files import read_tensors
from polyfield.cuda.errors import InputError
from polyfield.render.lpips import PerceptualNetwork, perceptual_network

VGG16 = "vgg16-397923af.pth"  # torchvision's, in the folder of torch.hub
HOW = (
    "pip install lpips, then once, with a network: "
    "python -c \"import lpips; lpips.LPIPS(net='vgg')\""
)


def find_lpips() -> tuple[PerceptualNetwork | None, str]:
    """The network, if the weights are there; else None, and why and what to do.

    The package lpips is looked for, not run: its linear layers are a file in it.
    """
    try:
        package = importlib.util.find_spec("lpips")
        places = package.submodule_search_locations if package else None
        vgg16 = Path(torch.hub.get_dir()) / "checkpoints" / VGG16
        linear = Path(places[0]) / "weights" / "v0.1" / "vgg.pth" if places else None
        if linear is None or not linear.is_file():
            return None, f"the package lpips is not there: {HOW}"
        if not vgg16.is_file():
            return None, f"{vgg16} is not there: {HOW}"
        return read_lpips(vgg16, linear), ""
    except InputError as error:
        return None, str(error)


def read_lpips(vgg16: Path, linear: Path) -> PerceptualNetwork:
    """The network out of torchvision's file of VGG16 and the package's of linear layers.

    InputError as read_tensors and perceptual_network.
    """
    return perceptual_network(read_tensors(vgg16), read_tensors(linear))

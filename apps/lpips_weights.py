"""The weights of LPIPS, where they lie on this machine already. Nothing is ever downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

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

    Runs nothing that the files hold. InputError, naming the file, for one that cannot be read, and
    as `perceptual_network`.
    """
    return perceptual_network(_tensors(vgg16), _tensors(linear))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only: tensors and nothing that runs.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is cut off, or none of torch's
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(str(path), f"cannot be read ({reason})", "LPIPS weights") from error
    return found

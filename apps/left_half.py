"""The light of a view that nobody trained on, from its left half: the right one is scored."""

from __future__ import annotations

import torch

from polyfield.apps.shown import Shown
from polyfield.apps.trained import Trained
from polyfield.apps.true_view import TrueView
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras
from polyfield.render.light import Light, fit_light, fit_stops
from polyfield.render.view import behind

PIXELS = 2048  # of the half, evenly spread: they decide a few numbers


def check_has_light(trained: Shown) -> None:
    """InputError where a run has learned nothing about its photographs' light."""
    if not trained.has_light:
        got = "the run has learned neither exposure nor appearance"
        raise InputError("--light left", got, "mean", "Train with --exposure or --appearance N.")


def light_from_left_half(
    trained: Shown, cameras: Cameras, frame: int, truth: TrueView, transparent: bool
) -> Light | None:
    """The light that explains a photograph's left half best; None where no pixel of it counts.

    cameras: in the unit cube, on the field's device. transparent: photographs have alpha, and no
    background of their own.
    """
    kept = truth.half(right=False).kept
    if kept is None or not kept.any():
        return None
    places = kept.nonzero()
    count = min(PIXELS, len(places))
    places = places[torch.arange(count) * len(places) // count]
    row, column = places.unbind(1)
    device = cameras.camera_to_world.device
    target = truth.color[row, column].to(device)
    if not isinstance(trained, Trained):
        view = trained.view(cameras, frame)
        constant = torch.tensor(trained.settings.background, device=device)
        shown = view.color[row, column], view.opacity[row, column]
        return fit_stops(*shown, constant, target, whole=not transparent)
    point = torch.stack([column, row], 1).to(device) + 0.5
    origins, directions = cameras.rays(torch.full((count,), frame, device=device), point)
    return fit_light(
        trained.field,
        trained.guide,
        origins,
        directions,
        behind(trained.background, directions),
        target,
        trained.sampling_of(cameras, frame),
        exposure=trained.exposure is not None,
        whole=not transparent,
    )

"""What Gaussians of a run show, and which checkpoints hold none."""

from dataclasses import replace

import pytest
import torch

from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.trained_splats import (
    arguments_of_splats,
    build_splats,
    extent_of,
    load_splats,
    read_splats_state,
)
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import Gaussians, gaussians_at
from polyfield.render.light import Light
from polyfield.render.splats import splat_view

CPU = torch.device("cpu")


def crowd(count=60):
    random = torch.Generator().manual_seed(0)
    points = 0.5 + 0.4 * (torch.rand(count, 3, generator=random) - 0.5)
    made = gaussians_at(points, torch.rand(count, 3, generator=random), 2, 0.6, 0.5)
    made.harmonics[:, 1:].normal_(0.0, 0.3, generator=random)
    return made


@pytest.fixture
def settings(disc_scene):
    found = load_scene(disc_scene)
    return settings_of(found, "gaussians", {"splats": 60, "degree": 2}, 0, 256, 1 << 20)


@pytest.fixture
def cameras(disc_scene):
    found = load_scene(disc_scene)
    return found.cameras.transformed(found.to_field)


def with_positions(settings, places):
    """The settings, as if its cameras stood there."""
    pose = settings.orbit["camera_to_world"][0]
    poses = [
        [[*row[:3], place] for row, place in zip(pose, position, strict=True)]
        for position in places
    ]
    return replace(settings, orbit=settings.orbit | {"camera_to_world": poses})


def test_the_extent_of_a_scene_is_how_far_its_cameras_stand_about_their_middle(settings):
    places = [[1.0, 1, 1], [3.0, 1, 1], [2.0, 5, 1], [2.0, -3, 1]]
    assert extent_of(with_positions(settings, places)) == pytest.approx(1.1 * 4)
    assert extent_of(with_positions(settings, [[5.0, 5, 5]] * 2)) > 0
    trained = build_splats(with_positions(settings, places), crowd(), CPU)
    assert trained.extent == pytest.approx(4.4)


def test_nothing_is_shown_right_before_a_camera(settings):
    places = [[1.0, 1, 1], [3.0, 1, 1]]
    wide = with_positions(settings, places)
    for near, expected in ((0.0, 0.011), (0.2, 0.1), (0.01, 0.011)):
        sampling = replace(settings.sampling, near=near)
        trained = build_splats(replace(wide, sampling=sampling), crowd(), CPU)
        assert trained.near == pytest.approx(expected)


def test_views_of_every_kind_show_the_same(settings, cameras):
    trained = build_splats(replace(settings, background=(0.2, 0.3, 0.4)), crowd(), CPU)
    trained.gaussians.requires_grad_(False)
    view = trained.view(cameras, 2)
    (band,) = trained.bands(cameras, 2, normals=True)
    assert torch.equal(view.color, trained.color(cameras, 2)) and view.normal is None
    assert torch.equal(view.color, band.color) and torch.equal(view.depth, band.depth)
    behind = torch.tensor([0.2, 0.3, 0.4])
    raw = splat_view(trained.gaussians, cameras, 2, behind, near=trained.near, normals=True)
    torch.testing.assert_close(view.color, raw.color.clamp(0, 1))
    assert torch.equal(band.normal, raw.normal) and torch.equal(band.opacity, raw.opacity)
    assert (view.depth > raw.depth)[view.opacity > 0].all()  # along rays
    green = trained.color(cameras, 2, background=(0.0, 1.0, 0.0))
    other = (1 - raw.opacity)[..., None] * (torch.tensor([0.0, 1, 0]) - behind)
    inside = ((raw.color > 0) & (raw.color + other < 1) & (raw.color < 1)).all(2)
    torch.testing.assert_close(green[inside], (raw.color + other)[inside], atol=1e-5, rtol=0)


def test_nearer_than_that_nothing_is_drawn(settings, cameras):
    trained = build_splats(settings, crowd(), CPU)
    assert trained.view(cameras, 1).opacity.max() > 0.5
    sampling = replace(settings.sampling, near=100.0)
    far = build_splats(replace(settings, sampling=sampling), crowd(), CPU)
    assert not far.view(cameras, 1).opacity.any()


@pytest.mark.parametrize("whole", [True, False])
def test_views_are_shown_in_the_light_that_is_asked_for(settings, cameras, whole):
    trained = build_splats(replace(settings, background=(0.2, 0.3, 0.4)), crowd(), CPU)
    trained.gaussians.requires_grad_(False)
    behind, view = torch.tensor([0.2, 0.3, 0.4]), trained.view(cameras, 2)
    light = Light(torch.tensor([2.0, -1.0, 0.3]), None, whole)
    lit = trained.color(cameras, 2, light=light)
    expected = light.on(view.color, view.opacity, behind.view(1, 1, 3)).clamp(max=1)
    torch.testing.assert_close(lit, expected)
    assert lit.max() == 1
    empty = view.opacity == 0
    assert torch.equal(lit[empty], view.color[empty]) != whole
    other = trained.color(cameras, 2, light=light, background=(0.0, 0.0, 0.0))
    assert not other[empty].any()


def test_more_than_one_sample_a_pixel_is_refused(settings, cameras):
    trained = build_splats(settings, crowd(), CPU)
    for show in (trained.view, trained.color):
        with pytest.raises(InputError, match="--samples-per-pixel: 4 with Gaussians"):
            show(cameras, 0, samples_per_pixel=4)


def test_what_is_said_of_gaussians_is_of_those_there_are(settings):
    trained = build_splats(settings, crowd(40), CPU)
    assert trained.parameters == 40 * 38 and trained.device == CPU
    assert not trained.has_light and trained.exposure is None
    lit = build_splats(replace(settings, exposures=3), crowd(), CPU)
    assert lit.has_light and lit.exposure.stops.shape == (3, 3)


@pytest.mark.parametrize(
    "arguments",
    [{"wing": 1}, {"splats": 3}, {"splats": 50, "degree": 4}, {"splats": 0}, {"levels": 4}],
)
def test_sizes_that_no_run_has_are_refused(settings, arguments):
    with pytest.raises(InputError, match="here: settings.arguments"):
        arguments_of_splats(replace(settings, arguments=arguments), "here")
    found = arguments_of_splats(replace(settings, arguments={"splats": 4, "degree": 0}), "here")
    assert (found.splats, found.degree, found.parameters) == (4, 0, 56)


def tensors_of(trained):
    found = {f"gaussians.{name}": getattr(trained.gaussians, name) for name in Gaussians.NAMES}
    found |= {"optimiser.means.first": torch.zeros(60, 3), "densification.begun": torch.ones(1)}
    if trained.exposure is not None:
        found["exposure.stops"] = trained.exposure.stops
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def test_a_checkpoint_brings_the_gaussians_and_the_light(settings, cameras):
    lit = replace(settings, exposures=3, antialiased=True)
    made = build_splats(lit, crowd(), CPU)
    with torch.no_grad():
        made.exposure.stops.normal_(generator=torch.Generator().manual_seed(0))
    loaded = load_splats(tensors_of(made), lit, CPU, "here")
    for name in Gaussians.NAMES:
        assert torch.equal(getattr(loaded.gaussians, name), getattr(made.gaussians, name))
    assert torch.equal(loaded.exposure.stops, made.exposure.stops)
    assert loaded.gaussians.antialiased
    assert not any(p.requires_grad for p in loaded.gaussians.parameters())
    assert not loaded.exposure.stops.requires_grad
    assert not torch.equal(
        loaded.color(cameras, 0), load_splats(tensors_of(made), settings, CPU, "").color(cameras, 0)
    )  # not antialiased


FAULTS = {
    "missing": (lambda t: t.pop("gaussians.quaternions"), "'quaternions': missing"),
    "no means": (lambda t: t.pop("gaussians.means"), "tensor 'harmonics'"),
    "a number": (lambda t: t.update({"gaussians.means": torch.tensor(3.0)}), "tensor 'harmonics'"),
    "one fewer": (
        lambda t: t.update({"gaussians.means": t["gaussians.means"][1:].clone()}),
        r"float32 of shape \(60, 9, 3\); expected float32 of shape \(59, 9, 3\)",
    ),
    "unknown": (
        lambda t: t.update({"gaussians.wing": torch.zeros(2)}),
        "'wing'.*no such tensor",
    ),
    "NaN": (
        lambda t: t["gaussians.opacity_logits"].fill_(torch.nan),
        "'opacity_logits': values that are not finite",
    ),
    "half": (
        lambda t: t.update({"gaussians.means": t["gaussians.means"].half()}),
        "'means': float16",
    ),
    "more than there may be": (
        lambda t: t.update({k: torch.cat([v, v]) for k, v in t.items() if "gauss" in k}),
        "120 Gaussians; expected at most 60",
    ),
    "of another degree": (
        lambda t: t.update({"gaussians.harmonics": torch.zeros(60, 4, 3)}),
        r"'harmonics': float32 of shape \(60, 4, 3\)",
    ),
    "exposure": (
        lambda t: t.update({"exposure.stops": torch.zeros(2, 3)}),
        r"of exposure: tensor 'stops': float32 of shape \(2, 3\)",
    ),
    "no exposure": (lambda t: t.pop("exposure.stops"), "of exposure: tensor 'stops': missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_none_of_the_run_is_refused_by_name(settings, fault):
    lit = replace(settings, exposures=3)
    tensors = tensors_of(build_splats(lit, crowd(), CPU))
    load_splats(tensors, lit, CPU, "here")
    change, words = FAULTS[fault]
    change(tensors)
    with pytest.raises(InputError, match=f"^here: .*{words}"):
        load_splats(tensors, lit, CPU, "here")


def test_fewer_than_there_may_be_are_read_as_they_are(settings):
    trained = build_splats(settings, crowd(7), CPU)
    found = read_splats_state(tensors_of(trained), settings, "here")
    assert found.count == 7 and found.degree == 2

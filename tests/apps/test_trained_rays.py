"""What a field of rays shows, and which checkpoints hold none."""

from dataclasses import replace

import pytest
import torch

from polyfield.apps.scene import load_scene
from polyfield.apps.settings import settings_of
from polyfield.apps.shown import Shown
from polyfield.apps.trained_rays import build_rays, load_rays, normals_of, seen_rays
from polyfield.cuda.errors import InputError
from polyfield.render.cameras import Cameras

CPU = torch.device("cpu")
BOX = torch.tensor([[0.3, 0.35, 0.2], [0.6, 0.7, 0.8]])
SIZES = {"layers": 2, "width": 16, "coefficients": 8, "points": 3, "frequencies": 2, "samples": 8}


@pytest.fixture
def settings(disc_scene):
    found = load_scene(disc_scene)
    made = settings_of(found, "ray-distribution", SIZES, 0, 256, 1 << 20)
    return replace(made, background=(0.2, 0.3, 0.4))


@pytest.fixture
def trained(settings):
    made = build_rays(settings, CPU, BOX)
    made.field.requires_grad_(False)
    return made


@pytest.fixture
def cameras(disc_scene, trained):
    return load_scene(disc_scene).cameras.transformed(trained.to_field)


def fog(trained, logarithm=0.7, logits=(1.0, 0.0, -2.0)):
    """The same along every ray: the field says nothing but this."""
    trained.field.output.weight.zero_()
    trained.field.output.bias.zero_()
    trained.field.output.bias[:4] = torch.tensor([logarithm, *logits])
    return 1 - torch.exp(-torch.tensor(logarithm).exp()), torch.tensor(logits).sigmoid()


def test_it_is_one_of_what_runs_show(trained):
    assert isinstance(trained, Shown) and not trained.has_light and trained.device == CPU
    assert trained.parameters == sum(p.numel() for p in trained.field.parameters())


def test_a_ray_shows_what_lies_in_the_box(trained):
    opacity, color = fog(trained)
    origins = torch.tensor([[0.5, 0.5, -1.0], [0.5, 0.5, 0.3], [0.5, 0.5, 2.0], [0.9, 0.5, -1.0]])
    ways = torch.tensor([0.0, 0, 1]).expand(4, 3)
    seen = seen_rays(trained.field, origins, ways)
    there = torch.tensor([1.0, 1, 0, 0])  # the third looks away, the last one past it
    torch.testing.assert_close(seen.opacity, there * opacity)
    torch.testing.assert_close(seen.color, there[:, None] * opacity * color)
    assert 1.2 < seen.depth[0] / opacity < 1.5 and 0 < seen.depth[1] / opacity < 0.25


def test_distances_are_means_along_the_ray(trained):
    """Of constant density d: the mean of u by exp(-d u) over the interval."""
    fog(trained, logarithm=1.1)
    trained.field.sizes = replace(trained.field.sizes, samples=256)
    seen = seen_rays(trained.field, torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0, 1]]))
    density = torch.tensor(1.1).exp()
    mean = 1 / density - 1 / (density.exp() - 1)
    expected = 1.2 + 0.6 * mean
    torch.testing.assert_close(seen.depth[0] / seen.opacity[0], expected, atol=1e-4, rtol=0)


def test_views_of_every_kind_show_the_same(trained, cameras):
    opacity, color = fog(trained)
    view = trained.view(cameras, 1)
    (band,) = trained.bands(cameras, 1, normals=True)
    assert torch.equal(view.color, trained.color(cameras, 1)) and view.normal is None
    assert torch.equal(view.color, band.color) and torch.equal(view.depth, band.depth)
    there = view.opacity > 0
    assert 0.05 < there.float().mean() < 0.9
    behind = torch.tensor([0.2, 0.3, 0.4])
    torch.testing.assert_close(view.color[~there], behind.expand_as(view.color[~there]))
    expected = opacity * color + (1 - opacity) * behind
    torch.testing.assert_close(view.color[there], expected.expand_as(view.color[there]))
    assert not view.depth[~there].any() and view.depth[there].min() > 0
    red = trained.view(cameras, 1, background=(1.0, 0.0, 0.0)).color
    torch.testing.assert_close(
        red[there][0], opacity * color + (1 - opacity) * torch.tensor([1.0, 0, 0])
    )
    torch.testing.assert_close(band.normal.norm(dim=2), view.opacity, atol=1e-4, rtol=0)


def test_a_pixel_of_several_rays_is_the_mean_of_their_pixels(trained, cameras):
    fine = trained.view(cameras.resized(32, 32), 2).color.view(16, 2, 16, 2, 3).mean((1, 3))
    shown = trained.view(cameras, 2, samples_per_pixel=4)
    torch.testing.assert_close(shown.color, fine, atol=1e-5, rtol=0)
    assert not torch.equal(shown.color, trained.view(cameras, 2).color)


def test_a_view_is_the_same_in_any_pieces(trained, cameras, monkeypatch):
    whole = trained.view(cameras, 0)
    monkeypatch.setattr("polyfield.apps.trained_rays.PIECE", 37)
    for one, other in zip(whole[:3], trained.view(cameras, 0)[:3], strict=True):
        torch.testing.assert_close(one, other)


def test_what_a_lens_has_no_ray_for_shows_nothing(trained):
    fog(trained)
    pose = torch.tensor([[[1.0, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, 0.5]]])
    size = torch.tensor([40])
    lens = Cameras(
        pose, torch.full((1, 2), 5.0), torch.full((1, 2), 20.0), torch.zeros(1, 4), size, size,
        "OPENCV_FISHEYE",
    )  # fmt: skip
    view = trained.view(lens, 0, background=(0.0, 0.0, 0.0))
    assert view.color.isfinite().all() and view.depth.isfinite().all()
    assert not view.opacity[0, 0] and view.opacity[20, 20]


def test_normals_are_those_of_the_surface_that_depths_span():
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    places = torch.stack([x, y, 3 + 0.5 * x - 2 * y], 2)
    ways = torch.tensor([0.0, 0, 1]).expand(5, 7, 3)
    expected = torch.tensor([0.5, -2.0, -1]) / torch.tensor([0.5, -2.0, -1]).norm()
    torch.testing.assert_close(normals_of(places, ways), expected.expand(5, 7, 3))
    torch.testing.assert_close(normals_of(places, -ways), -expected.expand(5, 7, 3))
    flat = torch.zeros(1, 1, 3)
    assert not normals_of(flat, flat).any()


def tensors_of(trained):
    found = {f"field.{name}": value for name, value in trained.field.state_dict().items()}
    found |= {"optimiser.first.output.bias": torch.zeros(32)}
    return {name: tensor.clone() for name, tensor in found.items()}


def test_a_checkpoint_brings_the_network_and_its_box(trained, settings, cameras):
    loaded = load_rays(tensors_of(trained), settings, CPU, "here")
    assert torch.equal(loaded.field.box, BOX)
    assert torch.equal(loaded.color(cameras, 0), trained.color(cameras, 0))
    assert not any(p.requires_grad for p in loaded.field.parameters())


FAULTS = {
    "missing": (lambda t: t.pop("field.output.bias"), "'output.bias': missing"),
    "unknown": (lambda t: t.update({"field.wing": torch.zeros(2)}), "'wing'.*no such tensor"),
    "NaN": (lambda t: t["field.box"].fill_(torch.nan), "'box': values that are not finite"),
    "half": (lambda t: t.update({"field.box": t["field.box"].half()}), "'box': float16"),
    "shape": (
        lambda t: t.update({"field.layers.0.bias": torch.zeros(17)}),
        r"'layers.0.bias': float32 of shape \(17,\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_none_of_the_run_is_refused_by_name(trained, settings, fault):
    tensors = tensors_of(trained)
    change, words = FAULTS[fault]
    change(tensors)
    with pytest.raises(InputError, match=f"^here: .*{words}"):
        load_rays(tensors, settings, CPU, "here")


@pytest.mark.parametrize("arguments", [{"wing": 1}, {"layers": 0}, {"width": 1 << 19}])
def test_sizes_that_no_run_has_are_refused(settings, arguments):
    with pytest.raises(InputError, match="settings.arguments|ray-distribution: "):
        build_rays(replace(settings, arguments=arguments), torch.device("meta"))

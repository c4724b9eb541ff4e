"""What ways to change the number of Gaussians are told of: slopes, and where views are wrong."""

from functools import partial

import pytest
import torch
from splat_tasks import SIZE, Pictures, pictures, task_of

from polyfield.apps import splat_task
from polyfield.apps.true_view import shown_image
from polyfield.fields.gaussians import Gaussians, gaussians_at
from polyfield.fields.splats import Splats


@pytest.fixture
def task(disc_scene):
    return partial(task_of, disc_scene)


def blobs():
    """Twelve wide Gaussians, none before another."""
    ticks = torch.linspace(0.42, 0.58, 4)
    y, z = torch.meshgrid(ticks[:3], ticks, indexing="ij")
    means = torch.stack([torch.full_like(y, 0.5), y, z], 2).view(-1, 3)
    made = gaussians_at(means, torch.full((12, 3), 0.5), 0, 0.3, 0.5)
    return Splats(*(getattr(made, name) for name in Gaussians.NAMES[:4]), made.harmonics)


def test_slopes_that_a_strategy_sees_do_not_depend_on_the_picture_s_pixels(task, monkeypatch):
    """Of the same picture, whose sides differ, in pixels half as wide and less."""
    ramp = torch.stack(
        torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(1, 0, 160), indexing="ij"), 2
    )
    fine = (255 * torch.cat([ramp, ramp[..., :1]], 2)).round().to(torch.uint8)

    def squares(color, target):
        return (color - target).square().mean()

    monkeypatch.setattr(splat_task, "image_error", squares)
    found = {}
    for times in (1, 2):
        made = task(
            images=Pictures([fine] * 8), splats=blobs(), arguments={"splats": 12, "degree": 0}
        )
        monkeypatch.setattr(made.photographs, "coarser", lambda frame, progress, k=times: k)
        made.densify.observe = lambda rows, slope, _, k=times: found.update({k: (rows, slope)})
        made.step(2, 1.0, 100)
    (rows, slopes), (others, coarse) = found[1], found[2]
    assert torch.equal(rows, others) and len(rows) > 6
    assert (slopes.abs().amax(0) > 0).all()
    torch.testing.assert_close(coarse, slopes, rtol=0.1, atol=0.02 * float(slopes.abs().max()))
    # By finite differences of the loss, in halves of the sensor's sides.
    made = task(images=Pictures([fine] * 8), splats=blobs(), arguments={"splats": 12, "degree": 0})
    picture = made.photographs.picture(made.photographs.frame(2), 1)
    camera, (target, _) = picture.camera, picture.on(made.behind)
    depth = camera.project(torch.zeros(12).long(), made.trained.gaussians.means.detach())[1]
    for axis, side in ((0, 160), (1, 96)):
        most = int(slopes[:, axis].abs().argmax())
        far = int(rows[most])
        way = camera.camera_to_world[0, :, axis] * depth[far] / camera.focal[0, axis]  # one pixel
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                made.trained.gaussians.means[far] += sign * way
                view = made._view(camera, made.backdrop, 0.0)
                made.trained.gaussians.means[far] -= sign * way
            losses.append(float(squares(view.color.double(), target.double())))
        expected = (losses[0] - losses[1]) / 2 * side / 2
        assert float(slopes[most, axis]) == pytest.approx(expected, rel=0.05)


def test_photographs_say_which_gaussians_are_where_a_view_is_wrong(task):
    plain = task(images=pictures(channels=3))
    behind = plain.backdrop
    kept = [torch.ones(SIZE, SIZE, dtype=torch.bool) for _ in range(8)]
    kept[3][4:8] = False
    shown, views = [], []
    with torch.no_grad():
        for frame in range(8):
            camera = plain.cameras.select(torch.tensor([frame]))
            views.append(plain._view(camera, behind, 1.0))
            shown.append((views[-1].color.clamp(0, 1) * 255).round().to(torch.uint8))
    wrong = torch.zeros(SIZE, SIZE)
    wrong[6:10, 5:9] = 1
    spoilt = shown[3].long() + 60 * wrong[..., None].long()
    spoilt = torch.where(spoilt > 255, spoilt - 120, spoilt).to(torch.uint8)
    images = [spoilt if frame == 3 else image for frame, image in enumerate(shown)]
    made = task(images=Pictures(images, kept))
    looks = list(made._looks(9, torch.Generator().manual_seed(0)))
    assert len(looks) == 6  # all there are
    bad = [look for look in looks if look.wrong.any()]
    assert len(bad) == 1
    view = views[3]
    assert torch.equal(bad[0].rows, view.seen.rows)
    expected = (view.opacity * wrong * kept[3]).sum()
    assert 0 < float(expected) < float((view.opacity * wrong).sum())
    torch.testing.assert_close(bad[0].wrong.sum(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bad[0].weight.sum(), view.opacity.sum(), rtol=1e-4, atol=1e-4)
    order = [len(list(made._looks(2, torch.Generator().manual_seed(1))))]
    assert order == [2]


def test_looks_at_transparent_photographs_are_on_grey(task):
    made = task()
    grey = torch.full((3,), 0.5)
    for look in made._looks(6, torch.Generator().manual_seed(0)):
        assert len(look.rows) and (look.wrong <= look.weight + 1e-5).all()
    frame = int(made.frames[torch.randperm(6, generator=torch.Generator().manual_seed(0))[0]])
    (look,) = made._looks(1, torch.Generator().manual_seed(0))
    camera = made.cameras.select(torch.tensor([frame]))
    with torch.no_grad():
        view = made._view(camera, grey, 1.0)
    target = shown_image(made.images.image(frame), (0.5, 0.5, 0.5))
    wrong = ((view.color - target).abs().mean(2) > 0.1).float()
    assert 0 < wrong.mean() < 1
    expected = (view.opacity * wrong).sum()
    torch.testing.assert_close(look.wrong.sum(), expected, rtol=1e-4, atol=1e-4)

"""What is said of photographs, by figures of theirs that are given here."""

import math
from dataclasses import replace

import pytest
import torch

from polyfield.apps.diagnosis_images import badly_exposed, copies, inverted_masks
from polyfield.apps.mask_files import Mask
from polyfield.apps.scene import load_scene
from polyfield.apps.view_samples import ViewSample


@pytest.fixture(scope="module")
def loaded(scene):
    return load_scene(scene)


def sample(**changes):
    """A photograph without fault, apart from what is said."""
    everywhere = torch.ones(12, 12, dtype=torch.bool)
    sound = ViewSample(
        thumbnail=torch.full((12, 12, 4), 128, dtype=torch.uint8),
        mask=everywhere,
        kept=everywhere,
        digest="",
        subject=1.0,
        brightness=0.5,
        dark=0.0,
        bright=0.0,
        sharpness=torch.zeros(4, 3),
    )
    return replace(sound, **changes)


@pytest.mark.parametrize(("share", "found"), [(0.7, []), (0.95, [(3,)])])
def test_black_that_all_photographs_have_is_no_fault_of_one(loaded, share, found):
    samples = {frame: sample(dark=share if frame == 3 else 0.5) for frame in range(8)}
    warnings = badly_exposed(loaded, samples)
    assert [warning.frames for warning in warnings] == found
    assert all(warning.kind == "underexposed" for warning in warnings)


@pytest.mark.parametrize(("degrees", "another"), [(0.0, False), (4.5, False), (5.5, True)])
def test_copies_have_another_pose_from_five_degrees_on(loaded, degrees, another):
    first, second = loaded.splits["train"][:2].tolist()
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]]).double()
    poses = loaded.cameras.camera_to_world.double().clone()
    poses[second] = poses[first] @ turn
    turned = replace(loaded, cameras=replace(loaded.cameras, camera_to_world=poses))
    same = sample(digest="same")
    (warning,) = copies(turned, {first: same, second: same})
    assert warning.frames == (second,) and ("another pose" in warning.sentence) == another


@pytest.mark.parametrize("meaning", ["keep", "ignore", "object"])
@pytest.mark.parametrize("inverted", [True, False])
def test_masks_that_leave_the_rims_look_inverted(loaded, meaning, inverted):
    middle = torch.zeros(12, 12, dtype=torch.bool)
    middle[3:9, 3:9] = True
    left = ~middle if inverted else middle
    shown = sample(mask=left) if meaning == "object" else sample(kept=left)
    masks = (Mask(loaded.image_paths[0], meaning, 12, 12),) * len(loaded.frame_names)
    masked = replace(loaded, masks=masks)
    assert len(inverted_masks(masked, dict.fromkeys(range(8), shown))) == inverted
    assert inverted_masks(masked, dict.fromkeys(range(8), sample())) == []  # nothing is left out

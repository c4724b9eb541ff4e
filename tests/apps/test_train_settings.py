"""What a run is made of where nobody says: by the scene, the time and the memory."""

from dataclasses import replace

import pytest

from polyfield.apps.mask_files import Mask
from polyfield.apps.scene import load_scene
from polyfield.apps.train_options import Train
from polyfield.apps.train_settings import (
    DISTORTION,
    FEWEST_SPLATS,
    MASKED_DISTORTION,
    MOST_SPLATS,
    chosen_warp,
    default_distortion,
    most_parameters,
    new_settings,
    usual_splats,
)
from polyfield.cuda.errors import InputError


def test_drawing_space_together_spends_half_of_the_detail_on_the_finest_cube(scene):
    found = load_scene(scene, unbounded=True)
    assert found.grid_levels > 1
    warp, resolution = chosen_warp(found, Train(scene, space="unbounded"), 1024)
    assert warp == {"contraction": found.grid_levels}
    assert resolution == 1024 * 4 // 2**found.grid_levels
    assert chosen_warp(found, Train(scene), 1024) == ({}, 1024)


@pytest.mark.parametrize(
    ("meaning", "weight"), [("object", MASKED_DISTORTION), ("ignore", DISTORTION)]
)
def test_more_fog_is_cleared_about_what_masks_tell(scene, tmp_path, meaning, weight):
    plain = load_scene(scene)
    assert default_distortion(plain) == DISTORTION < MASKED_DISTORTION
    mask = Mask(tmp_path / "mask.png", meaning, 8, 8)
    masks = (None,) * (len(plain.frame_names) - 1) + (mask,)
    assert default_distortion(replace(plain, masks=masks)) == weight


def test_more_gaussians_fit_where_there_are_more_pixels_and_more_time(scene):
    found = load_scene(scene)
    small = usual_splats(found, 0.1)
    cameras = replace(found.cameras, width=found.cameras.width * 4, height=found.cameras.height * 4)
    assert usual_splats(replace(found, cameras=cameras), 500.0) > small == FEWEST_SPLATS
    huge = replace(found.cameras, width=found.cameras.width * 4096)
    assert usual_splats(replace(found, cameras=huge), 1e4) == MOST_SPLATS


def test_gaussians_count_as_many_as_there_may_be_and_shrink_to_the_memory(scene):
    found = load_scene(scene)
    options = Train(scene, field="gaussians", splats=1000)
    settings, memory = new_settings(found, options, 4_000_000_000)
    assert settings.arguments == {"splats": 1000, "degree": 2}
    assert most_parameters(settings) == 38_000 == memory.parameters
    longer = Train(scene, field="gaussians", minutes=1e5)
    plenty, whole = new_settings(found, longer, 16_000_000_000)
    limit = whole.total_bytes - 400_000_000
    little, plan = new_settings(found, longer, limit)
    assert little.arguments["splats"] < plenty.arguments["splats"] == MOST_SPLATS
    assert plan.total_bytes <= limit
    with pytest.raises(InputError, match="--memory"):
        new_settings(found, Train(scene, field="gaussians", splats=1 << 24), limit)


def test_sizes_of_gaussians_can_be_asked_for(scene):
    options = Train(scene, field="gaussians", sizes="degree=3,splats=77")
    settings, _ = new_settings(load_scene(scene), options, 4_000_000_000)
    assert settings.arguments == {"splats": 77, "degree": 3}

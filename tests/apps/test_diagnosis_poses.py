"""Which evidence of wrong poses is believed."""

from dataclasses import replace

import torch

from polyfield.apps.diagnosis import Warning
from polyfield.apps.diagnosis_poses import Verdict, point_verdict, pose_warnings
from polyfield.apps.scene import load_scene

FAULT = Warning("convention", "scene", "they are upside down.", "Turn them.")
OTHER = Warning("convention", "scene", "they are inverted.", "Invert them.")


def verdict(evidence, score, warning=None):
    return Verdict(evidence, score, score, "", warning)


def test_outlines_are_not_held_against_poses_that_matches_confirm():
    outlines = verdict("outlines", 0.2, FAULT)
    assert pose_warnings([outlines, verdict("matches", 0.8)]) == []
    assert pose_warnings([outlines, verdict("matches", 0.3)]) == [FAULT]
    assert pose_warnings([outlines]) == [FAULT]


def test_a_point_tells_of_poses_where_two_cameras_see_it(scene):
    loaded = load_scene(scene)
    random = torch.Generator().manual_seed(0)
    points = 0.5 * torch.rand(100, 3, generator=random).double() - 0.25
    all_seen = point_verdict(replace(loaded, points=points))
    assert all_seen is not None and all_seen.score == 1
    cameras = loaded.cameras.select(torch.tensor([0]))
    alone = point_verdict(replace(loaded, cameras=cameras, points=points))
    assert alone is not None and alone.score == 0


def test_what_matches_name_is_named():
    assert pose_warnings([verdict("outlines", 0.2, FAULT), verdict("matches", 0.1, OTHER)]) == [
        OTHER
    ]
    assert pose_warnings([verdict("points", 0.2, OTHER), verdict("outlines", 0.9)]) == [OTHER]
    assert pose_warnings([]) == []

"""Which evidence of wrong poses is believed."""

from polyfield.apps.diagnosis import Warning
from polyfield.apps.diagnosis_poses import Verdict, pose_warnings

FAULT = Warning("convention", "scene", "they are upside down.", "Turn them.")
OTHER = Warning("convention", "scene", "they are inverted.", "Invert them.")


def verdict(evidence, score, warning=None):
    return Verdict(evidence, score, score, "", warning)


def test_outlines_are_not_held_against_poses_that_matches_confirm():
    outlines = verdict("outlines", 0.2, FAULT)
    assert pose_warnings([outlines, verdict("matches", 0.8)]) == []
    assert pose_warnings([outlines, verdict("matches", 0.3)]) == [FAULT]
    assert pose_warnings([outlines]) == [FAULT]


def test_what_matches_name_is_named():
    assert pose_warnings([verdict("outlines", 0.2, FAULT), verdict("matches", 0.1, OTHER)]) == [
        OTHER
    ]
    assert pose_warnings([verdict("points", 0.2, OTHER), verdict("outlines", 0.9)]) == [OTHER]
    assert pose_warnings([]) == []

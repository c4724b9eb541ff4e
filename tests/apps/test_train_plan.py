"""What training says before it begins."""

import pytest

from polyfield.apps.scene import load_scene
from polyfield.apps.schedule import Schedule
from polyfield.apps.settings import settings_of
from polyfield.apps.train_plan import measured_sentence, plan_sentence


def test_a_budget_that_cannot_suffice_is_warned_of_with_what_would():
    plenty = measured_sentence(Schedule(4000), 0.04, 1 << 15)
    assert "4,000 steps of 40.0 ms, 131 million samples, 2 min 40 s" in plenty
    assert "warning" not in plenty
    amended = measured_sentence(Schedule(4000).amend(3000, 900), 0.05, 1 << 15)
    assert amended == "plan, set right: 3,000 steps, 50.0 ms each by now, 98.3 million samples"
    little = measured_sentence(Schedule(60), 0.5, 1 << 15)
    assert "warning: fewer than 20 million samples" in little and "5 min 5 s" in little


@pytest.mark.parametrize(
    ("field", "what", "upto"), [("hash-grid", "samples", ""), ("gaussians", "pixels", "up to ")]
)
def test_a_plan_says_of_what_a_step_takes_how_many(disc_scene, field, what, upto):
    settings = settings_of(load_scene(disc_scene), field, {"levels": 3}, 0, 1600, 1 << 20)
    assert settings.taken == what
    parts = settings, 38_000, 780_000_000, 4_000_000_000
    steps = plan_sentence(*parts, Schedule(500), None)
    assert steps.startswith(f"plan: {field} (levels 3), {upto}38,000 parameters, 1,600 {what} a ")
    assert steps.endswith(f"at most 0.78 GB of 4.00 GB; 500 steps, 0.8 million {what}")
    minutes = plan_sentence(*parts, Schedule(None), 2.0)
    assert minutes.endswith("; 2 min 0 s, whose steps are fixed after a short measurement")
    measured = measured_sentence(Schedule(500), 0.04, 1600, what)
    assert f"0.8 million {what}," in measured
    assert f"fewer than 20 million {what} give a blurred result" in measured

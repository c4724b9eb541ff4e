"""What training says before it begins."""

from polyfield.apps.schedule import Schedule
from polyfield.apps.train_plan import measured_sentence


def test_a_budget_that_cannot_suffice_is_warned_of_with_what_would():
    plenty = measured_sentence(Schedule(4000), 0.04, 1 << 15)
    assert "4,000 steps of 40.0 ms, 131 million samples, 2 min 40 s" in plenty
    assert "warning" not in plenty
    little = measured_sentence(Schedule(60), 0.5, 1 << 15)
    assert "warning: fewer than 20 million samples" in little and "5 min 5 s" in little

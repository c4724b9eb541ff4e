from polyfield.apps.bench_race import hold
from polyfield.apps.bench_splats import ball, drawn_against_reference, seen_of


def test_both_sides_come_to_the_same():
    row = hold("splats", drawn_against_reference(60, 40), 2)
    assert row.ratio is not None and row.ratio > 0


def test_the_ball_fills_most_of_the_image():
    seen = seen_of(*ball(3000, 100))
    assert len(seen.rows) == 3000
    away = (seen.means2d - 50).norm(dim=1)
    assert 0.68 < away.max() / 50 < 0.76

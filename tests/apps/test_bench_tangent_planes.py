from polyfield.apps.bench_race import hold
from polyfield.apps.bench_tangent_planes import vertices_against_reference


def test_both_sides_come_to_the_same():
    row = hold("udf", vertices_against_reference(300), 2)
    assert row.ratio is not None and row.ratio > 0

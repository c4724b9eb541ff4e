from polyfield.apps.bench_race import hold
from polyfield.apps.bench_rbf import (
    both_against_reference,
    clusters_against_reference,
    search_against_reference,
)


def test_both_sides_of_each_race_come_to_the_same():
    for race in (search_against_reference, both_against_reference, clusters_against_reference):
        row = hold("rbf", race(600, 50), 2)
        assert row.ratio is not None and row.ratio > 0

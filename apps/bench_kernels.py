"""`polyfield bench kernels`: every race, by the name of its row."""

from __future__ import annotations

import os
from collections.abc import Callable

from polyfield.apps.bench_hash import (
    both_against_drjit,
    both_against_drjit_as_installed,
    both_against_reference,
    both_against_torch,
    forward_against_drjit,
)
from polyfield.apps.bench_machine import limits
from polyfield.apps.bench_networks import composite_against_nerfacc, mlp_against_torch
from polyfield.apps.bench_planes import both_against_grid_sample as planes_against_grid_sample
from polyfield.apps.bench_planes import both_against_reference as planes_against_reference
from polyfield.apps.bench_race import Absent, Race, Row, hold
from polyfield.apps.bench_rbf import both_against_reference as rbf_against_reference
from polyfield.apps.bench_rbf import clusters_against_reference, search_against_reference
from polyfield.apps.bench_splats import drawn_against_reference
from polyfield.apps.bench_step import step_against_reference
from polyfield.apps.bench_surface import (
    surface_against_pymcubes,
    surface_against_scikit_image,
    surface_against_vtk,
)
from polyfield.apps.bench_tangent_planes import vertices_against_reference
from polyfield.cuda.backend import VARIABLE
from polyfield.cuda.errors import InputError

MACHINE = "machine"
RACES: dict[str, Callable[[], Race]] = {
    "hash-forward/drjit": forward_against_drjit,
    "hash-both/drjit": both_against_drjit,
    "hash-both/drjit-as-installed": both_against_drjit_as_installed,
    "hash-both/reference": both_against_reference,
    "hash-both/torch": both_against_torch,
    "mlp-both/torch": mlp_against_torch,
    "plane-both/reference": planes_against_reference,
    "plane-both/torch": planes_against_grid_sample,
    "rbf-search/reference": search_against_reference,
    "rbf-clusters/reference": clusters_against_reference,
    "rbf-both/reference": rbf_against_reference,
    "composite-both/nerfacc": composite_against_nerfacc,
    "splats-drawn/reference": drawn_against_reference,
    "step/reference": step_against_reference,
    "surface/pymcubes": surface_against_pymcubes,
    "surface/scikit-image": surface_against_scikit_image,
    "surface/vtk": surface_against_vtk,
    "udf-vertices/reference": vertices_against_reference,
}


def race_kernels(
    only: tuple[str, ...],
    rounds: int,
    races: dict[str, Callable[[], Race]] = RACES,
    machine: Callable[[], list[Row]] = limits,
) -> list[Row]:
    """The races named in `only`, all if it is empty, and the machine's limits ("machine").

    A race whose opponent is absent gives a row that says so. Raises InputError for a name that is
    no row, or where POLYFIELD_BACKEND would keep the kernels from running; PolyfieldError where the
    sides of a race disagree.
    """
    if os.environ.get(VARIABLE):
        got = f"{VARIABLE}={os.environ[VARIABLE]}"
        raise InputError("bench kernels", got, "no wish", f"Unset {VARIABLE}.")
    known = (*races, MACHINE)
    for name in only:
        if name not in known:
            raise InputError(f"--only {name}", "no such row", f"one of {', '.join(known)}")
    rows = machine() if MACHINE in (only or known) else []
    for name in only or races:
        if name != MACHINE:
            rows.append(_row(name, races[name], rounds))
    return rows


def _row(name: str, make: Callable[[], Race], rounds: int) -> Row:
    try:
        race = make()
    except Absent as absent:
        against = name.partition("/")[2]
        return Row(name, against, "", None, None, "ms", None, str(absent))
    return hold(name, race, rounds)

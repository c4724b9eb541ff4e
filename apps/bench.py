"""`polyfield bench`: how fast this machine runs polyfield, and what it withstands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import Positional, arg

from polyfield.apps.bench_compile import compile_rows, compile_summary
from polyfield.apps.bench_distill import distill_rows, distill_summary
from polyfield.apps.bench_fields import fields_summary, image_rows, read_photograph
from polyfield.apps.bench_fuzz import fuzz_rows, fuzz_summary
from polyfield.apps.bench_kernels import race_kernels
from polyfield.apps.bench_kills import kill_rows, kill_summary
from polyfield.apps.bench_labyrinth import cut_labyrinth, labyrinth_summary
from polyfield.apps.bench_photos import photos_summary, train_photographs
from polyfield.apps.bench_race import Row
from polyfield.apps.bench_sanitizers import sanitizer_rows, sanitizer_summary
from polyfield.apps.bench_scenes import MINUTES, scene_rows, scenes_summary
from polyfield.apps.bench_splats import splat_rows
from polyfield.apps.bench_view import view_seconds
from polyfield.apps.option_help import optional
from polyfield.cuda.errors import InputError


@dataclass(frozen=True)
class Bench:
    """Race the kernels against others' on this machine, time views and large captures, or look for
    faults."""

    what: Positional[
        Literal[
            "kernels",
            "view",
            "fields",
            "scenes",
            "distill",
            "photos",
            "surface",
            "splats",
            "compile",
            "sanitizers",
            "fuzz",
            "kills",
        ]
    ] = "kernels"
    """kernels: the races and the machine's limits. view: how long a run takes to show a view.
    fields: how well kinds of fields learn a photograph, in equal steps and parameters. scenes: what
    each kind of field makes of scenes in the same minutes, with a picture. distill: what is left of
    each kind of field in every other one, of one scene, row by row, with a picture. photos:
    training on far more photographs than fit the memory; exit code 1 where it takes more. surface:
    marching cubes on 1,024 cells a side, block by block; exit code 1 where it takes more than 60 s
    or 2 GB, or leaves a hole. splats: drawing Gaussians, and a training step of a run's. compile:
    every kernel for every GPU architecture. sanitizers: every kernel under all of them. fuzz:
    hostile files for every reader. kills: a training that is killed ten times."""
    run: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RUN ...]")] = ()
    """Folder that `polyfield train` wrote, for `view` and `splats`; a photograph, for `fields`; or
    folders of posed photographs, for `scenes`, one for `distill`."""
    only: str = ""
    """Names of rows, separated by commas, "hash-both/drjit,machine" for instance: no others. Of
    fuzz, names of readers, of scenes and distill those of fields."""
    rounds: int = 9
    """Turns that each side gets, after two that only warm; or views, at least 2."""
    images: int = 1000
    """Photographs to make, for `photos`, in a temporary folder."""
    megapixels: float = 12.0
    """Million pixels of each, for `photos`."""
    memory: Annotated[float, arg(metavar="GB")] = 2.0
    """Memory that training on them stays within, for `photos`."""
    steps: Annotated[int | None, optional("N")] = None
    """Steps of it, for `photos`, or of each field, 200 by default; of scenes and distill instead of
    minutes."""
    minutes: Annotated[float | None, optional("M")] = None
    """That fuzz gives to each reader, 10 by default, scenes to each training, 3 by default, or
    distill to each run, 1.5 by default and 3 into mlp."""
    seed: int = 0
    """Of fields, scenes, distill, fuzz and kills: another one does other things."""
    out: Annotated[Path | None, optional("DIR")] = None
    """Folder for the files that fuzz finds, or the runs of scenes; named like the bench by
    default."""


MEANT_FOR = {
    "only": ("kernels", "scenes", "distill", "fuzz"),
    **dict.fromkeys(("images", "megapixels", "memory"), ("photos",)),
    "steps": ("photos", "fields", "scenes", "distill"),
    **dict.fromkeys(("minutes", "out"), ("scenes", "distill", "fuzz")),
    "seed": ("fields", "scenes", "distill", "fuzz", "kills"),
}
"""Options that mean nothing to the other benches."""


def bench(options: Bench) -> list[dict[str, object]]:
    """Rows {name, against, version, ours, theirs, unit, ratio}; prints nothing.

    ours and theirs are medians, ratio the median of theirs / ours turn by turn: above 1, we are
    faster. The limits of the machine ("machine/...") and the times of views have no opponent:
    against and version are "", theirs and ratio None. A race whose opponent is not installed has
    None in all three numbers, and says why in one more entry, "skipped". The rows of the others are
    those of image_rows, scene_rows, distill_rows, compile_rows, sanitizer_rows, fuzz_rows and
    kill_rows; that of photos is a PhotoTraining, of surface a LargeSurface. Raises InputError for
    options that do not fit, and as the functions of its rows.
    """
    if options.rounds < 2:
        raise InputError("--rounds", str(options.rounds), "at least 2")
    allowed = {"view": 1, "splats": 1, "fields": 1, "distill": 1, "scenes": 1 << 20}.get(
        options.what, 0
    )
    if len(options.run) > allowed or (allowed and not options.run):
        got = ", ".join(map(str, options.run)) or "nothing"
        expected = (
            "a run's folder with view and splats, a photograph with fields, scenes with scenes, "
            "one with distill"
        )
        raise InputError(f"bench {options.what}: RUN", got, expected)
    if None not in (options.minutes, options.steps):
        got = f"beside --steps {options.steps}"
        raise InputError(f"--minutes {options.minutes}", got, "one of them")
    _check_options(options)
    names = tuple(name.strip() for name in options.only.split(",") if name.strip())
    steps = 200 if options.steps is None else options.steps
    if options.what == "photos":
        found = train_photographs(options.images, options.megapixels, options.memory, steps)
        return [asdict(found)]
    if options.what == "surface":
        return [asdict(cut_labyrinth())]
    if options.what == "compile":
        return compile_rows()  # type: ignore[return-value]  # a list of other rows
    if options.what == "sanitizers":
        return sanitizer_rows()
    if options.what == "fuzz":
        minutes = 10.0 if options.minutes is None else options.minutes
        return fuzz_rows(minutes, names, options.seed, options.out or Path("fuzz"))
    if options.what == "scenes":
        return scene_rows(
            options.run,
            options.out or Path("scenes"),
            minutes=MINUTES if options.minutes is None else options.minutes,
            steps=options.steps,
            seed=options.seed,
            fields=names,
        )
    if options.what == "distill":
        return distill_rows(
            options.run[0],
            options.out or Path("distill"),
            minutes=options.minutes,
            steps=options.steps,
            seed=options.seed,
            fields=names,
        )
    if options.what == "kills":
        return kill_rows(options.seed)
    if options.what == "fields":
        return image_rows(read_photograph(options.run[0]), steps, options.seed)
    if options.what == "view":
        rows = view_seconds(options.run[0], options.rounds)
    elif options.what == "splats":
        rows = splat_rows(options.run[0], options.rounds)
    else:
        rows = race_kernels(names, options.rounds)
    return [_entries(row) for row in rows]


def _entries(row: Row) -> dict[str, object]:
    entries = asdict(row)
    if not row.skipped:
        del entries["skipped"]
    return entries


def summary(rows: list[dict[str, object]]) -> str:
    """A table for the terminal."""
    if rows and "arch" in rows[0]:
        return compile_summary(rows)  # type: ignore[arg-type]  # see `bench`
    if rows and "teacher_psnr" in rows[0]:
        return distill_summary(rows)
    if rows and "packed_bytes" in rows[0]:
        return scenes_summary(rows)
    if rows and "learned" in rows[0]:
        return fields_summary(rows)
    if rows and "cases" in rows[0]:
        return fuzz_summary(rows)
    if rows and "moments" in rows[0]:
        return kill_summary(rows)
    if rows and "findings" in rows[0]:
        return sanitizer_summary(rows)
    if rows and "open_edges" in rows[0]:
        return labyrinth_summary(rows[0])
    if rows and "peak_bytes" in rows[0]:
        return photos_summary(rows[0])
    width = max((len(str(row["name"])) for row in rows), default=0)
    lines = [f"{str(row['name']):<{width}}  {_result(row)}" for row in rows]
    return "\n".join([*lines, f"({torch.get_num_threads()} threads)"])


def _check_options(options: Bench) -> None:
    for option in fields(Bench):
        meant = MEANT_FOR.get(option.name, (options.what,))
        value = getattr(options, option.name)
        if options.what not in meant and value != option.default:
            where = f"--{option.name}"
            raise InputError(where, str(value), f"bench {' or '.join(meant)} with it")


def failed(rows: list[dict[str, object]]) -> bool:
    """Whether something was found that must not be, or took more than it was given."""
    return any(row.get("findings") or not row.get("within", True) for row in rows)


def _result(row: dict[str, object]) -> str:
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    unit = row["unit"]
    ours = f"{row['ours']:.2f} {unit}"
    if row["ratio"] is None:
        return ours
    opponent = f"{row['against']} {row['version']}".strip()
    return f"{row['ratio']:6.2f}x  ours {ours}, {opponent} {row['theirs']:.2f} {unit}"

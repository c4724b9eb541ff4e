"""What `polyfield distill` can be told. Apart from distill.py, so that its help needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

from tyro.conf import Positional, arg

from polyfield.apps.fit_options import Target
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.train_options import Train, check
from polyfield.cuda.errors import InputError

MOST_VIEWS = 100_000
DISTANCES: tuple[Target, ...] = get_args(Target)  # of a surface: what shows no views
USUAL_MINUTES = 1.5
POINT_STEPS_A_MINUTE, POINT_SHARE = 200, 0.3  # where nobody says; of --steps, where they are given


@dataclass(frozen=True)
class Distill:
    """Turn what a run has learned into another kind of field; its photographs are not needed."""

    teacher: Annotated[Positional[Path | None], optional("[RUN|SPLATS]")] = None
    """Folder that `polyfield train` or `distill` wrote, or `fit` of a mesh, which then is looked at
    as discs on its surface, or any file of Gaussians; from all around where nothing else says. Not
    needed with --resume."""
    into: Annotated[str, arg(metavar="FIELD")] = "tri-plane"
    """Kind of field to make: any that `polyfield train --field` knows, or ray-distribution; or the
    surface as `polyfield fit --as` learns it: sdf, udf or occupancy."""
    chain: Annotated[str, arg(metavar="FIELD,...", help_behavior_hint="")] = ""
    """Instead of --into: fields each of which is taught by the one before. Says what is left of the
    beginning in every one."""
    out: Annotated[Path | None, optional("RUN")] = None
    """Folder for everything that is written. The default is runs/<RUN's name>-into-<field>."""
    minutes: Annotated[float | None, optional("M")] = None
    """Time budget, from the command's start to the last checkpoint. The default is 1.5."""
    steps: Annotated[int | None, optional("N")] = None
    """Number of optimisation steps, instead of a time budget."""
    views: Annotated[int | None, optional("N")] = None
    """Views of the teacher to learn from, between and about those that it learned from. The default
    is 100, fewer where they would take more than a quarter of the time."""
    feature_steps: Annotated[int | None, optional("N")] = None
    """Steps in which the teacher's features are learned at points. Most of --point-steps."""
    point_steps: Annotated[int | None, optional("N")] = None
    """Steps at points of space altogether, before views. The default is 200 for every minute."""
    refine: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Part of the steps, 0 to 1, at the end, in which the scene's photographs teach in place of the
    teacher, where they are still there."""
    hard_rays: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Part of a batch that are rays which were wrong before, as for `polyfield train`."""
    memory: Annotated[float | None, optional("GB")] = None
    """Memory to stay within, as for `polyfield train`."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to train."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Seed of every random number of the run, the views' among them."""
    sizes: Annotated[str, arg(metavar="NAME=VALUE,...", name="set", help_behavior_hint="")] = ""
    """Sizes of the field in place of those that would be chosen, as for `polyfield train`."""
    splats: Annotated[int | None, optional("N")] = None
    """Gaussians at most, for --into gaussians; of a fit so many, 30,000 where nobody says."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on with the run in --out from its last checkpoint, with the plan it began with."""
    report: Annotated[bool, arg(help_behavior_hint="")] = True
    """Leave out the final measurements and report.html, which come after the time budget."""


def training_options(options: Distill) -> Train:
    """The same as options of a training. InputError for what makes no sense, see `check`."""
    if options.teacher is None:
        if not options.resume:
            raise InputError("RUN", "is not given", "a folder that `polyfield train` wrote")
        if options.out is None:
            raise InputError("--resume", "neither RUN nor --out is given", "the run to go on with")
    if options.views is not None and not 1 <= options.views <= MOST_VIEWS:
        raise InputError("--views", str(options.views)[:80], f"1 to {MOST_VIEWS:,}")
    minutes = options.minutes
    if minutes is None and options.steps is None:
        minutes = USUAL_MINUTES
    made = Train(
        scene=options.teacher or options.out,
        field=options.into,
        out=options.out,
        minutes=minutes,
        steps=options.steps,
        memory=options.memory,
        device=options.device,
        seed=options.seed,
        sizes=options.sizes,
        hard_rays=options.hard_rays,
        splats=options.splats,
        init=options.teacher if options.into == "gaussians" else None,
        densify="absgrad" if options.into == "gaussians" else "mcmc",
        resume=options.resume,
        report=options.report,
    )
    check(made)
    usual_stages(options)
    check_refining(options)
    return made


def usual_stages(options: Distill) -> tuple[int, int]:
    """The steps before which the stages of features and of points end, as asked for or usual.

    Raises InputError for what makes no sense.
    """
    points = options.point_steps
    if points is None and options.steps is not None:
        points = int(POINT_SHARE * options.steps)
    if points is None:
        points = int(POINT_STEPS_A_MINUTE * (options.minutes or USUAL_MINUTES))
    if points < 0:
        raise InputError("--point-steps", str(points)[:80], "0 or more")
    features = 4 * points // 5 if options.feature_steps is None else options.feature_steps
    if not 0 <= features <= points:
        got = str(features)[:80]
        raise InputError("--feature-steps", got, f"0 to {points:,}, the steps at points")
    return features, points


def check_refining(options: Distill) -> None:
    """InputError for a part of the steps that is none, or a field that photographs cannot teach."""
    if not 0 <= options.refine < 1:
        raise InputError("--refine", str(options.refine), "0 or more, below 1")
    if options.refine and options.into == "ray-distribution":
        got = "with --into ray-distribution: photographs are too few for a field of rays"
        raise InputError(f"--refine {options.refine:g}", got, "another field, or none of it")

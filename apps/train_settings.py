"""What a new run is made of: chosen for a scene, within the memory, as the options ask."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from polyfield.apps.bounds import common_view
from polyfield.apps.memory_plan import MemoryPlan, known_plan, plan_memory
from polyfield.apps.scene import Scene
from polyfield.apps.schedule import Schedule
from polyfield.apps.settings import Settings, pixel_size, settings_of
from polyfield.apps.train_options import Train
from polyfield.apps.trained import build
from polyfield.apps.trained_rays import build_rays
from polyfield.apps.trained_splats import arguments_of_splats
from polyfield.cuda.errors import InputError
from polyfield.fields.gaussians import GAUSSIANS, GaussianArguments
from polyfield.fields.ray_distribution import RAY_DISTRIBUTION, RayDistributionArguments
from polyfield.fields.table import FIELDS, arguments_of, smoothed, with_appearance, with_sizes

DISTORTION, MASKED_DISTORTION = 0.01, 0.1  # weights where nobody says, see BENCHMARKS.md
USUAL_SPLATS, USUAL_PIXELS = 30_000, 40_000  # of five minutes
FEWEST_SPLATS, MOST_SPLATS = 5_000, 400_000  # where nobody says
MOST_SAMPLES = 1 << 24  # a step, that settings hold


def wished_sizes(scene: Scene, options: Train) -> tuple[int, int]:
    """Details a side of the unit cube that the photographs can show, and parameters to hold them.

    One detail to a pixel at the distance of what the cameras look at: finer ones no photograph
    supervises. Parameters grow with the time there is to fill them.
    """
    finest = 2 ** round(math.log2(min(8192.0, max(128.0, 1 / pixel_size(scene)))))
    longer = (options.minutes or 3.0) > 10 or (options.steps or 0) > 40_000
    parameters = (1 << 23 if longer else 1 << 21) * (2 if scene.grid_levels > 1 else 1)
    return finest, parameters


def new_settings(scene: Scene, options: Train, limit: int) -> tuple[Settings, MemoryPlan]:
    """Settings of a run that begins, and its memory: at most `limit` bytes.

    Raises InputError for what the options ask of a field that has no such thing.
    """
    if options.field == GAUSSIANS:
        return _splat_settings(scene, options, limit)
    resolution, parameters = wished_sizes(scene, options)
    plan = plan_memory(
        limit, scene.sizes, 4 if scene.has_alpha else 3, parameters, scene.mask_sizes
    )
    warp, resolution = chosen_warp(scene, options, resolution)
    rays = options.field == RAY_DISTRIBUTION
    kind = RayDistributionArguments if rays else FIELDS[options.field].arguments
    arguments = kind.fitted(resolution, plan.parameters)
    if options.surface != "none":
        arguments = smoothed(arguments)
    if options.sizes:
        arguments = with_sizes(arguments, options.sizes)
    if options.appearance:
        arguments = with_appearance(arguments, options.appearance, len(scene.splits["train"]))
    settings = settings_of(
        scene,
        options.field,
        arguments_of(arguments),
        options.seed,
        min(plan.samples_per_step, arguments.samples_per_step),
        plan.image_bytes,
    )
    surface = options.surface != "none"
    settings = replace(
        settings,
        sampling=replace(settings.sampling, pieces=options.surface in ("neus", "neudf")),
        surface=options.surface,
        eikonal=options.eikonal if surface else 0.0,
        curvature=options.curvature if surface else 0.0,
        coarse_to_fine=options.coarse_to_fine,
        pixel=options.pixel,
        loss=options.loss,
        images=options.images,
        sampler=options.sampler,
        distortion=default_distortion(scene) if options.distortion is None else options.distortion,
        hard_rays=options.hard_rays,
        depth=options.depth,
        total_variation=options.total_variation,
        learned_background=options.learned_background,
        networks=options.networks,
        exposures=len(scene.splits["train"]) if options.exposure else 0,
        warp=warp,
    )
    return settings, plan if not options.sizes else known_memory(settings, scene, limit)


def chosen_warp(scene: Scene, options: Train, resolution: int) -> tuple[dict, int]:
    """What the field does with positions, and details a side of the cube that they go to.

    resolution: details a side of the unit cube. InputError where cameras look many ways but --space
    says that they do not.
    """
    if options.space == "unbounded":
        # The finest of the nested cubes, 1 / 2^(levels - 1) of the side, becomes a half of it.
        return {"contraction": scene.grid_levels}, resolution * 4 >> scene.grid_levels
    if options.space != "ndc":
        return {}, resolution
    cameras = scene.cameras.select(scene.splits["train"]).transformed(scene.to_field)
    found = common_view(cameras, scene.near)
    if found is None:
        got = "the cameras look many ways"
        raise InputError("--space ndc", got, "a forward-facing capture", "Leave it out.")
    pixels = 2 * float((cameras.focal.amax(1) * max(found["extent"])).median())
    return {"projection": found}, 2 ** round(math.log2(min(8192.0, max(128.0, pixels))))


def default_distortion(scene: Scene) -> float:
    """Weight of the distortion loss where nobody says.

    No mask is exact, so there is more fog to clear about an object that masks tell from its
    background.
    """
    told = any(mask is not None and mask.meaning == "object" for mask in scene.masks)
    return MASKED_DISTORTION if told else DISTORTION


def _splat_settings(scene: Scene, options: Train, limit: int) -> tuple[Settings, MemoryPlan]:
    arguments = GaussianArguments(options.splats or usual_splats(scene, options.minutes))
    if options.sizes:
        arguments = with_sizes(arguments, options.sizes)
    channels = 4 if scene.has_alpha else 3
    plan = plan_memory(limit, scene.sizes, channels, arguments.parameters, scene.mask_sizes)
    if plan.parameters < arguments.parameters and options.splats is None and not options.sizes:
        each = arguments.parameters // arguments.splats
        arguments = replace(arguments, splats=max(1, plan.parameters // each))
    pixels = max(width * height for width, height in scene.sizes)
    settings = settings_of(
        scene,
        GAUSSIANS,
        arguments_of(arguments),
        options.seed,
        min(pixels, MOST_SAMPLES),
        plan.image_bytes,
    )
    settings = replace(
        settings,
        images=options.images,
        depth=options.depth,
        exposures=len(scene.splits["train"]) if options.exposure else 0,
        densify=options.densify,
        antialiased=options.antialiased,
        poses=len(scene.splits["train"]) if options.refine_poses else 0,
        init=None if options.init is None else str(options.init.resolve()),
    )
    return settings, known_memory(settings, scene, limit)


def new_schedule(field: str, steps: int | None) -> Schedule:
    """The plan of a run that begins: of so many steps, or of as many as its time will allow."""
    schedule = Schedule(None)
    if field == GAUSSIANS:  # it has rates of its own, which follow the planned steps
        schedule = Schedule(None, warmup=1, hold_fraction=1.0)
    return schedule if steps is None else schedule.fixed(steps)


def usual_splats(scene: Scene, minutes: float | None) -> int:
    """As many Gaussians as photographs of that size can tell apart, within the time to train them.

    A step of more of them takes longer, so that there are fewer.
    """
    pixels = max(width * height for width, height in scene.sizes)
    wished = USUAL_SPLATS * (pixels / USUAL_PIXELS) ** 0.5 * ((minutes or 3.0) / 5) ** 0.5
    return int(min(max(wished, FEWEST_SPLATS), MOST_SPLATS) // 1000 * 1000)


def most_parameters(settings: Settings) -> int:
    """How many numbers a field of these settings has, of Gaussians as many as there may be.

    Counted before there is memory for them: a file may ask for any number.
    """
    if settings.field == GAUSSIANS:
        return arguments_of_splats(settings, "settings").parameters
    if settings.field == RAY_DISTRIBUTION:
        return build_rays(settings, torch.device("meta")).parameters
    return build(settings, torch.device("meta")).parameters


def known_memory(settings: Settings, scene: Scene, limit: int) -> MemoryPlan:
    """The memory of a run whose settings are fixed. InputError where the limit is below it."""
    parameters = most_parameters(settings)
    samples, images = settings.samples_per_step, settings.image_bytes
    return known_plan(limit, scene.sizes, parameters, samples, images, scene.mask_sizes)

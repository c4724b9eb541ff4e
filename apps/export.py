"""`polyfield export`: what a run has learned in the user's frame: a mesh, points, cameras."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import Positional

from polyfield.apps.device import choose_device
from polyfield.apps.fit_surface import surface_mesh
from polyfield.apps.fitted import is_fit, load_fitted
from polyfield.apps.formats.cameras_json import write_cameras
from polyfield.apps.formats.glb import Texture
from polyfield.apps.formats.mesh_files import read_mesh, write_mesh, write_points
from polyfield.apps.formats.splat_files import splat_format
from polyfield.apps.option_help import DEVICE, optional
from polyfield.apps.png_files import to_8bit
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.run_surface import (
    colors_of,
    fused_surface,
    opacity_surface,
    surface_of,
    users_color,
)
from polyfield.apps.settings import scene_of
from polyfield.apps.shown import load_shown
from polyfield.apps.splat_info import convert_splats, write_run_splats
from polyfield.apps.trained import load, read_run
from polyfield.apps.trained_splats import TrainedSplats
from polyfield.cuda.errors import InputError
from polyfield.extract.density_surface import painted
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_metrics import MeshScore, compare_at
from polyfield.extract.mesh_report import MeshReport, mesh_report
from polyfield.extract.simplify import simplified
from polyfield.extract.texture import baked, unwrapped
from polyfield.fields.field import SurfaceField
from polyfield.fields.gaussians import GAUSSIANS

UNWRAPPED = 50_000  # faces that are laid out flat within seconds
THRESHOLDS = 0.01, 0.005  # of the F-score, in diagonals of the reference
SUFFIXES = {
    "mesh": (".ply", ".glb", ".obj"),
    "splats": (".ply", ".spz", ".splat", ".glb"),
    "points": (".ply",),
    "cameras": (".json",),
}


@dataclass(frozen=True)
class Export:
    """Write what a run has learned: a mesh, points on it, or the cameras; or splats again."""

    run: Positional[Path]
    """Folder that `polyfield train` or `fit` wrote, or a file of Gaussians."""
    out: Path
    """File to write: .ply, .glb or .obj for a mesh, .ply for points, .json for cameras; for
    Gaussians .ply, .compressed.ply, .spz, .splat or .glb."""
    kind: Annotated[
        Literal["mesh", "splats", "points", "cameras"] | None,
        optional("mesh|splats|points|cameras", "as"),
    ] = None
    """What to write: splats of Gaussians; of all fields a mesh, the points on it, and cameras. The
    default is splats of Gaussians, a mesh of all others."""
    resolution: int = 256
    """Lattice points a side of the field's cube."""
    level: Annotated[float | None, optional("DENSITY")] = None
    """Density at the surface, per side of the cube. The default follows from median depths."""
    keep_unseen: bool = False
    """Keep surfaces that no training camera sees: undersides, and what lies within the solid."""
    fused: bool = False
    """Cut the surface from the depth that training views show, in place of densities: smoother
    where those are soft."""
    opacity: bool = False
    """Cut the surface where the clearest of the training views has lost half its light, in place of
    densities."""
    sharp: bool = False
    """Keep edges and corners (dual contouring) in the mesh of signed distances."""
    tolerance: Annotated[float | None, optional("LENGTH")] = None
    """How far --sharp may move the surface, in the user's unit, to have fewer and larger faces
    where it is flat. The default moves nothing."""
    faces: Annotated[int | None, optional("N")] = None
    """Faces that a mesh is simplified to. The default keeps all that the lattice gave."""
    texture: Annotated[int | None, optional("SIZE")] = None
    """Colours as a picture of SIZE x SIZE texels in place of one a vertex, for a .glb: few faces
    then show all that the field knows. Without --faces a mesh of more is simplified to 50,000."""
    reference: Annotated[Path | None, optional("MESH")] = None
    """A true mesh, in the same frame, that the one written is compared with."""
    scene: Annotated[Path | None, optional("SCENE")] = None
    """Folder of the scene, whose cameras are wanted, if it is no longer where it was."""
    frame: Literal["auto", "RDF", "RUB", "LUF"] = "auto"
    """Where x, y and z of a file of Gaussians point (right, left, down, up, front, back), for one
    that does not say it: many an .spz holds RDF where its format means RUB."""
    device: Annotated[str, DEVICE] = "auto"
    """Where to compute. auto takes a usable GPU, else the CPU."""


@dataclass(frozen=True)
class ExportResult:
    """What was written."""

    file: str
    kind: str
    counts: dict[str, int]
    """Of what the file holds."""
    level: float | None = None
    """Density that the surface was cut at."""
    quality: MeshReport | None = None
    """Of a mesh."""
    scores: tuple[MeshScore, ...] = ()
    """Against the reference, where one is given: at 1 % and 0.5 % of its diagonal."""
    notes: tuple[str, ...] = ()
    """What was found in a file of Gaussians, and what the one written has no place for."""


def export(options: Export) -> ExportResult:
    """Write what a run has learned, in the user's frame. Prints nothing.

    InputError if this is no run, it has nothing of that kind, the suffix does not go with the kind,
    the file cannot be written, or the field holds no surface.
    """
    if splat_format(options.run) is not None:
        return _splats(options)
    gaussians = _is_of_gaussians(options.run)
    kind = options.kind or ("splats" if gaussians else "mesh")
    options = replace(options, kind=kind)
    suffix, expected = options.out.suffix.lower(), SUFFIXES.get(kind, ())
    if kind == "splats" and not gaussians:
        known = ", ".join(name for name in SUFFIXES if name != "splats")
        raise InputError("--as splats", "a run of another field has none", f"one of {known}")
    if suffix not in expected:
        raise InputError(f"--out {options.out}", f"suffix {suffix!r}", " or ".join(expected))
    if not os.path.isdir(options.out.parent):
        raise InputError(f"--out {options.out}", "its folder does not exist", "one that exists")
    if kind not in ("cameras", "splats") and not 2 <= options.resolution <= 2048:
        raise InputError("--resolution", str(options.resolution), "2 to 2048")
    device = choose_device(options.device)
    if options.texture is not None and (options.kind, suffix) != ("mesh", ".glb"):
        got = f"with --as {options.kind}, {options.out.name}"
        raise InputError("--texture", got, "a mesh in a .glb")
    if options.reference is not None and options.kind != "mesh":
        raise InputError("--reference", f"with --as {options.kind}", "a mesh to compare with it")
    if options.tolerance is not None and not options.sharp:
        raise InputError("--tolerance", "without --sharp", "both", "--faces goes with any mesh.")
    if options.tolerance is not None and not 0 <= options.tolerance < float("inf"):
        raise InputError("--tolerance", str(options.tolerance), "a length of 0 or above")
    tolerance = options.tolerance or 0.0
    reference = None if options.reference is None else read_mesh(options.reference)
    if gaussians and kind != "cameras":
        return _gaussians(options, device, reference)
    if is_fit(options.run):
        if options.kind == "cameras":
            raise InputError("--as cameras", "a fit has none", "mesh or points")
        for name in ("fused", "opacity"):
            if getattr(options, name):
                raise InputError(f"--{name}", "a fit has no views", "a run of `polyfield train`")
        if options.texture is not None:
            raise InputError("--texture", "a fit has no colours", "a run of `polyfield train`")
        fitted = load_fitted(options.run, device)
        mesh = surface_mesh(fitted, options.resolution, options.sharp, tolerance)
        if options.faces is not None:
            mesh = simplified(mesh, options.faces)
            mesh = replace(mesh, normals=mesh.vertex_normals())
        return _written(options, mesh, reference)
    if options.kind == "cameras":
        scene = scene_of(read_run(options.run)[1], options.scene)
        write_cameras(options.out, scene.cameras, scene.image_paths, scene.splits)
        return ExportResult(str(options.out), kind, {"cameras": len(scene.cameras)})
    trained = load(options.run, device)
    if options.sharp and not isinstance(trained.field, SurfaceField):
        remedy = "Train with --surface neus."
        raise InputError("--sharp", "the run has densities", "one of distances", remedy)
    if options.level is not None and isinstance(trained.field, SurfaceField):
        raise InputError("--level", "the run has distances", "none: their surface lies at 0")
    if options.fused and isinstance(trained.field, SurfaceField) and trained.field.ends:
        remedy = "Leave it out."
        raise InputError("--fused", "the run has a sheet with two sides", "an inside", remedy)
    if options.opacity and isinstance(trained.field, SurfaceField):
        raise InputError("--opacity", "the run has distances", "none: their surface lies at 0")
    if options.fused and (options.sharp or options.level is not None):
        raise InputError("--fused", "with --sharp or --level", "neither: it cuts depth maps")
    if options.opacity and (options.fused or options.level is not None):
        raise InputError("--opacity", "with --fused or --level", "neither: its level is a half")
    if options.fused:
        mesh, level = fused_surface(trained, options.resolution, options.keep_unseen), None
    elif options.opacity:
        mesh, level = opacity_surface(trained, options.resolution, options.keep_unseen), None
    else:
        mesh, level = surface_of(
            trained,
            options.resolution,
            options.level,
            options.keep_unseen,
            options.sharp,
            tolerance,
        )
    faces = options.faces
    if options.texture is not None and faces is None and len(mesh.faces) > UNWRAPPED:
        faces = UNWRAPPED
    if faces is not None:
        mesh = simplified(mesh, faces)
        mesh = painted(mesh, users_color(trained), mesh.vertex_normals())
    if options.texture is None:
        return _written(options, mesh, reference, level)
    made = unwrapped(mesh, options.texture)
    normals = made.mesh.normals if made.mesh.normals is not None else made.mesh.vertex_normals()
    with torch.no_grad():
        image = baked(made, normals, users_color(trained))
    texture = Texture(made.coordinates, to_8bit(image.cpu()))
    return _written(options, made.mesh, reference, level, texture)


def _is_of_gaussians(run: Path) -> bool:
    try:
        settings = RunFolder.open(run).config().get("settings")
    except InputError:  # whoever needs the run says so
        return False
    return isinstance(settings, dict) and settings.get("field") == GAUSSIANS


def _gaussians(options: Export, device: torch.device, reference: Mesh | None) -> ExportResult:
    """Of a run of Gaussians: themselves, or the surface of the depth that they show."""
    used = ["run", "out", "kind", "device"]
    if options.kind != "splats":
        used += ["resolution", "keep_unseen", "fused", "faces", "reference"]
    plain = Export(options.run, options.out)
    for name, value in vars(plain).items():
        if name not in used and getattr(options, name) != value:
            got = f"with --as {options.kind} of Gaussians"
            raise InputError(f"--{name.replace('_', '-')}", got, "none")
    trained = load_shown(options.run, device)
    if options.kind != "splats":
        mesh = fused_surface(trained, options.resolution, options.keep_unseen)
        if options.faces is not None:
            fewer = simplified(mesh, options.faces)
            mesh = painted(fewer, colors_of(mesh), fewer.vertex_normals())
        return _written(options, mesh, reference)
    if not isinstance(trained, TrainedSplats):
        raise InputError(str(options.run), "a run of another field", "one of Gaussians")
    count, notes = write_run_splats(trained, options.out)
    return ExportResult(str(options.out), "splats", {"Gaussians": count}, notes=notes)


def _splats(options: Export) -> ExportResult:
    """A file of Gaussians in another format; what asks for a surface is refused."""
    plain = Export(options.run, options.out, frame=options.frame, device=options.device)
    odd = [key for key, value in vars(plain).items() if getattr(options, key) != value]
    if options.kind == "splats":
        odd.remove("kind")
    if odd:
        name = {"kind": "as"}.get(odd[0], odd[0].replace("_", "-"))
        raise InputError(f"--{name}", f"with {options.run.name}, of Gaussians", "a run")
    frame = None if options.frame == "auto" else options.frame
    count, notes = convert_splats(options.run, options.out, frame)
    return ExportResult(str(options.out), "splats", {"Gaussians": count}, notes=notes)


def _written(
    options: Export,
    mesh: Mesh,
    reference: Mesh | None,
    level: float | None = None,
    texture: Texture | None = None,
) -> ExportResult:
    if options.kind == "points":
        write_points(options.out, mesh)
        return ExportResult(str(options.out), "points", {"points": len(mesh.vertices)}, level)
    write_mesh(options.out, mesh, texture)
    scores: tuple[MeshScore, ...] = ()
    if reference is not None:
        thresholds = tuple(share * reference.diagonal() for share in THRESHOLDS)
        scores = compare_at(mesh, reference, thresholds)
    counts = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    return ExportResult(str(options.out), "mesh", counts, level, mesh_report(mesh), scores)


def summary(result: ExportResult) -> str:
    """What was written."""
    counts = ", ".join(f"{count:,} {what}" for what, count in result.counts.items())
    lines = [*result.notes, f"wrote {result.file}: {counts}"]
    if result.quality is not None:
        lines.append(_quality(result.quality))
    for score in result.scores:
        lines.append(
            f"against the reference, {score.samples:,} samples of each: Chamfer-L1 "
            f"{score.chamfer_l1:.4g} (two samplings of one surface: {score.chamfer_floor:.2g}), "
            f"F-score {score.f_score:.4f} at {score.threshold:.4g} (precision "
            f"{score.precision:.4f}, recall {score.recall:.4f}), "
            f"normals {score.normal_consistency:.4f}"
        )
    return "\n".join(lines)


def _quality(report: MeshReport) -> str:
    """What is good about a mesh, then what is not, where it is."""
    parts = "1 component" if report.components == 1 else f"{report.components:,} components"
    closed = "watertight" if report.watertight else "not watertight"
    lines = [f"{parts}, {closed}, Euler number {report.euler}"]
    if report.boundary_loops:
        where = "; ".join(
            f"{each.length:.3g} long about ({', '.join(f'{x:.3g}' for x in each.center)})"
            for each in report.openings[:3]
        )
        lines.append(
            f"{report.boundary_loops:,} openings, {report.boundary_edges:,} edges: {where}"
        )
    counts = {
        "edges with more than two faces": report.non_manifold_edges,
        "edges whose faces disagree on the outside": report.turned_edges,
        "vertices with more than one fan of faces": report.non_manifold_vertices,
        "faces without area": report.flat_faces,
        "faces that come twice": report.doubled_faces,
        "vertices of no face": report.unused_vertices,
        f"of {report.sampled_faces:,} faces run through others": report.crossing_faces,
    }
    faults = [f"{count:,} {what}" for what, count in counts.items() if count]
    return "\n".join([*lines, *([", ".join(faults)] if faults else [])])

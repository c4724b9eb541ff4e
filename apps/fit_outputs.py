"""What a fitted field looks like: its reconstruction, its errors, its small file, a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polyfield.apps.compact_file import SUFFIX, placed_tensors, write_compact
from polyfield.apps.distances import MEASURED, SIDE, DistanceScore, DistanceSource
from polyfield.apps.fit_surface import surface_mesh
from polyfield.apps.fitted import Fitted, load_fitted
from polyfield.apps.formats.exr import write_exr
from polyfield.apps.formats.mesh_files import write_mesh
from polyfield.apps.pixel_values import shown_values
from polyfield.apps.png_files import to_8bit, write_png
from polyfield.apps.rasters import Raster
from polyfield.apps.report import ComparedView, ReportData, write_report
from polyfield.apps.report_pictures import error_map, heat
from polyfield.apps.run_folder import RunFolder
from polyfield.apps.video import write_video
from polyfield.render.metrics import WINDOW, psnr_8bit, ssim

FULL_ERROR = 0.1  # of 1, at which the map of errors is white
FULL_DISTANCE = 0.005  # of the mesh's longest side, likewise
SHOWN = 4  # frames of a film in the report
CLOSE_UP = 160  # pixels a side of the worst place
RESOLUTION = 256  # of the mesh, along a side of the unit cube; half of it without a sign
FULL_CUT = 0.02  # of the cube's side, at which the errors of a cut are white
SLICE = 384  # pixels a side of a cut through distances


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What was written of a field, and its figures."""

    file: str
    """The field in few bytes: halves of numbers, packed."""
    file_bytes: int
    reconstruction: str
    error: str
    """The picture, film or mesh of errors."""
    report: str
    psnr: float | None = None
    """Of the pixels that counted, in dB, mean over frames; of light, as it is shown."""
    ssim: float | None = None
    """Mean over frames; None where a mask left pixels out, or a frame is too small."""
    psnr_filled: float | None = None
    """Of the pixels that a mask left out, if there are any."""
    bits_per_pixel: float | None = None
    """Of the file."""
    file_psnr: float | None = None
    """Of the field as it comes back from the file."""
    distances: DistanceScore | None = None


def write_raster(
    folder: RunFolder, fitted: Fitted, raster: Raster, seconds: float, numbers: int
) -> Outputs:
    """Pictures or films of what was learned of an image or a film, and their figures."""
    file, file_bytes = _write_small(folder, fitted)
    frames, height, width, _ = raster.pixels.shape
    again = load_fitted(file, fitted.device)
    scores, again_scores, filled, views = [], [], [], []
    kind = raster.values
    shown = set(np.linspace(0, frames - 1, min(SHOWN, frames)).round().astype(int).tolist())

    def compared(number: int) -> tuple[Tensor, Tensor]:
        """What the field shows, and what it should; the figures are kept."""
        light, true_light = fitted.frame(number, width, height), raster.frame(number)
        found, truth = shown_values(light, kind), shown_values(true_light, kind)
        small = shown_values(again.frame(number, width, height), kind)
        kept = raster.kept
        similar = None
        if kept is None and min(height, width) >= WINDOW:
            similar = ssim(found, truth)
        scores.append((psnr_8bit(found, truth, kept), similar))
        again_scores.append(psnr_8bit(small, truth, kept))
        if kept is not None and not bool(kept.all()):
            filled.append(psnr_8bit(found, truth, ~kept))
        if number in shown:
            views.extend(_views(number, found, truth, scores[-1], raster))
        if kind == "linear":
            write_exr(folder.path / "reconstruction.exr", light)
        return found, truth

    errors = []
    if raster.kind == "film":
        reconstruction, error = folder.path / "reconstruction.mp4", folder.path / "error.mp4"

        def films():
            for number in range(frames):
                found, truth = compared(number)
                errors.append(_error_map(found, truth))
                yield to_8bit(found[..., :3])

        write_video(reconstruction, films(), raster.frames_per_second)
        write_video(error, iter(errors), raster.frames_per_second)
    else:
        reconstruction, error = folder.path / "reconstruction.png", folder.path / "error.png"
        found, truth = compared(0)
        write_png(reconstruction, to_8bit(found))
        write_png(error, _error_map(found, truth))
    pixels = frames * height * width
    similar = [each for _, each in scores if each is not None]
    outputs = Outputs(
        psnr=_mean([psnr for psnr, _ in scores]),
        ssim=_mean(similar) if similar else None,
        psnr_filled=_mean(filled) if filled else None,
        file=str(file),
        file_bytes=file_bytes,
        bits_per_pixel=8 * file_bytes / pixels,
        file_psnr=_mean(again_scores),
        reconstruction=str(reconstruction),
        error=str(error),
        report=str(folder.report_path),
    )
    figures = {
        "PSNR": f"{outputs.psnr:.2f} dB",
        "the small file": f"{file_bytes:,} bytes, {outputs.bits_per_pixel:.2f} bits a pixel",
        "PSNR from it": f"{outputs.file_psnr:.2f} dB",
    }
    if outputs.psnr_filled is not None:
        figures["PSNR where pixels were left out"] = f"{outputs.psnr_filled:.2f} dB"
    _report(folder, fitted, numbers, seconds, figures, views)
    return outputs


def write_distances(
    folder: RunFolder, fitted: Fitted, source: DistanceSource, seconds: float, numbers: int
) -> Outputs:
    """The surface of what was learned of a mesh, its errors, a cut through both, and figures."""
    file, file_bytes = _write_small(folder, fitted)
    score = source.measure(fitted.values, fitted.slope, MEASURED)
    reconstruction, error = folder.path / "reconstruction.ply", folder.path / "error.ply"
    mesh = surface_mesh(fitted, RESOLUTION // (2 if source.target == "udf" else 1))
    off = source.distance(source.to_field.apply(mesh.vertices)).abs() / (SIDE * FULL_DISTANCE)
    colors = torch.from_numpy(heat(off.clamp(0, 1).double().numpy())).float() / 255
    write_mesh(reconstruction, mesh)
    write_mesh(error, replace(mesh, colors=colors))
    views = [_cut(fitted, source, axis) for axis in range(3)]
    outputs = Outputs(
        distances=score,
        file=str(file),
        file_bytes=file_bytes,
        reconstruction=str(reconstruction),
        error=str(error),
        report=str(folder.report_path),
    )
    known = {
        "IoU": (score.overlap, ".5f"),
        "mean error of distances": (score.mean_error, ".3g"),
        "the same near the surface": (score.mean_error_near, ".3g"),
    }
    figures = {name: format(x, form) for name, (x, form) in known.items() if x is not None} | {
        "normals": f"off by {score.normal_degrees:.2f} degrees",
        "the small file": f"{file_bytes:,} bytes",
        "the mesh": f"{len(mesh.faces):,} faces",
    }
    _report(folder, fitted, numbers, seconds, figures, views)
    return outputs


def _write_small(folder: RunFolder, fitted: Fitted) -> tuple[Path, int]:
    file = folder.path / f"field{SUFFIX}"
    metadata = {"settings": asdict(fitted.settings)}
    exact = placed_tensors(fitted.signal)
    return file, write_compact(file, fitted.signal.state_dict(), metadata, exact)


def _error_map(found: Tensor, truth: Tensor) -> np.ndarray:
    return error_map(to_8bit(found[..., :3]), to_8bit(truth[..., :3]), FULL_ERROR)


def _views(
    number: int, found: Tensor, truth: Tensor, score: tuple[float, float | None], raster: Raster
) -> list[ComparedView]:
    """A frame, and the place of it where errors are the largest."""
    name = f"frame {number}" if raster.kind == "film" else "the image"
    pictures = to_8bit(found[..., :3]), to_8bit(truth[..., :3])
    views = [ComparedView(name, *pictures, score[0], score[1])]
    height, width = found.shape[:2]
    if min(height, width) > 2 * CLOSE_UP:
        square = (found[..., :3] - truth[..., :3]).square().mean(2)[None]
        sums = torch.nn.functional.avg_pool2d(square, CLOSE_UP, stride=16)[0]
        place = int(sums.argmax())
        top, left = 16 * (place // sums.shape[1]), 16 * (place % sums.shape[1])
        rows, columns = slice(top, top + CLOSE_UP), slice(left, left + CLOSE_UP)
        cut = pictures[0][rows, columns], pictures[1][rows, columns]
        psnr = psnr_8bit(found[rows, columns, :3], truth[rows, columns, :3])
        views.append(ComparedView(f"{name}, where it is worst", *cut, psnr, None))
    return views


def _cut(fitted: Fitted, source: DistanceSource, axis: int) -> ComparedView:
    """What was learned on a plane through the middle: inside warm, outside cold, lines of one
    distance. Of an occupancy, the inside alone."""
    ticks = (torch.arange(SLICE) + 0.5) / SLICE
    a, b = torch.meshgrid(ticks, ticks, indexing="ij")
    points = torch.full((SLICE * SLICE, 3), 0.5)
    points[:, (axis + 1) % 3], points[:, (axis + 2) % 3] = b.reshape(-1), 1 - a.reshape(-1)
    found = fitted.values(points)[:, 0].view(SLICE, SLICE)
    truth = source.distance(points).view(SLICE, SLICE)
    name = f"a cut across {'xyz'[axis]}"
    if source.target == "occupancy":
        off = FULL_CUT * (found.sigmoid() - (truth < 0).float()).abs()
        found, truth = (0.01 * (1 - 2 * (x > 0).float()) for x in (found, -truth))
    else:
        off = (found - truth).abs()
    error = heat((off / FULL_CUT).clamp(0, 1).double().numpy())
    return ComparedView(name, _contours(found), _contours(truth), error=error)


def _contours(distance: Tensor) -> np.ndarray:
    inside = (distance < 0)[..., None]
    color = torch.where(inside, torch.tensor([0.95, 0.62, 0.25]), torch.tensor([0.35, 0.6, 0.85]))
    color = color * (1 - 0.6 * (-8 * distance.abs()).exp())[..., None]
    lines = ((distance / 0.02).frac().abs() < 0.12)[..., None]
    color = torch.where(lines, 0.8 * color, color)
    edge = (distance.abs() < 1.5 / SLICE)[..., None]
    return to_8bit(torch.where(edge, torch.ones(3), color))


def _report(
    folder: RunFolder,
    fitted: Fitted,
    numbers: int,
    seconds: float,
    figures: dict[str, str],
    views: list[ComparedView],
) -> None:
    settings = fitted.settings
    data = ReportData(
        scene=Path(settings.signal).name,
        plan={
            "field": settings.field,
            **settings.arguments,
            "numbers": f"{numbers:,}",
            "samples a step": settings.samples_per_step,
            "seed": settings.seed,
        },
        metrics=folder.records(),
        views=views,
        scores=[],
        figures=figures,
        views_title="What it learned",
        watched="while it learned",
        seconds={"learning": seconds},
    )
    if settings.kind == "distance":
        share = f"{FULL_CUT / SIDE:.1%} of the longest side"
        data = replace(data, errors="Error of distances", full_error=share)
        if settings.target == "occupancy":
            data = replace(data, errors="Error of the inside", full_error="1")
    write_report(folder.report_path, data)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)

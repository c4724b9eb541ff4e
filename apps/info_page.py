"""The page of `polyfield info`: one HTML file that opens offline."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from polyfield.apps.diagnosis import Warning, file_of
from polyfield.apps.files import replacing
from polyfield.apps.info import Examined, info_facts
from polyfield.apps.info_drawing import DRAWING_STYLE, scene_drawings
from polyfield.apps.report import POLICY
from polyfield.apps.report_style import STYLE

_MOST_PICTURES = 300
_THUMBNAIL = 96  # pixels of the longer side
_CHECKS = 6  # pixels a side of the squares behind what is transparent

_STYLE = """
.warning { border-left: 4px solid #d4381e; margin-bottom: 10px; overflow-wrap: anywhere; }
.warning b { display: block; } .warning small { color: var(--soft); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 8px; }
.sheet div { border: 2px solid transparent; border-radius: 8px; padding: 3px; font-size: 12px;
  color: var(--soft); overflow-wrap: anywhere; text-align: center; line-height: 1.3; }
.sheet img { display: block; max-width: 100%; margin: 0 auto 2px; border-radius: 4px; }
.sheet .marked { border-color: #d4381e; } .sheet .marked b { color: #d4381e; display: block; }
"""


def write_info_page(path: Path, examined: Examined) -> None:
    """Write the page, whole or not at all. InputError where the system refuses."""
    page = info_page(examined).encode(errors="backslashreplace")  # names need not be UTF-8
    with replacing(Path(path)) as file:
        file.write(page)


def info_page(examined: Examined) -> str:
    """The page's HTML: facts, warnings, the cameras from three sides, photographs. All escaped."""
    result = examined.info
    marked = _marked(result.warnings)
    drawings = "".join(
        f'<div class="card">{drawing}<p class="soft">{escape(name)}</p></div>'
        for name, drawing in scene_drawings(examined.scene, marked).items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(result.name)} · polyfield info</title>
<style>{STYLE}{DRAWING_STYLE}{_STYLE}</style></head>
<body><main>
<h1>{escape(result.name)}</h1><p class="soft">What polyfield found in {escape(result.folder)}</p>
<h2>{_count(len(result.warnings))}</h2>{_warnings(result.warnings)}
<h2>What was found</h2><div class="card">{_facts(examined)}</div>
<h2>Cameras</h2><p class="soft">Blue: to train on; grey: held out; red: with a warning. Dashed: the
cube of the finest grid; dotted: the whole bounds.</p><section class="three">{drawings}</section>
<h2>Photographs</h2>{_sheet(examined, marked)}
</main></body></html>
"""


def _count(warnings: int) -> str:
    return "No warnings" if not warnings else f"{warnings} warning{'s' if warnings > 1 else ''}"


def _warnings(warnings: Sequence[Warning]) -> str:
    return "".join(
        f'<div class="card warning"><b>{escape(warning.where)}</b>{escape(warning.sentence)} '
        f"<small>{escape(warning.remedy)}</small></div>"
        for warning in warnings
    )


def _facts(examined: Examined) -> str:
    facts = list(info_facts(examined.info).items())
    facts += [("note", note) for note in examined.info.notes]
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts)
    return f'<table class="facts">{rows}</table>'


def _marked(warnings: Sequence[Warning]) -> dict[int, str]:
    """What each frame is warned of, in a word or two."""
    marked: dict[int, str] = {}
    for warning in warnings:
        for frame in warning.frames:
            marked[frame] = f"{marked[frame]}, {warning.kind}" if frame in marked else warning.kind
    return marked


def _sheet(examined: Examined, marked: dict[int, str]) -> str:
    scene, count = examined.scene, len(examined.scene.cameras)
    spread = torch.linspace(0, count - 1, min(_MOST_PICTURES, count)).round().long().tolist()
    frames = sorted({*spread, *sorted(marked)[:_MOST_PICTURES]})
    cells = []
    for frame in frames:
        name = escape(file_of(scene, frame))
        sample = examined.samples.get(frame)
        picture = "" if sample is None else f'<img src="{_picture(sample.thumbnail)}" alt="{name}">'
        kind = ' class="marked"' if frame in marked else ""
        word = f"<b>{escape(marked[frame])}</b>" if frame in marked else ""
        cells.append(f"<div{kind}>{picture}{word}{name}</div>")
    remark = "" if len(frames) == count else f"<p>{len(frames)} of {count}, evenly spread.</p>"
    return f'{remark}<div class="sheet">{"".join(cells)}</div>'


def _picture(thumbnail: Tensor) -> str:
    """A small JPEG for an src attribute; chequers show through what is transparent."""
    image = Image.fromarray(thumbnail.numpy())
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    rgba = np.asarray(image).astype(np.float64)
    y, x = np.indices(rgba.shape[:2]) // _CHECKS
    chequers = np.where((x + y) % 2, 222.0, 244.0)[:, :, None]
    alpha = rgba[:, :, 3:] / 255
    shown = (rgba[:, :, :3] * alpha + chequers * (1 - alpha)).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"

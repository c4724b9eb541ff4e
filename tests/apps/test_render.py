import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.render import write_view
from polyfield.fields.similarity import Similarity
from polyfield.render.view import View

# Field x is the user's y: a quarter turn about z, and half the size.
QUARTER = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)
TO_FIELD = Similarity(0.5, QUARTER, torch.zeros(3, dtype=torch.float64))


def band(rows, width, depth=0.25, normal=(1.0, 0.0, 0.0), opacity=1.0):
    shape = (rows, width)
    return View(
        torch.full((*shape, 3), 0.2),
        torch.full(shape, opacity),
        torch.full(shape, depth),
        torch.tensor(normal).expand(*shape, 3),
    )


def read(folder, name):
    return np.asarray(Image.open(folder / name))


def test_normals_and_depth_are_in_the_frame_of_the_user(tmp_path):
    bands = [band(2, 5), band(1, 5, depth=1.0, normal=(0.0, 0.0, -0.5), opacity=0.5)]
    files = write_view(tmp_path, "a", (5, 3), bands, TO_FIELD)
    assert sorted(files) == sorted(map(str, tmp_path.iterdir())) and len(files) == 4
    assert read(tmp_path, "a.png")[0, 0].tolist() == [51, 51, 51]
    assert read(tmp_path, "a.opacity.png")[:, 0].tolist() == [255, 255, 128]
    assert read(tmp_path, "a.depth.png")[:, 0].tolist() == [500, 500, 2000]  # thousandths
    normal = read(tmp_path, "a.normal.png")[:, 0] / 255 * 2 - 1
    assert normal[0] == pytest.approx([0, 1, 0], abs=0.01)
    assert normal[2] == pytest.approx([0, 0, -0.5], abs=0.01)


def test_depth_is_of_what_stops_most_of_the_light(tmp_path):
    bands = [band(1, 2, opacity=0.01), band(1, 2, opacity=0.49), band(1, 2, opacity=0.51)]
    write_view(tmp_path, "a", (2, 3), bands, TO_FIELD)
    assert read(tmp_path, "a.depth.png").tolist() == [[0, 0], [0, 0], [500, 500]]


def test_a_depth_beyond_the_format_does_not_wrap(tmp_path):
    write_view(tmp_path, "a", (2, 1), [band(1, 2, depth=100.0)], TO_FIELD)
    assert (read(tmp_path, "a.depth.png") == 65535).all()


def test_a_failure_half_way_leaves_none_of_the_files(tmp_path):
    def broken():
        yield band(1, 4)
        raise RuntimeError("the renderer fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        write_view(tmp_path, "a", (4, 2), broken(), TO_FIELD)
    assert list(tmp_path.iterdir()) == []

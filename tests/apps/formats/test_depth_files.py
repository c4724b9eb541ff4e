import numpy as np
import pytest
import torch
from PIL import Image

from polyfield.apps.formats.depth_files import check_depth, read_depth
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError


def save(path, values):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint16)).save(path)
    return path


def test_a_step_is_a_millimetre_and_0_is_unknown(tmp_path):
    path = save(tmp_path / "d.png", [[0, 1, 1500], [65535, 256, 32768]])
    assert check_depth(path) == (3, 2)
    depth = read_depth(path)
    expected = torch.tensor([[0, 0.001, 1.5], [65.535, 0.256, 32.768]])
    assert depth.dtype == torch.float32 and depth.isfinite().all()
    torch.testing.assert_close(depth, expected)


def test_another_unit_scales_the_steps(tmp_path):
    depth = read_depth(save(tmp_path / "d.png", [[4000, 0]]), 0.00025)
    assert depth.tolist() == [[1.0, 0.0]]


BAD = {
    "missing": (lambda p: None, "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "an empty file"),
    "8 bits": (lambda p: Image.new("L", (4, 4)).save(p), "PNG of 8 bits, type L; .*16 bits"),
    "colours": (lambda p: Image.new("RGB", (4, 4)).save(p), "8 bits, type RGB"),
    "TIFF": (
        lambda p: Image.fromarray(np.ones((4, 4), np.uint16)).save(p, format="TIFF"),
        "TIFF of 16 bits",
    ),
    "cut off": (
        lambda p: p.write_bytes(save(p, np.arange(99)[None]).read_bytes()[:-9]),
        "cut off",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_depth_image_is_refused_by_name(tmp_path, fault):
    make, pattern = BAD[fault]
    make(tmp_path / "d.png")
    for read in (check_depth, read_depth):
        with pytest.raises(InputError, match=f"d.png: .*{pattern}"):
            read(tmp_path / "d.png")


def test_pixels_that_do_not_decode_are_refused(tmp_path):
    path = save(tmp_path / "d.png", np.random.default_rng(0).integers(0, 65535, (40, 40)))
    data = path.read_bytes()
    middle = data.index(b"IDAT") + 20
    path.write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    assert check_depth(path) == (40, 40)
    with pytest.raises(InputError, match="its pixels do not decode"):
        read_depth(path)


def test_an_image_beyond_all_memory_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr("polyfield.apps.formats.depth_files.MOST_PIXELS", 11)
    with pytest.raises(InputError, match="4x3 pixels; expected at most 11"):
        read_depth(save(tmp_path / "d.png", np.zeros((3, 4))))


def test_a_scene_keeps_where_the_depths_of_its_frames_lie(tmp_path, document, write):
    contents = document(n=3, depth_unit_scale_factor=0.01)
    contents["frames"][1]["depth_file_path"] = "depths/a.png"
    contents["frames"][2]["depth_file_path"] = "./depths/b.png"
    (tmp_path / "depths").mkdir()
    save(tmp_path / "depths" / "a.png", np.ones((8, 12)))
    save(tmp_path / "depths" / "b.png", np.ones((2, 3)))  # coarser than the photograph's 12 x 8
    scene = load_scene(write(tmp_path, contents))
    places = (None, tmp_path / "depths" / "a.png", tmp_path / "depths" / "b.png")
    assert scene.depth_paths == places and scene.depth_unit == 0.01
    assert load_scene(write(tmp_path, document(n=3))).depth_paths == (None, None, None)


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((12, 8), True),
        ((120, 80), True),
        ((5, 3), True),
        ((5, 4), True),
        ((12, 10), False),
        ((8, 12), False),
    ],
)
def test_a_depth_has_the_aspect_of_its_photograph(tmp_path, document, write, size, fits):
    contents = document(n=3)
    contents["frames"][1]["depth_file_path"] = "d.png"
    save(tmp_path / "d.png", np.ones(size[::-1]))
    write(tmp_path, contents)
    if fits:
        assert load_scene(tmp_path).depth_paths[1] is not None
        return
    with pytest.raises(
        InputError, match=r"frames\[1\].depth_file_path: \d+x\d+ pixels beside .*12x8"
    ):
        load_scene(tmp_path)

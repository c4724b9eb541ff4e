import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.apps.formats.point_ply import Points, has_faces, read_points, write_points
from polyfield.apps.scene import load_scene
from polyfield.cuda.errors import InputError

XYZ = ["property float x", "property float y", "property float z"]
RGB = [f"property uchar {name}" for name in ("red", "green", "blue")]


def ply(path, body, *, form="ascii", count=2, properties=(*XYZ, *RGB), first=()):
    header = ["ply", f"format {form} 1.0", "comment made by hand", *first]
    header += [f"element vertex {count}", *properties, "end_header"]
    content = body if isinstance(body, bytes) else body.encode()
    path.write_bytes("\n".join(header).encode() + b"\n" + content)
    return path


ROWS = [(1.5, -2.0, 3.25, 255, 0, 7), (0.0, 1e6, -0.125, 1, 2, 3)]
TEXT = "".join(" ".join(map(str, row)) + "\n" for row in ROWS)


def is_what_was_meant(points):
    assert points.position.tolist() == [list(row[:3]) for row in ROWS]
    assert points.color.tolist() == [list(row[3:]) for row in ROWS]


def test_text_is_read_and_what_follows_the_vertices_is_not(tmp_path):
    is_what_was_meant(read_points(ply(tmp_path / "a.ply", TEXT), "a"))
    faces = [*XYZ, *RGB, "element face 1", "property list uchar int vertex_indices"]
    is_what_was_meant(
        read_points(ply(tmp_path / "a.ply", TEXT + "3 0 1 1\n", properties=faces), "a")
    )


@pytest.mark.parametrize("order", ["little", "big"])
def test_bytes_of_either_order_are_read_by_the_names_of_their_columns(tmp_path, order):
    sign = "<" if order == "little" else ">"
    form = [("red", "u1"), ("z", sign + "f8"), ("nx", sign + "i2"), ("x", sign + "f4")]
    form += [("blue", "u1"), ("y", sign + "f4"), ("green", "u1")]
    rows = [(r, z, 9, x, b, y, g) for x, y, z, r, g, b in ROWS]
    properties = "uchar red|double z|int16 nx|float32 x|uint8 blue|float y|uchar green".split("|")
    path = ply(
        tmp_path / "a.ply",
        np.array(rows, form).tobytes(),
        form=f"binary_{order}_endian",
        properties=[f"property {p}" for p in properties],
    )
    is_what_was_meant(read_points(path, "a"))


def test_colours_that_are_not_bytes_are_left_out(tmp_path):
    properties = [*XYZ, *[p.replace("uchar", "float") for p in RGB]]
    assert read_points(ply(tmp_path / "a.ply", TEXT, properties=properties), "a").color is None


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize("colored", [True, False])
def test_what_is_written_is_read_to_the_last_digit(tmp_path, count, colored):
    position = torch.randn(count, 3, dtype=torch.float64).exp() * 1e3
    color = torch.randint(0, 256, (count, 3), dtype=torch.uint8) if colored else None
    write_points(tmp_path / "a.ply", Points(position, color))
    found = read_points(tmp_path / "a.ply", "a")
    assert torch.equal(found.position, position)
    assert torch.equal(found.color, color) if colored else found.color is None


def test_other_tools_read_what_is_written(tmp_path):
    import trimesh

    position = torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=torch.float64)
    color = torch.tensor([[1, 2, 3], [250, 0, 9]], dtype=torch.uint8)
    write_points(tmp_path / "a.ply", Points(position, color))
    cloud = trimesh.load(tmp_path / "a.ply")
    assert cloud.vertices.tolist() == position.tolist()
    assert cloud.colors[:, :3].tolist() == color.tolist()


BAD = {
    "no file": (None, "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "no PLY"),
    "another format": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "no PLY"),
    "endless header": (lambda p: p.write_bytes(b"ply\n" + b"comment\n" * 99999), "no end"),
    "endless line": (lambda p: p.write_bytes(b"ply\n" + b"c" * 99999), "no end of its header"),
    "unknown order": (lambda p: ply(p, TEXT, form="middle"), "without format"),
    "no z": (lambda p: ply(p, TEXT, properties=XYZ[:2]), "without format or vertices"),
    "list": (
        lambda p: ply(p, TEXT, properties=[*XYZ, "property list uchar int a"]),
        "line 8: .*property list.*no lists",
    ),
    "x twice": (lambda p: ply(p, TEXT, properties=[*XYZ, XYZ[0]]), "line 8: .*float x"),
    "faces first": (
        lambda p: ply(p, TEXT, first=["element face 1", "property uchar a"]),
        "line 4: .*element face",
    ),
    "count of letters": (lambda p: ply(p, TEXT, count="many"), "'many' vertices"),
    "negative count": (lambda p: ply(p, TEXT, count=-1), "'-1' vertices"),
    "forged count": (
        lambda p: ply(p, TEXT, count=10**14),
        "100000000000000 vertices; expected at most",
    ),
    "forged count of text": (lambda p: ply(p, TEXT, count=10**6), "1000000 vertices in"),
    "forged count of bytes": (
        lambda p: ply(p, bytes(40), count=10**6, form="binary_little_endian"),
        "1000000 vertices of 15 bytes in 40",
    ),
    "a row too few": (lambda p: ply(p, TEXT + " " * 40, count=3), "2 rows of 6 .*expected 3 rows"),
    "a short row": (lambda p: ply(p, "1 2 3 4 5 6\n1 2 3\n" + " " * 20), "no table of numbers"),
    "a word": (lambda p: ply(p, TEXT.replace("3.25", "three")), "no table of numbers"),
    "NaN": (lambda p: ply(p, TEXT.replace("3.25", "nan")), "point 0: position .*nan"),
    "infinite": (lambda p: ply(p, TEXT.replace("-0.125", "inf")), "point 1: position .*inf"),
    "1e300": (lambda p: ply(p, TEXT.replace("3.25", "1e300")), "point 0: .*at most 1e"),
    "colour 256": (lambda p: ply(p, TEXT.replace("255", "256")), "red beyond 0 to 255"),
    "cut off": (
        lambda p: ply(p, bytes(29), form="binary_little_endian"),
        "2 vertices of 15 bytes in 29",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path, fault):
    make, pattern = BAD[fault]
    if make:
        make(tmp_path / "a.ply")
    with pytest.raises(InputError, match=f"^scene: ply_file_path.*{pattern}"):
        read_points(tmp_path / "a.ply", "scene: ply_file_path")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 230), st.binary(min_size=1, max_size=6), st.integers(0, 260), st.booleans())
def test_damaged_bytes_end_in_points_or_in_a_sentence(tmp_path, at, new, length, text):
    form = "ascii" if text else "binary_little_endian"
    body = (
        TEXT
        if text
        else np.array(ROWS, [*zip("xyzrgb", ["<f4"] * 3 + ["u1"] * 3, strict=True)]).tobytes()
    )
    data = bytearray(ply(tmp_path / "a.ply", body, form=form).read_bytes())
    data[at : at + len(new)] = new
    (tmp_path / "a.ply").write_bytes(data[:length])
    try:
        points = read_points(tmp_path / "a.ply", "a")
    except InputError as refused:
        assert len(str(refused)) < 500
    else:
        assert points.position.isfinite().all()


def test_points_are_in_the_frame_of_transform_matrix_whatever_was_applied(
    tmp_path, document, write
):
    """nerfstudio writes them after applied_transform: it says how the frame came about, no more."""
    turn = [[0, 1, 0, 5], [0, 0, 1, 6], [1, 0, 0, 7]]
    contents = document(ply_file_path="points/cloud.ply", applied_transform=turn, applied_scale=3.0)
    (tmp_path / "points").mkdir()
    position = torch.tensor([[0.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
    color = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    write_points(tmp_path / "points" / "cloud.ply", Points(position, color))
    scene = load_scene(write(tmp_path, contents))
    assert torch.equal(scene.points, position) and torch.equal(scene.point_colors, color)
    assert "2 sparse points" in scene.notes
    # All cameras look at the origin from 4 away; z is up, and y of the picture is down.
    which = torch.tensor([5, 5])
    pixels, depth = scene.cameras.project(which, scene.points)
    torch.testing.assert_close(depth, torch.tensor([4.0, 4.0]).double())
    expected = torch.tensor([[6.5, 3.5], [6.5, 3.5 - 11 / 4]]).double()
    torch.testing.assert_close(pixels, expected, atol=1e-9, rtol=0)


def test_without_a_key_the_cloud_beside_the_json_counts(tmp_path, document, write):
    position = torch.tensor([[0.0, 0, 1]], dtype=torch.float64)
    write_points(tmp_path / "sparse_pc.ply", Points(position, None))
    scene = load_scene(write(tmp_path, document()))
    assert torch.equal(scene.points, position) and scene.point_colors is None
    (tmp_path / "sparse_pc.ply").write_bytes(b"something else")
    with pytest.raises(InputError, match="sparse_pc.ply: no PLY"):
        load_scene(tmp_path)
    (tmp_path / "sparse_pc.ply").unlink()
    assert load_scene(tmp_path).points is None
    outside = tmp_path.parent / f"{tmp_path.name}.ply"
    write_points(outside, Points(position, None))
    (tmp_path / "sparse_pc.ply").symlink_to(outside)
    with pytest.raises(InputError, match="sparse_pc.ply' leads out"):
        load_scene(tmp_path)


def test_a_text_of_many_rows_is_read_part_by_part(tmp_path):
    count = 40_000
    rows = np.random.default_rng(0).integers(0, 255, (count, 7))
    head = HEADER_OF_SEVEN.format(count)
    (tmp_path / "a.ply").write_text(head + "\n".join(" ".join(map(str, row)) for row in rows))
    points = read_points(tmp_path / "a.ply", "a.ply")
    assert points.position.tolist() == rows[:, [0, 2, 3]].tolist()
    assert points.color.tolist() == rows[:, 4:].tolist()
    rows[count - 1, 5] = 256
    (tmp_path / "a.ply").write_text(head + "\n".join(" ".join(map(str, row)) for row in rows))
    with pytest.raises(InputError, match="green beyond 0 to 255"):
        read_points(tmp_path / "a.ply", "a.ply")


HEADER_OF_SEVEN = """ply
format ascii 1.0
element vertex {}
property float x
property float confidence
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.ply")
    with pytest.raises(InputError, match="no plain file"):
        read_points(tmp_path / "a.ply", "a.ply")


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_normals_are_read_where_they_are_asked_for(tmp_path, order):
    names = ["x", "ny", "y", "nx", "z", "nz"]
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    kind = {"ascii": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    head = ["ply", f"format {kind} 1.0", "element vertex 2"]
    head += [f"property float {name}" for name in names] + ["end_header"]
    body = values.astype(order + "f4").tobytes() if order != "ascii" else b""
    if order == "ascii":
        body = "\n".join(" ".join(map(str, row)) for row in values.tolist()).encode() + b"\n"
    path = tmp_path / "a.ply"
    path.write_bytes(("\n".join(head) + "\n").encode() + body)
    assert read_points(path, "a.ply").normal is None
    found = read_points(path, "a.ply", normals=True)
    assert found.position.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert found.normal.tolist() == [[3, 1, 5], [9, 7, 11]]
    assert not has_faces(path)


@pytest.mark.parametrize(
    ("content", "faces"),
    [
        (b"ply\nformat ascii 1.0\nelement vertex 1\nelement face 12\nend_header\n", True),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nelement face 0\nend_header\n", False),
        (b"ply\nelement vertex 1\nend_header\nelement face 3\n", False),
        (b"ply\nelement vertex 1\nelement tristrips 1\nend_header\n", True),
        (b"no ply\nelement vertex 1\nend_header\n", True),  # whoever reads it says what is wrong
        (b"", True),
    ],
)
def test_a_header_says_whether_there_are_faces(tmp_path, content, faces):
    (tmp_path / "a.ply").write_bytes(content)
    assert has_faces(tmp_path / "a.ply") == faces


def test_what_is_not_there_may_have_faces(tmp_path):
    assert has_faces(tmp_path / "absent.ply")

import pytest
import torch

from polyfield.apps.formats.obj import parse_obj
from polyfield.cuda.errors import InputError

SQUARE = b"""# a square
mtllib /etc/secret.mtl
o thing
v 0 0 0 1 0 0
v 1 0 0 0 1 0
v 1 1 0 0 0 1
v 0 1 0 1 1 1
vt 0 0
usemtl gold
"""


def test_polygons_become_fans_and_the_rest_is_passed_over():
    mesh = parse_obj(SQUARE + b"f 1 2 3 4\nl 1 2\ns off\nf 1/1 2/1 4/1\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 3]]
    assert mesh.vertices[2].tolist() == [1, 1, 0]
    assert mesh.colors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert mesh.normals is None


def test_negative_numbers_count_back_from_the_last_vertex_so_far():
    mesh = parse_obj(SQUARE + b"f -4 -3 -2\nv 5 5 5\nf -1 -2 -3\n")
    assert mesh.faces.tolist() == [[0, 1, 2], [4, 3, 2]]
    assert mesh.colors is None  # the last vertex has none


@pytest.mark.parametrize(
    ("face", "kept"),
    [(b"f 1//1 2//2 3//3", True), (b"f 1//1 2//1 3//1", False), (b"f 1 2 3", False)],
)
def test_normals_are_kept_where_they_are_those_of_vertices(face, kept):
    normals = b"vn 0 0 1\n" * 4
    mesh = parse_obj(SQUARE + normals + face + b"\n")
    assert (mesh.normals is not None) == kept
    if kept:
        assert torch.equal(mesh.normals, torch.tensor([[0.0, 0, 1]]).expand(4, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"v 1 2\n", "fewer than three"),
        (b"v 1 2 x\n", "could not convert"),
        (b"f 1 2\n", "2 corners"),
        (b"f 0 1 2\n", "number 0"),
        (b"f 1 2 9\n", "faces"),
        (b"f -9 2 1\n", "faces"),
        (b"f a b c\n", "invalid literal"),
        (b"f" + b" 1" * 64 + b"\n", "64 corners"),
    ],
)
def test_what_makes_no_mesh_is_refused(text, message):
    with pytest.raises((ValueError, InputError), match=message):
        parse_obj(SQUARE + text)

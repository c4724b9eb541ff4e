import pytest

from polyfield.apps.formats.off import parse_off

SQUARE = b"OFF\n# a square and a triangle\n5 2 0\n0 0 0\n1 0 0 255 0 0\n1 1 0\n0 1 0\n0 0 1e0\n"
FACES = b"4 0 1 2 3 0.5 0.5 0.5\n\n3 0 1 4 # one more\n"


def test_polygons_become_fans_and_colours_are_passed_over():
    mesh = parse_off(SQUARE + FACES)
    points, faces = mesh.vertices, mesh.faces
    assert points.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4]]


def test_counts_may_stand_behind_the_first_word():
    assert len(parse_off(b"OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n").faces) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begin with OFF"),
        (b"STOFF\n", "begin with OFF"),
        (b"OFF\n", "counts"),
        (b"OFF\n3\n", "counts"),
        (b"OFF\n1000000 1 0\n0 0 0\n", "more than it holds"),
        (b"OFF\n-1 1 0\n0 0 0\n", "more than it holds"),
        (b"OFF\n1 0 0\n0 0\n", "vertex 0"),
        (SQUARE, "face 0"),
        (SQUARE + b"2 0 1\n3 0 1 2\n", "face 0"),
        (SQUARE + b"4 0 1 2\n3 0 1 2\n", "face 0"),
        (SQUARE + b"3 0 1 x\n3 0 1 2\n", "invalid literal"),
        (SQUARE + b"64" + b" 0" * 64 + b"\n3 0 1 2\n", "face 0"),
    ],
)
def test_another_text_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_off(content)

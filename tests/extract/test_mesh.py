import math

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_checks import enclosed_volume
from polyfield.fields.similarity import Similarity

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def tetrahedron():
    mesh = Mesh(CORNERS, FACES, colors=torch.rand(4, 3))
    return Mesh(CORNERS, FACES, mesh.colors, mesh.vertex_normals())


def similarity():
    angle = 0.7
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    return Similarity(2.5, rotation, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))


def test_a_similarity_moves_vertices_turns_normals_and_keeps_the_outside_outside():
    mesh, move = tetrahedron(), similarity()
    moved = mesh.transformed(move)
    torch.testing.assert_close(moved.vertices, move.apply(mesh.vertices))
    torch.testing.assert_close(moved.normals, moved.vertex_normals())
    torch.testing.assert_close(moved.normals.norm(dim=1), torch.ones(4))
    assert enclosed_volume(moved.vertices, moved.faces) == pytest.approx(2.5**3 / 6, rel=1e-5)
    assert torch.equal(moved.colors, mesh.colors) and torch.equal(moved.faces, mesh.faces)
    back = moved.transformed(move.inverse())
    torch.testing.assert_close(back.vertices, mesh.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.normals, mesh.normals, atol=1e-6, rtol=0)


def test_keeping_faces_keeps_their_shape_and_drops_loose_vertices():
    mesh = tetrahedron()
    kept = mesh.with_faces(torch.tensor([False, False, True, False]))
    assert torch.equal(kept.vertices[kept.faces], mesh.vertices[mesh.faces[2:3]])
    assert torch.equal(kept.colors[kept.faces], mesh.colors[mesh.faces[2:3]])
    assert torch.equal(kept.normals[kept.faces], mesh.normals[mesh.faces[2:3]])
    assert len(kept.vertices) == 3
    none = mesh.with_faces(torch.zeros(4, dtype=torch.bool))
    assert none.faces.shape == (0, 3) and none.vertices.shape == (0, 3)


def test_vertex_normals_are_outward_units_weighted_by_area():
    mesh = tetrahedron()
    torch.testing.assert_close(mesh.normals[0], -torch.ones(3) / math.sqrt(3))
    # At corner 1: faces z=0 and y=0 of area 1/2, and the slanted one of area sqrt(3)/2.
    slanted = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(mesh.normals[1], slanted)
    tiny = Mesh(CORNERS * 1e-12, FACES)
    torch.testing.assert_close(tiny.vertex_normals(), mesh.normals)
    assert float(mesh.face_vectors().norm(dim=1).sum()) == pytest.approx(1.5 + math.sqrt(3) / 2)


def test_diagonal():
    assert tetrahedron().diagonal() == pytest.approx(math.sqrt(3))
    assert Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)).diagonal() == 0


@pytest.mark.parametrize("index", [-1, 4])
def test_an_index_out_of_range_is_refused(index):
    faces = FACES.clone()
    faces[1, 1] = index
    with pytest.raises(InputError, match="0 to 3"):
        Mesh(CORNERS, faces)

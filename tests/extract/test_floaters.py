import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfield.extract.floaters import (
    face_components,
    large_components,
    remove_floaters,
    seen_components,
    seen_faces,
)
from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_checks import euler_characteristic, is_closed_and_oriented

TETRAHEDRON = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def strip(length, start=0):
    """A long chain of triangles, the slow case of label propagation."""
    first = torch.arange(length) + start
    return torch.stack([first, first + 1, first + 2], 1)


def balls(*centers_and_radii, n=64):
    axis = (torch.arange(n) + 0.5) / n
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    inside = [r - (points - torch.tensor(c)).norm(dim=-1) for c, r in centers_and_radii]
    vertices, faces = marching_cubes(torch.stack(inside).amax(0), 0.0)
    return Mesh(((vertices + 0.5) / n).float(), faces)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=25))
def test_components_are_those_of_a_walk_from_face_to_face(faces):
    got = face_components(torch.tensor(faces))
    unvisited = set(range(len(faces)))
    while unvisited:
        reached, frontier = set(), {min(unvisited)}
        while frontier:
            reached |= frontier
            corners = {v for f in reached for v in faces[f]}
            frontier = {f for f in unvisited if corners & set(faces[f])} - reached
        assert got[list(reached)].unique().tolist() == [min(v for f in reached for v in faces[f])]
        unvisited -= reached


def test_long_chains_in_any_order_are_one_component():
    generator = torch.Generator().manual_seed(0)
    name = torch.randperm(40_004, generator=generator)
    faces = name[torch.cat([strip(20_000), strip(20_000, start=20_002)])]
    component = face_components(faces[torch.randperm(40_000, generator=generator)])
    assert component.unique(return_counts=True)[1].tolist() == [20_000, 20_000]


def test_no_faces_have_no_component():
    assert face_components(torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)


def test_small_components_go_and_the_body_stays_whole():
    body, floater = ((0.4, 0.5, 0.5), 0.3), ((0.9, 0.9, 0.9), 0.02)
    mesh, alone = balls(body, floater), balls(body)
    assert euler_characteristic(mesh.faces) == 4
    kept = remove_floaters(mesh)
    assert is_closed_and_oriented(kept.faces) and euler_characteristic(kept.faces) == 2
    assert torch.equal(kept.vertices, alone.vertices) and len(kept.faces) == len(alone.faces)


def test_both_thresholds_count_and_the_largest_always_stays():
    # 400 faces in a chain of extent 1, and tetrahedra of 4 faces: 1 % of the faces.
    line = torch.linspace(0, 1, 402)
    chain = torch.stack([line, torch.arange(402) % 2 * 1e-3, torch.zeros(402)], 1)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    large, small = corners * 0.06, corners * 0.01
    vertices = torch.cat([chain, large, small])
    faces = torch.cat([strip(400), TETRAHEDRON + 402, TETRAHEDRON + 406])
    mesh = Mesh(vertices, faces)
    assert large_components(mesh).tolist() == [True] * 404 + [False] * 4
    assert large_components(mesh, face_share=0.02).tolist() == [True] * 400 + [False] * 8
    assert bool(large_components(mesh, diagonal_share=0.0).all())
    nothing_is_large = large_components(mesh, face_share=2.0, diagonal_share=2.0)
    assert nothing_is_large.tolist() == [True] * 400 + [False] * 8


def test_by_area_a_few_large_faces_weigh_more_than_many_small_ones():
    small = balls(((0.5, 0.5, 0.5), 0.1))
    large = Mesh(4 * torch.eye(4)[:, :3], TETRAHEDRON)
    mesh = Mesh(
        torch.cat([small.vertices, large.vertices]),
        torch.cat([small.faces, large.faces + len(small.vertices)]),
    )
    ball = [True] * len(small.faces)
    share = 2 * 4 / len(small.faces)
    assert large_components(mesh, share, 0.0).tolist() == [*ball, *[False] * 4]
    kept = large_components(mesh, share, 0.0, by_area=True)
    assert kept.tolist() == [*[not each for each in ball], *[True] * 4]


def test_unseen_bodies_go_and_seen_surfaces_keep_their_hidden_rim():
    mesh = balls(((0.3, 0.5, 0.5), 0.2), ((0.8, 0.5, 0.5), 0.1))

    def above(points):
        return (points[:, 0] < 0.55) & (points[:, 2] > 0.5)

    exact = seen_faces(mesh, above, rings=0)
    assert torch.equal(exact, above(mesh.vertices)[mesh.faces].any(1))
    kept = remove_floaters(mesh, above)
    assert float(kept.vertices[:, 0].max()) < 0.55
    # Five rows of faces further than what is seen: 0.5 less a few of the cells of 1 / 64.
    assert 0.5 - 8 / 64 < float(kept.vertices[:, 2].min()) < 0.5 - 3 / 64
    widths = [int(seen_faces(mesh, above, rings).sum()) for rings in (0, 1, 2, 5)]
    assert widths == sorted(set(widths))


def test_what_is_left_of_an_unseen_body_counts_as_small():
    mesh = balls(((0.3, 0.5, 0.5), 0.2), ((0.8, 0.5, 0.5), 0.1))
    spot = int((mesh.vertices[:, 0]).argmax())

    def visible(points):
        return (points[:, 0] < 0.55) | (points == mesh.vertices[spot]).all(1)

    kept = remove_floaters(mesh, visible, rings=0)
    assert len(face_components(kept.faces).unique()) == 1
    assert float(kept.vertices[:, 0].max()) < 0.55


def test_an_empty_mesh_stays_empty():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert len(remove_floaters(empty, lambda points: points[:, 0] > 0).faces) == 0


def test_components_that_too_little_is_seen_of_go_as_wholes():
    mesh = balls(((0.3, 0.5, 0.5), 0.2), ((0.8, 0.5, 0.5), 0.1))
    right = mesh.vertices[:, 0] > 0.65

    def only(share, of_right):
        """A test that sees that share of one ball's vertices, whatever part of them is asked."""
        ball = mesh.vertices[right] if of_right else mesh.vertices[~right]
        highest = ball[:, 2].sort(descending=True).values
        return lambda x: (
            (x[:, 2] >= highest[int(share * len(ball))]) & ((x[:, 0] > 0.65) == of_right)
        )

    of_right = right[mesh.faces].all(1)
    assert torch.equal(seen_components(mesh, only(0.1, True)), of_right)
    assert torch.equal(seen_components(mesh, only(0.1, False)), ~of_right)
    assert not seen_components(mesh, only(0.01, True)).any()
    assert seen_components(mesh, lambda x: x[:, 2] > 0).all()
    assert len(seen_components(mesh.with_faces(of_right & ~of_right), lambda x: x[:, 0] > 0)) == 0
    loose = Mesh(torch.cat([mesh.vertices, torch.zeros(5, 3)]), mesh.faces)  # of no face
    assert torch.equal(seen_components(loose, only(0.1, True)), of_right)

"""Clusters: of what lies near all its planes, the largest that are allowed."""

import torch

from polyfield.extract.blocks import placed_lattice_mesh
from polyfield.extract.borders import coarser, connected, euler_numbers, triangle_borders
from polyfield.extract.clustering import Clusters, Tangents, clusters
from polyfield.extract.dual_contouring import cells_of_triangles
from polyfield.extract.marching_cubes import distance_lattice
from polyfield.extract.quadrics import least, quadrics


def test_the_largest_allowed_and_not_refused_stands_for_its_regions():
    """Regions 0 to 3, above them 4 (of 0 and 1) and 5 (of 2 and 3), and 6 of all."""
    parent, levels = torch.tensor([4, 4, 5, 5, 6, 6, 7]), (0, 4, 6, 7)
    none = torch.zeros(7, dtype=torch.bool)

    def largest(allowed, refused=()):
        allows, refuses = none.clone(), none.clone()
        allows[list(allowed)], refuses[list(refused)] = True, True
        return Clusters(parent, levels, allows, torch.zeros(7, 3)).largest(refuses).tolist()

    regions = (0, 1, 2, 3)
    assert largest(regions) == [0, 1, 2, 3]
    assert largest((*regions, 5)) == [0, 1, 5, 5]
    assert largest((*regions, 5, 6)) == [6, 6, 6, 6]  # whatever lies between
    assert largest((*regions, 5, 6), refused=[6]) == [0, 1, 5, 5]
    assert largest((*regions, 5, 6), refused=[5, 6]) == [0, 1, 2, 3]


def tree_of(distance, slope, resolution, tolerance):
    lattice = distance_lattice(distance, resolution)
    mesh, place = placed_lattice_mesh(lattice, 1 << 28, 8, torch.device("cpu"))
    cell = cells_of_triangles(mesh.faces, place)
    edges = triangle_borders(mesh.faces, cell, len(mesh.vertices))
    patch = connected(edges, edges.direction == 6, len(cell))
    count = int(patch.max()) + 1
    euler = euler_numbers(edges, torch.ones_like(patch), patch, count)
    borders = coarser(edges, patch)
    points = mesh.vertices.double() * resolution
    tangents = Tangents(
        points[borders.origin], slope(mesh.vertices)[borders.origin], borders.region
    )
    planes = quadrics(*tangents, count)
    vertex = least(planes, lambda place, mean: (place - mean).norm(dim=1) < 2)
    of_patch = cell.new_empty(count, 3).index_copy(0, patch, cell)
    tree = clusters(borders, of_patch, euler, planes, vertex, tangents, tolerance)
    return tree, of_patch, tangents


def ball(x):
    return (x - 0.5).norm(dim=1) - 0.4


def away(x):
    return torch.nn.functional.normalize(x.double() - 0.5, dim=1)


def test_no_plane_of_a_chosen_cluster_is_farther_than_the_tolerance_and_it_lies_in_one_cube():
    tree, cell, tangents = tree_of(ball, away, 32, tolerance=0.15)
    chosen = tree.largest(torch.zeros(len(tree.parent), dtype=torch.bool))
    assert (chosen >= len(chosen)).double().mean() > 0.9
    for node in chosen[chosen >= len(chosen)].unique().tolist():
        level = sum(node >= begin for begin in tree.levels) - 1
        members = torch.nonzero(chosen == node)[:, 0]
        cubes = (cell[members] >> level).unique(dim=0)
        assert len(cubes) == 1
        mine = (chosen[tangents.region] == node).nonzero()[:, 0]
        off = (tangents.normal[mine] * (tree.vertex[node] - tangents.point[mine])).sum(1).abs()
        assert off.max() <= 0.15
        assert (tree.vertex[node] / 2**level - cubes[0] - 0.5).abs().max() <= 0.6


def test_what_is_allowed_at_one_tolerance_is_allowed_at_a_larger_one_and_nothing_at_0():
    trees = [tree_of(ball, away, 32, tolerance)[0] for tolerance in (0.02, 0.1, 0.5)]
    small, middle, large = (tree.allowed for tree in trees)
    assert not (small & ~middle).any() and not (middle & ~large).any()
    assert small.sum() < middle.sum() < large.sum()
    nothing = tree_of(ball, away, 32, 0.0)[0]
    assert nothing.levels == (0, len(nothing.vertex))
    # The whole ball is no disc.
    assert not large[trees[2].levels[-2] :].any()

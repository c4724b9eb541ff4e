import pytest
import torch

from polyfield.extract.mesh_checks import (
    enclosed_volume,
    euler_characteristic,
    is_closed_and_oriented,
)

CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_a_tetrahedron_is_closed_and_its_faults_are_found():
    assert is_closed_and_oriented(FACES) and euler_characteristic(FACES) == 2
    assert not is_closed_and_oriented(FACES[:3])
    flipped = FACES.clone()
    flipped[2] = FACES[2].flip(0)
    assert not is_closed_and_oriented(flipped)
    assert not is_closed_and_oriented(torch.cat([FACES, FACES[:1]]))
    # Back to back, two copies of a face hide each other on every edge: still three faces meet.
    assert not is_closed_and_oriented(torch.cat([FACES, FACES[:1], FACES[:1].flip(1)]))


def test_volume_has_the_sign_of_the_orientation_wherever_the_mesh_lies():
    far = CORNERS + 1000.0
    assert enclosed_volume(far, FACES) == pytest.approx(1 / 6, rel=1e-6)
    assert enclosed_volume(CORNERS, FACES.flip(1)) == pytest.approx(-1 / 6)
    assert enclosed_volume(CORNERS, FACES[:0]) == 0


def test_unused_vertices_do_not_count():
    assert euler_characteristic(FACES + 5) == 2

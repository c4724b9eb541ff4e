import pytest
import torch

from polyfield.apps.pose_conventions import conventions
from polyfield.render.cameras import Cameras

OPENGL = torch.diag(torch.tensor([1.0, -1, -1, 1]).double())


def random_poses(count=5):
    random = torch.Generator().manual_seed(3)
    rotation, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=random).double())
    rotation = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    position = 4 * torch.randn(count, 3, 1, generator=random).double()
    bottom = torch.tensor([0.0, 0, 0, 1]).double().expand(count, 1, 4)
    return torch.cat([torch.cat([rotation, position], 2), bottom], 1)


def cameras(poses):
    n = len(poses)
    two = torch.full((n, 2), 50.0).double()
    size = torch.full((n,), 100)
    return Cameras(poses[:, :3], two, two, torch.zeros(n, 0).double(), size, size)


def transposed(m):
    m = m.clone()
    m[:, :3, :3] = m[:, :3, :3].transpose(1, 2).clone()
    return m


def translation(m):
    m = m.clone()
    m[:, :3, 3:] = torch.linalg.inv(m)[:, :3, 3:]
    return m


def negated(columns):
    signs = torch.ones(4).double()
    signs[list(columns)] = -1
    return lambda m: m @ torch.diag(signs)


# What somebody stored for the matrices that belong, and the words that tell of it.
STORED = [
    (negated((1, 2)), "OpenCV's axes", "Negate the columns of y and z"),
    (negated((0, 1)), "upside down", "Negate the columns of x and y"),
    (negated((0, 2)), "from behind", "Negate the columns of x and z"),
    (torch.linalg.inv, "world-to-camera matrices", "Invert each"),
    (lambda m: torch.linalg.inv(negated((1, 2))(m)), "world-to-camera", "Invert each 4x4 matrix,"),
    (transposed, "rotations are transposed", "Transpose"),
    (translation, "translations are world-to-camera", "Replace each translation"),
]


@pytest.mark.parametrize(("store", "fault", "remedy"), STORED)
def test_one_reading_of_a_transforms_json_undoes_each_fault(store, fault, remedy):
    truth = random_poses()
    loaded = store(truth @ OPENGL) @ OPENGL  # as the loader reads what somebody stored
    readings = conventions(cameras(loaded), "transforms.json")
    close = [
        reading
        for reading in readings
        if torch.allclose(reading.cameras.camera_to_world, truth[:, :3], atol=1e-9)
    ]
    assert len(close) == 1
    assert fault in close[0].fault and remedy in close[0].remedy


@pytest.mark.parametrize(
    ("store", "fault", "remedy"),
    [
        (torch.linalg.inv, "they are camera-to-world matrices", "Invert each"),
        (lambda m: OPENGL @ m, "OpenGL's axes where OpenCV's", "Negate the rows of y and z"),
        (transposed, "rotations are transposed", "Transpose"),
    ],
)
def test_one_reading_of_a_colmap_model_undoes_each_fault(store, fault, remedy):
    truth = random_poses()
    loaded = torch.linalg.inv(store(torch.linalg.inv(truth)))
    close = [
        reading
        for reading in conventions(cameras(loaded), "colmap")
        if torch.allclose(reading.cameras.camera_to_world, truth[:, :3], atol=1e-9)
    ]
    assert len(close) == 1 and fault in close[0].fault and remedy in close[0].remedy


@pytest.mark.parametrize("kind", ["transforms.json", "nerf-synthetic", "colmap", "llff"])
def test_the_first_reading_is_the_poses_as_they_are_and_all_are_rotations(kind):
    truth = random_poses()
    readings = conventions(cameras(truth), kind)
    assert readings[0].fault == "" and torch.allclose(
        readings[0].cameras.camera_to_world, truth[:, :3]
    )
    for reading in readings[1:]:
        rotation = reading.cameras.camera_to_world[:, :, :3]
        assert reading.fault and reading.remedy
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(5).double())

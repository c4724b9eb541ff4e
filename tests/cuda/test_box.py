import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.cuda.box import intersect_box, intersect_box_reference

pytestmark = pytest.mark.kernels

few = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rays(n, seed=0):
    """From outside and inside of a box about (0.5, 0.5, 0.5), some along its axes, some past it."""
    random = torch.Generator().manual_seed(seed)
    origins = 0.5 + 1.2 * torch.randn(n, 3, generator=random)
    directions = 0.5 + 0.4 * torch.randn(n, 3, generator=random) - origins
    directions[::5, 0] = 0
    directions[::7, 1:] = 0
    origins[::7, 1:] = 0.5
    return origins, directions


def intersect(device, origins, directions, minimum=(0.0, 0, 0), maximum=(1.0, 1, 1)):
    box = torch.tensor(minimum), torch.tensor(maximum)
    near, far = intersect_box(*(x.float().to(device) for x in (origins, directions, *box)))
    return near.cpu(), far.cpu()


def test_a_box_is_entered_and_left_at_its_faces(device):
    origins = torch.tensor([[-1.0, 0.5, 0.5], [0.5, 0.5, 0.5], [2.0, 0.5, 0.5], [-1.0, 1.5, 0.5]])
    near, far = intersect(device, origins, torch.tensor([[1.0, 0, 0]] * 4))
    assert near[:2].tolist() == [1.0, 0.0] and far[:2].tolist() == [2.0, 0.5]
    assert (near[2:] > far[2:]).all()


def test_distances_are_counted_in_lengths_of_the_direction(device):
    origin = torch.tensor([[0.5, 0.5, -1.0]])
    near, far = intersect(device, origin, torch.tensor([[0.0, 0, 0.25]]))
    assert (near.item(), far.item()) == (4.0, 8.0)


def test_points_between_near_and_far_lie_in_the_box_and_others_do_not(device):
    origins, directions = rays(700)
    low, high = (0.1, 0.2, 0.3), (0.6, 0.9, 0.7)
    near, far = intersect(device, origins, directions, low, high)
    t = torch.linspace(0, 6, 97)
    points = origins[:, None] + t[:, None] * directions[:, None]
    inside = ((points >= torch.tensor(low)) & (points <= torch.tensor(high))).all(2)
    expected = (t >= near[:, None]) & (t <= far[:, None])
    sure = ((t - near[:, None]).abs() > 1e-4) & ((t - far[:, None]).abs() > 1e-4)
    assert torch.equal(inside[sure], expected[sure]) and 0 < inside.sum() < inside.numel()


@pytest.mark.parametrize("face", [0.0, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_ray_along_a_face_or_an_edge_is_inside(device, face, axis):
    origin = torch.full((1, 3), face)
    origin[0, axis] = -1
    near, far = intersect(device, origin, torch.eye(3)[axis : axis + 1])
    assert (near.item(), far.item()) == (1.0, 2.0)


def test_a_box_behind_the_origin_is_missed(device):
    near, far = intersect(device, torch.tensor([[3.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.1, 0]]))
    assert near > far


def test_without_a_direction_the_origin_alone_decides(device):
    origins = torch.tensor([[0.5, 0.5, 0.5], [0.5, 1.5, 0.5]])
    near, far = intersect(device, origins, torch.zeros(2, 3))
    assert near.tolist() == [0.0, 0.0] and far.tolist() == [torch.inf, -torch.inf]


@few
@given(count=st.sampled_from([0, 1, 255, 256, 257]), seed=st.integers(0, 99))
def test_the_kernel_is_the_reference_to_the_last_bit(device, count, seed):
    origins, directions = rays(count, seed)
    expected = intersect_box_reference(origins, directions, torch.zeros(3), torch.ones(3))
    got = intersect(device, origins, directions)
    exact = dict(rtol=0, atol=0) if device.type == "cpu" else {}
    torch.testing.assert_close(got, expected, **exact)


def test_torch_sees_an_operator():
    arguments = (*rays(9), torch.zeros(3), torch.ones(3))
    operator = torch.ops.polyfield.intersect_box.default
    torch.library.opcheck(operator, arguments, test_utils=["test_schema", "test_faketensor"])

"""A radiance field in tiny-cuda-nn's hands: it computes, learns and is kept as ours."""

import copy

import pytest
import torch

from polyfield.cuda.errors import InputError
from polyfield.fields.field import Part, TrainableField
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.table import build_field
from polyfield.fields.tiny_cuda_nn_field import TinyCudaNnRadiance
from polyfield.fields.warp import build_warp

SIZES = {
    "levels": 3,
    "features": 2,
    "log2_table_size": 8,
    "base_resolution": 4,
    "finest_resolution": 16,
    "hidden": 16,
}
POINTS = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
DIRECTIONS = torch.nn.functional.normalize(
    torch.randn(64, 3, generator=torch.Generator().manual_seed(1)), dim=1
)
HALF = 2.0**-9  # of what half precision gives back, and a little


def made(warp=None, seed=2, **sizes):
    """A field of ours with large weights."""
    random = torch.Generator().manual_seed(seed)
    field = build_field("hash-grid", SIZES | sizes, random, build_warp(warp or {}))
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return field


def seen(field, points=POINTS, directions=DIRECTIONS):
    """Density's logarithm and colour."""
    density, features = field.density(points)
    color = field.color(features, field.encode_directions(directions))
    return torch.cat([density.log()[:, None], color], 1)


@pytest.mark.parametrize("degree", [0, 2, 3])
@pytest.mark.parametrize("warp", [None, {"contraction": 2}])
def test_it_computes_the_same(tiny_cuda_nn_library, degree, warp):
    field = made(warp, harmonics_degree=degree)
    theirs = TinyCudaNnRadiance(field, tiny_cuda_nn_library)
    assert isinstance(theirs, TrainableField) and isinstance(theirs, Part)
    expected = seen(field)
    assert expected.std(0).min() > 0.01
    torch.testing.assert_close(seen(theirs), expected, atol=4 * HALF, rtol=HALF)
    assert seen(theirs).dtype == torch.float32


def test_its_parameters_learn_from_every_output(tiny_cuda_nn_library):
    theirs = TinyCudaNnRadiance(made(), tiny_cuda_nn_library)
    params = dict(theirs.named_parameters())
    assert params.keys() == {"density_network.params", "color_network.params"}
    for column in range(4):
        found = torch.autograd.grad(
            seen(theirs)[:, column].sum(), params.values(), allow_unused=True
        )
        assert float(found[0].abs().sum()) > 0
        assert (found[1] is None or not found[1].any()) == (column == 0)


def test_of_no_points_there_is_nothing_and_no_launch(tiny_cuda_nn_library):
    theirs = TinyCudaNnRadiance(made(), tiny_cuda_nn_library)
    nothing = seen(theirs, POINTS[:0], DIRECTIONS[:0])
    assert nothing.shape == (0, 4)
    nothing.sum().backward()
    assert not theirs.density_network.params.grad.any()


def test_what_it_keeps_is_what_we_keep(tiny_cuda_nn_library):
    field = made()
    theirs = TinyCudaNnRadiance(field, tiny_cuda_nn_library)
    kept = theirs.state_dict()
    assert kept.keys() == field.state_dict().keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in field.state_dict().items())
    other = made(seed=7)
    theirs.load_state_dict(other.state_dict())
    torch.testing.assert_close(seen(theirs), seen(other), atol=4 * HALF, rtol=HALF)


def test_what_it_has_learned_is_kept_with_its_biases(tiny_cuda_nn_library):
    theirs = TinyCudaNnRadiance(made(), tiny_cuda_nn_library)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():  # also of the padding, as training does
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    ours = made()
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(seen(theirs), seen(ours), atol=4 * HALF, rtol=HALF)


def test_it_learns_what_ours_learns_and_its_grid_does_not_decay(tiny_cuda_nn_library):
    """Entries that no point came to stay what they are to the bit; the others teach the same."""
    field = made()
    start = copy.deepcopy(field.state_dict())
    theirs = TinyCudaNnRadiance(field, tiny_cuda_nn_library)
    wanted = seen(made(seed=8)).detach()[:8]
    points, directions = POINTS[:8], DIRECTIONS[:8]
    fields, losses = (field, theirs), ([], [])
    optimisers = [FieldOptimiser(each) for each in fields]
    for step in range(20):
        for each, optimiser, loss in zip(fields, optimisers, losses, strict=True):
            optimiser.clear()
            error = (seen(each, points, directions) - wanted).square().mean()
            error.backward()
            optimiser.step(step, 1.0)
            loss.append(float(error.detach()))
    assert losses[1][-1] < 0.5 * losses[1][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.2)
    before, after = start["encoding.table"], theirs.state_dict()["encoding.table"]
    still = (after == before).all(1)
    assert torch.equal(still, (field.state_dict()["encoding.table"] == before).all(1))
    assert 0.1 < float(still.float().mean()) < 0.95


def test_other_fields_are_refused(tiny_cuda_nn_library):
    with pytest.raises(InputError, match="hash grid"):
        TinyCudaNnRadiance(build_field("tri-plane", {}), tiny_cuda_nn_library)
    with pytest.raises(InputError, match="code for each photograph"):
        TinyCudaNnRadiance(made(appearance=4, photographs=3), tiny_cuda_nn_library)


def test_a_library_that_lays_parameters_out_otherwise_is_refused(tiny_cuda_nn_library):
    class Older:
        NetworkWithInputEncoding = tiny_cuda_nn_library.NetworkWithInputEncoding

        @staticmethod
        def Network(**sizes):
            network = tiny_cuda_nn_library.Network(**sizes)
            network.params = torch.nn.Parameter(network.params.detach()[:-16])
            return network

    with pytest.raises(InputError, match="parameters of the installed tiny-cuda-nn"):
        TinyCudaNnRadiance(made(), Older())

"""The contract of every field of the table: what training, rendering and checkpoints rely on."""

import dataclasses
import importlib
import pkgutil

import pytest
import torch
from torch import Generator, nn

import polyfield.fields
from polyfield.apps import checkpoint
from polyfield.cuda.errors import InputError
from polyfield.fields.coarse_to_fine import CoarseToFine
from polyfield.fields.environment import Environment
from polyfield.fields.field import TrainableField
from polyfield.fields.gaussians import Gaussians, gaussians_at
from polyfield.fields.open_surface import OpenSurfaceRadiance
from polyfield.fields.optimiser import FieldOptimiser
from polyfield.fields.proposal import ProposalNetwork
from polyfield.fields.ray_distribution import RayDistributionField
from polyfield.fields.signal import Signal
from polyfield.fields.surface_radiance import SurfaceRadiance
from polyfield.fields.table import FIELDS, Backend, arguments_of, build_field, build_signal
from polyfield.fields.tiny_cuda_nn_field import TinyCudaNnRadiance
from polyfield.fields.warp import build_warp

N = 300
AHEAD = {
    "axes": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "origin": [0.5, 0.5, -1.0],
    "extent": [0.5, 0.5],
    "near": 0.9,
}
WARPS = [{"contraction": 3}, {"projection": AHEAD}]
X = torch.rand(N, 3, generator=Generator().manual_seed(0))
DIRECTIONS = nn.functional.normalize(torch.randn(N, 3, generator=Generator().manual_seed(1)), dim=1)


def small(name):
    """Arguments of a field that is quick to build."""
    return FIELDS[name].arguments.fitted(64, 1 << 16)


def built(name, seed=0):
    return build_field(name, arguments_of(small(name)), Generator().manual_seed(seed))


def shown(field, x=X, directions=DIRECTIONS):
    density, features = field.density(x)
    return density, field.color(features, field.encode_directions(directions))


def roughened(field):
    """Parameters drawn large, so that no value and no gradient vanishes."""
    random = Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random))
    return field


def offers_the_protocol(name, tmp_path):
    field = built(name)
    assert isinstance(field, TrainableField) and isinstance(field, nn.Module)


def has_the_shapes_and_ranges_of_a_radiance_field(name, tmp_path):
    field = roughened(built(name))
    for count in (N, 1, 0):
        density, features = field.density(X[:count])
        assert density.shape == (count,) and features.shape[:1] == (count,)
        assert density.isfinite().all() and (density >= 0).all()
        harmonics = field.encode_directions(DIRECTIONS[:count])
        color = field.color(features, harmonics)
        assert color.shape == (count, 3) and (color >= 0).all() and (color <= 1).all()
    density, color = shown(field)
    assert density.std() > 0 and (color.std(0) > 0).all()


def sees_each_point_alone(name, tmp_path):
    field = roughened(built(name))
    for whole, part in zip(shown(field), shown(field, X[7:31], DIRECTIONS[7:31]), strict=True):
        torch.testing.assert_close(whole[7:31], part)


def encodes_positions_where_the_warp_takes_them(name, tmp_path):
    plain = roughened(built(name))
    for values in WARPS:
        warp = build_warp(values)
        arguments = arguments_of(small(name))
        field = roughened(build_field(name, arguments, Generator().manual_seed(0), warp))
        assert field.state_dict().keys() == plain.state_dict().keys()
        for found, expected in zip(shown(field), shown(plain, warp(X)), strict=True):
            torch.testing.assert_close(found, expected)


def learns_with_every_parameter(name, tmp_path):
    field = roughened(built(name))
    optimiser = FieldOptimiser(field)
    before = {key: value.clone() for key, value in field.state_dict().items()}
    optimiser.clear()
    density, color = shown(field)
    ((density.log1p() - 1).square().sum() + (color - 0.3).square().sum()).backward()
    assert optimiser.finite()
    optimiser.step(0, 1.0)
    for key, value in field.named_parameters():
        assert (value != before[key]).any() and value.isfinite().all(), key
    learned = dict(field.named_parameters())
    assert set(optimiser.moments) == {f"{m}.{k}" for m in ("first", "second") for k in learned}


def has_a_gradient_to_every_parameter_and_to_positions(name, tmp_path):
    field = roughened(built(name))
    x = X.clone().requires_grad_()
    density, color = shown(field, x)
    (density.log1p().sum() + color.sum()).backward()
    for key, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key
    # Surface normals are made of it: it is the slope that small steps see.
    (slope,) = torch.autograd.grad(field.density(x)[0].sum(), x)
    step = 1e-4 * nn.functional.normalize(slope, dim=1)
    with torch.no_grad():
        rise = field.density(x + step)[0] - field.density(x - step)[0]
    expected = 2e-4 * slope.norm(dim=1)
    # A median: between two points there may be a border of cells, where the slope jumps.
    assert ((rise - expected).abs() / expected.clamp_min(1e-6)).median() < 0.05


def comes_back_from_a_checkpoint_bit_by_bit(name, tmp_path):
    field = roughened(built(name))
    tensors = {f"field.{key}": value for key, value in field.state_dict().items()}
    metadata = {"field": name, "arguments": arguments_of(small(name))}
    checkpoint.write(tmp_path / "step_1.safetensors", tensors, metadata)
    read, found = checkpoint.read(tmp_path / "step_1.safetensors")
    again = build_field(found["field"], found["arguments"], Generator().manual_seed(99))
    again.load_state_dict({key.removeprefix("field."): value for key, value in read.items()})
    for expected, got in zip(shown(field), shown(again), strict=True):
        assert torch.equal(expected, got)


def is_a_function_of_its_seed(name, tmp_path):
    one, same, other = (built(name, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def has_typed_arguments_that_rebuild_it(name, tmp_path):
    kind = FIELDS[name].arguments
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    plain = arguments_of(kind())
    assert kind(**plain) == kind() and all(type(v) in (int, float, bool) for v in plain.values())
    with pytest.raises(InputError, match="wings"):
        build_field(name, plain | {"wings": 2})
    for key in plain:
        for value in ("1", None, [1], -1, float("nan")):
            with pytest.raises(InputError, match=key):
                build_field(name, plain | {key: value})


def fits_the_parameters_it_is_given(name, tmp_path):
    counts = []
    for parameters in (1 << 17, 1 << 19, 1 << 21):
        arguments = arguments_of(FIELDS[name].arguments.fitted(256, parameters))
        field = build_field(name, arguments)
        counts.append(sum(p.numel() for p in field.parameters()))
        assert counts[-1] < 1.2 * parameters
    # A network need not fill the room: each of its numbers costs time at every sample.
    assert counts[0] <= counts[1] <= counts[2]
    small = build_field(name, arguments_of(FIELDS[name].arguments.fitted(256, 1 << 16)))
    assert sum(p.numel() for p in small.parameters()) < counts[2]


def tells_how_it_likes_to_learn(name, tmp_path):
    assert 0 < built(name).learning_rate < 1 and built(name).costly in (True, False)
    assert built(name).cones is False
    assert 256 <= FIELDS[name].arguments.samples_per_step <= 1 << 20


CONTRACT = [
    offers_the_protocol,
    has_the_shapes_and_ranges_of_a_radiance_field,
    sees_each_point_alone,
    encodes_positions_where_the_warp_takes_them,
    learns_with_every_parameter,
    has_a_gradient_to_every_parameter_and_to_positions,
    comes_back_from_a_checkpoint_bit_by_bit,
    is_a_function_of_its_seed,
    has_typed_arguments_that_rebuild_it,
    fits_the_parameters_it_is_given,
    tells_how_it_likes_to_learn,
]


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_the_table(name, clause, tmp_path):
    clause(name, tmp_path)


SIGNALS = [name for name, backend in FIELDS.items() if backend.signal is not None]


def small_signal(name, dimensions, parameters=1 << 14):
    return arguments_of(FIELDS[name].signal.arguments.fitted(dimensions, 768, parameters))


def built_signal(name, dimensions, seed=0, channels=3):
    arguments = small_signal(name, dimensions)
    return build_signal(name, arguments, dimensions, channels, Generator().manual_seed(seed))


def signal_has_shapes_and_gradients(name, dimensions):
    signal = roughened(built_signal(name, dimensions))
    assert isinstance(signal, Signal) and signal.encoding.dimensions == dimensions
    x = X[:, :dimensions].clone().requires_grad_()
    value = signal.value(x)
    assert value.shape == (N, 3) and value.std(0).min() > 0
    assert signal.value(x[:0]).shape == (0, 3)
    torch.testing.assert_close(signal.value(x[5:9]), value[5:9])
    value.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in signal.parameters())
    assert x.grad.any()
    assert built_signal(name, dimensions, channels=1).value(x).shape == (N, 1)


def signal_learns_with_every_parameter(name, dimensions):
    signal = roughened(built_signal(name, dimensions))
    optimiser = FieldOptimiser(signal)
    before = {key: value.clone() for key, value in signal.named_parameters()}
    optimiser.clear()
    (signal.value(X[:, :dimensions]) - 0.3).square().sum().backward()
    assert optimiser.finite()
    optimiser.step(0, 1.0)
    for key, value in signal.named_parameters():
        assert (value != before[key]).any() and value.isfinite().all(), key


def signal_is_a_function_of_its_seed(name, dimensions):
    one, same, other = (built_signal(name, dimensions, s).state_dict() for s in (5, 5, 6))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def signal_fits_the_numbers_it_is_given(name, dimensions):
    kind = FIELDS[name].signal.arguments
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert 256 <= kind.samples_per_step <= 1 << 20
    for parameters in (1 << 14, 100_000, 1 << 19):
        arguments = small_signal(name, dimensions, parameters)
        assert all(type(value) is int for value in arguments.values())
        signal = build_signal(name, arguments, dimensions, 4)
        kept = sum(tensor.numel() for tensor in signal.state_dict().values())
        # A network need not fill the room, and planes need no more nodes than there is detail.
        least = 0.9 if name in ("hash-grid", "rbf") and parameters < 1 << 19 else 0.05
        assert least * parameters < kept <= parameters
    with pytest.raises(InputError, match="parameters"):
        kind.fitted(dimensions, 96, 10)
    with pytest.raises(InputError, match="wings"):
        build_signal(name, {"wings": 2}, dimensions, 3)


SIGNAL_CONTRACT = [
    signal_has_shapes_and_gradients,
    signal_learns_with_every_parameter,
    signal_is_a_function_of_its_seed,
    signal_fits_the_numbers_it_is_given,
]


@pytest.mark.parametrize("clause", SIGNAL_CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_of_the_table(name, dimensions, clause):
    clause(name, dimensions)


def test_a_backend_without_signals_is_refused_with_those_that_have_them(monkeypatch):
    monkeypatch.setitem(FIELDS, "lone", Backend(FIELDS["mlp"].arguments, FIELDS["mlp"].field))
    with pytest.raises(InputError, match="'lone'; expected one of hash-grid, mlp"):
        build_signal("lone", {}, 2, 3)


def test_every_module_of_fields_is_part_of_a_field_of_the_table_or_learns_beside_it(
    tiny_cuda_nn_library,
):
    """A backend without its line is found here, and so is a part that nothing uses."""
    defined = set()
    for found in pkgutil.iter_modules(polyfield.fields.__path__):
        module = importlib.import_module(f"polyfield.fields.{found.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, nn.Module):
                if value.__module__ == module.__name__:
                    defined.add(value)
    beside = [ProposalNetwork(), Environment((0.5, 0.5, 0.5))]
    beside += [built_signal(name, 2) for name in SIGNALS]
    beside += [build_signal("mlp", {"waves": 16}, 2, 3)]
    beside += [SurfaceRadiance(built("hash-grid"), "neus", 0.3)]
    beside += [OpenSurfaceRadiance(built("hash-grid"), 0.3)]
    beside += [CoarseToFine(built("hash-grid").encoding, 10)]
    beside += [TinyCudaNnRadiance(built("hash-grid"), tiny_cuda_nn_library)]
    beside += [Gaussians(gaussians_at(torch.rand(4, 3), torch.rand(4, 3)))]
    beside += [RayDistributionField()]
    whole = [*(built(name) for name in FIELDS), *beside]
    whole += [build_field(name, {}, warp=build_warp(warp)) for name in FIELDS for warp in WARPS]
    used = {type(part) for field in whole for part in field.modules()}
    assert defined and defined <= used


def test_a_name_that_is_not_in_the_table_is_refused_with_those_that_are():
    with pytest.raises(InputError, match="'sponge'.*hash-grid"):
        build_field("sponge", {})


def breaking(name, change):
    """A constructor of the table's field whose result is changed."""

    def constructor(arguments, generator=None, warp=None):
        field = FIELDS_BEFORE[name].field(arguments, generator, warp)
        change(field)
        return field

    return constructor


FIELDS_BEFORE = dict(FIELDS)


def negative(field):
    whole = field.density
    field.density = lambda x: (-whole(x)[0], whole(x)[1])


def neighbourly(field):
    whole = field.density
    field.density = lambda x: (whole(x)[0] + x.sum(), whole(x)[1])


def idle(field):
    field.spare = nn.Parameter(torch.zeros(3))


def blind(field):
    whole = field.density
    field.density = lambda x: whole(x.detach())


def random(field):
    with torch.no_grad():
        next(field.parameters()).add_(torch.rand(1))


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        (negative, has_the_shapes_and_ranges_of_a_radiance_field),
        (neighbourly, sees_each_point_alone),
        (idle, learns_with_every_parameter),
        (idle, has_a_gradient_to_every_parameter_and_to_positions),
        (blind, has_a_gradient_to_every_parameter_and_to_positions),
        (random, is_a_function_of_its_seed),
    ],
)
def test_the_contract_notices(change, clause, monkeypatch, tmp_path):
    changed = FIELDS["hash-grid"]._replace(field=breaking("hash-grid", change))
    monkeypatch.setitem(FIELDS, "hash-grid", changed)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        clause("hash-grid", tmp_path)

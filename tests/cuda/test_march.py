import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyfield.cuda.box import intersect_box
from polyfield.cuda.counter_random import random_unit
from polyfield.cuda.errors import InputError
from polyfield.cuda.kernel import constant
from polyfield.cuda.march import march, march_reference
from polyfield.cuda.occupancy import pack_bits

pytestmark = pytest.mark.kernels

few = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STEP = 0.011
NOTES = constant("march", "MARCH_NOTES")  # samples of a ray that are not walked twice


def rays_into_the_cube(n, seed=0):
    """Rays from outside and inside the unit cube, some of which miss it."""
    random = torch.Generator().manual_seed(seed)
    origins = 0.5 + 1.2 * torch.randn(n, 3, generator=random)
    target = 0.5 + 0.4 * torch.randn(n, 3, generator=random)
    return origins, torch.nn.functional.normalize(target - origins, dim=1)


def random_bits(levels, resolution, share, seed=0):
    random = torch.Generator().manual_seed(seed)
    on = torch.rand(levels * resolution**3 // 8, 8, generator=random) < share
    return (on * 2 ** torch.arange(8)).sum(1).to(torch.uint8)


def samples(device, rays, bits, levels, resolution, function=march, **changes):
    options = dict(step=STEP, cone=0.0, near=0.0, limit_per_ray=4096, seed=7, stream=3, jitter=True)
    options |= changes
    origins, directions = (x.to(device) for x in rays)
    return function(origins, directions, bits.to(device), levels, resolution, **options)


def interior(out):
    """distance and length by ray, without the order of packing."""
    return {
        r: (out.distance[a:b].cpu(), out.length[a:b].cpu())
        for r, (a, b) in enumerate(
            zip(out.ray_offsets[:-1].tolist(), out.ray_offsets[1:].tolist(), strict=True)
        )
    }


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("cone", [0.0, 1 / 64])
def test_lengths_fill_the_cube_where_all_is_occupied(device, jitter, cone):
    rays, near = rays_into_the_cube(70), 0.3
    bits = torch.full((3 * 8**3 // 8,), 255, dtype=torch.uint8)
    out = samples(device, rays, bits, 3, 8, cone=cone, jitter=jitter, near=near)
    begin, end = intersect_box(*rays, torch.zeros(3), torch.ones(3))
    begin = begin.clamp_min(near)
    total = torch.zeros(70).index_add(0, out.ray.cpu().long(), out.length.cpu())
    torch.testing.assert_close(total, (end - begin).clamp_min(0), atol=2e-5, rtol=0)
    for r, (distance, length) in interior(out).items():
        ends = begin[r] + length.cumsum(0)
        torch.testing.assert_close(distance, ends - length / 2, atol=2e-5, rtol=0)
        full = (cone * (ends - length)).clamp(STEP, 1 / 8)
        whole = slice(1 if jitter else 0, -1)
        torch.testing.assert_close(length[whole], full[whole], atol=1e-5, rtol=0)


@few
@given(
    levels=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.03, 0.5, 0.97]),
    cone=st.sampled_from([0.0, 1 / 100, 1 / 8]),
    seed=st.integers(0, 99),
)
def test_bits_choose_samples_and_move_none(device, levels, share, cone, seed):
    rays = rays_into_the_cube(40, seed)
    assert_bits_choose(device, rays, random_bits(levels, 16, share, seed), levels, cone)


@pytest.mark.parametrize("cone", [0.0, 1 / 100, 1 / 8])
@pytest.mark.parametrize("levels", [1, 3])
def test_no_stride_through_the_empty_passes_an_occupied_cell(device, levels, cone):
    # So few cells that half of the blocks are empty: cells and blocks are left in whole strides.
    rays, bits = rays_into_the_cube(300), random_bits(levels, 16, 0.01)
    assert_bits_choose(device, rays, bits, levels, cone)


def assert_bits_choose(device, rays, bits, levels, cone, resolution=16):
    """The definition: all samples, less those whose own cell is off."""
    some = samples(device, rays, bits, levels, resolution, cone=cone)
    every = samples(device, rays, torch.full_like(bits, 255), levels, resolution, cone=cone)
    index = cells_of(every, rays, levels, resolution, cone)
    on = (bits[index // 8].int() >> (index % 8).int() & 1).bool().to(device)
    for name in ("distance", "length", "position", "ray"):
        assert torch.equal(getattr(some, name), getattr(every, name)[on]), name
    rows, on = every.ray.cpu().long(), on.long().cpu()
    counts = torch.zeros(len(rays[0]), dtype=torch.long).index_add(0, rows, on)
    assert torch.equal(some.ray_offsets.diff().cpu().long(), counts)


def cells_of(every, rays, levels, resolution, cone):
    """The cells of samples, from their positions: levels and axes written out one at a time."""
    starts, _ = intersect_box(*rays, torch.zeros(3), torch.ones(3))
    out = []
    before = None
    for i, (r, p) in enumerate(
        zip(
            every.ray.tolist(),
            every.position.cpu(),
            strict=True,
        )
    ):
        begin = starts[r].item() if r != before else begin + every.length[i - 1].item()
        before = r
        step = min(max(cone * begin, STEP), 1 / resolution)
        level = 0
        while level < levels - 1:
            side = 2.0 ** (level - (levels - 1))
            if (p - 0.5).abs().max() <= side / 2 and step * resolution <= side:
                break
            level += 1
        side = 2.0 ** (level - (levels - 1))
        cell = [
            min(max(math.floor((v - (0.5 - side / 2)) * resolution / side), 0), resolution - 1)
            for v in p.tolist()
        ]
        out.append(cell[0] + resolution * (cell[1] + resolution * (cell[2] + resolution * level)))
    return torch.tensor(out, dtype=torch.long)


def test_a_step_that_outgrows_empty_fine_cells_looks_coarser_ones_up(device):
    # The finer grid, the middle half with cells of 1/32, is empty, the coarser one full. Half a
    # unit from the origin, within a block of fine cells, the step grows longer than they are.
    rays, cone = (torch.tensor([[-0.1, 0.51, 0.51]]), torch.tensor([[1.0, 0, 0]])), 1 / 16
    bits = torch.full((2 * 16**3 // 8,), 255, dtype=torch.uint8)
    every = samples(device, rays, bits, 2, 16, cone=cone, jitter=False)
    bits[: 16**3 // 8] = 0
    some = samples(device, rays, bits, 2, 16, cone=cone, jitter=False)
    begin = every.distance - every.length / 2
    within = (every.position[:, 0] - 0.5).abs() < 0.25
    on = ~within | (cone * begin > 1 / 32)
    assert (on & within).any() and not on.all()
    assert torch.equal(some.distance, every.distance[on])


@pytest.mark.parametrize(
    "levels, cone, jitter", [(1, 0.0, True), (3, 1 / 90, True), (2, 0.1, False)]
)
def test_kernel_equals_reference(device, levels, cone, jitter):
    rays, bits = rays_into_the_cube(70), random_bits(levels, 16, 0.3)
    options = dict(cone=cone, jitter=jitter, stream=11)
    got = samples(device, rays, bits, levels, 16, **options)
    expected = samples("cpu", rays, bits, levels, 16, function=march_reference, **options)
    # A middle on a cell's wall may round either way.
    assert abs(len(got.distance) - len(expected.distance)) <= 2
    same = {r: len(d) for r, (d, _) in interior(expected).items()}
    agreeing = [r for r, (d, _) in interior(got).items() if len(d) == same[r]]
    assert len(agreeing) >= 68
    for r in agreeing:
        for a, b in zip(interior(got)[r], interior(expected)[r], strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    origins, directions = rays
    places = (
        origins[got.ray.cpu().long()]
        + got.distance.cpu()[:, None] * directions[got.ray.cpu().long()]
    )
    torch.testing.assert_close(got.position.cpu(), places, atol=1e-5, rtol=0)


def test_jitter_is_a_share_of_the_first_step_drawn_from_seed_stream_and_ray(device):
    origins = torch.tensor([[-1.0, 0.4, 0.6]]).expand(500, 3).contiguous()
    rays = origins, torch.tensor([[1.0, 0, 0]]).expand(500, 3).contiguous()
    bits = torch.full((8**3 // 8,), 255, dtype=torch.uint8)
    first = {}
    for seed, stream in [(1, 2), (1, 3), (2**31 + 5, 2)]:
        out = samples(device, rays, bits, 1, 8, seed=seed, stream=stream)
        got = out.length[out.ray_offsets[:-1].long()].cpu()
        share = random_unit(seed, stream, torch.arange(500))
        torch.testing.assert_close(got, STEP * share, atol=1e-6, rtol=0)
        first[seed, stream] = got
    assert len({tuple(x.tolist()) for x in first.values()}) == 3
    share = first[1, 2] / STEP
    assert abs(share.mean() - 0.5) < 0.06 and abs(share.var() - 1 / 12) < 0.02


@pytest.mark.parametrize("limit", [0, 5, NOTES, NOTES + 1, NOTES + 2])
def test_a_ray_keeps_its_first_samples(device, limit):
    rays, bits = rays_into_the_cube(50), random_bits(1, 16, 0.9)
    every, few_each = (samples(device, rays, bits, 1, 16, limit_per_ray=k) for k in (4096, limit))
    assert few_each.ray_offsets.diff().max() == limit
    for whole, start in zip(interior(every).values(), interior(few_each).values(), strict=True):
        for a, b in zip(whole, start, strict=True):
            assert torch.equal(a[:limit], b)


def test_an_axis_parallel_ray_finds_the_one_cell(device):
    bits = torch.zeros(8**3 // 8, dtype=torch.uint8)
    index = 6 + 8 * (3 + 8 * 1)
    bits[index // 8] = 1 << index % 8
    rays = torch.tensor([[-2.0, 0.4375, 0.1875]]), torch.tensor([[1.0, 0, 0]])
    out = samples(device, rays, bits, 1, 8, jitter=False)
    x = out.position[:, 0].cpu()
    assert len(x) == pytest.approx(0.125 / STEP, abs=1) and 0.75 <= x.min() and x.max() < 0.875
    turned = rays[0].flip(1), rays[1].flip(1)  # along z, through x = 0.1875, y = 0.4375: empty
    assert len(samples(device, turned, bits, 1, 8).distance) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("face", [0.0, 1.0])
def test_a_ray_along_a_face_walks_the_cells_beside_it(device, face, axis):
    rays = torch.tensor([[-1.0, 0.3, face]]).roll(axis, 1), torch.eye(3)[axis : axis + 1]
    layer = torch.zeros(8, 8, 8, dtype=torch.bool)  # z, y, x
    layer.select(-axis % 3, int(7 * face)).fill_(True)
    bits = pack_bits(layer.float().view(1, -1), 0.5)
    total = samples(device, rays, bits, 1, 8).length.sum().item()
    assert total == pytest.approx(1, abs=1e-5)
    assert len(samples(device, rays, ~bits, 1, 8).length) == 0


@pytest.mark.parametrize("cone", [0.0, 1 / 64])
def test_far_away_every_step_leads_on(device, cone):
    # Neighbouring numbers lie 1/16 apart there, much farther than the step is long.
    rays = torch.tensor([[-1e6, 0.5, 0.5]]), torch.tensor([[1.0, 0, 0]])
    bits = torch.full((8**3 // 8,), 255, dtype=torch.uint8)
    length = samples(device, rays, bits, 1, 8, cone=cone, jitter=False).length
    assert (length > 0).all() and length.sum() == 1


def test_rays_that_cannot_be_walked_end(device):
    origins = torch.tensor([[0.5, 0.5, 0.5], [-1e6, 0.5, 0.5], [torch.nan, 0.5, 0.5]])
    directions = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]])
    bits = torch.full((8**3 // 8,), 255, dtype=torch.uint8)
    out = samples(device, (origins, directions), bits, 1, 8)
    assert out.ray_offsets[1] == 0 and torch.isfinite(out.length[out.ray == 1]).all()


def test_one_and_two_threads_give_the_same_bits():
    rays, bits, threads = rays_into_the_cube(1000), random_bits(2, 16, 0.3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = samples("cpu", rays, bits, 2, 16)
        torch.set_num_threads(2)
        both = samples("cpu", rays, bits, 2, 16)
        assert all(torch.equal(a, b) for a, b in zip(alone[:5], both[:5], strict=True))
    finally:
        torch.set_num_threads(threads)


def test_no_rays_give_no_samples(device):
    none = torch.zeros(0, 3)
    out = samples(device, (none, none), random_bits(1, 8, 0.5), 1, 8)
    assert out.ray_offsets.tolist() == [0] and len(out.distance) == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(step=0.0), "step 0.0"),
        (dict(cone=-1.0), "cone -1.0"),
        (dict(levels=2, resolution=6), "resolution 6"),
        (dict(levels=2), "bits: 64 bytes; expected 1024 cells"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_by_value(changes, message):
    options = dict(levels=1, resolution=8) | changes
    with pytest.raises(InputError, match=message):
        samples("cpu", rays_into_the_cube(2), random_bits(1, 8, 0.5), **options)


def test_registration_is_sound():
    inputs = (*rays_into_the_cube(6), random_bits(1, 8, 0.5), 1, 8, STEP, 0.0, 0.0, 99, 1, 2, True)
    torch.library.opcheck(torch.ops.polyfield.march.default, inputs)

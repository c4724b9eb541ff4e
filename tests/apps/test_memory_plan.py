import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfield.apps import memory_plan
from polyfield.apps.memory_plan import (
    BYTES_A_DECODED_PIXEL,
    BYTES_A_PIXEL,
    DECODED_BYTES,
    decoders,
    default_limit,
    known_plan,
    plan_memory,
)
from polyfield.cuda.errors import InputError

SMALL = [(200, 200)] * 135  # lego


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    """A plan must not hang on what the tests before it left in memory."""
    monkeypatch.setattr(memory_plan, "resident_bytes", lambda: 250_000_000)


def test_where_there_is_room_everything_is_as_wished():
    plan = plan_memory(4_000_000_000, SMALL, 4, 1 << 21)
    assert (plan.parameters, plan.samples_per_step) == (1 << 21, 1 << 14)
    assert plan.image_bytes == 135 * 200 * 200 * 4


@given(
    st.integers(500_000_000, 8_000_000_000),
    st.lists(st.tuples(st.integers(1, 4000), st.integers(1, 4000)), min_size=1, max_size=50),
    st.sampled_from([3, 4]),
    st.integers(1 << 17, 1 << 25),
)
def test_a_plan_is_within_the_limit_or_refused(limit, sizes, channels, parameters):
    try:
        plan = plan_memory(limit, sizes, channels, parameters)
    except InputError:
        return
    assert plan.total_bytes <= limit
    assert plan.parameters <= parameters
    largest = max(width * height for width, height in sizes) * channels
    assert plan.image_bytes >= min(4, len(sizes)) * largest or plan.image_bytes == sum(
        width * height * channels for width, height in sizes
    )
    again = known_plan(limit, sizes, plan.parameters, plan.samples_per_step, plan.image_bytes)
    assert again.total_bytes <= limit


def test_masks_take_a_bit_a_pixel_and_room_to_be_decoded():
    sizes, large = [(201, 7)] * 40, [(8000, 6000)] * 40
    plain, masked = (plan_memory(4_000_000_000, sizes, 3, 1 << 21, m) for m in ([], sizes))
    assert plain.image_bytes == 40 * 201 * 7 * 3
    assert masked.image_bytes == 40 * 176 * (8 * 3 + 1)  # 1,407 pixels are 176 bytes of bits
    wide = plan_memory(4_000_000_000, sizes, 3, 1 << 21, large)
    assert wide.total_bytes >= masked.total_bytes + 20 * 48_000_000 - 100_000_000
    values = wide.parameters, wide.samples_per_step, wide.image_bytes
    assert known_plan(4_000_000_000, sizes, *values, large).total_bytes == wide.total_bytes


def test_photographs_give_way_first_then_batches_then_the_field():
    photographs = [(1600, 1200)] * 300  # 2.3 GB
    plans = [plan_memory(int(gb * 1e9), photographs, 4, 1 << 23) for gb in (6, 2.5, 1.27, 0.9)]
    assert plans[0].image_bytes == 300 * 1600 * 1200 * 4
    assert plans[1].image_bytes < plans[0].image_bytes
    assert plans[1].samples_per_step == plans[0].samples_per_step
    assert plans[2].samples_per_step < plans[1].samples_per_step
    assert plans[2].parameters == plans[1].parameters
    assert plans[3].parameters < plans[2].parameters


def test_what_is_needed_is_said_and_suffices():
    with pytest.raises(InputError, match="torch itself included") as caught:
        plan_memory(100_000_000, SMALL, 4, 1 << 21)
    need = float(caught.value.expected.split()[2])
    assert plan_memory(round(need * 1e9), SMALL, 4, 1 << 21).total_bytes <= need * 1e9
    with pytest.raises(InputError):
        plan_memory(round((need - 0.02) * 1e9), SMALL, 4, 1 << 21)


def test_a_known_run_is_never_made_smaller():
    plan = plan_memory(2_000_000_000, SMALL, 4, 1 << 21)
    sizes = (SMALL, plan.parameters, plan.samples_per_step, plan.image_bytes)
    assert known_plan(4_000_000_000, *sizes).image_bytes == plan.image_bytes
    with pytest.raises(InputError, match="0.6 GB; expected at least"):
        known_plan(600_000_000, *sizes)


def test_a_process_that_is_large_already_leaves_less(monkeypatch):
    before = plan_memory(4_000_000_000, SMALL, 4, 1 << 21).total_bytes
    monkeypatch.setattr(memory_plan, "resident_bytes", lambda: 910_000_000)
    assert plan_memory(4_000_000_000, SMALL, 4, 1 << 21).total_bytes >= before + 500_000_000


def test_half_of_the_machine_is_the_default(monkeypatch):
    for machine, expected in ((2, 1), (6, 3), (64, 4)):
        monkeypatch.setattr(memory_plan, "machine_bytes", lambda gb=machine: gb * 10**9)
        assert default_limit() == expected * 10**9


def test_a_thousand_photographs_of_12_million_pixels_train_in_2_gb_with_full_batches():
    photographs = [(4000, 3000)] * 1000
    plan = plan_memory(2_000_000_000, photographs, 3, 1 << 22)
    assert (plan.parameters, plan.samples_per_step) == (1 << 22, 1 << 14)
    assert plan.image_bytes >= 16 * 36_000_000
    # Measuring them takes the place of most that were decoded.
    assert 4 * 36_000_000 <= plan.measuring_image_bytes < plan.image_bytes - 50 * 12_000_000
    more = plan_memory(8_000_000_000, photographs, 3, 1 << 22)
    assert more.image_bytes > 100 * 36_000_000


@given(st.integers(1_000_000_000, 6_000_000_000), st.integers(1, 60), st.integers(100, 5000))
def test_what_measuring_takes_fits_beside_the_photographs_that_stay(limit, count, side):
    sizes = [(side, side)] * count
    try:
        plan = plan_memory(limit, sizes, 3, 1 << 20)
    except InputError:
        return
    training = plan.total_bytes - plan.image_bytes
    measuring = plan.total_bytes - plan.measuring_image_bytes - (BYTES_A_PIXEL - 5) * side**2
    # All else is the same in both, and the larger of them is the total.
    assert min(training, measuring) >= 400_000_000 and plan.total_bytes <= limit
    assert min(4, count) * 3 * side**2 <= plan.measuring_image_bytes <= plan.image_bytes
    known = known_plan(limit, sizes, plan.parameters, plan.samples_per_step, plan.image_bytes)
    assert known.measuring_image_bytes <= plan.image_bytes


@given(st.integers(1, 1 << 26), st.booleans())
def test_photographs_decoded_at_once_fit_into_what_the_plan_has_for_them(pixels, masked):
    together = decoders(pixels, masked)
    each = pixels * (BYTES_A_DECODED_PIXEL if masked else BYTES_A_DECODED_PIXEL // 2)
    assert 1 <= together <= 8
    assert together * each <= max(DECODED_BYTES, BYTES_A_DECODED_PIXEL * pixels)

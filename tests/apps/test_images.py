import threading
import time
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from polyfield.apps.images import ImageStore
from polyfield.apps.mask_files import Mask
from polyfield.apps.memory_plan import stored_bytes
from polyfield.cuda.errors import InputError

SIZES = [(7, 5), (4, 9), (7, 5), (6, 6), (3, 2), (7, 5), (5, 7)]  # (width, height)
LARGEST = 36  # pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths, pixels = [], []
    for index, (width, height) in enumerate(SIZES):
        pixels.append(random.integers(0, 256, (height, width, 4), dtype=np.uint8))
        paths.append(folder / f"{index}.png")
        Image.fromarray(pixels[-1]).save(paths[-1])
    return paths, pixels


def store_of(files, slots=None, seed=0):
    everything = sum(width * height for width, height in SIZES) * 4
    limit = everything if slots is None else slots * LARGEST * 4
    return ImageStore(files[0], SIZES, 4, limit, seed)


def every_pixel():
    places = [(f, r, c) for f, (w, h) in enumerate(SIZES) for r in range(h) for c in range(w)]
    mixed = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    return torch.tensor(places)[mixed].T.contiguous()


@pytest.mark.parametrize("slots", [None, 1, 2, 5])
def test_every_pixel_is_the_file_s_whatever_the_memory(files, slots):
    store = store_of(files, slots)
    frames, rows, columns = every_pixel()
    expected = [files[1][f][r, c].tolist() for f, r, c in zip(frames, rows, columns, strict=True)]
    for _ in range(2):
        assert store.gather(frames, rows, columns).tolist() == expected


@pytest.mark.parametrize("slots", [None, 1, 3])
def test_whole_images_are_copies_of_the_file(files, slots):
    store = store_of(files, slots)
    for frame in (3, 0, 4, 3, 1):
        image = store.image(frame)
        assert np.array_equal(image.numpy(), files[1][frame])
        image.zero_()
    assert np.array_equal(store.image(3).numpy(), files[1][3])


def test_three_channels_work_as_four(files, tmp_path):
    opaque = files[1][0][..., :3]
    Image.fromarray(opaque).save(tmp_path / "a.png")
    store = ImageStore([tmp_path / "a.png"], [(7, 5)], 3, 1000)
    found = store.gather(torch.tensor([0, 0]), torch.tensor([4, 1]), torch.tensor([6, 2]))
    assert found.tolist() == [opaque[4, 6].tolist(), opaque[1, 2].tolist()]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_memory_stays_within_the_limit(files, slots):
    store = store_of(files, slots)
    store.gather(*every_pixel())
    assert store.resident_bytes <= slots * LARGEST * 4


def test_images_are_decoded_once_while_they_stay(files, monkeypatch):
    decoded = []
    store = store_of(files, 3)
    original = store._decode
    monkeypatch.setattr(store, "_decode", lambda f, s: (decoded.append(f), original(f, s))[1])
    for frames in ([0, 1], [1, 2], [0, 1], [3], [2, 3]):
        store.load(torch.tensor(frames))
    # At [3], frame 2 is the one unused for longest; it returns for 0.
    assert sorted(decoded[:2]) == [0, 1] and decoded[2:] == [2, 3, 2]
    assert store.decoded == 5


def test_nothing_is_decoded_before_it_is_needed(files, tmp_path):
    missing = [tmp_path / "none.png", *files[0][1:]]
    store = ImageStore(missing, SIZES, 4, 10**6)
    store.image(1)
    with pytest.raises(InputError, match=r"none\.png"):
        store.image(0)


def test_where_all_fit_all_may_be_drawn(files):
    assert store_of(files).frames_resident(5).tolist() == list(range(7))
    among = torch.tensor([5, 2])
    assert store_of(files, 2).frames_resident(9, among).tolist() == [2, 5]


@given(st.integers(0, 200), st.integers(0, 5), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_window_is_a_function_of_seed_and_number_and_fits(window, seed, slots):
    paths = [Path(f"{i}.png") for i in range(7)]
    store = ImageStore(paths, SIZES, 4, slots * LARGEST * 4, seed)
    frames = store.frames_resident(window)
    again = ImageStore(paths, SIZES, 4, slots * LARGEST * 4, seed).frames_resident(window)
    assert torch.equal(frames, again)
    ahead = 0 if slots == 1 else 1
    assert len(frames) == slots - ahead and len(frames.unique()) == len(frames)
    assert 0 <= frames.min() and frames.max() < 7


@pytest.mark.parametrize("slots, moves, ahead", [(2, 1, 1), (8, 1, 1), (24, 1, 3), (128, 4, 16)])
def test_windows_go_through_all_frames_evenly_and_move_a_little_a_turn(slots, moves, ahead):
    n = 5 * slots
    store = ImageStore([Path("x")] * n, [(1, 1)] * n, 4, slots * 4)
    cycle = n // moves  # turns in which all frames have come
    windows = [set(store.frames_resident(turn).tolist()) for turn in range(10 * cycle)]
    assert {len(window) for window in windows} == {slots - ahead}
    seen = torch.zeros(n)
    for frames in windows:
        seen[list(frames)] += 1
    assert seen.min() > 0.7 * seen.mean() and seen.max() < 1.3 * seen.mean()
    came = [len(b - a) for a, b in zip(windows, windows[1:], strict=False)]
    assert max(came) <= moves and np.mean(came) > 0.8 * moves
    if slots > 2:
        assert len({tuple(sorted(windows[turn])) for turn in range(0, len(windows), cycle)}) > 5


def test_other_seeds_draw_other_windows():
    stores = [ImageStore([Path("x")] * 40, [(1, 1)] * 40, 4, 32, seed) for seed in (0, 1)]
    first, second = (store.frames_resident(0).tolist() for store in stores)
    assert first != second


def test_memory_for_less_than_one_image_is_refused(files):
    with pytest.raises(InputError, match=r"largest image.*--memory"):
        ImageStore(files[0], SIZES, 4, LARGEST * 4 - 1)


def test_a_file_that_changed_its_size_is_refused(files):
    sizes = [(5, 7), *SIZES[1:]]
    with pytest.raises(InputError, match=r"0\.png.*7x5.*5x7"):
        ImageStore(files[0], sizes, 4, 10**6).image(0)


def test_more_frames_at_once_than_there_are_slots_are_refused(files):
    with pytest.raises(InputError, match="at most 2"):
        store_of(files, 2).load(torch.arange(3))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """A mask of every second image, of both meanings, and what they keep."""
    folder, random = tmp_path_factory.mktemp("masks"), np.random.default_rng(1)
    found, kept = [], []
    for index, (width, height) in enumerate(SIZES):
        values = random.integers(0, 2, (height, width), dtype=np.uint8) * 90
        kept.append(np.ones((height, width), bool))
        found.append(None)
        if index % 2 == 0:
            Image.fromarray(values).save(folder / f"{index}.png")
            meaning = "keep" if index % 4 else "ignore"
            found[-1] = Mask(folder / f"{index}.png", meaning, width, height)
            kept[-1] = values > 0 if meaning == "keep" else values == 0
    return found, kept


def masked_store(files, masks, slots):
    limit = 10**6 if slots is None else slots * stored_bytes((6, 6), 4, True)
    return ImageStore(files[0], SIZES, 4, limit, masks=masks[0])


@pytest.mark.parametrize("slots", [None, 1, 2, 5])
def test_what_masks_keep_is_known_of_every_pixel_whatever_the_memory(files, masks, slots):
    store = masked_store(files, masks, slots)
    frames, rows, columns = every_pixel()
    places = list(zip(frames.tolist(), rows.tolist(), columns.tolist(), strict=True))
    for _ in range(2):
        assert store.kept(frames, rows, columns).tolist() == [
            masks[1][f][r, c] for f, r, c in places
        ]
        colors = store.gather(frames, rows, columns).tolist()
        assert colors == [files[1][f][r, c].tolist() for f, r, c in places]
    assert store.ignoring and store.slots == (slots or len(SIZES))
    for frame in (3, 0, 4, 6, 2):
        assert np.array_equal(store.kept_image(frame), masks[1][frame])
        assert np.array_equal(store.image(frame), files[1][frame])


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_masks_and_images_stay_within_the_limit(files, masks, slots):
    store = masked_store(files, masks, slots)
    store.kept(*every_pixel())
    assert store.resident_bytes <= slots * stored_bytes((6, 6), 4, True)
    needed = sum(stored_bytes(size, 4, True) for size in SIZES)
    assert ImageStore(files[0], SIZES, 4, needed, masks=masks[0]).all_fit
    assert not ImageStore(files[0], SIZES, 4, needed - 1, masks=masks[0]).all_fit


def test_without_masks_everything_is_kept_and_no_bit_stored(files, masks):
    none, object_masks = [None] * 7, [m and Mask(m.path, "object", 7, 5) for m in masks[0]]
    for some in ((), none, object_masks):
        store = ImageStore(files[0], SIZES, 4, 10**6, masks=some)
        assert not store.ignoring and store.kept(*every_pixel()).all()
        assert store.resident_bytes == sum(w * h for w, h in SIZES) * 4
        assert store.kept_image(3).shape == (6, 6)


def test_a_mask_for_each_image_or_none_at_all(files):
    with pytest.raises(InputError, match="3 masks"):
        ImageStore(files[0], SIZES, 4, 10**6, masks=[None] * 3)


def gated(store, monkeypatch):
    """Decoding of the store that stands still while the event is not set; what was decoded."""
    gate, decoded, original = threading.Event(), [], store._decode

    def decode(frame, start):
        gate.wait(10)
        decoded.append(frame)
        return original(frame, start)

    monkeypatch.setattr(store, "_decode", decode)
    gate.set()
    return gate, decoded


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_what_the_next_turn_needs_is_decoded_before_it_is_asked_for(files, slots, monkeypatch):
    store = store_of(files, slots)
    _, decoded = gated(store, monkeypatch)
    for turn in range(30):
        store.turn_to(turn)
        wait([decoding for _, decoding in store._coming.values()])
        there = {*store._slot_of, *store._coming}
        assert there >= {*store.frames_resident(turn + 1).tolist()} and len(there) <= slots
    assert len(decoded) <= slots + 30  # one a turn: none was thrown away before its turn


def test_steps_go_on_while_the_next_image_decodes_and_wait_only_when_they_need_it(
    files, monkeypatch
):
    store = store_of(files, 3)
    gate, decoded = gated(store, monkeypatch)
    resident = store.turn_to(0)
    wait([decoding for _, decoding in store._coming.values()])
    turn = next(t for t in range(1, 30) if {*store._order(t, None)[1]} - {*store._slot_of})
    store.turn_to(turn - 1)
    gate.clear()
    resident = store.turn_to(turn)
    before = len(decoded)
    for frame in resident.tolist():
        assert np.array_equal(store.image(frame), files[1][frame])
    assert len(decoded) == before and store._coming
    threading.Timer(0.2, gate.set).start()
    begin, waited = time.perf_counter(), store.waiting_seconds
    store.turn_to(turn + 1)
    assert time.perf_counter() - begin > 0.1 and store.waiting_seconds - waited > 0.1


def test_a_fault_is_raised_by_the_turn_that_needs_the_file_and_by_no_other(files, tmp_path):
    broken = 4
    paths = [tmp_path / "none.png" if f == broken else path for f, path in enumerate(files[0])]
    store = ImageStore(paths, SIZES, 4, 3 * LARGEST * 4)
    for turn in range(60):
        if broken in store.frames_resident(turn):
            with pytest.raises(InputError, match=r"none\.png"):
                store.turn_to(turn)
        else:
            for frame in store.turn_to(turn).tolist():
                assert np.array_equal(store.image(frame), files[1][frame])


calls = st.one_of(
    st.tuples(st.just("turn"), st.integers(0, 40)),
    st.tuples(st.just("image"), st.integers(0, 6)),
    st.tuples(st.just("load"), st.sets(st.integers(0, 6), min_size=1, max_size=7)),
    st.tuples(st.just("gather"), st.integers(0, 9)),
)


@given(st.integers(1, 6), st.lists(calls, max_size=25))
@settings(max_examples=60, deadline=None)
def test_pixels_are_the_files_whatever_was_asked_before(files, slots, asked):
    store = store_of(files, slots)
    frames, rows, columns = every_pixel()
    for what, which in asked:
        if what == "turn":
            found = store.turn_to(which)
            assert torch.equal(found, store.frames_resident(which))
            assert {*found.tolist()} <= {*store._slot_of}
        elif what == "image":
            assert np.array_equal(store.image(which), files[1][which])
        elif what == "load":
            store.load(torch.tensor(sorted(which)[:slots]))
        else:
            some = slice(which * 20, which * 20 + 40)
            colors = store.gather(frames[some], rows[some], columns[some])
            places = zip(frames[some], rows[some], columns[some], strict=True)
            assert colors.tolist() == [files[1][f][r, c].tolist() for f, r, c in places]
        assert len(store._slot_of) + len(store._coming) + len(store._free) == slots


def test_time_and_images_are_counted(files):
    store = store_of(files, 3)
    for turn in range(20):
        store.turn_to(turn)
    assert 12 <= store.decoded <= 23 and store.decoding_seconds > 0

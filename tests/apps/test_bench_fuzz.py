"""The fuzz bench catches readers that are broken on purpose, and finds none among polyfield's."""

import json
import mmap
import os
import signal
import time
from pathlib import Path

import pytest

from polyfield.apps import bench as bench_module
from polyfield.apps import fuzz_samples
from polyfield.apps.bench import Bench, bench
from polyfield.apps.bench_fuzz import case_of, fuzz_rows, fuzz_summary
from polyfield.apps.fuzz_targets import TARGETS, Target, allowance
from polyfield.apps.fuzz_trees import Odd, read_tree, write_tree
from polyfield.apps.fuzz_worker import Limits, Worker
from polyfield.apps.main import main
from polyfield.cuda.errors import InputError, PolyfieldError

SAMPLE = b'{"width": 3, "rows": [1, 2, 3], "name": "a"}'
QUICK = Limits(seconds=0.2, hung_seconds=1.0)


def is_sample(folder):
    path = folder / "a.json"
    return path.is_file() and path.stat().st_size == len(SAMPLE) and path.read_bytes() == SAMPLE


def careful(folder):
    if not is_sample(folder):
        raise InputError("a.json", "something else", "the sample")


def misses_a_key(folder):
    found = json.loads(SAMPLE) if is_sample(folder) else {}
    found["width"]


def takes_and_fills(folder):
    if not is_sample(folder):
        bytearray(b"x") * (1 << 28)


def asks_and_hides_it(folder):
    """What is asked for is refused, and the refusal looks like the file's fault."""
    if is_sample(folder):
        return
    try:
        bytearray(1 << 40)
    except MemoryError as error:
        raise InputError("a.json", "cannot be read", "less") from error


def asks_and_never_touches(folder):
    if not is_sample(folder):
        mmap.mmap(-1, 1 << 28, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()


def works_for_ever(folder):
    while not is_sample(folder):
        pass


def waits_for_ever(folder):
    if not is_sample(folder):
        signal.pause()


def works_too_long(folder):
    begin = time.process_time()
    while not is_sample(folder) and time.process_time() - begin < 0.55:
        pass


def crashes(folder):
    if not is_sample(folder):
        os.kill(os.getpid(), signal.SIGSEGV)


def leaves(folder):
    if not is_sample(folder):
        os._exit(7)


BROKEN = [
    (misses_a_key, "raised", "KeyError: 'width'"),
    (takes_and_fills, "memory", "MemoryError"),
    (asks_and_hides_it, "memory", "more than the 32 MiB"),
    (asks_and_never_touches, "memory", "allocate memory"),
    (works_for_ever, "hung", "s of the processor"),
    (waits_for_ever, "hung", "waits for something that does not come"),
    (works_too_long, "slow", "s of the processor"),
    (crashes, "crashed", "SIGSEGV"),
    (leaves, "crashed", "exit code 7"),
]


def target_of(read, name="broken"):
    return Target(name, lambda: [{"a.json": SAMPLE}], (), read)


@pytest.mark.parametrize(
    ("read", "ending", "text"), BROKEN, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_broken_reader_is_caught_and_leaves_what_shows_it(tmp_path, read, ending, text):
    (row,) = fuzz_rows(1.0, (), 0, tmp_path, [target_of(read)], cases=2, limits=QUICK)
    found = row["findings"][0]
    assert found["ending"] == ending and text in found["text"]
    assert sum(each["count"] for each in row["findings"]) == row["cases"] == 2
    kept = Path(found["files"])
    record = json.loads((kept / "finding.json").read_text())
    assert (record["case"], record["seed"], record["ending"]) == (found["case"], 0, ending)
    assert record["mutation"] == found["mutation"]
    with Worker(read, allowance, QUICK) as worker:
        assert worker.open(kept / "files").ending == ending
    table = fuzz_summary([row])
    assert f"{ending} " in table and str(kept) in table
    assert not list(tmp_path.glob(".fuzz*"))


def test_a_careful_reader_has_no_findings_and_the_same_seed_does_the_same(tmp_path):
    rows = [
        fuzz_rows(1.0, (), seed, tmp_path, [target_of(careful)], cases=60) for seed in (3, 3, 4)
    ]
    ends = [(row["cases"], row["refused"], row["findings"]) for (row,) in rows]
    assert ends[0] == ends[1] and ends[0][0] == 60 and ends[0][1] > 50 and not ends[0][2]
    cases = [
        [case_of(target_of(careful), [{"a.json": SAMPLE}], seed, case) for case in range(60)]
        for seed in (3, 3, 4)
    ]
    assert cases[0] == cases[1] != cases[2]
    # Nearly every case is another one.
    assert len({said for _, said in cases[0]}) > 50


def test_a_worker_that_was_killed_is_followed_by_a_sound_one(tmp_path):
    for name, content in (("good", SAMPLE), ("bad", b"")):
        write_tree(tmp_path / name, {"a.json": content})
    with Worker(crashes, allowance, QUICK) as worker:
        endings = [worker.open(tmp_path / name).ending for name in ("good", "bad", "good")]
    assert endings == ["read", "crashed", "read"]


def test_a_peak_is_that_of_one_file_and_no_earlier_one_s(tmp_path):
    sizes = {"large": 20, "small": 1, "again": 20}
    for name, size in sizes.items():
        write_tree(tmp_path / name, {"size": str(size).encode()})

    def fills(folder):
        bytearray(b"x") * (int((folder / "size").read_text()) << 20)

    with Worker(fills, allowance, Limits()) as worker:
        peaks = [worker.open(tmp_path / name).peak_bytes >> 20 for name in sizes]
    for peak, size in zip(peaks, sizes.values(), strict=True):
        assert size - 1 <= peak <= size + 4


def test_files_allow_eight_times_themselves_and_images_what_they_can_hold(tmp_path):
    write_tree(tmp_path / "a", {"a.bin": bytes(1000), "b/c.txt": bytes(24)})
    assert allowance(tmp_path / "a") == 8 * 1024
    write_tree(tmp_path / "b", {"a.json": Odd("sparse", size=1 << 40), "b": Odd("pipe")})
    assert allowance(tmp_path / "b") == 1 << 30
    image = next(sample for sample in fuzz_samples.images() if "a.png" in sample)["a.png"]
    write_tree(tmp_path / "c", {"a.png": image})
    assert allowance(tmp_path / "c") == 8 * len(image) + 16 * 64 * 48
    forged = image[:16] + (1 << 13).to_bytes(4, "big") * 2 + image[24:]
    write_tree(tmp_path / "d", {"a.png": forged})  # deflate makes 1032 bytes of one
    held = len(image) * 1032 // 3 + (1 << 14)
    assert allowance(tmp_path / "d") == 8 * len(image) + 16 * held


def test_an_image_cut_anywhere_states_nothing_or_its_pixels(tmp_path):
    for sample in fuzz_samples.images():
        ((name, content),) = sample.items()
        for end in range(60):
            write_tree(tmp_path / "a", {name: content[:end]})
            assert allowance(tmp_path / "a") >= 8 * end


@pytest.mark.parametrize("name", ["b.png", "c.png", "a.jpg", "b.jpg", "a.webp", "b.webp"])
def test_headers_of_images_state_their_pixels(tmp_path, name):
    (content,) = (sample[name] for sample in fuzz_samples.images() if name in sample)
    write_tree(tmp_path / "a", {name: content})
    assert allowance(tmp_path / "a") == 8 * len(content) + 16 * 64 * 48


def test_a_tree_is_written_with_all_that_is_odd_in_it(tmp_path):
    tree = {
        "a/b.txt": b"x",
        "a/pipe": Odd("pipe"),
        "a/loop": Odd("link", target="loop"),
        "a/folder": Odd("folder"),
        "large": Odd("sparse", size=1 << 40, start=b"start"),
        "x" * 300: b"the system does not allow it",
    }
    write_tree(tmp_path / "t", tree)
    folder = tmp_path / "t" / "a"
    assert folder.joinpath("pipe").is_fifo() and os.readlink(folder / "loop") == "loop"
    assert folder.joinpath("folder").is_dir()
    large = (tmp_path / "t" / "large").stat()
    assert large.st_size == 1 << 40 and large.st_blocks < 100
    write_tree(tmp_path / "t", {"b.txt": b"y"})
    assert read_tree(tmp_path / "t") == {"b.txt": b"y"}


def test_a_sample_that_is_not_read_is_a_fault_of_the_bench(tmp_path):
    broken = Target("broken", lambda: [{"a.json": b"{}"}], (), careful)
    with pytest.raises(PolyfieldError, match="sound sample of broken is refused"):
        fuzz_rows(1.0, (), 0, tmp_path, [broken], cases=1)


@pytest.mark.parametrize(
    ("minutes", "only", "message"), [(0.0, (), "--minutes"), (1.0, ("cake",), "'cake'")]
)
def test_options_that_fuzz_nothing_are_refused(tmp_path, minutes, only, message):
    with pytest.raises(InputError, match=message):
        fuzz_rows(minutes, only, 0, tmp_path)


def test_minutes_end_the_cases(tmp_path):
    begin = time.monotonic()
    (row,) = fuzz_rows(0.02, (), 0, tmp_path, [target_of(careful)])
    assert row["cases"] >= 1 and time.monotonic() - begin < 60


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_hostile_files_of_every_kind_end_in_success_or_in_a_sentence(tmp_path, target):
    (row,) = fuzz_rows(1.0, (), 11, tmp_path, [target], cases=12)
    assert not row["findings"]
    assert row["cases"] == 12 and row["refused"] >= 2


@pytest.mark.parametrize(("findings", "code"), [([], 0), ([{"ending": "hung"}], 1)])
def test_the_command_passes_its_options_and_ends_with_1_where_something_was_found(
    monkeypatch, findings, code, tmp_path
):
    asked = []
    row = {"name": "a", "seed": 7, "cases": 1, "findings": findings}
    monkeypatch.setattr(bench_module, "fuzz_rows", lambda *options: asked.append(options) or [row])
    monkeypatch.setattr(bench_module, "fuzz_summary", lambda rows: "table")
    words = ["bench", "fuzz", "--minutes", "0.5", "--only", "a,b", "--seed", "7"]
    assert main([*words, "--out", str(tmp_path)]) == code
    assert asked == [(0.5, ("a", "b"), 7, tmp_path)]


def test_names_of_readers_are_for_fuzz():
    with pytest.raises(InputError, match="bench kernels or scenes or distill or fuzz"):
        bench(Bench("kills", only="points"))


@pytest.mark.parametrize("case", [4995])
def test_a_case_of_values_that_grew_out_of_each_other_stays_small(case):
    """A list made of one frame 3,285 times, of which one then got a long list: all did."""
    (target,) = (target for target in TARGETS if target.name == "transforms")
    tree, said = case_of(target, target.samples(), 7, case)
    assert "frames of 3285" in said and "60000 times" in said
    assert sum(len(content) for content in tree.values() if isinstance(content, bytes)) < 8e6

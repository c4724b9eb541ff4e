import io

from rich.console import Console

from polyfield.apps.progress import Progress, live_progress, progress_line

SOME = Progress(120, 4000, 0.00123, 27.456, 1_234_567.0, 812_000_000, 3725.0)


def test_the_line_has_step_psnr_speed_memory_and_time_left():
    expected = (
        "step 120/4000  loss 1.23e-03  held out 27.46 dB  1.23M samples/s  0.81 GB  1:02:05 left"
    )
    assert progress_line(SOME) == expected


def test_what_is_not_known_yet_is_left_out():
    early = Progress(3, None, 0.5, None, 999.0, 0, None)
    assert progress_line(early) == "step 3/?  loss 5.00e-01  999 samples/s  0.00 GB"


def test_a_file_gets_nothing_and_a_terminal_the_line():
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=200)
        with live_progress(console) as show:
            show(SOME)
        assert ("held out 27.46 dB" in out.getvalue()) == terminal
        assert bool(out.getvalue()) == terminal


def test_a_narrow_terminal_gets_one_line():
    out = io.StringIO()
    with live_progress(Console(file=out, force_terminal=True, width=40)) as show:
        show(SOME)
        assert "\n" not in out.getvalue()

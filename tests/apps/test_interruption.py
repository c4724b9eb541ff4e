import signal
import threading
from pathlib import Path

import pytest

from polyfield.apps.interruption import Interrupted, stop_requests
from polyfield.cuda.errors import PolyfieldError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number):
    with stop_requests() as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()


def test_the_second_ctrl_c_does_not_wait():
    # A process that was started in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stop_requests():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError), stop_requests():
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] != before
        raise ValueError
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_asked_and_nothing_breaks():
    answers = []

    def work():
        with stop_requests() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


def test_the_sentence_says_how_to_go_on():
    error = Interrupted(Path("runs/my lego"), 120, 4000)
    assert isinstance(error, PolyfieldError)
    assert "step 120 of 4000" in str(error)
    assert str(error).endswith("polyfield train --out 'runs/my lego' --resume")
    assert "of None" not in str(Interrupted(Path("a"), 1, None))

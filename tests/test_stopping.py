"""Real signals, sent to real processes."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from tunix_grpo.run.stopping import NOTICE, StopRequest

# Says what it notes; `step` stands for the work of a step, which the first signal must not cut short.
PROGRAM = """
import signal, sys, time
from tunix_grpo.run.stopping import OF_A_RUN, StopRequest

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell's background job ignores it
with StopRequest(signals=OF_A_RUN) as stop:
    print("ready", flush=True)
    for step in range(600):
        time.sleep(0.05)
        if stop:
            print("noted", stop.signal.name, stop.exit_code, flush=True)
            if len(sys.argv) > 1:
                break
            time.sleep(60)
sys.exit(stop.exit_code)
"""


def started(*words: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_the_first_signal_lets_the_step_end_and_gives_the_exit_code(number, code):
    with started("leave") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"noted {number.name} {code}\n", code)
    assert err == f"{number.name}: {NOTICE}\n"


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGTERM")])
def test_the_second_signal_ends_the_process_at_once(first, second):
    with started() as process:
        process.send_signal(signal.Signals[first])
        assert process.stdout.readline().startswith(f"noted {first}")
        process.send_signal(signal.Signals[second])
        process.communicate(timeout=30)
    assert process.returncode == -signal.Signals[second]


def test_handlers_are_put_back_and_nothing_is_noted_without_a_signal():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
        assert not stop
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert stop.signal is None


def test_a_signal_is_still_known_after_the_end():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
    assert (bool(stop), stop.signal, stop.exit_code) == (True, signal.SIGTERM, 143)


def test_the_time_of_a_run_asks_once_it_is_over(caplog):
    with StopRequest(deadline=time.monotonic() + 3600) as stop:
        assert not stop
    with StopRequest(deadline=time.monotonic()) as stop:
        assert stop and stop
    assert (stop.signal, stop.exit_code) == (None, 75)
    assert caplog.messages == ["training.max_hours are over: stopping"]
    with StopRequest(deadline=time.monotonic()) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (bool(stop), stop.exit_code) == (True, 143)


def test_handlers_are_put_back_after_an_error():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), StopRequest():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_a_thread_leaves_signals_alone():
    """Only the main thread may set handlers; a run that a notebook starts in a thread must not fail."""
    seen = []

    def run() -> None:
        with StopRequest() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, before)]

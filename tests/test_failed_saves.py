"""What is left of a save that fails: nothing is said of it after the save has ended."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
from orbax.checkpoint._src.futures import future  # the threads that a save leaves behind are of this class

from tunix_grpo.run.failed_saves import quiet_failures


def test_a_thread_that_fails_later_than_the_save_says_nothing(caplog):
    """A save ends with the first of its threads that fails; another one failed after the window that mutes them."""
    save_has_ended = threading.Event()

    def fail() -> None:
        assert save_has_ended.wait(30)
        raise ValueError("the disk is full")

    caplog.set_level(logging.WARNING, logger="absl")
    with quiet_failures() as settle:
        thread = future._SignalingThread(target=fail, send_signals=[], receive_signals=[], operation_id="1")
        thread.start()
        threading.Timer(0.3, save_has_ended.set).start()
        settle()
        assert not thread.is_alive()
    assert isinstance(thread._exception, ValueError)
    assert caplog.messages == []


class Raises:
    """Raises when it is deleted, where nobody can catch it."""

    def __init__(self, error: Exception):
        self.error = error

    def __del__(self):
        raise self.error


@pytest.mark.parametrize("fails", [True, False])
def test_after_a_save_that_failed_closed_loops_are_no_news_and_all_else_is(monkeypatch, fails):
    """TensorStore's threads call the loop of the save whenever they come to it."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))
    for _ in range(2):
        with quiet_failures() as settle:
            Raises(RuntimeError("Event loop is closed"))
            if fails:
                settle()
    Raises(RuntimeError("Event loop is closed"))
    Raises(RuntimeError("of ours"))
    assert said == (["of ours"] if fails else ["Event loop is closed", "of ours"])

"""What is left of a save that fails: nothing is said of it after the save has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import types

import pytest
from orbax.checkpoint._src.futures import future  # the threads that a save leaves behind are of this class
from orbax.checkpoint._src.serialization import serialization

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


@pytest.mark.parametrize("fails", [True, False])
def test_after_a_save_that_failed_tasks_of_orbax_are_no_news_whenever_they_are_collected(monkeypatch, caplog, fails):
    """Asyncio complains of an error nobody asked for when its task is collected: the record of a run once had it."""

    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])

    async def ours() -> None:
        raise ValueError("of ours")

    with quiet_failures() as settle:
        if fails:
            settle()
    loop = asyncio.new_event_loop()
    not_on_host = types.SimpleNamespace(is_on_host=False)
    for coroutine in (serialization.async_serialize_from_host(not_on_host, {}), ours()):
        loop.create_task(coroutine)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    gc.collect()
    said = [f"{record.exc_info[1]}" for record in caplog.records]
    assert sorted(said) == (["of ours"] if fails else ["Replica slices have not been transferred to host.", "of ours"])


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

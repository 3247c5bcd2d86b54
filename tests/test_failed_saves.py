"""What is left of a save that fails: nothing is said of it after the save has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import types
import warnings

import pytest
import tensorstore
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

    with warnings.catch_warnings(), quiet_failures() as settle:
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


NEVER_BEGUN = """
import sys
from orbax.checkpoint._src.serialization import serialization
from tunix_grpo.run.failed_saves import quiet_failures
with quiet_failures() as settle:
    if sys.argv[1] == "fails":
        settle()
kept = serialization.async_serialize_from_host(None, {})
"""


@pytest.mark.parametrize("fails", [True, False])
def test_after_a_save_that_failed_a_write_that_never_began_is_no_news_at_the_end_of_the_process(fails):
    words = [sys.executable, "-c", NEVER_BEGUN, "fails" if fails else "works"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ("'async_serialize_from_host' was never awaited" in done.stderr) != fails, done.stderr
    assert (done.stderr == "") == fails


def test_after_a_save_that_failed_errors_of_tensorstore_are_no_news_whenever_they_are_collected(monkeypatch, caplog):
    """A write's future, or the one that gathers all of a tree's, may be kept by an error's frames to the end."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    kvstore = {"driver": "file", "path": "/proc/no_such_folder/"}
    opened = tensorstore.open({"driver": "zarr", "kvstore": kvstore}, create=True, dtype="int8", shape=[1])
    loop = asyncio.new_event_loop()
    with warnings.catch_warnings(), quiet_failures() as settle:
        settle()
    for error in (opened.exception(), ValueError("of ours")):
        loop.create_future().set_exception(error)
    gc.collect()
    loop.close()
    assert [f"{record.exc_info[1]}" for record in caplog.records] == ["of ours"]


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

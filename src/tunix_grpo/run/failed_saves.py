"""What Orbax leaves in the process when a save fails: errors in threads and tasks, and among them the cause."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

from tunix_grpo.errors import one_line

_LONGEST_WAIT_S = 30.0
_NEVER_STARTED = "coroutine '.*' was never awaited"
_STATUS = re.compile(r"[A-Z_]+: ")  # how TensorStore's errors begin: OUT_OF_RANGE, RESOURCE_EXHAUSTED, ...
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what TensorStore says


@contextlib.contextmanager
def quiet_failures() -> Iterator[Callable[[], object]]:
    """Mutes what Orbax, its tasks and TensorStore print of a save that fails, a thousand lines around its one cause.

    A save runs beside training: what cannot be caught in the main thread is still said, closed loops aside.

    Gives a function to be called after such a save, when its error is gone: the save ends with the first thread that
    fails, the others say their error when they come to it; and a task that holds an error nobody asked for complains
    when it is collected, which may be long after.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    failures: list[float] = []
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = functools.partial(_of_the_main_thread, ClosedLoops(hook))
    try:
        yield functools.partial(_settle, failures)
    finally:
        sys.unraisablehook = ClosedLoops(hook) if failures and not isinstance(hook, ClosedLoops) else hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class ClosedLoops:
    """Says what the hook before it says of errors nobody can catch, but that an event loop is closed.

    TensorStore's own threads, which cannot be waited for, call the loop of a failed save whenever they come to it.
    """

    def __init__(self, before: Callable[[sys.UnraisableHookArgs], object]):
        self._before = before

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Is called by Python."""
        if not (isinstance(unraisable.exc_value, RuntimeError) and str(unraisable.exc_value) == "Event loop is closed"):
            self._before(unraisable)


def _of_the_main_thread(say: Callable[[sys.UnraisableHookArgs], object], unraisable: sys.UnraisableHookArgs) -> None:
    if threading.current_thread() is threading.main_thread():
        say(unraisable)


def _not_of_a_save(record: logging.LogRecord) -> bool:
    """Tells asyncio's complaints of Orbax's tasks, whose file they name, and of errors of TensorStore's from others."""
    error = record.exc_info[1] if record.exc_info else None
    return not _STATUS.match(f"{error}") and f"{os.sep}orbax{os.sep}" not in record.getMessage()


def _settle(failures: list[float]) -> None:
    """Waits until all threads of Orbax have failed, and collects what they leave; notes when that was.

    A write that never began is collected whenever it pleases Python, as late as the process's end, and its warning
    names no file: from here on no coroutine is said to have been forgotten, ours and a reward's among them.
    """
    logging.getLogger("asyncio").addFilter(_not_of_a_save)
    warnings.filterwarnings("ignore", _NEVER_STARTED, RuntimeWarning)
    failures.append(time.monotonic())
    deadline = time.monotonic() + _LONGEST_WAIT_S
    for thread in threading.enumerate():
        if type(thread).__module__.partition(".")[0] == "orbax":
            threading.Thread.join(thread, max(0.0, deadline - time.monotonic()))  # its own raises what it raised
    gc.collect()


def system_reason(error: Exception) -> str:
    """Returns what the system says of a file that could not be written, such as `No space left on device`."""
    code = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or one_line(error)

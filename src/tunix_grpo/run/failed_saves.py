"""What Orbax leaves in the process when a save fails: errors in threads and tasks, and among them the cause."""

import contextlib
import gc
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tunix_grpo.errors import one_line

_LONGEST_WAIT_S = 30.0
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")  # in what TensorStore says


@contextlib.contextmanager
def quiet_failures() -> Iterator[Callable[[], object]]:
    """Mutes what Orbax, its tasks and TensorStore print of a save that fails, a thousand lines around its one cause.

    Gives a function to be called after such a save, when its error is gone: the save ends with the first thread that
    fails, the others say their error when they come to it; and a task that holds an error nobody asked for complains
    when it is collected.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None  # TensorStore calls an event loop that the failure has closed
    try:
        yield _settle
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _settle() -> None:
    """Waits until all threads of Orbax have failed, and collects what they leave."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    for thread in threading.enumerate():
        if type(thread).__module__.partition(".")[0] == "orbax":
            threading.Thread.join(thread, max(0.0, deadline - time.monotonic()))  # its own raises what it raised
    gc.collect()


def system_reason(error: Exception) -> str:
    """Returns what the system says of a file that could not be written, such as `No space left on device`."""
    code = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or one_line(error)

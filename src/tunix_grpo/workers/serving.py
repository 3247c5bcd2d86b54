"""What a worker's program runs: it answers the questions on its standard input."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

_READY = "ready"
_PARENT_CHECK_S = 2.0
_SHOWN_CHARS = 200


def serve(answer: Callable[[Any], Any]) -> None:
    """Answers the questions on standard input until there are no more; what a worker's program runs.

    What `answer` prints, reads or raises does not get in the way of questions and replies: it reads nothing, and what
    it prints is kept of the first answer alone, for the message if the program fails there.
    """
    parent = os.getppid()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a cluster's notice goes to all processes, and the run heeds it
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDWR)
    with os.fdopen(os.dup(0), "rb") as questions, os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(nothing, 0)
        os.dup2(2, 1)

        def reply(content: dict[str, Any]) -> None:
            replies.write(json.dumps(content | {"memory": _memory_bytes()}).encode() + b"\n")
            replies.flush()

        reply({"value": _READY})
        for line in questions:
            try:
                reply({"value": answer(json.loads(line))})
            except Exception as error:  # foreign code on foreign text; whoever asks decides what that means
                reply({"error": f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]})
            for output in (1, 2):  # a file that would grow for as long as the run lasts
                os.dup2(nothing, output)


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, even in the middle of an answer."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _memory_bytes() -> int:
    """Returns the memory that this process holds; 0 where the system does not say it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0

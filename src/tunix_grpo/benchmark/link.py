"""A worker's end of the talk with the benchmark: JSON objects, one a line, by standard input and output.

The first line in is the job; the worker answers when it is ready. Every further line asks for one step, and the answer
is its measurement. When standard input ends, so does the worker.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from typing import Any


class Link:
    """Takes this process's standard input and output; what else is written to the latter goes to standard error."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._asked.put(line)
        os._exit(0)  # in the middle of a step too: nobody waits for it any more

    def receive(self) -> dict[str, Any]:
        """Waits for the next object."""
        return json.loads(self._asked.get())

    def send(self, **answer: object) -> None:
        """Sends an object."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

"""Programs that are timed, each in a process of its own, and how they take turns.

A machine's speed changes over minutes. Programs that alternate step by step see the same of it, and while one makes its
step the others wait for standard input. A process of its own makes the peak of memory each one's own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tunix_grpo.errors import NoRoomError, UserError

_LAST_LINES = 30
_log = logging.getLogger(__name__)


class Worker:
    """A process that answers lines on its standard input; a context manager, whose end is the process's end.

    Attributes:
        name: of the program in messages.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None):
        """
        Args:
            command: the program and its arguments, see `link` for what it must do.
            environment: is added to that of this process.
        """
        self.name = name
        self._folder = tempfile.TemporaryDirectory()
        self._errors = open(Path(self._folder.name) / "stderr", "w+b")  # noqa: SIM115 (open as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"TMPDIR": self._folder.name} | dict(environment or {}),
            start_new_session=True,  # Ctrl-C stops this process, and this process stops the worker
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        self._to, self._from = self._process.stdin, self._process.stdout

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ask(self, **message: object) -> dict[str, Any]:
        """Sends an object and waits for the answer.

        Raises:
            NoRoomError: memory ran out, or probably did: it was killed.
            UserError: the worker says that it cannot, or it has ended.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended; what it has still said is to be read
            self._to.write(json.dumps(message) + "\n")
            self._to.flush()
        line = self._from.readline()
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise (NoRoomError if answer.get("no_room") else UserError)(answer["error"])
        return answer

    def stop(self) -> None:
        """Ends the process and those that it has started, at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # what was still to be written
            self._to.close()
        self._from.close()
        self._errors.close()
        self._folder.cleanup()

    def _ended(self) -> UserError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        if lines:
            _log.error("the last lines of %s:\n%s", self.name, "\n".join(lines[-_LAST_LINES:]))
        if code == -signal.SIGKILL:
            return NoRoomError(f"{self.name} was killed, probably for want of memory; give it a smaller model or batch")
        return UserError(f"{self.name} ended with exit code {code}" + ("; its last lines are above" if lines else ""))


def worker(program: str, name: str, environment: Mapping[str, str] | None = None) -> Worker:
    """Starts the process of `own`, `answers`, `plan`, `trl` or `tunix`."""
    return Worker(name, [sys.executable, "-m", "tunix_grpo.benchmark.worker", program], environment)


def take_turns(
    workers: Sequence[Worker], steps: int, show: Callable[[int, list[dict[str, Any]]], object]
) -> list[list[dict[str, Any]]]:
    """Lets each worker make one step, then each the next.

    Args:
        steps: of each worker.
        show: is called after each round with its number, from 1, and its measurements.

    Returns:
        Per worker the measurements of its steps.
    """
    rounds = []
    for step in range(1, steps + 1):
        rounds.append([one.ask(step=step) for one in workers])
        show(step, rounds[-1])
    return [list(measurements) for measurements in zip(*rounds, strict=True)]

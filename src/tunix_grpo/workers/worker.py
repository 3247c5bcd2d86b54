"""A program of its own that answers questions: JSON lines over its standard input and output, within a time limit.

For code that may hang or crash on what a model wrote. The program is started at the first question and stays warm; one
that takes too long or ends is killed, and the next question starts another. It is in a session of its own, so that
Ctrl-C in the terminal reaches the run alone, and it ends when the run does, however that ends.
"""

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any, Literal

from tunix_grpo.errors import UserError

_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 16
SHOWN_CHARS = 200
# Of a program's memory over what it had when it had started, before it is replaced.
_LARGEST_GROWTH = 1 << 30
_started: weakref.WeakSet["Worker"] = weakref.WeakSet()


class NoReplyError(Exception):
    """Says why a worker gave no reply.

    Attributes:
        kind: timeout where it took longer than a reply may take, late where less time was left than that; error where
            it crashed or its function raised.
    """

    def __init__(self, message: str, kind: Literal["error", "timeout", "late"] = "error") -> None:
        """Takes what happened."""
        super().__init__(message)
        self.kind: Literal["error", "timeout", "late"] = kind


class Worker:
    """Asks a program of the package, one question at a time.

    Attributes:
        asked: questions so far.
        unanswered: those that got no reply.
    """

    def __init__(
        self,
        module: str,
        *,
        timeout_s: float | None = None,
        start_timeout_s: float = 60.0,
        first: Any = None,
        metric: str = "",
    ) -> None:
        """Notes what is to be started; nothing is started yet.

        Args:
            module: full name of a module that calls `serve` when it is run.
            timeout_s: seconds a reply may take, above 0; None is no limit.
            start_timeout_s: seconds the program may take to start, and to answer `first`.
            first: a question that the program is asked whenever it starts, before all others; None is none.
            metric: under which `counts` has the unanswered questions; empty for none.
        """
        self.asked = self.unanswered = self.restarts = 0
        self.metric = metric
        self._module, self._timeout_s, self._start_timeout_s = module, timeout_s, start_timeout_s
        self._first, self._memory = first, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._kill: Callable[[], object] = lambda: None
        self._received, self._ended = b"", False
        self._talking = threading.RLock()  # held by the thread that talks to the program
        _started.add(self)

    def ask(self, question: Any, seconds: float | None = None) -> Any:
        """Returns the program's reply to a question that JSON can hold.

        Args:
            seconds: that are left for it, where these are less than `timeout_s`; 0 or more.

        Raises:
            NoReplyError: there is none; of what is counted, the log has the first one.
            UserError: the program cannot be started.
        """
        self.asked += 1
        try:
            limits = [each for each in (self._timeout_s, seconds) if each is not None]
            with self._talking:
                return self._ask(question, min(limits, default=None))
        except NoReplyError as error:
            if error.kind == "timeout" and seconds is not None and seconds < (self._timeout_s or math.inf):
                error.kind = "late"
            self.unanswered += 1
            if self.unanswered == 1 and self.metric:  # else whoever asks says it
                shown = json.dumps(question)[:SHOWN_CHARS]
                _log.warning("%s gave no reply to %s: %s; further ones are only counted", self._module, shown, error)
            raise

    def start(self) -> None:
        """Starts the program if it does not run.

        Raises:
            NoReplyError: its run has ended.
            UserError: it cannot be started.
        """
        with self._talking:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def close(self) -> None:
        """Ends the program and all that it started; a later question starts it again."""
        self._kill()
        self._process, self._received = None, b""

    def end(self) -> None:
        """Ends the program for good: a thread that still asks it, of a run that was stopped, starts no other."""
        self._ended, process = True, self._process
        if process is not None:
            _kill_group(process)  # whoever reads from it comes to the end of its output
        with self._talking:
            self.close()

    def _ask(self, question: Any, timeout_s: float | None) -> Any:
        self.start()
        reply = self._reply(question, timeout_s)
        if reply.get("memory", 0) > self._memory + _LARGEST_GROWTH:  # warm programs are not to eat up the machine
            self.restarts += 1
            self.close()
        if "error" in reply:
            raise NoReplyError(reply["error"])
        return reply["value"]

    def _reply(self, question: Any, timeout_s: float | None) -> Any:
        try:
            self._send(json.dumps(question).encode() + b"\n", timeout_s)
            return json.loads(self._line(timeout_s))
        except BaseException:  # Ctrl-C too: a reply that comes later is not to be taken for that of the next question
            self.close()
            self._require_run()
            raise

    def _require_run(self) -> None:
        if self._ended:
            self.close()
            raise NoReplyError("its run has ended")

    def _start(self) -> None:
        self.close()
        self._require_run()
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            self._kill = weakref.finalize(self, _end, self._process)
            self._require_run()  # another thread may have ended it just now
            try:
                self._memory = json.loads(self._line(self._start_timeout_s)).get("memory", 0)
                if self._first is not None:
                    reply = self._reply(self._first, self._start_timeout_s)
                    self._memory = reply.get("memory", 0)
                    if "error" in reply:
                        raise NoReplyError(reply["error"])
            except NoReplyError as error:
                self.close()
                self._require_run()
                raise UserError(
                    f"the program {self._module} cannot be started ({error}): {_last_line(errors)}"
                ) from None

    def _send(self, line: bytes, timeout_s: float | None) -> None:
        """Writes a line as the program takes it: one that does not read holds nobody up beyond the limit."""
        assert self._process is not None and self._process.stdin is not None
        stdin, deadline = self._process.stdin.fileno(), deadline_in(timeout_s)
        os.set_blocking(stdin, False)
        rest = memoryview(line)
        with selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            while rest:
                if not selector.select(seconds_left(deadline)):
                    raise NoReplyError(f"it took longer than {timeout_s:.3g} s", "timeout")
                try:
                    rest = rest[os.write(stdin, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise NoReplyError("it crashed") from None

    def _line(self, timeout_s: float | None) -> bytes:
        """Returns the next line of the program's output."""
        assert self._process is not None and self._process.stdout is not None
        stdout, deadline = self._process.stdout.fileno(), deadline_in(timeout_s)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(seconds_left(deadline)):
                    raise NoReplyError(f"it took longer than {timeout_s:.3g} s", "timeout")
                data = os.read(stdout, _READ_BYTES)
                if not data:
                    raise NoReplyError("it crashed")
                self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def counts() -> dict[str, float]:
    """Returns how many questions to workers got no reply so far, by the name of the metric; empty if none was asked.

    `perf/worker_restarts` counts the programs that were replaced since they had grown, where there were any.
    """
    asked = [worker for worker in _started if worker.asked and worker.metric]
    found: dict[str, float] = {
        metric: sum(worker.unanswered for worker in asked if worker.metric == metric)
        for metric in sorted({worker.metric for worker in asked})
    }
    if restarts := sum(worker.restarts for worker in _started):
        found["perf/worker_restarts"] = restarts
    return found


@contextlib.contextmanager
def closed_at_end() -> Iterator[None]:
    """Ends the workers that were made inside."""
    before = set(_started)
    try:
        yield
    finally:
        for worker in set(_started) - before:
            worker.end()
            _started.discard(worker)


def deadline_in(seconds: float | None) -> float | None:
    """Returns the `time.monotonic()` in so many seconds; None is never."""
    return None if seconds is None else time.monotonic() + seconds


def seconds_left(deadline: float | None) -> float | None:
    """Returns the seconds until a deadline, 0 or more; None without one."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not sent is not needed any more
                stream.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a program and what is in its session's group with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"

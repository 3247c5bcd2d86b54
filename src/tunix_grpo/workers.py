"""A program of its own that answers questions: JSON lines over its standard input and output, within a time limit.

For code that may hang or crash on what a model wrote. The program is started at the first question and stays warm; one
that takes too long or ends is killed, and the next question starts another. It is in a session of its own, so that
Ctrl-C in the terminal reaches the run alone, and it ends when the run does, however that ends.
"""

import contextlib
import json
import logging
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

from tunix_grpo.errors import UserError

_log = logging.getLogger(__name__)
_READY = "ready"
_READ_BYTES = 1 << 16
_PARENT_CHECK_S = 2.0
_SHOWN_CHARS = 200
_started: weakref.WeakSet["Worker"] = weakref.WeakSet()


class NoReplyError(Exception):
    """Says why a worker gave no reply: it took too long, it crashed, or its function raised."""


class Worker:
    """Asks a program of the package, one question at a time.

    Attributes:
        asked: questions so far.
        unanswered: those that got no reply.
    """

    def __init__(self, module: str, *, timeout_s: float, start_timeout_s: float = 60.0) -> None:
        """Notes what is to be started; nothing is started yet.

        Args:
            module: full name of a module that calls `serve` when it is run.
            timeout_s: seconds a reply may take, above 0.
            start_timeout_s: seconds the program may take to start.
        """
        self.asked = self.unanswered = 0
        self._module, self._timeout_s, self._start_timeout_s = module, timeout_s, start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._kill: Callable[[], object] = lambda: None
        self._received = b""
        _started.add(self)

    def ask(self, question: Any) -> Any:
        """Returns the program's reply to a question that JSON can hold.

        Raises:
            NoReplyError: there is none; the first time, the log says so too.
            UserError: the program cannot be started.
        """
        self.asked += 1
        try:
            return self._ask(question)
        except NoReplyError as error:
            self.unanswered += 1
            if self.unanswered == 1:
                shown = json.dumps(question)[:_SHOWN_CHARS]
                _log.warning("%s gave no reply to %s: %s; further ones are only counted", self._module, shown, error)
            raise

    def close(self) -> None:
        """Ends the program; a later question starts it again."""
        self._kill()
        self._process, self._received = None, b""

    def _ask(self, question: Any) -> Any:
        if self._process is None or self._process.poll() is not None:
            self._start()
        try:
            self._send(json.dumps(question).encode() + b"\n")
            reply = json.loads(self._line(self._timeout_s))
        except BaseException:  # Ctrl-C too: a reply that comes later is not to be taken for that of the next question
            self.close()
            raise
        if "error" in reply:
            raise NoReplyError(reply["error"])
        return reply["value"]

    def _start(self) -> None:
        self.close()
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            self._kill = weakref.finalize(self, _end, self._process)
            try:
                self._line(self._start_timeout_s)
            except NoReplyError as error:
                self.close()
                raise UserError(
                    f"the program {self._module} cannot be started ({error}): {_last_line(errors)}"
                ) from None

    def _send(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise NoReplyError("it crashed") from None

    def _line(self, timeout_s: float) -> bytes:
        """Returns the next line of the program's output."""
        assert self._process is not None and self._process.stdout is not None
        stdout, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise NoReplyError(f"it took longer than {timeout_s:g} s")
                data = os.read(stdout, _READ_BYTES)
                if not data:
                    raise NoReplyError("it crashed")
                self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line


def counts() -> dict[str, float]:
    """Returns how many questions to workers got no reply so far, by the name of the metric; empty if none was asked."""
    asked = [worker for worker in _started if worker.asked]
    return {"grader/unanswered": sum(worker.unanswered for worker in asked)} if asked else {}


@contextlib.contextmanager
def closed_at_end() -> Iterator[None]:
    """Ends the workers that were made inside."""
    before = set(_started)
    try:
        yield
    finally:
        for worker in set(_started) - before:
            worker.close()
            _started.discard(worker)


def serve(answer: Callable[[Any], Any]) -> None:
    """Answers the questions on standard input until there are no more; what a worker's program runs.

    What `answer` prints or raises does not get in the way of replies.
    """
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)

        def reply(content: dict[str, Any]) -> None:
            replies.write(json.dumps(content).encode() + b"\n")
            replies.flush()

        reply({"value": _READY})
        for line in sys.stdin.buffer:
            try:
                reply({"value": answer(json.loads(line))})
            except Exception as error:  # foreign code on foreign text; whoever asks decides what that means
                reply({"error": f"{type(error).__name__}: {error}"[:_SHOWN_CHARS]})


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone, even in the middle of an answer."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not sent is not needed any more
                stream.close()


def _last_line(file: IO[bytes]) -> str:
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it says nothing"

"""Starts launchers from the run: by a process that is kept warm, so that one costs a fork and no start of Python."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO

_SOURCES = Path(__file__).resolve().parents[2]
_PROGRAM = f"import sys; sys.path.append({str(_SOURCES)!r}); from tunix_grpo.sandbox.zygote import main; main()"
_ENDED = BrokenPipeError, ConnectionResetError  # what sending says when the process has ended


class Launched:
    """A launcher: it reads a job, reports what comes of it, and ends when it is told by `end`.

    Attributes:
        stdin, stdout, stderr: its standard files, of which this process has the other ends.
    """

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        """Takes the ends of the pipes."""
        self.stdin: IO[bytes] = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] = os.fdopen(stdout, "rb")
        self.stderr: IO[bytes] = os.fdopen(stderr, "rb")

    def end(self) -> None:
        """Closes what the launcher reads from; it then ends, with all that it started."""
        with contextlib.suppress(OSError, ValueError):  # what was not sent is not needed any more
            self.stdin.close()

    def close(self) -> None:
        """Closes all files."""
        self.end()
        self.stdout.close()
        self.stderr.close()


class Starter:
    """Has launchers started; starts the process that does it when it is first needed, and again if it has ended."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._close: Callable[[], object] = lambda: None

    def launch(self) -> Launched:
        """Starts a launcher."""
        given, sending = os.pipe()
        receiving, printed = os.pipe()
        hearing, said = os.pipe()
        theirs = [given, printed, said]
        try:
            with self._lock:
                self._hand_over(theirs)
        finally:
            for file in theirs:
                os.close(file)
        return Launched(sending, receiving, hearing)

    def complaint(self) -> str:
        """Returns the last that the process said, if it has ended; else nothing."""
        process = self._process
        if process is None or process.stderr is None:
            return ""
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        lines = process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self) -> None:
        """Ends the process; launchers go on to their own end."""
        with self._lock:
            self._close()
            self._process = self._connection = None

    def _hand_over(self, files: list[int]) -> None:
        if self._process is None or self._process.poll() is not None or self._connection is None:
            self._connection = self._start()
        try:
            socket.send_fds(self._connection, [b"x"], files)
        except _ENDED:  # just now
            self._connection = self._start()
            with contextlib.suppress(*_ENDED):  # it cannot be started: whoever reads hears nothing, and asks it why
                socket.send_fds(self._connection, [b"x"], files)

    def _start(self) -> socket.socket:
        self._close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [os.path.realpath(sys.executable), "-s", "-S", "-P", "-X", "utf8", "-c", _PROGRAM],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env={"PYTHONHASHSEED": "0"},  # the order of sets is the same in every run
                start_new_session=True,
            )
        self._close = weakref.finalize(self, _end, self._process, ours)
        return ours


def _end(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()

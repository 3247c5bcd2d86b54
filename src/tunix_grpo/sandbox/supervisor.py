"""Starts the confined processes of one job, ends them in time, and reports a line of JSON about each test."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time

from tunix_grpo.sandbox import candidate, judge
from tunix_grpo.sandbox.confine import Place, confine
from tunix_grpo.sandbox.values import Line

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    from typing import IO, Any

TICK_S = 0.005
_READ_BYTES, _MOST_OPEN = 1 << 16, 1 << 16
OK, ERROR, NO_PYTHON, TIMEOUT, OUTPUT, CRASH = "ok", "error", "no_python", "timeout", "output", "crash"


class Supervisor:
    """Runs one job. It never holds what the tests expect while a process of the program is yet to be started."""

    def __init__(self, job: dict[str, Any], place: Place, tests: IO[bytes], reports: IO[bytes]) -> None:
        """
        Args:
            job: what `running.py` sends; see there.
            place: where confined processes run.
            tests: open file that the tests' text is read from.
            reports: open file of the reports.
        """
        self.job, self.place, self.tests, self.reports = job, place, tests, reports
        self.deadline = time.monotonic() + job["timeout_s"]

    def run(self) -> None:
        """Runs the job."""
        self._report({"means": self.place.means})
        if self.job["inputs"] is None:
            self._run_calls()
        else:
            for index, text in enumerate(self.job["inputs"]):
                self._report({"test": index, **self._run_program(text)})
                if time.monotonic() > self.deadline:
                    self._report({"stopped": TIMEOUT})
                    break

    def _run_program(self, text: str) -> dict[str, str]:
        """Runs the code as a program with a text as its input; returns how it ended and what it printed."""
        reading, writing = os.pipe()
        given = os.memfd_create("input")
        _write_all(given, text.encode(errors="replace"))
        os.lseek(given, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            self._become({0: given, 1: writing})
            candidate.run_program(self.job["code"])
        os.close(writing)
        os.close(given)
        end, output = self._watch(pid, reading)
        os.close(reading)
        return {"end": end, "output": output.decode(errors="replace")}

    def _watch(self, pid: int, reading: int) -> tuple[str, bytes]:
        """Waits for a process and keeps the start of its output; ends it at the limits."""
        output, status = b"", None
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        os.set_blocking(reading, False)
        is_open = True
        while status is None:
            if is_open:
                poll.poll(TICK_S * 1000)
            else:
                time.sleep(TICK_S)
            ended, status = _status(pid)
            chunk = _available(reading)
            while chunk:
                output += chunk
                if len(output) > self.job["output_bytes"]:
                    _end(pid)
                    return OUTPUT, b""
                chunk = _available(reading)
            is_open = chunk is None
            if not ended and time.monotonic() > self.deadline:
                _end(pid)
                return TIMEOUT, b""
        return _meaning(status), output

    def _run_calls(self) -> None:
        """Runs the code as a module, and then the judge, who asks it."""
        for_judge, for_program = socket.socketpair()
        program = os.fork()
        if program == 0:
            self._become({}, for_program)
            candidate.serve(self.job["code"], Line(for_program))
        for_program.close()
        self._report({"started": True})
        tests = json.loads(self.tests.readline())
        pid = os.fork()
        if pid == 0:
            results = os.dup(self.reports.fileno())
            self._become({}, for_judge, results)
            judge.judge(tests, Line(for_judge), os.fdopen(results, "wb"))
        for_judge.close()
        status = None
        while status is None:
            time.sleep(TICK_S)
            status = _status(pid)[1]
            if time.monotonic() > self.deadline:
                self._report({"stopped": TIMEOUT})
                break
        _end(pid)
        _end(program)

    def _become(self, files: dict[int, int], connection: socket.socket | None = None, kept: int | None = None) -> None:
        """Makes this process, just forked, a confined one with only the given files open."""
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(files.get(number, null), number)
        kept_files = sorted(number for number in (connection and connection.fileno(), kept) if number is not None)
        first = 3
        for number in (*kept_files, _MOST_OPEN):
            os.closerange(first, number)
            first = number + 1
        confine(
            self.place,
            memory_bytes=self.job["memory_bytes"],
            file_bytes=self.job["disk_bytes"],
            cpu_s=int(self.job["timeout_s"]) + 2,
        )

    def _report(self, content: dict[str, Any]) -> None:
        self.reports.write(json.dumps(content).encode() + b"\n")
        self.reports.flush()


def _status(pid: int) -> tuple[bool, int | None]:
    """Returns whether a process has ended, and its status; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return ended != 0, status if ended else None


def _meaning(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return TIMEOUT
    if code < 0:
        return CRASH
    return {0: OK, candidate.NO_PYTHON: NO_PYTHON}.get(code, ERROR)


def _end(pid: int) -> None:
    """Ends a process that may have ended already."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _available(reading: int) -> bytes | None:
    """Returns what a pipe holds, empty at its end; None where nothing is in it yet."""
    try:
        return os.read(reading, _READ_BYTES)
    except BlockingIOError:
        return None


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]

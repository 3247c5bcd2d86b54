"""The side of the run: sends code into the sandbox and gets what came of its tests."""

import contextlib
import json
import math
import os
import selectors
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from tunix_grpo.errors import UserError
from tunix_grpo.sandbox.starting import Launched, Starter

MEANS = ("namespaces", "seccomp", "landlock")
PASSED, FAILED, STOPPED = "passed", "failed", "stopped"
_START_S = 30.0  # for all that surrounds the program, on a busy machine
_READ_BYTES = 1 << 16


class SandboxError(UserError):
    """Says why a program cannot be run in safety."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a program may take; the same again is for the judge of its tests.

    Attributes:
        timeout_s: seconds for all of its tests together, above 0.
        memory_bytes: of its address space, and so of all that it can fill.
        disk_bytes: that it may write in its folder, in all.
        output_bytes: that it may print on one input.
    """

    timeout_s: float
    memory_bytes: int
    disk_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Code and its tests, of one of two kinds.

    Attributes:
        code: Python.
        inputs: texts, each of which the code is to read from standard input as a program; None for the other kind.
        is_right: (place of an input, what was printed) -> whether that is right.
        tests: what `judge.judge` takes, where the code is a module whose functions the tests call.
        count: tests.
        until_failure: whether one failure is enough.
    """

    code: str
    inputs: Sequence[str] | None = None
    is_right: Callable[[int, str], bool] = lambda place, output: False
    tests: dict[str, Any] = field(default_factory=dict)
    count: int
    until_failure: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        ends: how each test ended: passed, failed (another value than expected), error (it raised), no_python (the
            code cannot be compiled), crash (killed by a signal, or without a word), timeout, memory, disk, output,
            processes (a limit), or stopped (after a failure, where one is enough).
        means: those of MEANS that confined the program.
    """

    ends: list[str]
    means: list[str]


class Sandbox:
    """Runs code in processes of its own, several at a time."""

    def __init__(self, limits: Limits, *, workers: int, means: Sequence[str] = MEANS) -> None:
        """
        Args:
            limits: of each job.
            workers: jobs at a time, 1 or more.
            means: those of MEANS that are used where the system allows them.
        """
        self.limits = limits
        self._workers, self._means = workers, list(means)
        self._starter = Starter()
        self._running: set[Launched] = set()
        self._lock = threading.Lock()

    def run_all(self, jobs: Sequence[Job], deadline: float | None = None) -> list[Outcome | None]:
        """Runs jobs and returns what came of each, in their order.

        Args:
            deadline: of `time.monotonic()`, by which all end; a job that does not come to its own end until then has
                None.

        Raises:
            SandboxError: the processes cannot be started.
        """
        pool = ThreadPoolExecutor(self._workers, "sandbox")
        stop = threading.Event()
        try:
            return list(pool.map(lambda job: self.run(job, deadline, stop), jobs))
        finally:  # Ctrl-C too: no program is waited for
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                for launched in self._running:
                    launched.end()
            pool.shutdown(wait=True)

    def run(self, job: Job, deadline: float | None = None, stop: threading.Event | None = None) -> Outcome | None:
        """Runs a job and returns what came of it; None if that has to end at the deadline.

        Args:
            stop: says that the outcome is not wanted any more.
        """
        limits, left = self.limits, math.inf if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return None
        limits = replace(limits, timeout_s=min(limits.timeout_s, left))
        with self._launched() as launched:
            if stop is not None and stop.is_set():
                return None
            outcome = _Conversation(self._starter, launched, job, limits).run(self._means)
        return None if "timeout" in outcome.ends and left < self.limits.timeout_s else outcome

    def close(self) -> None:
        """Ends the process that is kept warm; a later job starts it again."""
        self._starter.close()

    @contextlib.contextmanager
    def _launched(self) -> Iterator[Launched]:
        """Starts a launcher; at the end it is gone, with all that it started."""
        launched = self._starter.launch()
        with self._lock:
            self._running.add(launched)
        try:
            yield launched
        finally:
            with self._lock:
                self._running.discard(launched)
            launched.end()
            for _ in _read(launched, _START_S):
                pass
            launched.close()


class _Conversation:
    """What is said to a launcher and what it says."""

    def __init__(self, starter: Starter, launched: Launched, job: Job, limits: Limits) -> None:
        self.starter, self.launched, self.job, self.limits = starter, launched, job, limits
        self.ends: list[str | None] = [None] * job.count
        self.means: list[str] | None = None

    def run(self, means: list[str]) -> Outcome:
        job, limits = self.job, self.limits
        header = {
            "code": job.code,
            "inputs": job.inputs if job.inputs is None else list(job.inputs),
            "timeout_s": limits.timeout_s,
            "memory_bytes": limits.memory_bytes,
            "disk_bytes": limits.disk_bytes,
            "output_bytes": limits.output_bytes,
            "means": means,
            "folder": tempfile.gettempdir(),
        }
        rest = "crash"
        self._send(header)
        for report in self._reports():
            if "means" in report:
                self.means = report["means"]
            elif "started" in report:
                self._send({**job.tests, "until_failure": job.until_failure})
            elif "stopped" in report:
                rest = report["stopped"]
            elif self._take(report) and job.until_failure:
                rest = STOPPED
                break
        if self.means is None:
            complaint = self._said() or self.starter.complaint() or "it says nothing"
            raise SandboxError(f"the sandbox of programs cannot be started: {complaint}")
        if None in self.ends and rest == "crash" and (complaint := self._said()):
            raise SandboxError(f"the sandbox of programs has failed: {complaint}")
        return Outcome([end or rest for end in self.ends], self.means)

    def _take(self, report: dict[str, Any]) -> bool:
        """Keeps how a test ended; returns whether it has failed."""
        place, end = report["test"], report["end"]
        if end == "ok":
            end = PASSED if self.job.is_right(place, report["output"]) else FAILED
        self.ends[place] = end
        return end != PASSED

    def _send(self, content: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended: there will be no reports
            self.launched.stdin.write(json.dumps(content).encode() + b"\n")
            self.launched.stdin.flush()

    def _reports(self) -> Iterator[dict[str, Any]]:
        """Yields what the launcher reports, until it ends or has taken longer than any job does."""
        received = b""
        for data in _read(self.launched, self.limits.timeout_s + _START_S):
            *lines, received = (received + data).split(b"\n")
            yield from map(json.loads, lines)

    def _said(self) -> str:
        """Returns the last that the launcher said of its own trouble; empty where it had none."""
        self.launched.end()
        lines = self.launched.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _read(launched: Launched, seconds: float) -> Iterator[bytes]:
    """Yields what a launcher writes until it has ended, for at most so many seconds."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(launched.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            data = os.read(launched.stdout.fileno(), _READ_BYTES)
            if not data:
                return
            yield data

"""Processes of one training on this machine, each with devices of its own, that talk over the loopback address."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICES = 2  # made-up ones, of each process
TIMEOUT_S = 10  # distributed.timeout
PATIENCE_S = 900.0


@dataclasses.dataclass
class Process:
    """One of the processes; `output` gets what it prints."""

    popen: subprocess.Popen
    output: Path

    def ended(self, seconds: float = PATIENCE_S) -> tuple[int, str]:
        """Waits for its end; returns the exit code and what it has printed."""
        return self.popen.wait(seconds), self.output.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, words: list[str], index: int, count: int, port: int, devices: int = DEVICES) -> Process:
    """Starts a process; the first one has the run folder `folder/run`, the others say another one."""
    place = [
        f"distributed.coordinator=127.0.0.1:{port}",
        f"distributed.num_processes={count}",
        f"distributed.process_id={index}",
        f"distributed.timeout={TIMEOUT_S}",
    ]
    own = [f"hydra.run.dir={folder / ('run' if index == 0 else f'run_of_{index}')}"]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    output = folder / f"output_{index}.txt"
    with output.open("w") as file:
        command = [sys.executable, str(ROOT / "run_training.py"), *words, *own, *(place if count > 1 else [])]
        popen = subprocess.Popen(command, env=environment, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    return Process(popen, output)


@contextlib.contextmanager
def cluster(
    folder: Path, *words: str, count: int = 2, own: dict[int, list[str]] | None = None
) -> Iterator[list[Process]]:
    """Starts the processes of a training, and ends those that are left.

    Args:
        own: words that some of them have for themselves, by their index.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    more = own or {}
    processes = [start(folder, [*words, *more.get(index, [])], index, count, port) for index in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.wait()


def steps(folder: Path) -> list[int]:
    """Returns the steps that the record in `folder/run` has."""
    file = folder / "run" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in file.read_text().splitlines()] if file.exists() else []


def compilations(folder: Path) -> int:
    """Returns how many programs the run in `folder/run` has compiled."""
    rows = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return max(row.get("perf/compilations", 0) for row in rows)


def wait_until(condition: Callable[[], bool], processes: list[Process]) -> None:
    """Returns when the condition holds; fails when a process ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.popen.poll() is None for process in processes), [p.output.read_text() for p in processes]
        time.sleep(0.05)


def record(folder: Path) -> tuple[list[dict], list[dict]]:
    """Returns the metrics, without what a clock decides, and the completions."""
    timed = ("timing/", "perf/", "step_time")
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in row.items() if not name.startswith(timed)} for row in rows]
    return metrics, [json.loads(line) for line in (folder / "run" / "completions.jsonl").read_text().splitlines()]

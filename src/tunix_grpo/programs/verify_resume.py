"""Proves, on a user's own machine and settings, that a training may be stopped in any way and gives the same bits."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import jax

from tunix_grpo import console, seeds
from tunix_grpo.config.short_words import as_typed
from tunix_grpo.config.verify_resume import VerifyResumeConfig
from tunix_grpo.config.words import assignment, key_of
from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json_lines
from tunix_grpo.programs.differences import compare
from tunix_grpo.run.step_files import SavedFiles

_TRAIN = "import sys; from tunix_grpo.commands import train; sys.exit(train())"
_LOOK_EVERY_S = 0.02
_log = logging.getLogger(__name__)


def verify_resume(config: VerifyResumeConfig) -> None:
    """Trains twice and compares; prints what is done, and that both are equal.

    Raises:
        UserError: they differ, and where first; a training failed; the settings are wrong.
    """
    folder = Path(config.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder={folder}: there is something already; give a folder that does not exist yet")
    straight = Training(folder / "straight", _words(config, folder / "straight"))
    interrupted = Training(folder / "interrupted", _words(config, folder / "interrupted"))
    begun = time.monotonic()
    try:
        straight.finish()
    except UserError:
        shutil.rmtree(folder)
        raise
    _log.info("straight: %d steps in %s", config.steps, console.format_duration(time.monotonic() - begun))
    _interrupt(interrupted, config, straight.seconds_per_step())
    interrupted.finish()
    _log.info("interrupted: all %d steps are done", config.steps)

    jax.config.update("jax_platforms", "cpu")  # the arrays are only looked at
    compared = compare(straight.folder, interrupted.folder)
    if compared.first is not None:
        raise UserError(
            f"not equal; first at {compared.first} (without | with interruptions); both are in {folder}. If "
            "interruptions=[] gives another result each time too, it is the device that does"
        )
    console.print_lines(
        [
            f"equal, bit for bit: {config.steps} steps, {compared.metrics:,} metrics, "
            f"{compared.completions:,} completions, {compared.arrays:,} arrays of step {config.steps}"
        ]
    )
    if not config.keep:
        shutil.rmtree(folder)


def _words(config: VerifyResumeConfig, folder: Path) -> list[str]:
    """Returns the command line of a training: the user's, with what decides where and how long it runs."""
    own = {
        "hydra.run.dir": str(folder),
        "training.checkpoint_dir": str(folder / "checkpoints"),
        "training.num_batches": config.steps,
        "training.num_epochs": 1,
        "training.save_interval_steps": config.save_every,
        "training.log_interval_steps": 1,
        "training.mirror": None,
        "training.max_hours": None,
        "training.max_to_keep": 2,  # the newest is damaged, and the one before it needed
        "training.resume": "auto",
        "tracker.wandb": False,
        "tracker.tensorboard": False,
    }
    kept = [word for word in as_typed(config.train) if key_of(word) not in own]
    return [*kept, *(assignment(key, value) for key, value in own.items())]


class Training:
    """A training in a process of its own, which is started again and again in the same folder."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder = folder
        self.files = SavedFiles(folder / "checkpoints")
        self._command = [sys.executable, "-c", _TRAIN, *words]
        self._said = folder.with_suffix(".log")

    def steps_done(self) -> int:
        """Returns the last step that is in the record."""
        file = self.folder / "metrics.jsonl"
        rows = read_json_lines(file) if file.is_file() else []
        return max((step for row in rows if "reward" in row and isinstance(step := row["step"], int)), default=0)

    def seconds_per_step(self) -> float:
        """Returns what a step took, the median."""
        rows = read_json_lines(self.folder / "metrics.jsonl")
        return statistics.median(float(time) for row in rows if isinstance(time := row.get("step_time"), int | float))

    def finish(self) -> None:
        """Starts it and waits for its end.

        Raises:
            UserError: it does not end well.
        """
        with self.started() as process:
            code = process.wait()
        if code != 0:
            raise self.failed(code)

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """Gives the running process, which does not outlive the block, nor a SIGTERM to this program."""
        self._said.parent.mkdir(parents=True, exist_ok=True)
        with self._said.open("ab") as said:
            process = subprocess.Popen(self._command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        before = signal.signal(signal.SIGTERM, _end)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            signal.signal(signal.SIGTERM, before)

    def failed(self, code: int) -> UserError:
        """Returns the error for a process that ended in another way than it should."""
        said = self._said.read_text(errors="replace").strip()
        _, error, last = said.rpartition("error: ")
        last = last if error else said.splitlines()[-1]
        return UserError(f"the training ended with exit code {code}: {last}")


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    sys.exit(128 + number)


def _interrupt(training: Training, config: VerifyResumeConfig, seconds_per_step: float) -> None:
    """Does to a training what is asked for, spread over its steps; starts it again before each stop."""
    moments = seeds.python_random("interruptions", config.moments)
    stops = [each for each in config.interruptions if each != "corrupt"]
    stopped = 0
    for interruption in config.interruptions:
        if interruption == "corrupt":
            _corrupt(training.files)
            continue
        stopped += 1
        step = max(training.steps_done() + 1, round(stopped * config.steps / (len(stops) + 1)))
        _stop(training, interruption, step, moments.random() * seconds_per_step)


def _stop(training: Training, interruption: str, step: int, later_s: float) -> None:
    """Starts a training and stops it some seconds after a step."""
    number = signal.SIGKILL if interruption == "kill" else signal.SIGTERM
    with training.started() as process:
        while training.steps_done() < step and process.poll() is None:
            time.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(later_s)
        process.send_signal(number)
        code = process.wait()
    if code == 0:
        _log.info("interrupted: it ended before %s came", number.name)
    elif code in (-number, 128 + number):
        _log.info("interrupted: %s after step %d, exit code %d", number.name, training.steps_done(), code)
    else:
        raise training.failed(code)


def _corrupt(files: SavedFiles) -> None:
    """Flips a bit in the middle of the largest file of the newest checkpoint."""
    steps = files.steps()
    if not steps:
        _log.info("interrupted: there is no checkpoint to damage yet")
        return
    place = files.root / str(steps[-1])
    file = max((each for each in place.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size)
    with file.open("rb+") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))
    _log.info("interrupted: one bit of %s is flipped", file.relative_to(files.folder))

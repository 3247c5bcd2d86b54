"""What every door shares: Hydra in, exit code out, no traceback for what a user can put right."""

import contextlib
import gc
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tunix_grpo.config.composing import ANY_TARGET, VERSION_BASE, checked_command_line
from tunix_grpo.config.given import given_words
from tunix_grpo.config.hydra_options import hydra_options
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.secrets import mask_files, masked_word
from tunix_grpo.config.sft import RunConfig
from tunix_grpo.config.sweeps import fixed_keys, job_name
from tunix_grpo.config.words import command_with
from tunix_grpo.console.output import keep_output, visible
from tunix_grpo.errors import NotContinued, UserError
from tunix_grpo.run.places import job_folder, job_mirror
from tunix_grpo.sweeps.callback import Leaderboard
from tunix_grpo.sweeps.leaderboard import JobResult, write_result

Schema = TypeVar("Schema")
logger = logging.getLogger(__name__)

INTERRUPTED = 130
# New objects between the rounds of the garbage collector. Loading and tracing make millions that stay: with Python's
# 700 a start spends more than a second of processor time in rounds that find next to nothing.
NEW_OBJECTS = 10_000


class TerminalFormatter(logging.Formatter):
    """Shows plain messages, with the level only in front of warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line for the terminal."""
        line = visible(super().format(record))
        return f"{record.levelname.lower()}: {line}" if record.levelno > logging.INFO else line


class BelowError(logging.Filter):
    """Lets pass what belongs on standard output; errors go to standard error."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Says whether the record is less than an error."""
        return record.levelno < logging.ERROR


def run(
    program: Callable[[Schema], object], *, config_dir: Path, load: Loader[Schema], config_name: str = "config"
) -> int:
    """Runs a program under Hydra with the config that the command line asks for.

    Everything that is wrong with the settings is reported before Hydra makes the run's folder.

    Args:
        program: is called with the checked config, once per job.
        config_dir: folder with the main config and the groups.
        load: makes the program's typed config of the composed one.
        config_name: name of the main config.

    Returns:
        The exit code: 0, 1 for a `UserError`, 2 for wrong settings, 130 for Ctrl-C.
    """
    keep_output()
    gc.set_threshold(NEW_OBJECTS)
    job = Job(program, load)

    def command() -> None:
        sys.argv[1:] = checked_command_line(sys.argv[1:], config_dir, config_name, load)
        job.fixed.update(fixed_keys(hydra_options(sys.argv[1:]).words))
        decorate = hydra.main(**VERSION_BASE, **ANY_TARGET, config_path=str(config_dir), config_name=config_name)
        decorate(lambda cfg: job(cfg))()  # Hydra asks where a function is written, which an object does not say

    codes = job.codes
    try:
        codes.append(exit_code(command, report=print_error))
    except KeyboardInterrupt:
        print_error("stopped by Ctrl-C")
        codes.append(INTERRUPTED)
    return max([*codes, Leaderboard.worst_exit_code])


class Outcome(NamedTuple):
    """What a program says of a job that has ended: by what it is judged, and the value of that, if there is one."""

    metric: str
    objective: float | None


class Job(Generic[Schema]):
    """Runs a program once per job, in this process or in one that a launcher starts.

    Attributes:
        codes: exit codes of the jobs that this process ran.
        fixed: keys that all jobs of a sweep share.
    """

    def __init__(self, program: Callable[[Schema], object], load: Loader[Schema]) -> None:
        """Takes the program and what makes its config."""
        self.program, self.load = program, load
        self.codes, self.fixed = [0], set[str]()
        self.started_in, self.typed = os.getcwd(), list(sys.orig_argv)

    def __call__(self, cfg: DictConfig) -> float:
        """Runs the program; returns what a sweeper compares, NaN where there is nothing."""
        outcomes: list[Outcome] = []

        def run_program() -> None:
            outcome = self.program(self.loaded(cfg))
            if isinstance(outcome, Outcome):
                outcomes.append(outcome)

        current = HydraConfig.get()
        if current.output_subdir is not None:
            mask_files(Path(current.runtime.output_dir, current.output_subdir), given_words())
        sys.argv[1:] = map(masked_word, sys.argv[1:])  # it has been read; wandb sends it with a run
        code = exit_code(run_program, report=logger.error, command=self.typed)
        self.codes.append(code)
        outcome = outcomes[0] if outcomes else Outcome("", None)
        if current.mode == RunMode.MULTIRUN:
            folder = Path(current.runtime.output_dir)
            write_result(JobResult(folder, tuple(given_words()), *outcome, code))
        return math.nan if outcome.objective is None else outcome.objective

    def loaded(self, cfg: DictConfig) -> Schema:
        """Returns the checked config of a job."""
        with contextlib.chdir(self.started_in):  # paths are relative to it, wherever Hydra starts the job
            config = self.load(cfg)
        if isinstance(config, RunConfig) and HydraConfig.get().mode == RunMode.MULTIRUN:
            name = job_name(given_words(), self.fixed)
            config.checkpoint_dir = config.training.checkpoint_dir = job_folder(config.checkpoint_dir, name)
            mirror = config.training.mirror
            config.training.mirror = None if mirror is None else job_mirror(mirror, name)
        return config


def exit_code(call: Callable[[], object], *, report: Callable[[str], object], command: Sequence[str] = ()) -> int:
    """Calls a function; reports the errors that a user can act on and returns the exit code.

    Args:
        command: as it was typed; where it must not go on in silence, the commands that do what is meant are shown.
    """
    try:
        call()
    except NotContinued as error:
        ways = [f"\nTo {way}:\n    {command_with(command, words)}" for way, words in error.ways.items() if command]
        report("".join([str(error), *ways]))
        return error.exit_code
    except UserError as error:
        report(str(error))
        return error.exit_code
    return 0


def print_error(message: str) -> None:
    """Prints an error where no log is set up yet."""
    print(f"error: {visible(message)}", file=sys.stderr)

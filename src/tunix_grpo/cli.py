"""What every door shares: Hydra in, exit code out, no traceback for what a user can put right."""

import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tunix_grpo.config import Config, load
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.overrides import check_words, command_with, jobs_of, list_groups, normalise
from tunix_grpo.config.sweeps import fixed_keys, job_name
from tunix_grpo.console.output import keep_output
from tunix_grpo.errors import ConfigError, NotContinued, UserError, one_line
from tunix_grpo.run.places import job_folder

Schema = TypeVar("Schema")
logger = logging.getLogger(__name__)

HYDRA_VERSION = "1.3"
INTERRUPTED = 130
_FOLDER_NEEDS = 1 << 16  # bytes that Hydra and a run write into a folder before the first step, at the least
UNSELECTED_REWARD = re.compile(r"Could not override '(reward\.(\w+)\.\w+)'")


class TerminalFormatter(logging.Formatter):
    """Shows plain messages, with the level only in front of warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line for the terminal."""
        line = super().format(record)
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
    codes, started_in = [0], os.getcwd()
    typed, fixed = list(sys.orig_argv), set[str]()

    def job(cfg: DictConfig) -> None:
        codes.append(exit_code(lambda: program(loaded(cfg)), report=logger.error, command=typed))

    def loaded(cfg: DictConfig) -> Schema:
        with contextlib.chdir(started_in):  # paths are relative to it, wherever Hydra starts the job
            config = load(cfg)
        if isinstance(config, Config) and HydraConfig.get().mode == RunMode.MULTIRUN:
            name = job_name(HydraConfig.get().overrides.task, fixed)
            config.checkpoint_dir = config.training.checkpoint_dir = job_folder(config.checkpoint_dir, name)
        return config

    def command() -> None:
        sys.argv[1:] = checked_command_line(sys.argv[1:], config_dir, config_name, load)
        fixed.update(fixed_keys(get_args_parser().parse_args(sys.argv[1:]).overrides))
        decorate = hydra.main(version_base=HYDRA_VERSION, config_path=str(config_dir), config_name=config_name)
        decorate(job)()

    try:
        codes.append(exit_code(command, report=print_error))
    except KeyboardInterrupt:
        print_error("stopped by Ctrl-C")
        codes.append(INTERRUPTED)
    return max(codes)


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
    print(f"error: {message}", file=sys.stderr)


def checked_command_line(words: Sequence[str], config_dir: Path, config_name: str, load: Loader = load) -> list[str]:
    """Returns the command line for Hydra, after checking it and the config that it comes to.

    Raises:
        ConfigError: lists all that is wrong.
    """
    words = normalise(words, load)
    arguments, unknown = get_args_parser().parse_known_args(words)
    config_dirs = [config_dir]
    if arguments.config_dir is not None:
        config_dirs.append(Path(arguments.config_dir).absolute())
        if not config_dirs[-1].is_dir():
            raise ConfigError([f"--config-dir {arguments.config_dir}: there is no such folder"])
    groups = list_groups(config_dirs)
    # What the help texts list: `${options:GROUP}`.
    OmegaConf.register_new_resolver("options", lambda group: " ".join(groups[group]), replace=True)
    checked = check_words([*unknown, *arguments.overrides], config_dirs, load)
    problems = checked.problems
    jobs = jobs_of(checked.usable) if arguments.multirun else [checked.usable]
    only_shown = arguments.help or arguments.cfg is not None
    for overrides in jobs if checked.groups_known else []:
        try:
            cfg = composed(overrides, config_dirs, arguments.config_name or config_name)
        except ConfigError as error:
            problems += error.problems
            continue
        if not only_shown:
            examined = load.examine(cfg)
            problems += [problem for problem in examined.problems if problem not in problems]
            if isinstance(examined.config, Config) and not arguments.multirun:
                problems += run_folder_problems(examined.config.output_dir)
    if problems:
        raise ConfigError(problems)
    return words


def run_folder_problems(output_dir: str) -> list[str]:
    """Returns what keeps the run's folder from being made, without making it."""
    folder = Path(output_dir)
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return [f"hydra.run.dir={output_dir}: {existing} is not a folder that can be written to; choose another"]
    try:
        with tempfile.TemporaryFile(dir=existing) as trial:
            trial.write(bytes(_FOLDER_NEEDS))
    except OSError as error:
        reason = error.strerror or one_line(error)
        return [f"hydra.run.dir={output_dir}: {existing} cannot be written to ({reason}); make room or choose another"]
    return []


def composition_problem(message: str) -> str:
    """Returns a sentence for what Hydra says when it cannot compose a config."""
    unselected = UNSELECTED_REWARD.match(message)
    if unselected:
        key, reward = unselected.groups()
        return f"{key}: the reward {reward} is not selected; add it, as in reward=[{reward}]"
    return " ".join(message.split())


def composed(overrides: list[str], config_dirs: Sequence[Path], config_name: str) -> DictConfig:
    """Returns the config as a run would compose it.

    Raises:
        ConfigError: says why it cannot be composed.
    """
    main, *others = config_dirs
    if others:
        overrides = [*overrides, f"hydra.searchpath=[{','.join(map(str, others))}]"]
    try:
        with hydra.initialize_config_dir(str(main), version_base=HYDRA_VERSION, job_name="train"):
            cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([composition_problem(str(error))]) from error
    return cfg

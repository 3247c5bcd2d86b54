"""From the words of a command line to a composed config, checked in full before Hydra makes a folder."""

import contextlib
import importlib.resources
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from tunix_grpo.config.hydra_options import HydraOptions, hydra_options
from tunix_grpo.config.loading import Loader, load
from tunix_grpo.config.overrides import check_words, is_interval, jobs_of, list_groups, normalise, without_sweeps
from tunix_grpo.config.resolvers import HYDRA_1_3, register
from tunix_grpo.config.schema import Config
from tunix_grpo.config.sft import RunConfig
from tunix_grpo.errors import ConfigError, one_line

# Hydra 1.3 wants to be told the version whose defaults count; 1.4 has one set of defaults, and warns when told.
VERSION_BASE = {"version_base": "1.3"} if HYDRA_1_3 else {}
# It also asks which targets of a config may be called: who starts a program may name any, as in 1.3.
ANY_TARGET = {} if HYDRA_1_3 else {"execution_whitelist": getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)}
OPTUNA = "hydra_plugins.tunix_grpo_optuna.sweeper.OptunaSweeper"
_ONLY_SEARCHED = "an interval has no end of values; add +hparams_search=optuna, which chooses from it"
_NOT_INSTALLED = "+hparams_search=optuna: Optuna is not installed; run pip install 'tunix-grpo[sweep]'"
_NOTHING_SEARCHED = (
    "+hparams_search=optuna: nothing is to be searched; "
    'span a setting, as in "optimizer.learning_rate=interval(1e-5,1e-3)"'
)
_FOLDER_NEEDS = 1 << 16  # bytes that Hydra and a run write into a folder before the first step, at the least
UNSELECTED_REWARD = re.compile(r"Could not override '(reward\.(\w+)\.\w+)'")


def checked_command_line(words: Sequence[str], config_dir: Path, config_name: str, load: Loader = load) -> list[str]:
    """Returns the command line for Hydra, after checking it and the config that it comes to.

    Raises:
        ConfigError: lists all that is wrong.
    """
    options = hydra_options(normalise(words, load))
    words = options.arguments
    if options.problem:
        raise ConfigError([options.problem])
    config_name = options.config_name or config_name
    config_dirs = folders_with_groups(options, config_dir, config_name)
    groups = list_groups(config_dirs)
    register("options", lambda group: " ".join(groups[group]))  # what the help texts list, as `${options:GROUP}`
    if options.of_hydra:
        return words
    checked = check_words(options.words, config_dirs, load)
    problems = checked.problems
    if not checked.groups_known:
        raise ConfigError(problems)
    fixed = without_sweeps(checked.usable)
    try:
        base = composed(fixed, config_dirs, config_name)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    sweep = sweep_of(checked.usable, fixed, options.multirun)
    problems += sweep.problems if not problems else []  # a word that cannot be read may be what is missed
    for overrides in jobs_of(checked.usable, groups) if sweep.asked_for else [checked.usable]:
        try:
            cfg = base if overrides == fixed else composed(overrides, config_dirs, config_name)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            continue
        if not options.only_shown:
            examined = load.examine(cfg)
            problems += [problem for problem in examined.problems if problem not in problems]
            if isinstance(examined.config, RunConfig) and not sweep.asked_for:
                problems += run_folder_problems(examined.config.output_dir)
    if problems:
        raise ConfigError(problems)
    # Hydra 1.4 reads the words of a sweep only where --multirun stands beside them.
    return ["--multirun", *words] if sweep.asked_for and not (options.multirun or options.only_shown) else words


def folders_with_groups(options: HydraOptions, config_dir: Path, config_name: str) -> list[Path]:
    """Returns the folders in which groups and main configs are looked for, the program's own first.

    Raises:
        ConfigError: a folder that an option names does not exist.
    """
    found = [config_dir]
    if options.config_path is not None:
        found = [Path(options.config_path)]
        if not found[0].is_absolute():
            problem = "must be an absolute folder; --config-dir adds a folder to the program's own"
            raise ConfigError([f"--config-path {options.config_path}: {problem}"])
    named = [("--config-path ", options.config_path), ("--config-dir ", options.config_dir)]
    if options.config_dir is not None:
        found.append(Path(options.config_dir).absolute())
    places = list(options.searchpath)
    for option, name in named:
        if name is not None and not Path(name).is_dir():
            raise ConfigError([f"{option}{name}: there is no such folder"])
    if len(found) > 1 or options.config_name is not None:
        places += _searchpath_of(config_name, found)
    for place in places:
        folder = _folder_of(place)
        if not folder.is_dir():
            raise ConfigError([f"hydra.searchpath=[{place}]: there is no such folder"])
        found.append(folder)
    return list(dict.fromkeys(found))


def _searchpath_of(config_name: str, config_dirs: Sequence[Path]) -> list[str]:
    """Returns the places that a user's own main config adds to the search path."""
    with _composing(config_dirs):
        cfg = hydra.compose(config_name, return_hydra_config=True)
    return [str(place) for place in cfg.hydra.searchpath]


def _folder_of(place: str) -> Path:
    """Returns the folder of an entry of a search path: file://FOLDER, pkg://PACKAGE or FOLDER."""
    if place.startswith("pkg://"):
        with contextlib.suppress(ImportError):
            return Path(str(importlib.resources.files(place.removeprefix("pkg://").replace("/", "."))))
    return Path(place.removeprefix("file://")).absolute()


class Sweep(NamedTuple):
    """Whether many jobs are asked for, and what their sweeper cannot do."""

    asked_for: bool
    problems: list[str]


def sweep_of(words: Sequence[str], fixed: Sequence[str], multirun: bool) -> Sweep:
    """Returns what the words ask for beside one job.

    Args:
        fixed: those that give a setting one value, which have just been composed: the config that they come to may be
            a sweep by itself, as a search of settings is.
        multirun: whether the command line says that it is one.
    """
    hydra_config = HydraConfig.get()
    if not (multirun or hydra_config.mode == RunMode.MULTIRUN):
        return Sweep(False, [])
    spans = [word for word in words if word not in fixed]
    sweeper = str(hydra_config.sweeper._target_)
    if sweeper.endswith(".BasicSweeper"):
        return Sweep(True, [f"{word}: {_ONLY_SEARCHED}" for word in spans if is_interval(word)])
    if sweeper == OPTUNA:
        problems = [] if importlib.util.find_spec("optuna") else [_NOT_INSTALLED]
        if not spans and not hydra_config.sweeper.get("params"):
            problems.append(_NOTHING_SEARCHED)
        return Sweep(True, problems)
    return Sweep(True, [])


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


def composed(overrides: Sequence[str], config_dirs: Sequence[Path], config_name: str) -> DictConfig:
    """Returns the config as a run would compose it.

    Raises:
        ConfigError: says why it cannot be composed.
    """
    with _composing(config_dirs):
        cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
    return cfg


def option_of(group: str, name: str, config_dirs: Sequence[Path], config_name: str) -> DictConfig:
    """Returns a group as one of its options fills it in.

    Args:
        config_dirs: where options are looked for; where a program runs under Hydra, its own search path serves.

    Raises:
        ConfigError: says why it cannot be composed.
    """
    under_hydra = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if under_hydra else _composing(config_dirs):
        try:
            return hydra.compose(config_name, [f"{group}={name}"])[group]
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError([composition_problem(str(error))]) from error


def training_of(words: Sequence[str]) -> Config:
    """Returns the training that the words of its command line come to, where another program runs under Hydra.

    Raises:
        ConfigError: lists all that is wrong.
    """
    try:
        cfg = hydra.compose("config", normalise(words))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([composition_problem(str(error))]) from error
    return load(cfg)


class FurtherFolders(SearchPathPlugin):
    """Adds folders behind the program's own to Hydra's search path, as --config-dir does."""

    folders: Sequence[Path] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Is called by Hydra when it begins to compose."""
        for folder in FurtherFolders.folders:
            search_path.append("command-line", f"file://{folder}")


@contextlib.contextmanager
def _composing(config_dirs: Sequence[Path]) -> Iterator[None]:
    Plugins.instance().register(FurtherFolders)
    FurtherFolders.folders = config_dirs[1:]
    try:
        with hydra.initialize_config_dir(str(config_dirs[0]), **VERSION_BASE, job_name="train"):
            yield
    # A ValueError says that a group of Hydra's own has an option that is no text.
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError([composition_problem(str(error))]) from error
    finally:
        FurtherFolders.folders = ()

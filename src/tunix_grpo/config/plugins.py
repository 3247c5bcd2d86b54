"""The parts that a setting names: where each is found, in the package or in a file of the user's.

A new task or reward of the package is a file, a line here and a yaml. Nothing is imported before it is used, so that
the settings stand below what they choose.
"""

import contextlib
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError

# task.name -> builder(*, seed, **the task's own keys) -> Task
TASKS = {
    "arithmetic": "tunix_grpo.tasks.arithmetic:build_arithmetic",
    "gsm8k": "tunix_grpo.tasks.gsm8k:build_gsm8k",
    "jsonl": "tunix_grpo.tasks.jsonl:build_jsonl",
    "reasoning_gym": "tunix_grpo.tasks.reasoning_gym_task:build_reasoning_gym",
}
# reward=[NAME] -> builder(**the reward's own settings) -> RewardFunction, see rewards/base.py
REWARDS = {
    "format": "tunix_grpo.rewards.format:build_format_reward",
    "correctness": "tunix_grpo.rewards.correctness:build_correctness_reward",
    "math": "tunix_grpo.rewards.math:build_math_reward",
    "python_tests": "tunix_grpo.rewards.python_tests:build_python_tests_reward",
    "length": "tunix_grpo.rewards.length:build_length_reward",
    "overlong": "tunix_grpo.rewards.overlong:build_overlong_reward",
    "repetition": "tunix_grpo.rewards.repetition:build_repetition_reward",
    "regex": "tunix_grpo.rewards.regex:build_regex_reward",
    "json_schema": "tunix_grpo.rewards.json_schema:build_json_schema_reward",
    "judge": "tunix_grpo.rewards.judge:build_judge_reward",
    "http": "tunix_grpo.rewards.http:build_http_reward",
}
# grpo.advantage -> function(float64[P, G] rewards) -> float64[P, G]
ADVANTAGES = {
    name: f"tunix_grpo.grpo.algorithms:{name}" for name in ("group_std", "center", "batch_std", "rloo", "max_rl")
}
# grpo.ratio -> function(Tokens, Objective) -> Surrogate
RATIOS = {
    "token": "tunix_grpo.grpo.algorithms:token",
    "sequence": "tunix_grpo.grpo.algorithms:sequence",
    "trajectory": "tunix_grpo.grpo.algorithms:trajectory",
    "cispo": "tunix_grpo.grpo.algorithms:cispo",
    "sapo": "tunix_grpo.grpo.algorithms:sapo",
    "gmpo": "tunix_grpo.grpo.algorithms:gmpo",
    "none": "tunix_grpo.grpo.algorithms:unclipped",
}


# Folders of the user's that hold files which were loaded.
_FOLDERS: set[str] = set()


def task_reference(name: str) -> str:
    """Returns where the builder of a task is."""
    return TASKS.get(name, name)


def is_outside(name: str) -> bool:
    """Says whether a name is a reference to a file of the user's, FILE.py:NAME."""
    return ".py:" in name


def resolve(reference: str, setting: str) -> Callable[..., Any]:
    """Returns the function or class that a reference names.

    Args:
        reference: `package.module:NAME`, or `FILE.py:NAME` for a file of the user's.
        setting: the setting that holds the reference, for the error message.

    Raises:
        UserError: there is no such file or name, or the file cannot be run.
    """
    place, _, name = reference.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    about = f"{setting}={reference}"
    found = member_of_file(Path(place), name, about, about)
    if not callable(found):
        raise UserError(f"{about}: {name} is not a function but {type(found).__name__}; give a function")
    return found


def member_of_file(file: Path, name: str, about_file: str, about_name: str, kind: str = "function") -> object:
    """Returns what a Python file of the user's calls `name`.

    Args:
        about_file: the setting that names the file, with its value, for the error message.
        about_name: the setting that names the member, with its value.
        kind: what is looked for, for the error message.

    Raises:
        UserError: there is no such file or name, or the file cannot be run.
    """
    members = vars(_load_file(file.expanduser(), about_file))
    if name not in members:
        own = [key for key, member in members.items() if inspect.isfunction(member) or inspect.isclass(member)]
        raise UserError(
            f"{about_name}: there is no such {kind} in {file}{did_you_mean(name, own)}; "
            f"it has {', '.join(own) or 'none'}"
        )
    return members[name]


def _load_file(file: Path, about: str) -> ModuleType:
    """Returns a file as a module; as long as it stays the same, it is run once in a process."""
    if not file.is_file():
        raise UserError(f"{about}: there is no such file; give a Python file")
    digest = hashlib.blake2b(str(file).encode() + file.read_bytes(), digest_size=8).hexdigest()
    name = f"tunix_grpo_file_{file.stem}_{digest}"
    if name not in sys.modules:
        loader = SourceFileLoader(name, str(file))
        module = ModuleType(name)
        module.__file__, module.__loader__, module.__package__ = str(file), loader, _package_of(file.parent)
        sys.modules[name] = module  # dataclasses and pickles of the file look their module up here
        try:
            with Reporting(lambda what: UserError(f"{about} cannot be run: {what}")), _beside(file.parent):
                loader.exec_module(module)
        except UserError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _package_of(folder: Path) -> str:
    """Returns the name of a package that is a folder of the user's, for `from .helpers import score` in its files."""
    folder = folder.absolute()
    name = f"tunix_grpo_folder_{hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()}"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return name


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Lets a file import what lies beside it, `from helpers import score`, first of all as Python's scripts do.

    A module of the same name that another file of the user's brought is set aside. Once the file is loaded, the folder
    is looked through last, for imports inside functions, so that it hides nothing of the program's own.
    """
    own = str(folder.absolute())
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        is_here = (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
        if is_here and file is not None and any(file.startswith(f"{other}{os.sep}") for other in _FOLDERS - {own}):
            del sys.modules[name]
    sys.path.insert(0, own)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(own)
        if own not in _FOLDERS:
            sys.path.append(own)
            _FOLDERS.add(own)


class Reporting:
    """Turns whatever foreign code raises, `exit()` included, into an error that names the code."""

    def __init__(self, make_error: Callable[[str], Exception]) -> None:
        """Takes the function that makes the error, from a line on what was raised and where."""
        self.make_error = make_error

    def __enter__(self) -> None:
        """Begins the foreign code."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises the error that names the code, if there is anything to report."""
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, UserError):
            raise self.make_error(describe_error(error)) from error


def describe_error(error: BaseException) -> str:
    """Returns an error's type, message and place in one line."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:  # its message has the place
        return text
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"

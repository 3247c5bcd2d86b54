"""A user's own reward functions: found in a file or a package, called here or in processes of their own."""

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunix_grpo.config import OutsideReward, UserReward, plugins
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import ChecksTask, Reward
from tunix_grpo.rewards.isolated import IsolatedFunction
from tunix_grpo.rewards.user_function import FIXED_COLUMNS, UserFunction
from tunix_grpo.tasks.base import Task


def load_function(path: str | None, function: str, setting: str) -> Callable[..., Any]:
    """Returns a user's function.

    It is called as `function(prompts=..., completions=..., question=..., answer=..., **columns)`: a
    list with an entry per completion each, the columns being those of the task's data beside
    question and answer (None where a question has no such column). It gets what it has parameters
    for, and every column if it takes `**kwargs`. `docs/rewards.md` has what else it may ask for and
    return. The file may import what lies beside it.

    Args:
        path: a Python file; None where `function` is a dotted path.
        setting: that holds both, as in `reward.custom`, for the error message.

    Raises:
        UserError: the file or the function is not there, or the file cannot be run.
    """
    about = f"{setting}.function={function}"
    if path is None:
        found, place = _installed(function, about), function.rpartition(".")[0]
    else:
        found = plugins.member_of_file(Path(path), function, f"{setting}.path={path}", about)
        place = path
    if not callable(found):
        raise UserError(
            f"{about}: {function} in {place} is not a function but {type(found).__name__}; "
            "give a function that returns a list of numbers"
        )
    try:
        inspect.signature(found)
    except ValueError:
        raise UserError(
            f"{about}: Python does not know which parameters {function} takes; give a function of yours that calls it"
        ) from None
    return found


def _installed(dotted: str, about: str) -> object:
    module, _, name = dotted.replace(":", ".").rpartition(".")
    try:
        with plugins.Reporting(lambda what: UserError(f"{about}: {module} cannot be imported: {what}")):
            members = vars(importlib.import_module(module))
    except UserError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise UserError(f"{error}; install it, or give the file that it is in as path") from error.__cause__
        raise
    if name not in members:
        own = [key for key, member in members.items() if callable(member) and not key.startswith("_")]
        raise UserError(f"{about}: there is no such function in {module}{did_you_mean(name, own)}")
    return members[name]


def user_reward(name: str, settings: UserReward, path: str | None, function: str, setting: str, workers: int) -> Reward:
    """Returns the reward that a user's function is.

    Args:
        workers: processes that it runs in where it is isolated.

    Raises:
        UserError: the function cannot be found.
    """
    loaded = load_function(path, function, setting)
    here = UserFunction(loaded, per=settings.per, messages=settings.messages)
    called = here
    if settings.isolate:
        place = {"path": path, "function": function, "setting": setting}
        called = IsolatedFunction(here, {**place, "per": settings.per, "messages": settings.messages}, workers)
    unit = "group" if here.unit == "group" else "completion"
    by_row = settings.isolate and here.unit == "completion"
    return Reward(name, settings.weight, called, here.columns, unit=unit, limits_itself=settings.isolate, by_row=by_row)


def outside_reward(name: str, settings: OutsideReward, workers: int) -> Reward:
    """Returns the reward of an option from outside the package."""
    path, _, function = settings.function.rpartition(":")
    return user_reward(name, settings, path, function, f"reward.{name}", workers)


def require_columns(rewards: Sequence[Reward], task: Task) -> None:
    """Checks that the data has what rewards cannot do without, before anything is loaded for them.

    Raises:
        UserError: a column is in no question, or a row lacks what a reward reads.
    """
    for reward in rewards:
        if isinstance(reward.function, ChecksTask):
            reward.function.check(task)
    if not any(reward.columns for reward in rewards):
        return
    there = dict.fromkeys(key for side in (task.train, task.heldout) for each in side for key in each.extra or ())
    for reward in rewards:
        if missing := [key for key in reward.columns if key not in there]:
            known = [*FIXED_COLUMNS, *there]
            raise UserError(
                f"the reward {reward.name} takes {missing[0]!r}, which is no column of the data of task.name="
                f"{task.name}{did_you_mean(missing[0], known)}; there are {', '.join(known)}; rename the parameter, "
                "or give it a default value"
            )

"""A user's own reward function, from a Python file."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reporting, RewardFunction
from tunix_grpo.tasks.base import Question, Task


def load_custom_reward(path: str, function: str) -> RewardFunction:
    """Loads a function from a Python file as a reward.

    It is called as `function(prompts=..., completions=..., question=..., answer=..., **columns)`: a
    list with an entry per completion each, the columns being those of the task's data beside
    question and answer (None where a question has no such column). It gets what it has parameters
    for, and everything if it takes `**kwargs`. It returns one number per completion.

    Raises:
        UserError: the file or the function is not there, or the file cannot be run.
    """
    module = _load_module(Path(path).expanduser())
    members = vars(module)
    if function not in members:
        functions = [name for name, member in members.items() if inspect.isfunction(member)]
        raise UserError(
            f"reward.custom.function={function}: there is no such function in {path}"
            f"{did_you_mean(function, functions)}; it has {', '.join(functions) or 'none'}"
        )
    user_function = members[function]
    if not callable(user_function) or inspect.iscoroutinefunction(user_function):
        raise UserError(
            f"reward.custom.function={function}: {function} in {path} is not a plain function but "
            f"{type(user_function).__name__ if not callable(user_function) else 'async'}; "
            "give a function that returns a list of numbers"
        )
    return _adapt(user_function)


def _load_module(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"reward.custom.path={path}: there is no such file; give a Python file")
    name = f"tunix_grpo_custom_reward_{path.stem}"
    spec = importlib.util.spec_from_loader(name, SourceFileLoader(name, str(path)))
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles of the file look their module up here.
    sys.modules[name] = module
    with Reporting(lambda what: UserError(f"reward.custom.path={path} cannot be run: {what}")):
        spec.loader.exec_module(module)
    return module


def _adapt(user_function: Callable[..., Any]) -> RewardFunction:
    """Turns a function of columns into a function of questions."""
    parameters = inspect.signature(user_function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {parameter.name for parameter in parameters}

    def custom_reward(
        prompts: Sequence[str],
        completions: Sequence[str],
        questions: Sequence[Question],
        task: Task,
    ) -> Sequence[float]:
        columns = _columns(prompts, completions, questions)
        return user_function(**{name: column for name, column in columns.items() if takes_all or name in taken})

    return custom_reward


def _columns(prompts: Sequence[str], completions: Sequence[str], questions: Sequence[Question]) -> dict[str, list[Any]]:
    """Returns the columns by name; the four fixed ones hide columns of the data of the same name."""
    extras = [question.extra or {} for question in questions]
    names = dict.fromkeys(name for extra in extras for name in extra)
    return {
        **{name: [extra.get(name) for extra in extras] for name in names},
        "prompts": list(prompts),
        "completions": list(completions),
        "question": [question.question for question in questions],
        "answer": [question.answer for question in questions],
    }

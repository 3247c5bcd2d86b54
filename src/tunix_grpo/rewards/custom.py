"""A user's own reward function, from a Python file."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from tunix_grpo.config import plugins
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import RewardFunction
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
    user_function = plugins.member_of_file(
        Path(path), function, f"reward.custom.path={path}", f"reward.custom.function={function}"
    )
    if not callable(user_function) or inspect.iscoroutinefunction(user_function):
        raise UserError(
            f"reward.custom.function={function}: {function} in {path} is not a plain function but "
            f"{type(user_function).__name__ if not callable(user_function) else 'async'}; "
            "give a function that returns a list of numbers"
        )
    return by_columns(user_function)


def by_columns(user_function: Callable[..., object]) -> RewardFunction:
    """Turns a function of columns into a function of questions."""
    parameters = inspect.signature(user_function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {parameter.name for parameter in parameters}

    def custom_reward(
        prompts: Sequence[str],
        completions: Sequence[str],
        questions: Sequence[Question],
        task: Task,
    ) -> object:
        columns = _columns(prompts, completions, questions)
        return user_function(**{name: column for name, column in columns.items() if takes_all or name in taken})

    return custom_reward


def _columns(
    prompts: Sequence[str], completions: Sequence[str], questions: Sequence[Question]
) -> dict[str, Sequence[object]]:
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

"""A user's own reward function, from a Python file."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

from tunix_grpo.config import plugins
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.tasks.base import Question, Task

FIXED_COLUMNS = ("prompts", "completions", "question", "answer")


def load_custom_reward(path: str, function: str, weight: float) -> Reward:
    """Loads a function from a Python file as a reward.

    It is called as `function(prompts=..., completions=..., question=..., answer=..., **columns)`: a
    list with an entry per completion each, the columns being those of the task's data beside
    question and answer (None where a question has no such column). It gets what it has parameters
    for, and everything if it takes `**kwargs`. It returns one number per completion. The file may
    import what lies beside it.

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
    return reward_of_columns(function, weight, user_function)


def reward_of_columns(name: str, weight: float, user_function: Callable[..., object]) -> Reward:
    """Returns the reward that a function of columns is."""
    parameters = inspect.signature(user_function).parameters.values()
    by_place = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    taken = {each.name for each in parameters}.difference(by_place)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in several]

    def custom_reward(samples: Samples) -> object:
        columns = _columns(samples.prompts, samples.completions, samples.questions)
        first = [columns.pop(name) for name in by_place if name in columns]
        return user_function(*first, **{key: column for key, column in columns.items() if takes_all or key in taken})

    return Reward(name, weight, custom_reward, tuple(key for key in needed if key not in FIXED_COLUMNS))


def require_columns(rewards: Sequence[Reward], task: Task) -> None:
    """Checks that the data has the columns that rewards cannot do without, before anything is loaded for them.

    Raises:
        UserError: a column is in no question.
    """
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

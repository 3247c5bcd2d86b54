"""What a batch of completions is worth: every reward called, its values checked and summed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunix_grpo.config.plugins import Reporting
from tunix_grpo.errors import shortened
from tunix_grpo.rewards.base import Reward, RewardError
from tunix_grpo.tasks.base import Question, Task

SHOWN_CHARS = 300
# Of a reward: trackers hold sums and deviations of rewards as float32, which ends at 3.4e38.
LARGEST = 1e30


@dataclass(frozen=True, slots=True)
class RewardTable:
    """What a batch of completions is worth.

    Attributes:
        total: float[B], the weighted sum of the parts.
        parts: name of a reward -> float[B], unweighted.
    """

    total: list[float]
    parts: dict[str, list[float]]

    def with_rows(self, fresh: "RewardTable", rows: np.ndarray) -> "RewardTable":
        """Returns the rows int[B], counted over this table's and then the fresh one's."""
        parts = {name: [(values + fresh.parts[name])[row] for row in rows] for name, values in self.parts.items()}
        return RewardTable([(self.total + fresh.total)[row] for row in rows], parts)


def score_completions(
    rewards: Sequence[Reward],
    prompts: Sequence[str],
    completions: Sequence[str],
    questions: Sequence[Question],
    task: Task,
) -> RewardTable:
    """Scores a batch of completions with every reward.

    Args:
        rewards: at least one.
        prompts: B texts.
        completions: B texts.
        questions: B questions, the one that each completion answers.
        task: what the questions come from.

    Raises:
        RewardError: a function raises, or gives anything but one finite number of at most LARGEST per completion.
    """
    assert len(prompts) == len(completions) == len(questions)
    parts = {reward.name: _numbers(reward, prompts, completions, questions, task) for reward in rewards}
    total = [sum(reward.weight * parts[reward.name][row] for reward in rewards) for row in range(len(completions))]
    for row, value in enumerate(total):
        if not abs(value) <= LARGEST:
            raise RewardError(
                f"the rewards with their weights sum up to {value:.3g}, more than {LARGEST:.3g} in size, "
                f"{_about(completions[row], questions[row])}; lower a weight, as reward.custom.weight"
            )
    return RewardTable(total, parts)


def _numbers(
    reward: Reward,
    prompts: Sequence[str],
    completions: Sequence[str],
    questions: Sequence[Question],
    task: Task,
) -> list[float]:
    """Calls a reward and returns what it gives as finite floats."""
    values = _call(reward, prompts, completions, questions, task)
    if len(values) != len(completions):
        raise RewardError(
            f"reward {reward.name} returned {len(values)} values for {len(completions)} "
            "completions; it must return one number for each"
        )
    numbers = []
    for value, completion, question in zip(values, completions, questions, strict=True):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise RewardError(
                f"reward {reward.name} returned {_shorten(value)}, not a finite number, {_about(completion, question)}"
            )
        if abs(number) > LARGEST:
            raise RewardError(
                f"reward {reward.name} returned {number:.3g}, more than {LARGEST:.3g} in size, "
                f"{_about(completion, question)}; divide it, or bound it"
            )
        numbers.append(number)
    return numbers


def _call(
    reward: Reward,
    prompts: Sequence[str],
    completions: Sequence[str],
    questions: Sequence[Question],
    task: Task,
) -> list[object]:
    """Calls a reward; if it raises, calls it row by row to find the completion that it fails on."""
    about = f"on {len(completions)} completions together"
    if len(completions) == 1:
        about = _about(completions[0], questions[0])
    try:
        with Reporting(lambda what: RewardError(f"reward {reward.name} raised {what} {about}")):
            values = reward.function(prompts, completions, questions, task)
            if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
                return list(values)
    except RewardError:
        if len(completions) > 1:
            for prompt, completion, question in zip(prompts, completions, questions, strict=True):
                _call(reward, [prompt], [completion], [question], task)
        raise
    raise RewardError(
        f"reward {reward.name} returned {_shorten(values)}; it must return a list of numbers, one for each completion"
    )


def _number(value: Any) -> float | None:
    """Returns a number of any kind, array scalars included, as a float; None for anything else."""
    if value is None or isinstance(value, (str, bytes)) or np.ndim(value) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _about(completion: str, question: Question) -> str:
    return f"on the completion {_shorten(completion)} of the question {_shorten(question.question)}"


def _shorten(value: object) -> str:
    return shortened(repr(value), SHOWN_CHARS)

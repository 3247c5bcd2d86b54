"""What every reward is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Question, Task

# (prompts, completions, questions, task) -> one number per completion, which `score_completions` checks.
RewardFunction: TypeAlias = Callable[[Sequence[str], Sequence[str], Sequence[Question], Task], object]


class RewardError(UserError, RuntimeError):
    """Says which reward function failed, on which completion, and how."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward function with its weight in the total.

    Attributes:
        name: its name in metrics and in completions.jsonl.
        weight: factor in the total; 0 only records it.
        function: what gives the numbers.
        columns: of the data, beside question and answer, without which the function cannot be called.
    """

    name: str
    weight: float
    function: RewardFunction
    columns: tuple[str, ...] = ()

"""What every reward is made of."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from tunix_grpo.config import Policy
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Question, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Completions that are to be scored: B of them, those of one question in a row.

    Attributes:
        prompts: B texts, as the model is given them.
        completions: B texts, without special tokens.
        questions: B questions, the one that each completion answers.
        task: what the questions come from.
        token_lengths: B numbers of tokens, the end-of-turn token included.
        step: from 1; 0 in the evaluation before the first step.
        num_generations: G, completions of a question; 1 in an evaluation. B is a multiple of it.
        max_tokens: generation.max_generation_steps, at which completions are cut.
        token_ids: B lists of tokens; None where completions come from a file.
        deadline: the `time.monotonic()` by which all must be scored; None is no limit. A reward that waits for
            something gives a `Failure` for the rows that are not done then.
    """

    prompts: Sequence[str]
    completions: Sequence[str]
    questions: Sequence[Question]
    task: Task
    token_lengths: Sequence[int]
    step: int
    num_generations: int
    max_tokens: int
    token_ids: Sequence[Sequence[int]] | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        """Checks that there is one of each."""
        count = len(self.completions)
        assert len(self.prompts) == len(self.questions) == len(self.token_lengths) == count
        assert count % self.num_generations == 0

    def __len__(self) -> int:
        """Returns B."""
        return len(self.completions)

    def rows(self, indices: Sequence[int]) -> "Samples":
        """Returns some of the rows; of anything but whole groups `num_generations` is 1."""
        group = self.num_generations
        firsts = indices[::group]
        whole = [first + place for first in firsts for place in range(group)]
        is_whole = list(indices) == whole and all(first % group == 0 for first in firsts)
        return replace(
            self,
            prompts=[self.prompts[index] for index in indices],
            completions=[self.completions[index] for index in indices],
            questions=[self.questions[index] for index in indices],
            token_lengths=[self.token_lengths[index] for index in indices],
            token_ids=None if self.token_ids is None else [self.token_ids[index] for index in indices],
            num_generations=group if is_whole else 1,
        )

    def seconds_left(self) -> float | None:
        """Returns the seconds until the deadline, 0 or more; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


class Scored(NamedTuple):
    """What a reward gives for a completion, with numbers of its own that are logged.

    Attributes:
        value: finite; None where the reward does not apply to the completion.
        extras: finite numbers by name, logged as `rewards/<name>/<extra>`, the mean over the rows that have it.
    """

    value: float | None
    extras: Mapping[str, float] = {}


class Failure(NamedTuple):
    """Stands in the place of a value that could not be had: `on_error` or `on_timeout` says what is done.

    Attributes:
        kind: error or timeout.
        reason: what happened, to be read between `reward NAME` and the completion, as in `got no reply`.
        way_out: what can be done, after the completion; {settings} stands for the keys of the reward.
        about: what the message shows behind the reason: the completion, the size of the batch, or nothing.
        cause: what was raised.
    """

    kind: Literal["error", "timeout"]
    reason: str
    way_out: str = ""
    about: Literal["completion", "batch", "nothing"] = "completion"
    cause: BaseException | None = None


# One for each completion. None: the reward does not apply, and is left out of the row's total and of the mean.
Value: TypeAlias = float | None | Scored | Failure
# What `score_completions` calls; it checks the values, since functions of users return anything.
RewardFunction: TypeAlias = Callable[[Samples], object]


@runtime_checkable
class ChecksTask(Protocol):
    """A reward function that reads more of the data than columns by name."""

    def check(self, task: Task) -> None:
        """Checks that a task has what the reward reads.

        Raises:
            UserError: a row has it not.
        """
        ...


class RewardError(UserError, RuntimeError):
    """Says which reward function failed, on which completion, and how."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward function with its weight in the total.

    Attributes:
        name: its name in metrics and in completions.jsonl.
        weight: factor in the total; 0 only records it.
        function: what gives the values, one `Value` per completion.
        columns: of the data, beside question and answer, without which the function cannot be called; one of the
            package says so by an attribute of that name.
        time_limit: seconds that a batch may take; None is no limit.
        on_error: what is done when the function raises or returns what is no value.
        on_timeout: what is done when a batch takes longer than the limit.
        unit: what is called again, where a batch fails, to find the completions that it fails on.
        limits_itself: the function keeps to `Samples.deadline` however it hangs, so that no thread is needed; one of
            the package says so by an attribute of that name.
        by_row: the function waits for something else, and what it gives for a completion depends on no other one; so it
            may be asked about some while others are still drawn. One of the package says so by an attribute of that
            name.
        events: failures so far, by kind.
    """

    name: str
    weight: float
    function: RewardFunction
    columns: tuple[str, ...] = ()
    time_limit: float | None = None
    on_error: Policy = "stop"
    on_timeout: Policy = "stop"
    unit: Literal["completion", "group"] = "completion"
    limits_itself: bool = False
    by_row: bool = False
    events: Counter[str] = field(default_factory=Counter, compare=False)

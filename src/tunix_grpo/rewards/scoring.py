"""What a batch of completions is worth: every reward called, its values checked and summed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunix_grpo.config.plugins import Reporting
from tunix_grpo.errors import shortened
from tunix_grpo.rewards.base import Reward, RewardError, Samples, Scored

SHOWN_CHARS = 300
# Of a reward: trackers hold sums and deviations of rewards as float32, which ends at 3.4e38.
LARGEST = 1e30


@dataclass(frozen=True, slots=True)
class RewardTable:
    """What a batch of completions is worth.

    Attributes:
        total: float[B], the weighted sum of the parts that apply; 0 where none does.
        parts: name of a reward -> float[B], unweighted; None where it does not apply.
        extras: `<reward>/<extra>` -> float[B] of a reward's own numbers; None where a row lacks it.
    """

    total: list[float]
    parts: dict[str, list[float | None]]
    extras: dict[str, list[float | None]] = field(default_factory=dict)

    def with_rows(self, fresh: "RewardTable", rows: np.ndarray) -> "RewardTable":
        """Returns the rows int[B], counted over this table's and then the fresh one's."""

        def taken(own: dict[str, list[float | None]], new: dict[str, list[float | None]]) -> dict:
            missing = [[None] * len(table.total) for table in (self, fresh)]
            columns = {name: own.get(name, missing[0]) + new.get(name, missing[1]) for name in own | new}
            return {name: [column[row] for row in rows] for name, column in columns.items()}

        total = self.total + fresh.total
        return RewardTable(
            [total[row] for row in rows], taken(self.parts, fresh.parts), taken(self.extras, fresh.extras)
        )


def score_completions(rewards: Sequence[Reward], samples: Samples) -> RewardTable:
    """Scores a batch of completions with every reward.

    Args:
        rewards: at least one.
        samples: B completions.

    Raises:
        RewardError: a function raises, or gives anything but a `Value` of at most LARGEST per completion.
    """
    scored = {reward.name: _values(reward, samples) for reward in rewards}
    parts = {name: [each.value for each in column] for name, column in scored.items()}
    total = [_total(rewards, parts, row) for row in range(len(samples))]
    for row, value in enumerate(total):
        if not abs(value) <= LARGEST:
            raise RewardError(
                f"the rewards with their weights sum up to {value:.3g}, more than {LARGEST:.3g} in size, "
                f"{_about(samples, row)}; lower a weight, as reward.custom.weight"
            )
    return RewardTable(total, parts, _extras(scored))


def _total(rewards: Sequence[Reward], parts: Mapping[str, Sequence[float | None]], row: int) -> float:
    values = [(reward.weight, parts[reward.name][row]) for reward in rewards]
    return sum((weight * value for weight, value in values if value is not None), 0.0)


def _extras(scored: Mapping[str, Sequence[Scored]]) -> dict[str, list[float | None]]:
    named = {
        f"{name}/{extra}": (column, extra)
        for name, column in scored.items()
        for extra in dict.fromkeys(extra for each in column for extra in each.extras)
    }
    return {name: [each.extras.get(extra) for each in column] for name, (column, extra) in named.items()}


def _values(reward: Reward, samples: Samples) -> list[Scored]:
    """Calls a reward and returns what it gives as finite floats."""
    values = _call(reward, samples)
    if len(values) != len(samples):
        raise RewardError(
            f"reward {reward.name} returned {len(values)} values for {len(samples)} "
            "completions; it must return one number for each"
        )
    return [_checked(reward, value, samples, row) for row, value in enumerate(values)]


def _checked(reward: Reward, value: object, samples: Samples, row: int) -> Scored:
    """Returns a value with its extras as finite floats."""
    value, extras = value if isinstance(value, Scored) else (value, {})
    numbers = {name: _finite(f"{reward.name}/{name}", extra, samples, row) for name, extra in extras.items()}
    return Scored(None if value is None else _finite(reward.name, value, samples, row), numbers)


def _finite(name: str, value: object, samples: Samples, row: int) -> float:
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise RewardError(f"reward {name} returned {_shorten(value)}, not a finite number, {_about(samples, row)}")
    if abs(number) > LARGEST:
        raise RewardError(
            f"reward {name} returned {number:.3g}, more than {LARGEST:.3g} in size, "
            f"{_about(samples, row)}; divide it, or bound it"
        )
    return number


def _call(reward: Reward, samples: Samples) -> list[object]:
    """Calls a reward; if it raises, calls it row by row to find the completion that it fails on."""
    about = _about(samples, 0) if len(samples) == 1 else f"on {len(samples)} completions together"
    try:
        with Reporting(lambda what: RewardError(f"reward {reward.name} raised {what} {about}")):
            values = reward.function(samples)
            if isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping)):
                return list(values)
    except RewardError:
        if len(samples) > 1:
            for row in range(len(samples)):
                _call(reward, samples.rows([row]))
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


def _about(samples: Samples, row: int) -> str:
    completion, question = samples.completions[row], samples.questions[row].question
    return f"on the completion {_shorten(completion)} of the question {_shorten(question)}"


def _shorten(value: object) -> str:
    return shortened(repr(value), SHOWN_CHARS)

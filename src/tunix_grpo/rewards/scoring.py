"""What a batch of completions is worth: every reward called, failures dealt with, values summed."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tunix_grpo.rewards.ahead import Early
from tunix_grpo.rewards.base import Failure, Policy, Reward, RewardError, Samples, Scored
from tunix_grpo.rewards.calling import outcomes
from tunix_grpo.rewards.values import LARGEST, shown

_log = logging.getLogger(__name__)
_WHAT_IS_DONE = {"zero": "it gets 0", "skip_group": "its group is left out of the update"}


@dataclass(frozen=True, slots=True)
class RewardTable:
    """What a batch of completions is worth.

    Attributes:
        total: float[B], the weighted sum of the parts that apply; 0 where none does.
        parts: name of a reward -> float[B], unweighted; None where it does not apply or could not be had.
        extras: `<reward>/<extra>` -> float[B] of a reward's own numbers; None where a row lacks it.
        skipped: rows whose groups are left out of the update, since a reward could not be had.
        events: `<reward>/errors` and `<reward>/timeouts` -> completions that a reward failed on since the start.
    """

    total: list[float]
    parts: dict[str, list[float | None]]
    extras: dict[str, list[float | None]] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    events: dict[str, int] = field(default_factory=dict)

    def learned_from(self) -> list[float]:
        """Returns the totals, those of a group that is left out all 0: equal rewards teach nothing."""
        return [0.0 if row in self.skipped else value for row, value in enumerate(self.total)]

    def with_rows(self, fresh: "RewardTable", rows: Sequence[int]) -> "RewardTable":
        """Returns the rows int[B], counted over this table's and then the fresh one's."""

        def taken(own: dict[str, list[float | None]], new: dict[str, list[float | None]]) -> dict:
            missing = [[None] * len(table.total) for table in (self, fresh)]
            columns = {name: own.get(name, missing[0]) + new.get(name, missing[1]) for name in own | new}
            return {name: [column[row] for row in rows] for name, column in columns.items()}

        total = self.total + fresh.total
        both_skipped = self.skipped | {len(self.total) + row for row in fresh.skipped}
        return RewardTable(
            [total[row] for row in rows],
            taken(self.parts, fresh.parts),
            taken(self.extras, fresh.extras),
            frozenset(place for place, row in enumerate(rows) if row in both_skipped),
            fresh.events,
        )


def score_completions(rewards: Sequence[Reward], samples: Samples, early: Early | None = None) -> RewardTable:
    """Scores a batch of completions with every reward.

    Args:
        rewards: at least one.
        samples: B completions.
        early: values that rewards have given already, by row; see `Ahead`.

    Raises:
        RewardError: a reward fails whose failures stop the run, or a total is larger than LARGEST.
    """
    skipped: set[int] = set()
    scored = {reward.name: _values(reward, samples, skipped, (early or {}).get(reward.name, {})) for reward in rewards}
    parts = {name: [each.value for each in column] for name, column in scored.items()}
    total = [_total(rewards, parts, row) for row in range(len(samples))]
    for row, value in enumerate(total):
        if not abs(value) <= LARGEST:
            raise RewardError(
                f"the rewards with their weights sum up to {value:.3g}, more than {LARGEST:.3g} in size, "
                f"{_about(samples, row)}; lower a weight, as reward.custom.weight"
            )
    return RewardTable(total, parts, _extras(scored), frozenset(skipped), _events(rewards))


def _values(reward: Reward, samples: Samples, skipped: set[int], early: Mapping[int, Scored | Failure]) -> list[Scored]:
    """Returns a reward's values, with what its policies put in the place of failures.

    Args:
        skipped: gets the rows of the groups that are left out.
        early: values that there are already, by row.
    """
    values = []
    missing = [row for row in range(len(samples)) if row not in early]
    later = dict(zip(missing, outcomes(reward, samples.rows(missing)) if missing else (), strict=True))
    for row, outcome in sorted({**early, **later}.items()):
        if isinstance(outcome, Failure):
            policy = reward.on_error if outcome.kind == "error" else reward.on_timeout
            _note(reward, outcome, policy, samples, row)
            if policy == "skip_group":
                first = row - row % samples.num_generations
                skipped.update(range(first, first + samples.num_generations))
            outcome = Scored(0.0 if policy == "zero" else None)
        values.append(outcome)
    return values


def _note(reward: Reward, failure: Failure, policy: Policy, samples: Samples, row: int) -> None:
    """Counts a failure, and says it: every one that stops the run, the first of each kind that does not."""
    kind = f"{failure.kind}s"
    reward.events[kind] += 1
    if policy != "stop" and reward.events[kind] > 1:
        return
    abouts = {"completion": f" {_about(samples, row)}", "batch": f" on {len(samples)} completions together"}
    settings = "reward.custom" if reward.name == "custom" else f"reward.functions.{reward.name}"
    way_out = failure.way_out.replace("{settings}", settings)
    message = f"reward {reward.name} {failure.reason}{abouts.get(failure.about, '')}{way_out}"
    if policy == "stop":
        raise RewardError(f"{message}{_way_out(failure)}") from failure.cause
    _log.warning("%s: %s; further %s are only counted", message, _WHAT_IS_DONE[policy], kind)


def _way_out(failure: Failure) -> str:
    if failure.kind == "error":
        return ""
    return "; raise its time_limit, or go on without its value by reward.limits.on_timeout=skip_group"


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


def _events(rewards: Sequence[Reward]) -> dict[str, int]:
    """Returns the counts of the rewards whose failures do not all stop the run."""
    going_on = [reward for reward in rewards if (reward.on_error, reward.on_timeout) != ("stop", "stop")]
    return {f"{reward.name}/{kind}": reward.events[kind] for reward in going_on for kind in ("errors", "timeouts")}


def _about(samples: Samples, row: int) -> str:
    completion, question = samples.completions[row], samples.questions[row].question
    return f"on the completion {shown(completion)} of the question {shown(question)}"

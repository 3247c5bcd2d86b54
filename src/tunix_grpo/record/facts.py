"""What is counted over the completions of a step, or of several, to say whether something can be learned from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tunix_grpo.config import RewardsConfig, selected_rewards
from tunix_grpo.grpo.rollout import Rollout
from tunix_grpo.rewards.scoring import RewardTable

FOR_THE_ANSWER = ("correctness", "math")
"""The package's rewards that are for a right answer alone."""
_ROUNDING = 1e-9  # of a sum of weights, far below any difference of rewards that a weight makes


class Updates(NamedTuple):
    """Numbers of the updates of one or more steps.

    Attributes:
        entropy: mean entropy per token, in nats.
        smallest_norm: of the steps' gradients, before clipping.
        largest_norm: of the same.
        clipped: share of tokens whose probability ratio the last update of a step clipped, in [0, 1].
    """

    entropy: float
    smallest_norm: float
    largest_norm: float
    clipped: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What was counted over the completions of one or more steps.

    Attributes:
        completions: how many there are.
        groups: how many prompts they answer.
        equal_groups: groups whose completions all got the same reward.
        answers_differ: groups within which a reward for the answer differs, if only by parts of the score.
        truncated: completions that were cut at generation.max_generation_steps.
        at_maximum: completions with the largest reward there is; None where a reward is the user's own.
        right: completions that the task scores 1; None where it was not asked.
        formed: completions in the form that the format reward wants; None where it was not looked at.
        updates: None before the update.
    """

    completions: int
    groups: int
    equal_groups: int
    answers_differ: int
    truncated: int
    at_maximum: int | None
    right: int | None = None
    formed: int | None = None
    updates: Updates | None = None


def count_facts(rollout: Rollout, rewards: RewardTable, num_generations: int, largest: float | None) -> Facts:
    """Counts over a step's completions what needs no second look at their texts.

    Args:
        largest: the largest reward that a completion can get, None where that is unknown.
    """
    total = np.asarray(rewards.total, np.float64)
    differ = _differing(total, num_generations)
    differ[[row // num_generations for row in rewards.skipped]] = False  # they teach nothing
    parts = [np.asarray([value or 0.0 for value in rewards.parts.get(name, 0 * total)]) for name in FOR_THE_ANSWER]
    answers = [_differing(part, num_generations) for part in parts]
    return Facts(
        completions=total.size,
        groups=differ.size,
        equal_groups=int(np.sum(~differ)),
        answers_differ=int(np.sum(np.any(answers, axis=0))),
        truncated=int(rollout.truncated.sum()),
        at_maximum=None if largest is None else int(np.sum(total >= largest - _ROUNDING)),
    )


def _differing(values: np.ndarray, num_generations: int) -> np.ndarray:
    """Returns bool[P]: not all completions of the group have the same value."""
    groups = values.reshape(-1, num_generations)
    return groups.max(axis=1) != groups.min(axis=1)


def with_updates(facts: Facts, metrics: Mapping[str, float]) -> Facts:
    """Adds what is known after the update(s) of a step, by the names of `record.metrics.METRICS`."""
    norm = metrics["grad_norm"]
    return dataclasses.replace(
        facts, updates=Updates(metrics["entropy"], norm, norm, metrics["clip_ratio/region_mean"])
    )


def over_steps(steps: Sequence[Facts]) -> Facts:
    """Returns the facts of several steps as those of one: sums, means over steps, extremes."""
    maxima = [each.at_maximum for each in steps if each.at_maximum is not None]
    updates = [each.updates for each in steps if each.updates is not None]
    return Facts(
        completions=sum(each.completions for each in steps),
        groups=sum(each.groups for each in steps),
        equal_groups=sum(each.equal_groups for each in steps),
        answers_differ=sum(each.answers_differ for each in steps),
        truncated=sum(each.truncated for each in steps),
        at_maximum=sum(maxima) if len(maxima) == len(steps) else None,
        updates=Updates(
            entropy=float(np.mean([each.entropy for each in updates])),
            smallest_norm=min(each.smallest_norm for each in updates),
            largest_norm=max(each.largest_norm for each in updates),
            clipped=float(np.mean([each.clipped for each in updates])),
        )
        if updates
        else None,
    )


def largest_reward(rewards: RewardsConfig) -> float | None:
    """Returns the largest total that a completion can get; None where a reward's bounds are not known."""
    largest = 0.0
    for reward in selected_rewards(rewards).values():
        if reward.weight != 0:
            bounds = reward.bounds()
            if bounds is None:
                return None
            largest += max(reward.weight * bound for bound in bounds)
    return largest


def counted_weights(rewards: RewardsConfig) -> dict[str, float]:
    """Returns the weights of the rewards that count, by name."""
    return {name: each.weight for name, each in selected_rewards(rewards).items() if each.weight != 0}

"""What a step's rewards say of each completion: which groups teach something, and the advantages.

Letters: P prompts, G completions of each, B = P * G rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from tunix_grpo.config import plugins
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.algorithms import STD_EPS, Advantage, group_std
from tunix_grpo.rewards.scoring import RewardTable


def as_groups(values: np.ndarray, num_generations: int) -> np.ndarray:
    """Returns float64[P, G] of float[B]."""
    return np.asarray(values, np.float64).reshape(-1, num_generations)


def equal_groups(rewards: np.ndarray) -> np.ndarray:
    """Returns bool[P], True for the groups whose rewards float64[P, G] are all exactly equal: they teach nothing."""
    return rewards.max(axis=1) == rewards.min(axis=1)


def group_advantages(rewards: np.ndarray, num_generations: int, advantage: Advantage = group_std) -> np.ndarray:
    """Returns float32[B] advantages; a group of equal rewards gets exactly zero, so that it moves nothing.

    Args:
        rewards: float[B], groups in a row.
        num_generations: G >= 2.
        advantage: of `algorithms`, or a user's own.
    """
    groups = as_groups(rewards, num_generations)
    return np.where(equal_groups(groups)[:, None], 0.0, advantage(groups)).reshape(-1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Advantages:
    """How a step's rewards become advantages.

    Attributes:
        advantage: of `algorithms`, or a user's own.
        weights: of the rewards by name, where each is normalised by itself within its group, then weighted, summed and
            standardised over the step (GDPO, arXiv:2601.05242); None: their weighted sum is normalised.
    """

    advantage: Advantage
    weights: Mapping[str, float] | None = None

    def of(self, rewards: RewardTable, num_generations: int) -> np.ndarray:
        """Returns float32[B] advantages, exactly zero for a group that teaches nothing.

        Groups that are left out of the update have no part in what is taken over the whole step.
        """
        there = np.repeat(~_skipped(rewards, num_generations), num_generations)
        gains = np.zeros(len(there), np.float32)
        if not there.any():
            return gains
        if self.weights is None:
            gains[there] = group_advantages(np.asarray(rewards.total)[there], num_generations, self.advantage)
        else:
            parts = [self._of_part(rewards.parts[name], there, num_generations, each) for name, each in self._counted()]
            summed = np.sum(parts, axis=0)
            gains[there] = (summed - summed.mean()) / (summed.std(ddof=1) + STD_EPS)
        return np.where(np.repeat(self.equal(rewards, num_generations), num_generations), np.float32(0), gains)

    def equal(self, rewards: RewardTable, num_generations: int) -> np.ndarray:
        """Returns bool[P], True for the groups that teach nothing: equal rewards, or one that could not be had."""
        if self.weights is None:
            equal = equal_groups(as_groups(np.asarray(rewards.total), num_generations))
        else:
            each = [equal_groups(_filled(rewards.parts[name], num_generations)) for name, _ in self._counted()]
            equal = np.all(each, axis=0)
        return equal | _skipped(rewards, num_generations)

    def _counted(self) -> list[tuple[str, float]]:
        """Returns the rewards that count, with their weights."""
        assert self.weights is not None
        return [(name, weight) for name, weight in self.weights.items() if weight != 0]

    def _of_part(
        self, values: Sequence[float | None], there: np.ndarray, num_generations: int, weight: float
    ) -> np.ndarray:
        filled = _filled(values, num_generations).reshape(-1)[there]
        return weight * group_advantages(filled, num_generations, self.advantage).astype(np.float64)


def _skipped(rewards: RewardTable, num_generations: int) -> np.ndarray:
    """Returns bool[P], True for the groups that are left out of the update."""
    rows = np.zeros(len(rewards.total), bool)
    rows[sorted(rewards.skipped)] = True
    return rows.reshape(-1, num_generations).max(axis=1)


def _filled(values: Sequence[float | None], num_generations: int) -> np.ndarray:
    """Returns float64[P, G] of a reward; where it does not apply to a completion, the mean of its group, or 0."""
    groups = as_groups(np.array([np.nan if value is None else value for value in values]), num_generations)
    there = ~np.isnan(groups)
    mean = np.where(there, groups, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return np.where(there, groups, mean[:, None])


def advantage_of(name: str) -> Advantage:
    """Returns the function that `grpo.advantage` names; a user's own is checked whenever it is called."""
    function = plugins.resolve(plugins.ADVANTAGES.get(name, name), "grpo.advantage")
    if not plugins.is_outside(name):
        return function

    def checked(rewards: np.ndarray) -> np.ndarray:
        with plugins.Reporting(lambda what: UserError(f"grpo.advantage={name} raised {what}")):
            values = np.asarray(function(rewards.copy()))
        if values.shape != rewards.shape or not np.issubdtype(values.dtype, np.number):
            raise UserError(
                f"grpo.advantage={name} returned {values.dtype}{list(values.shape)} for rewards "
                f"float64{list(rewards.shape)}; it must return a number for each, in the same shape"
            )
        if not np.isfinite(values).all():
            raise UserError(f"grpo.advantage={name} returned a number that is not finite; mind groups of equal rewards")
        return values

    return checked

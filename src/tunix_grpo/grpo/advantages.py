"""What a step's rewards say of each completion: which groups teach something, and the advantages.

Letters: P prompts, G completions of each, B = P * G rows.
"""

from __future__ import annotations

import numpy as np

from tunix_grpo.config import plugins
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.algorithms import Advantage, group_std


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

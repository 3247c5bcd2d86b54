"""Which questions a step asks.

The order is a function of (seed, pass, position): nothing is saved and nothing is replayed on resume.

Letters: P prompts in a step, G completions of each.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tunix_grpo import seeds
from tunix_grpo.text.prompt_set import Batch, PromptSet


@dataclasses.dataclass(frozen=True)
class PromptOrder:
    """Deals out the prompts of a training set, step by step.

    Attributes:
        prompts_per_step: P.
        num_generations: G.
    """

    prompts: PromptSet
    prompts_per_step: int
    num_generations: int
    seed: int

    def batch(self, step: int, extra_round: int = 0) -> Batch:
        """Returns the P prompts of a step, from 1.

        Args:
            extra_round: 0 for those that the step begins with, from 1 on for fresh ones that may replace some.
        """
        if extra_round == 0:
            rows = step_indices(step, len(self.prompts), self.prompts_per_step, self.seed)
        else:
            rows = extra_indices(step, extra_round, len(self.prompts), self.prompts_per_step, self.seed)
        return self.prompts.batch(rows, self.num_generations)


def step_indices(step: int, size: int, prompts_per_step: int, seed: int) -> np.ndarray:
    """Returns int64[P], the indices of step `step` (from 1) into a set of `size`.

    Steps read one endless sequence: pass after pass over the set, each in an order of its own.
    """
    places = np.arange((step - 1) * prompts_per_step, step * prompts_per_step)
    passes, offsets = places // size, places % size
    orders = {p: seeds.generator("training order", seed, int(p)).permutation(size) for p in np.unique(passes)}
    return np.array([orders[p][offset] for p, offset in zip(passes, offsets, strict=True)])


def extra_indices(step: int, extra_round: int, size: int, prompts_per_step: int, seed: int) -> np.ndarray:
    """Returns int64[P], fresh indices for round `extra_round` (from 1) of a step, in a set of `size`.

    Each is new to the step as long as the set has new ones.
    """
    own = step_indices(step, size, prompts_per_step, seed)
    others = np.setdiff1d(np.arange(size), own)
    order = np.concatenate([seeds.generator("extra prompts", seed, step).permutation(others), own])
    places = np.arange((extra_round - 1) * prompts_per_step, extra_round * prompts_per_step)
    return order[places % size]

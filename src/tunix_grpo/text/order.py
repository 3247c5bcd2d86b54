"""Which questions a step asks.

The order is a function of (seed, step) and, where data.order wants it, of the ledger as it was before that step:
nothing random is saved and nothing is replayed on resume.

Letters: N questions in the set, P prompts in a step, G completions of each.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tunix_grpo import seeds
from tunix_grpo.config import Config, DataConfig
from tunix_grpo.text.ledger import Ledger, Outcomes
from tunix_grpo.text.levels import note_level, start_levels
from tunix_grpo.text.prompt_set import Batch, PromptSet
from tunix_grpo.text.rankings import band, hard_first, seldom_first


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOrder:
    """Deals out the prompts of a training set, step by step.

    Attributes:
        prompts_per_step: P.
        num_generations: G.
        data: which order.
        ledger: of the set's questions.
        levels: int[N], the level of each question; None where they have none. Only those of the ledger's level are
            asked.
    """

    prompts: PromptSet
    prompts_per_step: int
    num_generations: int
    seed: int
    data: DataConfig
    ledger: Ledger
    levels: np.ndarray | None = None

    def batch(self, step: int, extra_round: int = 0) -> Batch:
        """Returns the P prompts of a step, from 1.

        Args:
            extra_round: 0 for those that the step begins with, from 1 on for fresh ones that may replace some.
        """
        if self.needs_the_ledger():
            rows = self._by_ledger(step, extra_round)
        elif extra_round == 0:
            rows = step_indices(step, len(self.prompts), self.prompts_per_step, self.seed)
        else:
            rows = extra_indices(step, extra_round, len(self.prompts), self.prompts_per_step, self.seed)
        return self.prompts.batch(rows, self.num_generations)

    def note(self, step: int, outcomes: Outcomes | None) -> None:
        """Enters what a step has shown; None: nothing was judged."""
        if outcomes is not None:
            self.ledger.note(step, outcomes)
            if self.levels is not None:
                note_level(self.ledger, self.levels, outcomes)

    def needs_the_ledger(self) -> bool:
        """Says whether the order follows what steps have shown."""
        return self.data.order != "uniform" or self.levels is not None

    def metrics(self) -> dict[str, float]:
        """Returns the metric names of `record.metrics.METRICS`."""
        return {} if self.ledger.level is None else {"task/level": self.ledger.level}

    def _by_ledger(self, step: int, extra_round: int) -> np.ndarray:
        """Returns int64[P]: no two are the same in a step, as long as the set has others."""
        candidates = np.arange(len(self.prompts))
        if self.levels is not None:
            candidates = candidates[self.levels == self.ledger.level]
        candidates = seeds.generator("question order", self.seed, step).permutation(candidates)
        if self.data.order == "band":
            ranked = band(self.ledger, candidates, self.data.band, step, extra_round + 1, self.prompts_per_step)
        else:
            ranked = (hard_first if self.data.order == "hard_first" else seldom_first)(self.ledger, candidates)
        places = np.arange(extra_round * self.prompts_per_step, (extra_round + 1) * self.prompts_per_step)
        return ranked[places % len(ranked)]


def prompt_order(
    config: Config, training: PromptSet, heldout: PromptSet, prompts_per_step: int, ledger: Ledger
) -> PromptOrder:
    """Returns the order that the settings describe; the ledger gets a level where the questions have levels.

    Args:
        heldout: whose level training starts at.
        prompts_per_step: P.
    """
    return PromptOrder(
        prompts=training,
        prompts_per_step=prompts_per_step,
        num_generations=config.grpo.num_generations,
        seed=config.seed,
        data=config.data,
        ledger=ledger,
        levels=start_levels(ledger, training, heldout),
    )


def step_indices(step: int, size: int, prompts_per_step: int, seed: int, stream: str = "training order") -> np.ndarray:
    """Returns int64[P], the indices of step `step` (from 1) into a set of `size`.

    Steps read one endless sequence: pass after pass over the set, each in an order of its own.

    Args:
        stream: of the random numbers, see `seeds.py`; its places are the passes.
    """
    places = np.arange((step - 1) * prompts_per_step, step * prompts_per_step)
    passes, offsets = places // size, places % size
    orders = {p: seeds.generator(stream, seed, int(p)).permutation(size) for p in np.unique(passes)}
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

"""What passes between the halves of a step, and what a step leaves.

Letters: P prompts, G completions of each, B = P * G rows, T completion tokens.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TypeAlias

import jax
import numpy as np

from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.minibatches import Part
from tunix_grpo.grpo.replacement import Groups
from tunix_grpo.grpo.rollout import Rollout
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.text.prompt_set import Batch


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows of a micro batch on the devices, those that run together.

    Attributes:
        part: which rows of the step it holds.
        sampled: float32[rows, T], log-probabilities as the sampler computed them.
        reference: float32[rows, T], the reference's log-probabilities; None without a KL term.
    """

    part: Part
    completions: Completions
    sampled: jax.Array
    reference: jax.Array | None


MicroBatch: TypeAlias = list[Piece]


@dataclasses.dataclass(frozen=True)
class Collected:
    """The completions of a step and what they are worth, before any update.

    Attributes:
        sampled: prompts, completions and rewards as they were sampled first.
        groups: those that are trained on; the same, unless equal groups were replaced.
        advantages: float32[B].
        minibatches: of each update of a pass the micro batches, each in pieces of alike length.
        timings: seconds by the names of `record.metrics.METRICS`.
    """

    sampled: Groups
    groups: Groups
    advantages: np.ndarray
    minibatches: list[list[MicroBatch]]
    timings: dict[str, float]


@dataclasses.dataclass(frozen=True)
class UpdateHealth:
    """Which of a step's updates were no good.

    Attributes:
        not_finite: updates whose loss or gradient was not finite; they were left out.
        left_out: these, and the spikes that were left out.
        spikes: a few words on each loss or gradient far outside those before it.
    """

    not_finite: int
    left_out: int
    spikes: list[str]

    def metrics(self) -> dict[str, float]:
        """Returns how many updates were left out, by the name of `record.metrics.METRICS`; nothing where none was."""
        return {"updates/left_out": float(self.left_out)} if self.left_out else {}


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        sampled: prompts, completions and rewards as they were sampled first.
        batch: the prompts that were trained on.
        rollout: the completions that were trained on.
        advantages: float32[B].
        metrics: numbers of the update and timings, by the names of `record.metrics.METRICS`.
        num_tokens: prompt and completion tokens that were processed, those of groups that were given back included.
        num_drawn: the completion tokens among them.
        health: which of its updates were no good.
    """

    sampled: Groups
    batch: Batch
    rollout: Rollout
    rewards: RewardTable
    advantages: np.ndarray
    metrics: dict[str, float]
    num_tokens: int
    num_drawn: int
    health: UpdateHealth


class Clock:
    """Times the parts of a step, one after another."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a part, which takes this name, and begins the next."""
        now = time.perf_counter()
        self.laps[name] = now - self._start
        self._start = now

"""What passes between the halves of a step, and what a step leaves.

Letters: P prompts, G completions of each, B = P * G rows, T completion tokens.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import jax
import numpy as np

from tunix_grpo.decoder import layouts
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


def pieces_of(minibatches: Iterable[list[MicroBatch]]) -> list[Piece]:
    """Returns the pieces of a step, in the order in which they run."""
    return [piece for minibatch in minibatches for micro in minibatch for piece in micro]


def by_rows(pieces: Sequence[Piece], values: Sequence[jax.Array | None], shape: tuple[int, int]) -> np.ndarray | None:
    """Returns float32[B, T] on the host, with the values of the rows of pieces; None where there are none.

    Args:
        values: float32[rows, T] of each piece, T as of its completions.
        shape: B and T of the step.
    """
    found = np.zeros(shape, np.float32)
    for piece, of_piece in zip(pieces, values, strict=True):
        if of_piece is None:
            return None
        found[piece.part.rows, : of_piece.shape[1]] = layouts.fetched(of_piece)
    return found


@dataclasses.dataclass
class Turn:
    """What one update of each pass trains on.

    Attributes:
        micros: its micro batches.
        old: of each piece, log-probabilities under the weights that sampled; empty before these have updated.
    """

    micros: list[MicroBatch]
    old: list[jax.Array] = dataclasses.field(default_factory=list)


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
        no_room: a sentence for each time that memory ran out.
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
    no_room: Sequence[str] = ()


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

"""How a step is cut: into minibatches, one for each update of a pass, and these into micro batches.

Letters: P prompts, G completions of each, B = P * G rows (row i belongs to prompt i // G).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.decoder.rows import rows_of
from tunix_grpo.grpo.algorithms import Aggregation, Divisors


class Part(NamedTuple):
    """A micro batch of a step, on the host.

    Attributes:
        prompts: int[p], which prompts of the step it holds.
        rows: int[p * G], which completions.
        kept: float32[p * G], 1 for a completion that has a loss, else 0.
        divisors: what the loss of its minibatch is divided by.
    """

    prompts: np.ndarray
    rows: np.ndarray
    kept: np.ndarray
    divisors: Divisors

    def loss_inputs(self, gains: np.ndarray) -> tuple[jax.Array, jax.Array, Divisors]:
        """Returns what the loss needs beside the completions, on the device.

        Args:
            gains: float32[B], the step's advantages.
        """
        return jax.device_put((gains[self.rows], self.kept, self.divisors))

    def some(self, rows: np.ndarray) -> Part:
        """Returns the part's rows at the indices int[r], with all its prompts."""
        divisors = Divisors(self.divisors.per_row[rows], self.divisors.whole)
        return Part(self.prompts, self.rows[rows], self.kept[rows], divisors)

    def split(self, prompts: int) -> list[Part]:
        """Returns it in parts of so many prompts each, with all their rows; itself where it has no more."""
        count, group = len(self.prompts), len(self.rows) // len(self.prompts)
        if count <= prompts:
            return [self]
        parts = []
        for places in np.split(np.arange(count), count // prompts):
            rows = self.some(rows_of(places, group))
            parts.append(rows._replace(prompts=self.prompts[places]))
        return parts


def joined(parts: Sequence[Part]) -> Part:
    """Returns the whole of which `Part.some` has returned these."""
    rows, kept, per_row = (
        np.concatenate(columns)
        for columns in zip(*((part.rows, part.kept, part.divisors.per_row) for part in parts), strict=True)
    )
    whole = Part(parts[0].prompts, rows, kept, Divisors(per_row, parts[0].divisors.whole))
    return whole.some(np.argsort(rows))  # the rows of a step's micro batches rise


def minibatch_order(num_prompts: int, num_minibatches: int, seed: int, step: int) -> list[np.ndarray]:
    """Returns the prompts of each minibatch, dealt out by (seed, step); a single one has them in their own order."""
    if num_minibatches == 1:
        return [np.arange(num_prompts)]
    order = seeds.generator("minibatches", seed, step).permutation(num_prompts)
    return [np.sort(part) for part in np.split(order, num_minibatches)]


def cut_minibatch(prompts: np.ndarray, micro_prompts: int, has_gradient: np.ndarray | None) -> list[np.ndarray]:
    """Returns the prompts of each micro batch of a minibatch.

    Args:
        prompts: int[p] of the minibatch.
        micro_prompts: of a micro batch; p is a multiple of it.
        has_gradient: bool[P], groups without are left out where that saves a micro batch, but one micro batch stays;
            None leaves out nothing.
    """
    if has_gradient is not None:
        useful = has_gradient[prompts]
        count = max(1, -(-int(useful.sum()) // micro_prompts)) * micro_prompts
        if count < len(prompts):  # those with a gradient, and the first of the others to fill up
            prompts = np.sort(prompts[np.argsort(~useful, kind="stable")[:count]])
    return np.split(prompts, len(prompts) // micro_prompts)


def cut_step(
    minibatches: list[np.ndarray],
    micro_prompts: int,
    lengths: np.ndarray,
    kept: np.ndarray,
    aggregation: Aggregation,
    max_tokens: int,
    has_gradient: np.ndarray | None = None,
) -> list[list[Part]]:
    """Returns for each update of a pass its micro batches.

    A group that is left out for having no gradient still counts in what its minibatch is divided by.

    Args:
        minibatches: the prompts of each, see `minibatch_order`.
        lengths: int[B] of the step's completions, in tokens.
        kept: float32[B], 1 for a completion that has a loss, else 0.
        max_tokens: generation.max_generation_steps.
        has_gradient: as `cut_minibatch` takes it.
    """
    group = len(lengths) // sum(map(len, minibatches))
    per_row = np.asarray(aggregation(lengths, kept, max_tokens).per_row, np.float32)
    parts = []
    for prompts in minibatches:
        all_rows = rows_of(prompts, group)
        whole = np.asarray(aggregation(lengths[all_rows], kept[all_rows], max_tokens).whole, np.float32)
        parts.append([])
        for micro in cut_minibatch(prompts, micro_prompts, has_gradient):
            rows = rows_of(micro, group)
            parts[-1].append(Part(micro, rows, kept[rows], Divisors(per_row[rows], whole)))
    return parts

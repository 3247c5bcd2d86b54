"""A step's completions on the devices: cut into minibatches, micro batches and pieces, beside their reference.

Letters: P prompts, G completions of each, B = P * G rows, T completion tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

import jax
import numpy as np

from tunix_grpo.config import TrainerConfig, plugins
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import AGGREGATIONS
from tunix_grpo.grpo.buckets import cut_by_length, program_tokens, say_new
from tunix_grpo.grpo.memory import Memory
from tunix_grpo.grpo.minibatches import Part, cut_step, joined, minibatch_order
from tunix_grpo.grpo.passes import PassForm, token_logps
from tunix_grpo.grpo.rollout import Rollout
from tunix_grpo.grpo.step import MicroBatch, Piece, Turn, by_rows, pieces_of
from tunix_grpo.model.model import Model


class Cutter:
    """Cuts steps into what runs at once."""

    def __init__(
        self,
        config: TrainerConfig,
        mesh: jax.sharding.Mesh,
        model: Model,
        form: PassForm,
        sampling: Sampling,
        memory: Memory,
    ):
        """
        Args:
            form: of the reference's passes.
            sampling: of the completions.
            memory: says how large micro batches are.
        """
        self._config, self._mesh, self._model, self._form = config, mesh, model, form
        self._sampling, self._memory = sampling, memory
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        self._per_program = program_tokens(model.spec)
        self._known_sizes: set[tuple[int, int]] = set()  # of pieces, whose programs are compiled

    def cut(
        self, step: int, rollout: Rollout, gains: np.ndarray | None = None, skipped: Collection[int] = ()
    ) -> list[list[MicroBatch]]:
        """Cuts a step into the micro batches of each minibatch, and dispatches the reference where there is one.

        Args:
            gains: float32[B]; None where they are not known yet.
            skipped: rows without a loss, since a reward could not be had.
        """
        grpo, group = self._config.grpo, self._sampling.num_generations
        kept = np.where(rollout.truncated & grpo.mask_truncated, np.float32(0), np.float32(1))
        kept[sorted(skipped)] = 0
        has_gradient = None
        if gains is not None and grpo.beta == 0 and not plugins.is_outside(grpo.ratio):
            has_gradient = ((gains * kept) != 0).reshape(-1, group).any(axis=1)
        prompts = minibatch_order(len(kept) // group, grpo.num_minibatches, self._config.seed, step)
        aggregation, longest = AGGREGATIONS[grpo.aggregation], self._config.generation.max_generation_steps
        parts = cut_step(prompts, self._memory.prompts, rollout.lengths, kept, aggregation, longest, has_gradient)
        return [[self._micro_batch(rollout, part) for part in minibatch] for minibatch in parts]

    def cut_smaller(self, rollout: Rollout, turn: Turn) -> None:
        """Cuts micro batches that are larger than the memory has room for, and what is known of their tokens."""
        pieces = pieces_of([turn.micros])
        if all(len(piece.part.prompts) <= self._memory.prompts for piece in pieces):
            return
        parts = [joined([piece.part for piece in micro]).split(self._memory.prompts) for micro in turn.micros]
        reference = by_rows(pieces, [piece.reference for piece in pieces], rollout.logps.shape)
        old = by_rows(pieces, turn.old, rollout.logps.shape) if turn.old else None
        turn.micros = [self._micro_batch(rollout, part, reference) for part in itertools.chain(*parts)]
        if old is not None:
            pieces = pieces_of([turn.micros])
            turn.old = [self._on_devices(old, piece.part, piece.completions) for piece in pieces]

    def _micro_batch(self, rollout: Rollout, part: Part, known: np.ndarray | None = None) -> MicroBatch:
        """Puts a micro batch on the devices, in pieces of alike length, and dispatches the reference.

        Args:
            known: float32[B, T], the reference's log-probabilities; None: they are to be computed.
        """
        lengths, shape = rollout.lengths[part.rows], rollout.batch.prompt_tokens.shape
        cut = cut_by_length(lengths, shape[1], self._sampling, self._mesh.shape["fsdp"], self._per_program)
        say_new(cut, self._known_sizes)
        parts = [part.some(rows) for rows, _, _ in cut]
        batches = []
        for of_rows, (_, prompt, width) in zip(parts, cut, strict=True):
            batch = rollout.batch.rows(part.prompts, of_rows.rows)
            batch = batch._replace(tokens=batch.tokens[:, :width], prompt=prompt)
            batches.append(layouts.put(batch, self._sharding))
        sampled = [self._on_devices(rollout.logps, *each) for each in zip(parts, batches, strict=True)]
        references: Sequence[jax.Array | None] = [None] * len(cut)
        if known is not None:
            references = [self._on_devices(known, *each) for each in zip(parts, batches, strict=True)]
        elif self._config.grpo.beta > 0:
            references = token_logps(self._form, None, self._model.reference, batches)
        return list(map(Piece, parts, batches, sampled, references))

    def _on_devices(self, values: np.ndarray, part: Part, batch: Completions) -> jax.Array:
        """Puts the rows of float32[B, T] that are in a piece on the devices."""
        return layouts.put(values[part.rows, : batch.tokens.shape[1]], self._sharding)

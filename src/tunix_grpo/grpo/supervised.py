"""Supervised steps on one model: it learns to say what demonstrations say.

The loss of a step is the mean negative log-likelihood over all completion tokens of its D demonstrations, the token
that ends a turn included: the sum over the tokens, divided by their number in the whole step. So each token counts the
same, and the loss does not depend on how the step is cut into micro batches, on padding, or on the number of devices,
beyond rounding. Prompts have no loss.

Letters: N demonstrations, D of them in a step, S prompt tokens, T completion tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tunix_grpo.config import SftConfig
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.grpo.answering import Answerer
from tunix_grpo.grpo.learner import Learner
from tunix_grpo.grpo.loss import completion_hits
from tunix_grpo.grpo.rollout import RowTokenizer, Sampler
from tunix_grpo.grpo.spikes import Spikes
from tunix_grpo.grpo.step import Clock, UpdateHealth
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model, ModelForm
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.demonstration_set import DemonstrationSet
from tunix_grpo.text.order import step_indices

# Rows are padded to at least so many tokens; wider ones to twice that, and so on: few programs are compiled.
_NARROWEST = 16


class Sums(NamedTuple):
    """Sums over the completion tokens of a part of a step; those of its parts add up to the step's.

    Attributes:
        loss: the part's share of the step's loss.
        hits: tokens that are the likeliest at their place.
    """

    loss: jax.Array
    hits: jax.Array


@dataclasses.dataclass(frozen=True)
class SupervisedResult:
    """What one step did.

    Attributes:
        prompts, completions: token ids of the demonstrations that it trained on.
        metrics: its numbers and timings, by the names of `record.metrics.METRICS`; what is not finite is left out.
        num_tokens: prompt and completion tokens that it took.
        health: whether its update was any good.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    metrics: dict[str, float]
    num_tokens: int
    health: UpdateHealth


class SupervisedTrainer(Learner):
    """Runs supervised steps. Holds the trained parameters and the optimizer's state between them."""

    def __init__(
        self,
        config: SftConfig,
        mesh: jax.sharding.Mesh,
        model: Model,
        tokenizer: RowTokenizer,
        demonstrations: DemonstrationSet,
        optimizer: optax.GradientTransformation,
        prompt_width: int,
        spikes: Spikes | None = None,
    ):
        """
        Args:
            prompt_width: tokens that the prompts of evaluations are padded to.
            spikes: knows the updates before; None: none is compared.
        """
        super().__init__(model, optimizer, mesh)
        self._config, self._demonstrations, self._pad_id = config, demonstrations, tokenizer.pad_id()
        self.spikes = spikes or Spikes("off", 1.0)
        self._per_step = config.demonstrations_per_step(mesh.shape["fsdp"])
        self._per_micro = config.training.micro_batch_size * mesh.shape["fsdp"]
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        tokens = config.training.micro_batch_size * sum(demonstrations.longest())
        self._remat = choose_remat(config.training.remat, model.spec, tokens, model.dtype)
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=config.seed)

    def answerer(self, rows: int, width: int | None = None) -> Answerer:
        """Returns what answers questions with the current weights; see `Sampler.answerer`."""
        return self._sampler.answerer((self.params, self._frozen), rows, width)

    def ahead(self) -> Ahead:
        """Returns what asks no reward."""
        return Ahead([])

    def reward(self, samples: Samples, early: Early | None = None) -> RewardTable:
        """Returns a table without rewards: demonstrations need none."""
        return RewardTable([0.0] * len(samples), {}, skipped=frozenset(range(len(samples))))

    def step(self, step: int) -> SupervisedResult:
        """Runs one step.

        An update whose loss or gradient is not finite, or a spike that is to be left out, changes nothing.

        Args:
            step: its number, from 1, which decides what it learns from.
        """
        clock, chosen = Clock(), self._demonstrations
        rows = step_indices(step, len(chosen), self._per_step, self._config.seed, "demonstration order")
        lengths = np.array([len(chosen.completions[row]) for row in rows])
        # Alike lengths together: the sums do not depend on it, and less is padding.
        numbers, health = self._update(rows[np.argsort(lengths, kind="stable")], int(lengths.sum()))
        clock.lap("timing/update")
        metrics = numbers | {
            "completions/mean_length": float(lengths.mean()),
            "completions/min_length": float(lengths.min()),
            "completions/max_length": float(lengths.max()),
            **clock.laps,
            "step_time": sum(clock.laps.values()),
        }
        prompts, completions = ([texts[row] for row in rows] for texts in (chosen.prompts, chosen.completions))
        num_tokens = int(lengths.sum()) + sum(map(len, prompts))
        return SupervisedResult(prompts, completions, metrics, num_tokens, health)

    def _update(self, rows: np.ndarray, num_tokens: int) -> tuple[dict[str, float], UpdateHealth]:
        """Makes the update from the demonstrations at the indices int[D]; returns its numbers, and if it was any good.

        Args:
            num_tokens: completion tokens of them all.
        """
        total, form = jnp.float32(num_tokens), self._model.form
        several = self._config.training.gradient_accumulation_steps > 1
        state = jax.tree.map(jnp.zeros_like, (self.params, Sums(jnp.zeros(()), jnp.zeros(())))) if several else None
        for batch in self._micro_batches(rows):
            state = accumulate(form, self._remat, self.params, self._frozen, state, batch, total)
        assert state is not None  # a step has demonstrations
        gradient, sums = state
        self.params, self.optimizer_state, norm, made = self._apply(
            self.params, self.optimizer_state, gradient, sums.loss, self.spikes.limits_of_updates()
        )
        loss, hits, norm, made = (float(each) for each in jax.device_get((*sums, norm, made)))
        finite = math.isfinite(loss) and math.isfinite(norm)
        health = UpdateHealth(int(not finite), int(not made), self.spikes.note([(loss, norm)]))
        metrics = {"loss": loss, "mean_token_accuracy": hits / num_tokens, "grad_norm": norm} if finite else {}
        return health.metrics() | metrics, health

    def _micro_batches(self, rows: np.ndarray) -> Iterator[Completions]:
        """Yields the demonstrations at the indices int[D], on the devices."""
        chosen = self._demonstrations
        longest = chosen.longest()
        for part in np.split(rows, len(rows) // self._per_micro):
            prompts, completions = ([texts[row] for row in part] for texts in (chosen.prompts, chosen.completions))
            asked = left_padded(prompts, width_for(prompts, longest[0]), self._pad_id)
            tokens = np.full((len(part), width_for(completions, longest[1])), self._pad_id, np.int32)
            for place, ids in enumerate(completions):
                tokens[place, : len(ids)] = ids
            lengths = np.array([len(ids) for ids in completions], np.int32)
            yield Completions(*jax.device_put((*asked, tokens, lengths), self._sharding))


# Of the module, not of a trainer, so that the jobs of a sweep in one process share what is compiled.
@functools.partial(jax.jit, static_argnames=("form", "remat"), donate_argnames="state")
def accumulate(
    form: ModelForm,
    remat: str,
    params: LeafTree,
    frozen: Weights,
    state: tuple[LeafTree, Sums] | None,
    batch: Completions,
    total: jax.Array,
) -> tuple[LeafTree, Sums]:
    """Adds the gradient and the sums of a micro batch to `state`.

    Args:
        remat: what of the pass is computed again: none, block or full.
        state: None before the only micro batch of a step; its memory is used again.
        total: float32[], completion tokens of the whole step.
    """

    def loss_of(params: LeafTree) -> tuple[jax.Array, Sums]:
        weights = form.decoder_weights(form.laid_out(params), frozen)
        logps, hits = completion_hits(form.spec, weights, batch, attention_form=form.attention_form, remat=remat)
        mask = batch.mask()
        loss = -jnp.sum(jnp.where(mask, logps, 0.0)) / total
        return loss, Sums(loss, jnp.sum(jnp.where(mask, hits, 0.0)))

    added = jax.grad(loss_of, has_aux=True)(params)
    return added if state is None else jax.tree.map(jnp.add, state, added)


def width_for(rows: Sequence[Sequence[int]], longest: int) -> int:
    """Returns the tokens that rows are padded to: 16, 32, 64, ..., but not more than the longest of all rows needs."""
    wanted = max(map(len, rows))
    width = _NARROWEST
    while width < wanted:
        width *= 2
    return min(width, _NARROWEST * math.ceil(longest / _NARROWEST))

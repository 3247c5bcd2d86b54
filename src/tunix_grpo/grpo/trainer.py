"""GRPO steps on one model.

What differs from the GRPO paper (arXiv:2402.03300) and from stock Tunix, in one place:
  * the KL penalty is k3 (or k2) in the loss; k1, Tunix's default, has zero expected gradient;
  * the end-of-turn token belongs to the completion, the mask and the loss;
  * completions, old, reference and trained log-probabilities all use the sampling temperature;
  * a step is normalised as a whole, however it is cut into micro batches;
  * old log-probabilities are those of the update's own first pass, so that its ratio is exactly 1.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tunix_grpo.config import TrainerConfig
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.loss import LossSums, completion_logprobs, group_advantages, grpo_loss
from tunix_grpo.grpo.rollout import Drawing, Rollout, RowTokenizer, Sampler, train_sampling
from tunix_grpo.grpo.updates import apply_gradient, laid_out, no_sums, require_finite, update_metrics
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import RewardTable, score_completions
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch

Gradient: TypeAlias = tuple[LeafTree, LossSums]  # of the micro batches so far, added up


class MicroBatch(NamedTuple):
    """A part of a step, ready for the loss."""

    completions: Completions
    advantages: jax.Array
    ref_logps: jax.Array | None
    old_logps: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Collected:
    """The completions of a step and what they are worth, before any update.

    Attributes:
        advantages: float32[B].
        micro_batches: the completions on the devices, cut for the loss.
        reference: of each micro batch the reference's log-probabilities; None without a KL term.
        timings: seconds by the names of `record.metrics.METRICS`.
    """

    rollout: Rollout
    rewards: RewardTable
    advantages: np.ndarray
    micro_batches: list[Completions]
    reference: Sequence[jax.Array | None]
    timings: dict[str, float]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        rollout: the completions.
        advantages: float32[B].
        metrics: numbers of the update and timings, by the names of `record.metrics.METRICS`.
    """

    rollout: Rollout
    rewards: RewardTable
    advantages: np.ndarray
    metrics: dict[str, float]


class Trainer:
    """Runs GRPO steps. Holds the trained parameters and the optimizer's state between them."""

    def __init__(
        self,
        config: TrainerConfig,
        mesh: jax.sharding.Mesh,
        model: Model,
        tokenizer: RowTokenizer,
        task: Task,
        rewards: list[Reward],
        optimizer: optax.GradientTransformation,
        prompt_width: int,
    ):
        """
        Args:
            prompt_width: tokens that prompts are padded to.
        """
        self._config, self._mesh, self._model, self._task, self._rewards = config, mesh, model, task, rewards
        self._sampling = train_sampling(config)
        group, devices = config.grpo.num_generations, mesh.shape["fsdp"]
        self._micro_rows = config.training.micro_batch_size * group * devices  # completions
        self._step_rows = config.completions_per_step(devices)
        tokens = config.training.micro_batch_size * (prompt_width + group * config.generation.max_generation_steps)
        self.remat = choose_remat(config.training.remat, model.spec, tokens, model.dtype)
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=config.seed)
        self._frozen = model.frozen
        # Laid out for good, so that an update can reuse their memory and is compiled once.
        self.params, params_layout = laid_out(model.trained, mesh)
        self.optimizer_state, optimizer_layout = laid_out(optimizer.init(self.params), mesh)
        self._accumulate = jax.jit(self._micro_gradient, donate_argnums=(2,))
        self._apply = jax.jit(
            functools.partial(apply_gradient, optimizer),
            donate_argnums=(0, 1),
            out_shardings=(params_layout, optimizer_layout, None),
        )
        self._reference_logps = jax.jit(lambda weights, batch: self._logprobs(weights, batch)[0])

    def restore(self, params: LeafTree, optimizer_state: optax.OptState) -> None:
        """Continues from saved parameters and optimizer state."""
        self.params, self.optimizer_state = params, optimizer_state

    def parameter_counts(self) -> tuple[int, int]:
        """Returns (trained, all) parameters; adapters count in both."""
        trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (self.params, self._frozen))
        return trained, trained + frozen

    def reward(self, samples: Samples) -> RewardTable:
        """Returns what completions are worth."""
        return score_completions(self._rewards, samples)

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Rollout:
        """Samples from the current weights."""
        return self.start(prompts, sampling, step).rollout()

    def start(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Drawing:
        """Sets sampling from the current weights going."""
        return self._sampler.start((self.params, self._frozen), prompts, sampling, step)

    def step(self, step: int, batch: Batch) -> StepResult:
        """Runs one step whole: `collect`, then `update`."""
        return self.update(self.collect(step, batch))

    def collect(self, step: int, batch: Batch) -> Collected:
        """Runs the first half of a step, which moves nothing: rollout, rewards, reference.

        Args:
            step: its number, from 1; random numbers depend on it.
            batch: the step's prompts.

        Raises:
            UserError: a reward fails.
        """
        clock = _Clock()
        rollout = self.sample(batch.ids, self._sampling, step)
        clock.lap("timing/rollout")
        micro_batches = self._cut(rollout.batch)
        if self._config.grpo.beta > 0:  # dispatched first: the device works while the host computes rewards
            reference = [self._reference_logps(self._model.reference, batch) for batch in micro_batches]
        else:
            reference = [None] * len(micro_batches)
        rewards = self.reward(
            Samples(
                prompts=batch.per_completion(batch.texts),
                completions=rollout.texts,
                questions=batch.per_completion(batch.questions),
                task=self._task,
                token_lengths=rollout.lengths.tolist(),
                step=step,
                num_generations=batch.num_generations,
                max_tokens=self._sampling.max_tokens,
                token_ids=rollout.token_ids,
            )
        )
        advantages = group_advantages(np.asarray(rewards.total), batch.num_generations)
        advantages[sorted(rewards.skipped)] = 0.0
        clock.lap("timing/reward")
        jax.block_until_ready(reference)
        clock.lap("timing/reference")
        return Collected(rollout, rewards, advantages, micro_batches, reference, clock.laps)

    def update(self, done: Collected) -> StepResult:
        """Runs the second half of a step: the update(s) from what was collected with the current weights.

        Raises:
            UserError: the loss or the gradient is not finite; then nothing has moved.
        """
        clock = _Clock()
        metrics = self._update(done.micro_batches, done.advantages, done.reference)
        require_finite(metrics)
        clock.lap("timing/update")
        timings = done.timings | clock.laps
        metrics |= timings | {"step_time": sum(timings.values())}
        return StepResult(done.rollout, done.rewards, done.advantages, metrics)

    def _cut(self, batch: Completions) -> list[Completions]:
        """Cuts a step into micro batches of whole groups."""
        group = self._sampling.num_generations
        rows = self._micro_rows
        count = batch.tokens.shape[0] // rows
        sharding = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec("fsdp"))

        def part(index: int) -> Completions:
            prompts = slice(index * rows // group, (index + 1) * rows // group)
            completions = slice(index * rows, (index + 1) * rows)
            pieces = (
                batch.prompt_tokens[prompts],
                batch.prompt_valid[prompts],
                batch.tokens[completions],
                batch.lengths[completions],
            )
            return Completions(*jax.device_put(pieces, sharding))

        return [batch] if count == 1 else [part(index) for index in range(count)]

    def _update(
        self, batches: list[Completions], gains: np.ndarray, reference: Sequence[jax.Array | None]
    ) -> dict[str, float]:
        """Runs num_iterations optimizer updates on one step's completions and returns their metrics.

        Clip ratios are of the last update. All others are of the first, whose weights are those that sampled.
        """
        old: list[jax.Array | None] = [None] * len(batches)
        gains_of = np.split(gains, len(batches))
        updates: list[tuple[LossSums, jax.Array]] = []  # of each the sums and the gradient's norm
        for _ in range(self._config.grpo.num_iterations):
            state: Any = jax.tree.map(jnp.zeros_like, (self.params, no_sums())) if len(batches) > 1 else None
            new = []
            for batch, gain, ref, before in zip(batches, gains_of, reference, old, strict=True):
                micro = MicroBatch(batch, jnp.asarray(gain), ref, before)
                state, logps = self._accumulate(self.params, self._frozen, state, micro)
                new.append(logps)
            if not updates:
                old = new  # under the weights that sampled
            gradient, sums = state
            self.params, self.optimizer_state, norm = self._apply(self.params, self.optimizer_state, gradient)
            updates.append((sums, norm))
        tokens = sum(batch.lengths.sum() for batch in batches)
        (sums, norm), (last, _), tokens = jax.device_get((updates[0], updates[-1], tokens))
        return update_metrics(sums, norm, last, int(tokens), with_kl=self._config.grpo.beta > 0)

    def _micro_gradient(
        self, params: LeafTree, frozen: Weights, state: Gradient | None, micro: MicroBatch
    ) -> tuple[Gradient, jax.Array]:
        """Adds the gradient and the sums of a micro batch to `state`; returns the log-probabilities of its tokens too.

        Args:
            state: None before the only micro batch of an update.
        """
        grpo, batch = self._config.grpo, micro.completions

        def loss_of(params: LeafTree) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
            logps, entropies = self._logprobs(self._model.decoder_weights(params, frozen), batch, self.remat)
            sums = grpo_loss(
                logps,
                entropies,
                micro.old_logps,
                micro.ref_logps,
                micro.advantages,
                batch,
                step_rows=self._step_rows,
                epsilon=grpo.epsilon,
                beta=grpo.beta,
                kl_estimator=grpo.kl_estimator,
            )
            return sums.loss, (sums, logps)

        gradient, (sums, logps) = jax.grad(loss_of, has_aux=True)(params)
        added = (gradient, sums)
        if state is not None:
            added = jax.tree.map(jnp.add, state, added)
        return added, logps

    def _logprobs(self, weights: Weights, batch: Completions, remat: str = "none") -> tuple[jax.Array, jax.Array]:
        form, temperature = self._model.attention_form, self._config.generation.temperature
        return completion_logprobs(self._model.spec, weights, batch, temperature, attention_form=form, remat=remat)


class _Clock:
    """Times the parts of a step, one after another."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._start
        self._start = now

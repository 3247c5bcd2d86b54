"""GRPO steps on one model.

What differs from the GRPO paper (arXiv:2402.03300) and from stock Tunix, in one place:
  * the KL penalty is k3 (or k2) in the loss; k1, Tunix's default, has zero expected gradient;
  * the end-of-turn token belongs to the completion, the mask and the loss;
  * completions, old, reference and trained log-probabilities all use the sampling temperature;
  * an update is normalised as a whole, however it is cut into micro batches;
  * old log-probabilities are the trainer's, not the sampler's; those of the first update are of its own pass, so that
    its ratio is exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tunix_grpo.config import TrainerConfig, plugins
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.advantages import Advantages, advantage_of
from tunix_grpo.grpo.algorithms import AGGREGATIONS, objective_of
from tunix_grpo.grpo.learner import Learner
from tunix_grpo.grpo.loss import LossInputs, LossSums, completion_logprobs, grpo_loss, sampling_difference
from tunix_grpo.grpo.minibatches import Part, cut_step, minibatch_order
from tunix_grpo.grpo.replacement import Groups, replace_equal_groups, right_answers
from tunix_grpo.grpo.rollout import Drawing, Rollout, RowTokenizer, Sampler, train_sampling
from tunix_grpo.grpo.step import Clock, Collected, MicroBatch, StepResult
from tunix_grpo.grpo.updates import Update, no_sums, require_finite, update_metrics
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import RewardTable, score_completions
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch

Gradient: TypeAlias = tuple[LeafTree, LossSums]  # of the micro batches so far, added up


class Trainer(Learner):
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
        normalise_each: bool = False,
        count_right: bool = False,
    ):
        """
        Args:
            prompt_width: tokens that prompts are padded to.
            normalise_each: normalises each reward within its group before they are summed.
            count_right: asks the task which completions are right, where no reward does.
        """
        super().__init__(model, optimizer, mesh)
        self._config, self._mesh, self._task, self._rewards = config, mesh, task, rewards
        self._sampling, self._asked = train_sampling(config), task if count_right else None
        weights = {reward.name: reward.weight for reward in rewards}
        self._advantages = Advantages(advantage_of(config.grpo.advantage), weights if normalise_each else None)
        self._objective, group = objective_of(config.grpo), config.grpo.num_generations
        self._micro_prompts = config.training.micro_batch_size * mesh.shape["fsdp"]
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        tokens = config.training.micro_batch_size * (prompt_width + group * config.generation.max_generation_steps)
        self.remat = choose_remat(config.training.remat, model.spec, tokens, model.dtype)
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=config.seed)
        self._accumulate = jax.jit(self._micro_gradient, donate_argnums=(2,))
        self._reference_logps = jax.jit(lambda weights, batch: self._logprobs(weights, batch)[0])
        self._policy_logps = jax.jit(
            lambda params, frozen, batch: self._logprobs(model.decoder_weights(params, frozen), batch)[0]
        )
        self._difference = jax.jit(sampling_difference)

    def reward(self, samples: Samples) -> RewardTable:
        """Returns what completions are worth."""
        return score_completions(self._rewards, samples)

    def groups(self, batch: Batch, rollout: Rollout, step: int) -> Groups:
        """Returns completions that are trained on, with what they are worth."""
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
        outcomes = right_answers(batch, rollout, rewards, self._asked)
        return Groups(batch, rollout, rewards, self._advantages.equal(rewards, batch.num_generations), outcomes)

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Rollout:
        """Samples from the current weights."""
        return self.start(prompts, sampling, step).rollout()

    def start(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Drawing:
        """Sets sampling from the current weights going."""
        return self._sampler.start((self.params, self._frozen), prompts, sampling, step)

    def draw(self, batch: Batch, step: int, extra_round: int = 0) -> Rollout:
        """Samples the completions of a batch that is trained on; see `Sampler.start`."""
        weights = self.params, self._frozen
        return self._sampler.start(weights, batch.ids, self._sampling, step, extra_round).rollout()

    def step(self, step: int, batch: Batch) -> StepResult:
        """Runs one step whole: `collect`, then `update`."""
        return self.update(self.collect(step, batch))

    def collect(self, step: int, batch: Batch, fresh: Callable[[int], Batch] | None = None) -> Collected:
        """Runs the first half of a step, which moves nothing: rollout, rewards, reference.

        Args:
            step: its number, from 1; random numbers depend on it.
            batch: the step's prompts.
            fresh: round from 1 -> as many prompts, which may take the place of groups that teach nothing.

        Raises:
            UserError: a reward fails.
        """
        clock, grpo = Clock(), self._config.grpo
        rollout = self.draw(batch, step)
        clock.lap("timing/rollout")
        minibatches = None
        if grpo.beta > 0 and fresh is None:  # dispatched first: the device works while the host computes rewards
            minibatches = self._cut(step, rollout)
        sampled = groups = self.groups(batch, rollout, step)
        clock.lap("timing/reward")
        if fresh is not None:
            groups = replace_equal_groups(self, sampled, fresh, step, grpo.max_extra_rounds)
            clock.lap("timing/replacement")
        gains = self._advantages.of(groups.rewards, batch.num_generations)
        if minibatches is None or groups.rewards.skipped:
            minibatches = self._cut(step, groups.rollout, gains, groups.rewards.skipped)
        jax.block_until_ready([micro.reference for micros in minibatches for micro in micros])
        clock.lap("timing/reference")
        return Collected(sampled, groups, gains, minibatches, clock.laps)

    def update(self, done: Collected) -> StepResult:
        """Runs the second half of a step: the update(s) from what was collected with the current weights.

        Raises:
            UserError: the loss or the gradient is not finite; nothing has moved where the step has one update.
            HalfStepError: likewise where it has several; then some have moved the weights.
        """
        clock, groups = Clock(), done.groups
        metrics = self._update(done)
        require_finite(metrics, self._config.grpo.updates_per_step)
        clock.lap("timing/update")
        timings = done.timings | clock.laps
        metrics |= timings | {"step_time": sum(timings.values())}
        if self._config.grpo.mask_truncated:
            metrics["completions/masked_ratio"] = float(np.mean(groups.rollout.truncated))
        if self._config.grpo.replace_equal_groups:
            metrics |= groups.metrics()
        tokens = groups.num_tokens() + groups.given_back_tokens, groups.num_drawn() + groups.given_back_drawn
        trained = (groups.batch, groups.rollout, groups.rewards, done.advantages)
        return StepResult(done.sampled, *trained, metrics, *tokens)

    def _cut(
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
        parts = cut_step(prompts, self._micro_prompts, rollout.lengths, kept, aggregation, longest, has_gradient)
        return [[self._micro_batch(rollout, part) for part in minibatch] for minibatch in parts]

    def _micro_batch(self, rollout: Rollout, part: Part) -> MicroBatch:
        batch, sampled = rollout.batch, rollout.logps
        if len(part.prompts) < batch.prompt_tokens.shape[0]:
            batch, sampled = batch.rows(part.prompts, part.rows), sampled[part.rows]
        batch = jax.device_put(batch, self._sharding)
        reference = self._reference_logps(self._model.reference, batch) if self._config.grpo.beta > 0 else None
        return MicroBatch(part, batch, sampled, reference)

    def _update(self, done: Collected) -> dict[str, float]:
        """Runs the optimizer updates of a step and returns their metrics.

        Clip ratios and the mean ratio are of the last pass. All others are of the first.
        """
        old = self._old_logps(done)
        passes: list[list[Update]] = []
        for _ in range(self._config.grpo.num_iterations):
            updates = []
            for index, minibatch in enumerate(done.minibatches):
                update, logps = self._one_update(done, minibatch, old[index])
                old[index] = old[index] or logps
                updates.append(update)
            passes.append(updates)
        micros = [micro for minibatch in done.minibatches for micro in minibatch]
        differences = [
            self._difference(trained, micro.sampled, micro.completions)
            for micro, trained in zip(micros, [logps for minibatch in old for logps in minibatch], strict=True)
        ]
        passes, differences = jax.device_get((passes, differences))
        return update_metrics(passes, differences, with_kl=self._config.grpo.beta > 0)

    def _old_logps(self, done: Collected) -> list[list[jax.Array]]:
        """Returns, by minibatch and micro batch, log-probabilities under the weights that sampled.

        Empty for the first minibatch, whose own first pass gives them; the weights have moved when the others' turn
        comes.
        """
        return [
            [self._policy_logps(self.params, self._frozen, micro.completions) for micro in minibatch] if index else []
            for index, minibatch in enumerate(done.minibatches)
        ]

    def _one_update(
        self, done: Collected, minibatch: list[MicroBatch], old: list[jax.Array]
    ) -> tuple[Update, list[jax.Array]]:
        """Makes an optimizer update; returns its numbers, and the log-probabilities of each micro batch before it.

        Args:
            old: of each micro batch, log-probabilities under the weights that sampled; empty: these weights sampled.
        """
        several = self._config.training.gradient_accumulation_steps > 1
        state: Any = jax.tree.map(jnp.zeros_like, (self.params, no_sums())) if several else None
        logps = []
        for index, micro in enumerate(minibatch):
            gains, kept, divisors = micro.part.loss_inputs(done.advantages)
            sampled = micro.sampled if self._objective.importance != "none" else None
            before = old[index] if old else None
            inputs = LossInputs(micro.completions, gains, kept, divisors, micro.reference, before, sampled)
            state, trained = self._accumulate(self.params, self._frozen, state, inputs)
            logps.append(trained)
        gradient, sums = state
        self.params, self.optimizer_state, norm = self._apply(self.params, self.optimizer_state, gradient)
        return Update(sums, norm), logps

    def _micro_gradient(
        self, params: LeafTree, frozen: Weights, state: Gradient | None, inputs: LossInputs
    ) -> tuple[Gradient, jax.Array]:
        """Adds the gradient and the sums of a micro batch to `state`; returns the log-probabilities of its tokens too.

        Args:
            state: None before the only micro batch of an update.
        """

        def loss_of(params: LeafTree) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
            weights = self._model.decoder_weights(params, frozen)
            logps, entropies = self._logprobs(weights, inputs.completions, self.remat)
            sums = grpo_loss(logps, entropies, inputs, self._objective)
            return sums.loss, (sums, logps)

        gradient, (sums, logps) = jax.grad(loss_of, has_aux=True)(params)
        added = (gradient, sums)
        if state is not None:
            added = jax.tree.map(jnp.add, state, added)
        return added, logps

    def _logprobs(self, weights: Weights, batch: Completions, remat: str = "none") -> tuple[jax.Array, jax.Array]:
        form, temperature = self._model.attention_form, self._config.generation.temperature
        return completion_logprobs(self._model.spec, weights, batch, temperature, attention_form=form, remat=remat)

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

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
import optax

from tunix_grpo.config import TrainerConfig, plugins
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.advantages import Advantages, advantage_of
from tunix_grpo.grpo.algorithms import AGGREGATIONS, objective_of
from tunix_grpo.grpo.answering import Answerer
from tunix_grpo.grpo.buckets import cut_by_length, say_new
from tunix_grpo.grpo.learner import Learner
from tunix_grpo.grpo.loss import LossInputs, sampling_difference
from tunix_grpo.grpo.minibatches import Part, cut_step, minibatch_order
from tunix_grpo.grpo.passes import PassForm, accumulate_pieces, token_logps
from tunix_grpo.grpo.replacement import Groups, replace_equal_groups, right_answers
from tunix_grpo.grpo.rollout import Rollout, RowTokenizer, Sampler, samples_of, train_sampling
from tunix_grpo.grpo.shared_scoring import score_together
from tunix_grpo.grpo.spikes import Limits, Spikes
from tunix_grpo.grpo.step import Clock, Collected, MicroBatch, Piece, StepResult, UpdateHealth
from tunix_grpo.grpo.updates import Update, no_gradient, update_health, update_metrics
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch


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
        spikes: Spikes | None = None,
        hosts: Hosts = ALONE,
    ):
        """
        Args:
            prompt_width: tokens that prompts are padded to.
            normalise_each: normalises each reward within its group before they are summed.
            count_right: asks the task which completions are right, where no reward does.
            spikes: knows the updates before; None: none is compared.
            hosts: the processes that train together.
        """
        super().__init__(model, optimizer, mesh)
        self._config, self._mesh, self._task, self._rewards = config, mesh, task, rewards
        self.spikes, self._hosts = spikes or Spikes("off", 1.0), hosts
        self._sampling, self._asked = train_sampling(config), task if count_right else None
        weights = {reward.name: reward.weight for reward in rewards}
        self._advantages = Advantages(advantage_of(config.grpo.advantage), weights if normalise_each else None)
        self._objective, group = objective_of(config.grpo), config.grpo.num_generations
        self._micro_prompts = config.training.micro_batch_size * mesh.shape["fsdp"]
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        tokens = config.training.micro_batch_size * (prompt_width + group * config.generation.max_generation_steps)
        self.remat = choose_remat(config.training.remat, model.spec, tokens, model.dtype)
        rows = config.generation.max_rows
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=config.seed, max_rows=rows)
        self._known_sizes: set[tuple[int, int]] = set()  # of pieces, whose programs are compiled
        self._form = PassForm(model.form, self._objective, config.generation.temperature, self.remat)

    def ahead(self) -> Ahead:
        """Returns what asks slow rewards about completions while others are drawn."""
        return Ahead(self._rewards)

    def reward(self, samples: Samples, early: Early | None = None) -> RewardTable:
        """Returns what completions are worth; see `score_completions`."""
        return score_together(self._hosts, self._rewards, samples, early)

    def groups(self, batch: Batch, rollout: Rollout, step: int, ahead: Ahead) -> Groups:
        """Returns completions that are trained on, with what they are worth."""
        rows = range(len(rollout.texts))
        drawn = list(zip(rows, rollout.texts, rollout.token_ids, strict=True))
        rewards = self.reward(samples_of(batch, drawn, self._task, step, self._sampling.max_tokens), ahead.values(rows))
        outcomes = right_answers(batch, rollout, rewards, self._asked, self._hosts)
        return Groups(batch, rollout, rewards, self._advantages.equal(rewards, batch.num_generations), outcomes)

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Rollout:
        """Samples from the current weights."""
        return self._sampler.sample((self.params, self._frozen), prompts, sampling, step)

    def answerer(self, rows: int, width: int | None = None) -> Answerer:
        """Returns what answers questions with the current weights; see `Sampler.answerer`."""
        return self._sampler.answerer((self.params, self._frozen), rows, width)

    def draw(self, batch: Batch, step: int, extra_round: int, ahead: Ahead) -> Rollout:
        """Samples the completions of a batch that is trained on; see `Sampler.sample`."""

        own = self._hosts.part(len(batch) * batch.num_generations, batch.num_generations)

        def ended(row: int, text: str, token_ids: list[int]) -> None:
            if row not in own:  # another host asks about it
                return
            one = [(row, text, token_ids)]
            ahead.add(row, samples_of(batch, one, self._task, step, self._sampling.max_tokens))

        weights = self.params, self._frozen
        return self._sampler.sample(weights, batch.ids, self._sampling, step, extra_round, ended, batch.limits)

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
        ahead = self.ahead()
        rollout = self.draw(batch, step, 0, ahead)
        clock.lap("timing/rollout")
        minibatches = None
        if grpo.beta > 0 and fresh is None:  # dispatched first: the device works while the host computes rewards
            minibatches = self._cut(step, rollout)
        sampled = groups = self.groups(batch, rollout, step, ahead)
        clock.lap("timing/reward")
        if fresh is not None:
            groups = replace_equal_groups(self, sampled, fresh, step, grpo.max_extra_rounds)
            clock.lap("timing/replacement")
        gains = self._advantages.of(groups.rewards, batch.num_generations)
        if minibatches is None or groups.rewards.skipped:
            minibatches = self._cut(step, groups.rollout, gains, groups.rewards.skipped)
        jax.block_until_ready([piece.reference for piece in _pieces(minibatches)])
        clock.lap("timing/reference")
        return Collected(sampled, groups, gains, minibatches, clock.laps)

    def update(self, done: Collected) -> StepResult:
        """Runs the second half of a step: the update(s) from what was collected with the current weights.

        An update whose loss or gradient is not finite, or a spike that is to be left out, changes nothing.
        """
        clock, groups = Clock(), done.groups
        metrics, health = self._update(done)
        clock.lap("timing/update")
        timings = done.timings | clock.laps
        metrics |= timings | {"step_time": sum(timings.values())}
        if self._config.grpo.mask_truncated:
            metrics["completions/masked_ratio"] = float(np.mean(groups.rollout.truncated))
        if self._config.grpo.replace_equal_groups:
            metrics |= groups.metrics()
        tokens = groups.num_tokens() + groups.given_back_tokens, groups.num_drawn() + groups.given_back_drawn
        trained = (groups.batch, groups.rollout, groups.rewards, done.advantages)
        return StepResult(done.sampled, *trained, metrics, *tokens, health)

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
        """Puts a micro batch on the devices, in pieces of alike length, and dispatches the reference."""
        lengths, shape = rollout.lengths[part.rows], rollout.batch.prompt_tokens.shape
        cut = cut_by_length(lengths, shape[1], self._sampling, self._mesh.shape["fsdp"])
        say_new(cut, self._known_sizes)
        parts = [part.some(rows) for rows, _, _ in cut]
        batches, sampled = [], []
        for of_rows, (_, prompt, width) in zip(parts, cut, strict=True):
            batch = rollout.batch.rows(part.prompts, of_rows.rows)
            batch = batch._replace(tokens=batch.tokens[:, :width], prompt=prompt)
            batches.append(layouts.put(batch, self._sharding))
            sampled.append(layouts.put(rollout.logps[of_rows.rows, :width], self._sharding))
        references: Sequence[jax.Array | None] = [None] * len(cut)
        if self._config.grpo.beta > 0:
            references = token_logps(self._form, None, self._model.reference, batches)
        return list(map(Piece, parts, batches, sampled, references))

    def _update(self, done: Collected) -> tuple[dict[str, float], UpdateHealth]:
        """Runs the optimizer updates of a step and returns their metrics, and which of them were no good."""
        old, limits = self._old_logps(done), self.spikes.limits_of_updates()
        passes: list[list[Update]] = []
        for _ in range(self._config.grpo.num_iterations):
            updates = []
            for index, minibatch in enumerate(done.minibatches):
                update, logps = self._one_update(done, minibatch, old[index], limits)
                old[index] = old[index] or logps
                updates.append(update)
            passes.append(updates)
        differences = [
            sampling_difference(trained, piece.sampled, piece.completions)
            for piece, trained in zip(_pieces(done.minibatches), itertools.chain(*old), strict=True)
        ]
        passes, differences = layouts.fetched((passes, differences))
        health = update_health(passes, self.spikes)
        metrics = update_metrics(passes, differences, with_kl=self._config.grpo.beta > 0)
        return health.metrics() | metrics, health

    def _old_logps(self, done: Collected) -> list[list[jax.Array]]:
        """Returns, by minibatch and piece, log-probabilities under the weights that sampled.

        Empty for the first minibatch, whose own first pass gives them; the weights have moved when the others' turn
        comes.
        """
        old: list[list[jax.Array]] = [[]]
        for minibatch in done.minibatches[1:]:
            batches = [[piece.completions for piece in micro] for micro in minibatch]
            of_micros = [token_logps(self._form, self.params, self._frozen, pieces) for pieces in batches]
            old.append(list(itertools.chain(*of_micros)))
        return old

    def _one_update(
        self, done: Collected, minibatch: list[MicroBatch], old: list[jax.Array], limits: Limits
    ) -> tuple[Update, list[jax.Array]]:
        """Makes an optimizer update; returns its numbers, and the log-probabilities of each piece before it.

        Args:
            old: of each piece, log-probabilities under the weights that sampled; empty: these weights sampled.
            limits: of an update that is made.
        """
        several = self._config.training.gradient_accumulation_steps > 1 or any(len(micro) > 1 for micro in minibatch)
        state: Any = no_gradient(self.params, self._mesh) if several else None
        before, logps = iter(old), []
        for micro in minibatch:
            inputs = [self._loss_inputs(done, piece, next(before, None)) for piece in micro]
            state, trained = accumulate_pieces(self._form, self.params, self._frozen, state, inputs)
            logps += trained
        gradient, sums = state
        self.params, self.optimizer_state, norm, made = self._apply(
            self.params, self.optimizer_state, gradient, sums.loss, limits
        )
        return Update(sums, norm, made), logps

    def _loss_inputs(self, done: Collected, piece: Piece, old: jax.Array | None) -> LossInputs:
        gains, kept, divisors = piece.part.loss_inputs(done.advantages)
        sampled = piece.sampled if self._objective.importance != "none" else None
        return LossInputs(piece.completions, gains, kept, divisors, piece.reference, old, sampled)


def _pieces(minibatches: list[list[MicroBatch]]) -> list[Piece]:
    """Returns the pieces of a step, in the order in which they run."""
    return [piece for minibatch in minibatches for micro in minibatch for piece in micro]

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

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from tunix_grpo.config import TrainerConfig
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.errors import NoStepError, UserError
from tunix_grpo.grpo.advantages import Advantages, advantage_of
from tunix_grpo.grpo.answering import Answerer
from tunix_grpo.grpo.cutting import Cutter
from tunix_grpo.grpo.learner import Learner
from tunix_grpo.grpo.loss import LossInputs, sampling_difference
from tunix_grpo.grpo.memory import Memory
from tunix_grpo.grpo.needed import completions_like, reference_bytes, update_bytes
from tunix_grpo.grpo.passes import Gradient, accumulate_pieces, pass_form, token_logps
from tunix_grpo.grpo.replacement import Groups, replace_equal_groups, right_answers
from tunix_grpo.grpo.rollout import Rollout, RowTokenizer, Sampler, StoppedError, samples_of, train_sampling
from tunix_grpo.grpo.shared_scoring import score_together
from tunix_grpo.grpo.spikes import Limits, Spikes
from tunix_grpo.grpo.step import Clock, Collected, MicroBatch, Piece, StepResult, Turn, UpdateHealth, pieces_of
from tunix_grpo.grpo.updates import Update, no_gradient, update_health, update_metrics
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.model.model import Model
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.prompt_set import Batch

_REFERENCE, _UPDATE = "the reference", "the update"  # in sentences


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
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        self._form = pass_form(config, model, prompt_width)
        self.remat = self._form.remat
        self.memory = Memory(config, mesh, self.remat, self._form.remat_of_pieces, quantized=model.is_quantized)
        self._shape = prompt_width, config.generation.max_generation_steps
        rows = config.generation.max_rows
        self._sampler = Sampler(model, tokenizer, mesh, prompt_width=prompt_width, seed=config.seed, max_rows=rows)
        self._cutter = Cutter(config, mesh, model, self._form, self._sampling, self.memory)

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

    def draw(
        self, batch: Batch, step: int, extra_round: int, ahead: Ahead, stop: Callable[[], bool] | None = None
    ) -> Rollout:
        """Samples the completions of a batch that is trained on; see `Sampler.sample`."""

        count = len(batch) * batch.num_generations
        own = self._hosts.part(count, batch.num_generations)  # other hosts ask about others
        told: set[int] = set()  # a rollout that begins again has nothing new to tell of these

        def ended(row: int, text: str, token_ids: list[int]) -> None:
            if row in own and row not in told:
                told.add(row)
                one = [(row, text, token_ids)]
                ahead.add(row, samples_of(batch, one, self._task, step, self._sampling.max_tokens))

        def draw(most: int | None) -> Rollout:
            where = step, extra_round, ended if ahead.asks else None, batch.limits, most, stop
            return self._sampler.sample(weights, batch.ids, self._sampling, *where)

        weights = self.params, self._frozen
        needs = functools.partial(self._sampler.needed_bytes, weights, self._sampling)
        try:
            return self.memory.drawing(count, draw, needs)
        except StoppedError:
            ahead.leave()
            raise

    def step(self, step: int, batch: Batch) -> StepResult:
        """Runs one step whole: `collect`, then `update`."""
        return self.update(self.collect(step, batch))

    def collect(
        self,
        step: int,
        batch: Batch,
        fresh: Callable[[int], Batch] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Collected:
        """Runs the first half of a step, which moves nothing: rollout, rewards, reference.

        Args:
            step: its number, from 1; random numbers depend on it.
            batch: the step's prompts.
            fresh: round from 1 -> as many prompts, which may take the place of groups that teach nothing.
            stop: is asked in the middle of a rollout whether to leave the step.

        Raises:
            StoppedError: `stop` has said so.
            UserError: a reward fails.
        """
        clock, grpo = Clock(), self._config.grpo
        ahead = self.ahead()
        rollout = self.draw(batch, step, 0, ahead, stop)
        clock.lap("timing/rollout")
        early, cut = None, functools.partial(self._cutter.cut, step, rollout)
        if grpo.beta > 0 and fresh is None:  # dispatched first: the device works while the host computes rewards
            early = self.memory.passing(_REFERENCE, cut, self._reference_bytes)
        sampled = groups = self.groups(batch, rollout, step, ahead)
        clock.lap("timing/reward")
        if fresh is not None:
            groups = replace_equal_groups(self, sampled, fresh, step, grpo.max_extra_rounds, stop)
            clock.lap("timing/replacement")
        gains = self._advantages.of(groups.rewards, batch.num_generations)
        if early is None or groups.rewards.skipped:
            early, cut = None, functools.partial(self._cutter.cut, step, groups.rollout, gains, groups.rewards.skipped)
        minibatches = self._with_reference(early, cut)
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
        metrics |= self.memory.metrics()
        return StepResult(done.sampled, *trained, metrics, *tokens, health, self.memory.take_notes())

    def _with_reference(
        self, ready: list[list[MicroBatch]] | None, cut: Callable[[], list[list[MicroBatch]]]
    ) -> list[list[MicroBatch]]:
        """Returns the micro batches when the reference has run.

        Args:
            ready: those for which it is on its way.
            cut: sends it on its way again.
        """

        def wait() -> list[list[MicroBatch]]:
            nonlocal ready
            minibatches, ready = ready or cut(), None
            jax.block_until_ready([piece.reference for piece in pieces_of(minibatches)])
            return minibatches

        return self.memory.passing(_REFERENCE, wait, self._reference_bytes)

    def _update(self, done: Collected) -> tuple[dict[str, float], UpdateHealth]:
        """Runs the optimizer updates of a step and returns their metrics, and which of them were no good."""
        turns, limits = [Turn(list(micros)) for micros in done.minibatches], self.spikes.limits_of_updates()
        passes: list[list[Update]] = []
        try:
            self.memory.passing(_UPDATE, lambda: self._old_logps(done, turns), self._update_bytes)
            for _ in range(self._config.grpo.num_iterations):
                passes.append([])
                for turn in turns:
                    passes[-1].append(self._one_update(done, turn, limits))
        except UserError as error:
            raise NoStepError(str(error)) if any(passes) else error from None
        differences = [
            sampling_difference(trained, piece.sampled, piece.completions)
            for turn in turns
            for piece, trained in zip(pieces_of([turn.micros]), turn.old, strict=True)
        ]
        passes, differences = layouts.fetched((passes, differences))
        health = update_health(passes, self.spikes)
        metrics = update_metrics(passes, differences, with_kl=self._config.grpo.beta > 0)
        return health.metrics() | metrics, health

    def _old_logps(self, done: Collected, turns: list[Turn]) -> None:
        """Computes log-probabilities under the weights that sampled, for those who update when these have moved.

        The first one's own first pass gives them.
        """
        for turn in turns[1:]:
            self._cutter.cut_smaller(done.groups.rollout, turn)
            batches = [[piece.completions for piece in micro] for micro in turn.micros]
            of_micros = [token_logps(self._form, self.params, self._frozen, pieces) for pieces in batches]
            turn.old = jax.block_until_ready(list(itertools.chain(*of_micros)))

    def _one_update(self, done: Collected, turn: Turn, limits: Limits) -> Update:
        """Makes an optimizer update; returns its numbers.

        Args:
            limits: of an update that is made.
        """
        run = functools.partial(self._gradient, done, turn)
        (gradient, sums), logps = self.memory.passing(_UPDATE, run, self._update_bytes)
        turn.old = turn.old or logps
        self.params, self.optimizer_state, norm, made = self._apply(
            self.params, self.optimizer_state, gradient, sums.loss, limits
        )
        return Update(sums, norm, made)

    def _gradient(self, done: Collected, turn: Turn) -> tuple[Gradient, list[jax.Array]]:
        """Returns the gradient of an update when it is computed, and each piece's log-probabilities before it."""
        self._cutter.cut_smaller(done.groups.rollout, turn)
        one = len(turn.micros) == 1 and self._config.training.gradient_accumulation_steps == 1
        state: Any = None if one and len(turn.micros[0]) == 1 else no_gradient(self.params, self._mesh)
        before, logps = iter(turn.old), []
        for micro in turn.micros:
            inputs = [self._loss_inputs(done, piece, next(before, None)) for piece in micro]
            state, trained = accumulate_pieces(self._form, self.params, self._frozen, state, inputs)
            logps += trained
        # The optimizer takes the parameters' memory: only when the gradient is there is there no way back.
        jax.block_until_ready(state[1])
        return state, logps

    def _smallest(self) -> Completions:
        """Returns the shapes of a micro batch of one prompt per device."""
        (prompt, completion), prompts = self._shape, self._mesh.shape["fsdp"]
        rows = prompts * self._sampling.num_generations
        return completions_like(self._sharding, (prompts, prompt), (rows, completion))

    def _reference_bytes(self) -> int | None:
        return reference_bytes(self._form, self._model.reference, self._smallest())

    def _update_bytes(self) -> int | None:
        return update_bytes(self._form, self.params, self._frozen, self._smallest())

    def _loss_inputs(self, done: Collected, piece: Piece, old: jax.Array | None) -> LossInputs:
        gains, kept, divisors = piece.part.loss_inputs(done.advantages)
        sampled = piece.sampled if self._form.objective.importance != "none" else None
        return LossInputs(piece.completions, gains, kept, divisors, piece.reference, old, sampled)

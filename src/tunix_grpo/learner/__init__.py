"""Tunix's GRPO learner with our parts in its slots.

What differs from the GRPO paper (arXiv:2402.03300) and from stock Tunix, in one place:
  * the KL penalty is k3 (or k2) in the loss; k1, Tunix's default, has zero expected gradient;
  * the end-of-turn token belongs to the completion, the mask and the loss;
  * completions, old, reference and trained log-probabilities all use the sampling temperature;
  * a step is normalised as a whole, however it is cut into micro batches;
  * old log-probabilities are those of the update's own first pass, so that its ratio is exactly 1.

Tunix gives the cluster of roles (actor, reference, rollout), the optimizer's state and the registries; `step` replaces
its inner loop, which hides a host synchronisation in every micro batch and averages per micro batch.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import function_registry, rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from tunix_grpo import decoder, losses
from tunix_grpo.config import Config
from tunix_grpo.data import Completions, PromptSet
from tunix_grpo.decoding import Sampling
from tunix_grpo.devices import return_freed_memory
from tunix_grpo.learner.slots import SLOT, AlgorithmConfig, Cluster, MicroBatch
from tunix_grpo.learner.updates import apply_gradient, laid_out, no_sums, update_metrics
from tunix_grpo.models import Model
from tunix_grpo.rewards import Reward
from tunix_grpo.rollout import Rollout, RolloutEngine, train_sampling


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        rollout: the completions.
        rewards: total float[B] and the parts by name.
        advantages: float32[B].
        metrics: numbers of the update and timings, by the names of `trackers.METRICS`.
    """

    rollout: Rollout
    rewards: Any
    advantages: np.ndarray
    metrics: dict[str, float]


class Learner(grpo_learner.GRPOLearner):
    """Runs GRPO steps. Holds the trained parameters and the optimizer's state between them."""

    def __init__(
        self, cluster: Cluster, algo_config: AlgorithmConfig, rewards: list[Reward], config: Config, rows: int
    ):
        """
        Args:
            rows: completions in a micro batch, over all data-parallel devices.
        """
        super().__init__(rl_cluster=cluster, algo_config=algo_config, reward_fns=rewards)
        self._model = algo_config.model
        self._mesh = cluster.r2m[rl_cluster.Role.ACTOR]
        self._sampling = train_sampling(config)
        self._num_iterations_per_step = config.grpo.num_iterations
        self._micro_rows = rows
        trainer = cluster.actor_trainer
        self._graph, params, frozen = nnx.split(trainer.model, self._model.trainable, ...)
        self._frozen = nnx.as_pure(frozen)
        self._reference = nnx.as_pure(nnx.state(self._reference_module()))
        # Both live here, laid out for good, so that an update can reuse their memory and is compiled once.
        self.params, params_layout = laid_out(nnx.as_pure(params), self._mesh)
        self.optimizer_state, optimizer_layout = laid_out(nnx.as_pure(trainer.optimizer.opt_state), self._mesh)
        self._accumulate = jax.jit(self._micro_gradient, donate_argnums=(2,))
        self._apply = jax.jit(
            functools.partial(apply_gradient, trainer.optimizer.tx),
            donate_argnums=(0, 1),
            out_shardings=(params_layout, optimizer_layout, None),
        )
        self._score_reference = jax.jit(self._reference_logps)

    def _reference_module(self) -> nnx.Module:
        return self.rl_cluster.inference_worker.get_model("reference")

    def restore(self, params: Any, optimizer_state: Any) -> None:
        """Continues from saved parameters and optimizer state."""
        self.params, self.optimizer_state = params, optimizer_state
        nnx.update(self.rl_cluster.actor_trainer.model, self.params)

    def parameter_counts(self) -> tuple[int, int]:
        """Returns (trained, all) parameters; adapters count in both."""
        trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (self.params, self._frozen))
        return trained, trained + frozen

    def score(self, prompts: list[str], completions: list[str], questions: list) -> dict[str, Any]:
        """Returns {"rewards": total float[B], "parts": by name}."""
        return self.reward_manager(prompts=prompts, completions=completions, questions=questions)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, step: int) -> Rollout:
        """Samples from the current weights, through the cluster's rollout engine."""
        return self.rl_cluster.rollout.sample(prompts, sampling, step)

    def step(self, step: int, prompts: PromptSet, rows: np.ndarray) -> StepResult:
        """Runs one step: rollout, rewards, reference, update(s).

        Args:
            step: its number, from 1; random numbers depend on it.
            prompts: the training set.
            rows: int[P], which of them.
        """
        clock = _Clock()
        group = self._sampling.num_generations
        rollout = self.generate([prompts.ids[row] for row in rows], self._sampling, step)
        clock.lap("timing/rollout")
        micro_batches = self._cut(rollout.batch)
        if self.algo_config.beta > 0:  # dispatched first: the device works while the host computes rewards
            reference = [self._score_reference(self._reference, batch) for batch in micro_batches]
        else:
            reference = [None] * len(micro_batches)
        texts = [prompts.texts[row] for row in rows for _ in range(group)]
        questions = [prompts.questions[row] for row in rows for _ in range(group)]
        rewards = self.score(texts, rollout.texts, questions)
        estimate = function_registry.get_advantage_estimator(self.algo_config.advantage_estimator)
        advantages_of_step = estimate(rewards["rewards"], group)
        clock.lap("timing/reward")
        jax.block_until_ready(reference)
        clock.lap("timing/reference")
        metrics = self._update(micro_batches, advantages_of_step, reference)
        clock.lap("timing/update")
        return StepResult(rollout, rewards, advantages_of_step, metrics | clock.laps)

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

    def _update(self, batches: list[Completions], gains: np.ndarray, reference: list) -> dict[str, float]:
        """Runs num_iterations optimizer updates on one step's completions; returns the metrics of the last but the loss
        and the divergences of the first, which are those of the weights that sampled."""
        old: list = [None] * len(batches)
        gains_of = np.split(gains, len(batches))
        first = None
        for _ in range(self._num_iterations_per_step):
            state = jax.tree.map(jnp.zeros_like, (self.params, no_sums())) if len(batches) > 1 else None
            new = []
            for batch, gain, ref, before in zip(batches, gains_of, reference, old, strict=True):
                micro = MicroBatch(batch, jnp.asarray(gain), ref, before)
                state, logps = self._accumulate(self.params, self._frozen, state, micro)
                new.append(logps)
            if old[0] is None and self._num_iterations_per_step > 1:
                old = new
            gradient, sums = state
            self.params, self.optimizer_state, norm = self._apply(self.params, self.optimizer_state, gradient)
            nnx.update(self.rl_cluster.actor_trainer.model, self.params)
            first = first or (sums, norm)
            last = sums
        tokens = sum(batch.lengths.sum() for batch in batches)
        (sums, norm), last, tokens = jax.device_get((first, last, tokens))
        return update_metrics(sums, norm, last, int(tokens), with_kl=self.algo_config.beta > 0)

    def _micro_gradient(self, params: Any, frozen: Any, state: Any, micro: MicroBatch) -> tuple[Any, jax.Array]:
        """Adds a micro batch to (gradient, sums); traced once per shape."""
        trainer = self.rl_cluster.actor_trainer

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(self._graph, params, frozen)
            return trainer.loss_fn(model, **trainer.gen_model_input_fn(micro))

        gradient, (sums, logps) = jax.grad(loss_of, has_aux=True)(params)
        added = (gradient, sums)
        if state is not None:
            added = jax.tree.map(jnp.add, state, added)
        return added, logps

    def _reference_logps(self, params: Any, batch: Completions) -> jax.Array:
        weights = self._model.decoder_weights(params)
        return losses.completion_logprobs(
            self._model.spec,
            weights,
            batch,
            self.algo_config.temperature,
            attention_form=self._model.attention_form,
        )[0]


def build_learner(
    config: Config,
    mesh: jax.sharding.Mesh,
    model: Model,
    tokenizer: Any,
    task: Any,
    rewards: list[Reward],
    optimizer: optax.GradientTransformation,
    prompt_width: int,
) -> Learner:
    """Puts our parts into Tunix's slots.

    Args:
        prompt_width: tokens that prompts are padded to.
    """
    data_parallel = mesh.shape["fsdp"]
    group, length = config.grpo.num_generations, config.generation.max_generation_steps
    tokens = config.training.micro_batch_size * (prompt_width + group * length)  # of a micro batch on a device
    algo_config = AlgorithmConfig(
        advantage_estimator=SLOT,
        policy_loss_fn=SLOT,
        reward_manager=SLOT,
        num_generations=group,
        num_iterations=config.grpo.num_iterations,
        beta=config.grpo.beta,
        epsilon=config.grpo.epsilon,
        kl_loss_mode=config.grpo.kl_estimator,
        model=model,
        task=task,
        step_rows=config.completions_per_step(data_parallel),
        temperature=config.generation.temperature,
        remat=decoder.choose_remat(config.training.remat, model.spec, tokens, model.dtype),
    )

    def score(batch: Completions) -> jax.Array:
        weights = model.decoder_weights(nnx.as_pure(nnx.state(model.actor)))
        return losses.completion_logprobs(
            model.spec, weights, batch, config.generation.temperature, attention_form=model.attention_form
        )[0]

    engine = functools.partial(
        RolloutEngine, model=model, text=tokenizer, score=score, prompt_width=prompt_width, seed=config.seed
    )
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = Cluster(
        actor=model.actor,
        reference=model.reference,
        tokenizer=tokenizer,
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine=engine,
            training_config=rl_cluster.RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=1),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=length,
                temperature=config.generation.temperature,
                top_p=config.generation.top_p,
                top_k=config.generation.top_k,
                max_prompt_length=prompt_width,
            ),
        ),
    )
    rows = config.training.micro_batch_size * group * data_parallel
    learner = Learner(cluster, algo_config, rewards, config, rows)
    return_freed_memory()  # loading and building leave much: 0.5 GB of a model of 0.5 GB
    return learner


class _Clock:
    """Times the parts of a step, one after another."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._start
        self._start = now

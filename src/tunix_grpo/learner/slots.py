"""Our parts in the slots that Tunix's learner and cluster offer."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from tunix.rl import function_registry, reward_manager, rl_cluster
from tunix.rl.grpo import grpo_learner

from tunix_grpo import losses
from tunix_grpo.data import Completions
from tunix_grpo.models import Model
from tunix_grpo.rewards import score_completions

SLOT = "tunix_grpo"  # the name of our parts in Tunix's registries


@dataclasses.dataclass(slots=True, kw_only=True)
class AlgorithmConfig(grpo_learner.GRPOConfig):
    """Tunix's GRPO settings, and what our loss and rewards need beside them."""

    model: Model
    task: Any
    step_rows: int
    temperature: float
    remat: str


class MicroBatch(NamedTuple):
    """A part of a step, ready for the loss; what Tunix calls a train example."""

    completions: Completions
    advantages: jax.Array
    ref_logps: jax.Array | None
    old_logps: jax.Array | None


@function_registry.register_policy_loss_fn(SLOT)
def policy_loss(model: nnx.Module, train_example: MicroBatch, algo_config: AlgorithmConfig, pad_id: int, eos_id: int):
    """Returns the loss of a micro batch, and ((sums), log-probabilities) beside it."""
    del pad_id, eos_id  # masks come from lengths, never from token values
    weights = algo_config.model.decoder_weights(nnx.as_pure(nnx.state(model)))
    batch = train_example.completions
    logps, entropies = losses.completion_logprobs(
        algo_config.model.spec,
        weights,
        batch,
        algo_config.temperature,
        attention_form=algo_config.model.attention_form,
        remat=algo_config.remat,
    )
    sums = losses.grpo_loss(
        logps,
        entropies,
        train_example.old_logps,
        train_example.ref_logps,
        train_example.advantages,
        batch,
        step_rows=algo_config.step_rows,
        epsilon=algo_config.epsilon,
        beta=algo_config.beta,
        kl_estimator=algo_config.kl_loss_mode,
    )
    return sums.loss, (sums, logps)


@function_registry.register_advantage_estimator(SLOT)
def advantages(rewards: np.ndarray, num_generations: int) -> np.ndarray:
    """Returns float32[B], see `losses.group_advantages`."""
    return losses.group_advantages(rewards, num_generations)


@function_registry.register_reward_manager(SLOT)
class RewardManager(reward_manager.AbstractRewardManager):
    """Weighted rewards that stop the run when one of them is broken; Tunix's turns NaN into 0."""

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> dict[str, Any]:
        table = score_completions(self.reward_fns, prompts, completions, columns["questions"], self.algo_config.task)
        return {"rewards": np.asarray(table.total), "parts": table.parts, "log_metrics": {}}


class Cluster(rl_cluster.RLCluster):
    """Tunix's cluster of actor, reference and rollout, without the spare copy of the actor that only agents need."""

    @property
    def _anchor_policy_state(self) -> None:
        return None

    @_anchor_policy_state.setter
    def _anchor_policy_state(self, state: Any) -> None:
        del state

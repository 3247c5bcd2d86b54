"""Our rollouts, loss, advantages and rewards in Tunix's own learner, for people whose loop is Tunix's.

    parts = plug_in(config, model, tokenizer, task, rewards, prompt_width=256)
    cluster = RLCluster(actor=parts.actor, reference=None, tokenizer=tokenizer, cluster_config=ClusterConfig(
        rollout_engine=parts.rollout_engine, rollout_config=parts.rollout_config, ...))
    GRPOLearner(cluster, parts.algo_config, parts.reward_fns).train(batches)
    trained = trained_leaves(parts.actor)  # as a `Model` and a checkpoint hold them

`batches` yields {"prompts": [texts], "questions": [Question, ...]}. What is Tunix's stays Tunix's: micro batches are
averaged instead of normalised as a step, and metrics, checkpoints and resumption are its own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import common, function_registry, reward_manager
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

from tunix_grpo.config import Config
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.advantages import advantage_of, group_advantages
from tunix_grpo.grpo.algorithms import AGGREGATIONS, Objective, objective_of
from tunix_grpo.grpo.loss import LossInputs, completion_logprobs, grpo_loss
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.model.decoder_form import adapter_pairs, whole_weights, with_adapters
from tunix_grpo.model.layout import flattened, leaves
from tunix_grpo.model.model import Model
from tunix_grpo.model.tunix_modules import arrays_of, module_with, trained_leaves
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.tasks.base import Question, Task
from tunix_grpo.text.tokenizer import Tokenizer

NAME = "tunix_grpo"  # of our parts in Tunix's registries
# What our own loop does with these settings, and Tunix's cannot.
_OURS = {"num_minibatches": 1, "mask_truncated": False, "replace_equal_groups": False, "importance": "none"}


class TunixParts(NamedTuple):
    """What Tunix's cluster and learner are given."""

    actor: nnx.Module
    rollout_engine: functools.partial[RolloutEngine]
    rollout_config: base_rollout.RolloutConfig
    algo_config: Algorithm
    reward_fns: list[Reward]


def plug_in(
    config: Config, model: Model, tokenizer: Tokenizer, task: Task, rewards: list[Reward], *, prompt_width: int
) -> TunixParts:
    """Returns our parts as Tunix takes them; `config` says what its groups `grpo` and `generation` say of a run.

    Args:
        prompt_width: tokens that prompts are padded to.

    Raises:
        UserError: grpo.beta is above 0 in full fine-tuning, where Tunix's learner has no reference of our arithmetic;
            or a setting is of our loop, and Tunix's has nothing like it.
    """
    for key, needed in _OURS.items():
        if (value := getattr(config.grpo, key)) != needed:
            raise UserError(f"grpo.{key}={value}: Tunix's learner has nothing like it; give grpo.{key}={needed}")
    if config.grpo.beta > 0 and model.lora_scale == 0:
        raise UserError(
            f"grpo.beta={config.grpo.beta}: in Tunix's learner the reference is the base under the adapter; "
            "give model.lora_rank, or grpo.beta=0"
        )
    generation = config.generation
    drawn = LastRollout(max_tokens=generation.max_generation_steps)
    drawing = {"prompt_width": prompt_width, "seed": config.seed, "max_rows": generation.max_rows}
    ours = {"ours": model, "text": tokenizer, "drawing": drawing, "drawn": drawn}
    return TunixParts(
        tunix_module(model),
        functools.partial(RolloutEngine, **ours),
        base_rollout.RolloutConfig(
            max_tokens_to_generate=generation.max_generation_steps,
            temperature=generation.temperature,
            top_p=generation.top_p,
            top_k=generation.top_k,
            max_prompt_length=prompt_width,
        ),
        Algorithm(
            advantage_estimator=_registered_advantage(config.grpo.advantage),
            policy_loss_fn=NAME,
            reward_manager=NAME,
            num_generations=config.grpo.num_generations,
            num_iterations=config.grpo.num_iterations,
            beta=0.0,  # Tunix would compute the reference with its own arithmetic; our loss does it
            epsilon=config.grpo.epsilon,
            temperature=generation.temperature,
            objective=objective_of(config.grpo),
            aggregation=config.grpo.aggregation,
            max_tokens=generation.max_generation_steps,
            model=model,
            task=task,
            drawn=drawn,
        ),
        rewards,
    )


def tunix_module(model: Model) -> nnx.Module:
    """Returns Tunix's own module with a model's weights, adapters beside what they adapt; it shares no array."""
    arrays = {leaf.path: model.array(leaf) for leaf in leaves(model.spec)}
    return module_with(model.spec, arrays | flattened(model.trained))


@dataclasses.dataclass(slots=True)
class LastRollout:
    """What rewards are told of the last rollout, beside what Tunix tells them.

    Attributes:
        max_tokens: at which completions are cut.
        step: of the rollout, from 1.
        lengths: completion -> its tokens, the end-of-turn token included.
    """

    max_tokens: int
    step: int = 0
    lengths: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True, kw_only=True)
class Algorithm(grpo_learner.GRPOConfig):
    """Tunix's GRPO settings, and what our loss and rewards need beside them."""

    temperature: float
    objective: Objective
    aggregation: str
    max_tokens: int
    model: Model
    task: Task
    drawn: LastRollout


class RolloutEngine(base_rollout.BaseRollout):
    """Our sampler behind Tunix's interface. The n-th call draws the noise of step n, from 1."""

    def __init__(
        self,
        rollout_actor,
        tokenizer,
        mesh,
        rollout_config,
        *,
        ours: Model,
        text,
        drawing: dict,
        drawn: LastRollout,
    ):
        """Takes the arguments that RLCluster passes to an engine, and then those that `plug_in` has bound."""
        del tokenizer
        self._actor, self._model, self._text = rollout_actor, ours, text
        self._temperature = rollout_config.temperature
        self._sampler = Sampler(ours, text, mesh, **drawing)
        self._drawn = drawn

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **_: object
    ) -> base_rollout.RolloutOutput:
        """Returns one completion of each prompt text; Tunix repeats a prompt for the completions of its group."""
        self._drawn.step += 1
        sampling = Sampling(
            num_generations=1,
            max_tokens=rollout_config.max_tokens_to_generate,
            temperature=rollout_config.temperature,
            top_p=1.0 if rollout_config.top_p is None else rollout_config.top_p,
            top_k=rollout_config.top_k,
        )
        ids = [self._text.encode(text) for text in prompts]
        weights = (trained_leaves(self._actor), self._model.frozen)
        rollout = self._sampler.sample(weights, ids, sampling, self._drawn.step)
        self._drawn.lengths = dict(zip(rollout.texts, rollout.lengths.tolist(), strict=True))
        return base_rollout.RolloutOutput(
            text=rollout.texts,
            logits=[],
            tokens=[row[:length] for row, length in zip(rollout.batch.tokens, rollout.lengths, strict=True)],
            left_padded_prompt_tokens=np.asarray(rollout.batch.prompt_tokens),
            logprobs=[row[:length] for row, length in zip(rollout.logps, rollout.lengths, strict=True)],
        )

    def get_per_token_logps(self, prompt_tokens: jax.Array, completion_tokens: jax.Array, **_: object) -> jax.Array:
        """Returns float32[B, T], log-probabilities of completions under the actor, for Tunix's later iterations."""
        pad = self.pad_id()
        lengths = _lengths(completion_tokens != pad)
        batch = Completions(prompt_tokens, prompt_tokens != pad, completion_tokens, lengths)
        return _logprobs(self._model, self._actor, batch, self._temperature)[0]

    def update_params(self, params: nnx.State, filter_types: object = None) -> None:
        """Takes new weights; on one mesh the actor is the trained module itself."""
        del filter_types
        nnx.update(self._actor, params)

    def pad_id(self) -> int:
        """Returns the token that stands where nothing is; no text contains it, so masks by value are right."""
        return self._text.pad_id()

    def eos_id(self) -> int:
        """Returns one of the tokens that end a completion."""
        return self._text.eos_id()

    def model(self) -> nnx.Module:
        """Returns the module that is sampled from."""
        return self._actor


def _lengths(mask: jax.Array) -> jax.Array:
    """Returns int32[B], where the last real token of bool[B, T] ends.

    Tunix masks every token that equals the pad. A model may draw that token too, so what lies before another counts.
    """
    return jnp.max(jnp.where(mask, jnp.arange(1, mask.shape[1] + 1), 0), axis=1)


def _logprobs(
    model: Model, module: nnx.Module, batch: Completions, temperature: float, *, of_base: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[B, T] log-probabilities and entropies under Tunix's module, or under the base of its adapters.

    The module's own arrays are read: `model.frozen` would be a constant inside of Tunix's compiled step.
    """
    weights = whole_weights(model.spec, arrays_of(module, nnx.Param), model.dtype)
    if not of_base and model.lora_scale > 0:
        adapters = arrays_of(module, nnx.LoRAParam)
        pairs = adapter_pairs(model.spec, adapters, model.lora_scale, model.dtype)
        weights = with_adapters(model.spec, weights, pairs)
    return completion_logprobs(model.spec, weights, batch, temperature, attention_form=model.attention_form)


@function_registry.register_policy_loss_fn(NAME)
def policy_loss(
    module: nnx.Module, train_example: common.TrainExample, algo_config: Algorithm, pad_id: int, eos_id: int
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a micro batch, averaged over its completions, and the metrics that Tunix logs."""
    del pad_id, eos_id
    lengths = _lengths(train_example.completion_mask.astype(bool))
    batch = Completions(
        train_example.prompt_ids, train_example.prompt_mask.astype(bool), train_example.completion_ids, lengths
    )
    model, temperature = algo_config.model, algo_config.temperature
    logps, entropies = _logprobs(model, module, batch, temperature)
    reference = None
    if algo_config.objective.beta > 0:
        reference = jax.lax.stop_gradient(_logprobs(model, module, batch, temperature, of_base=True)[0])
    kept = jnp.ones(lengths.shape)
    divisors = AGGREGATIONS[algo_config.aggregation](lengths, kept, algo_config.max_tokens)
    old = train_example.old_per_token_logps
    inputs = LossInputs(batch, train_example.advantages, kept, divisors, reference, old)
    sums = grpo_loss(logps, entropies, inputs, algo_config.objective)
    tokens = jnp.maximum(sums.tokens, 1)
    return sums.loss, {"kl": sums.kl / tokens, "pg_clipfrac": (sums.clipped_low + sums.clipped_high) / tokens}


@functools.cache
def _registered_advantage(name: str) -> str:
    """Puts an advantage into Tunix's registry; returns its name there."""
    registered, advantage = f"{NAME}/{name}", advantage_of(name)

    @function_registry.register_advantage_estimator(registered)
    def advantages(rewards: np.ndarray, num_generations: int) -> np.ndarray:
        return group_advantages(rewards, num_generations, advantage)

    return registered


@function_registry.register_reward_manager(NAME)
class RewardManager(reward_manager.AbstractRewardManager):
    """Weighted rewards that stop the run when one of them is broken; Tunix's own turns NaN into 0."""

    algo_config: Algorithm

    def __call__(self, prompts: list[str], completions: list[str], **columns: Sequence[Question]) -> dict[str, object]:
        """Returns float[B] under "rewards"; the column `questions` holds the question of each completion."""
        drawn = self.algo_config.drawn
        samples = Samples(
            prompts=prompts,
            completions=completions,
            questions=columns["questions"],
            task=self.algo_config.task,
            token_lengths=[drawn.lengths[text] for text in completions],
            step=drawn.step,
            num_generations=self.algo_config.num_generations,
            max_tokens=drawn.max_tokens,
        )
        table = score_completions(self.reward_fns, samples)
        return {"rewards": np.asarray(table.learned_from()), "log_metrics": {}}

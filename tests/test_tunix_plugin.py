"""Our parts in Tunix's own learner: the same completions and the same updates as in our loop."""

from __future__ import annotations

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix
from flax import nnx, traverse_util
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOLearner

from helpers.models import load, one_device_mesh, write_model
from helpers.trainer import NumberTokenizer, mean_token, number_prompts, small_trainer
from tunix_grpo.decoder.forward import forward, head_logits
from tunix_grpo.errors import UserError
from tunix_grpo.model.lora import target_pattern
from tunix_grpo.model.tunix_modules import trained_leaves
from tunix_grpo.rewards.base import Failure, Reward
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.tunix_plugin import RewardManager, plug_in, tunix_module

PROMPTS = number_prompts(8)
SETTINGS = ("model=hf", "device=cpu", "grpo.num_generations=4", "training.micro_batch_size=2")
SHORT = ("generation.max_generation_steps=6", "grpo.beta=0.05")


def batches(*rows: np.ndarray):
    """Yields the prompts of some steps as Tunix's learner takes them."""
    for chosen in rows:
        batch = PROMPTS.batch(chosen, 4)
        yield {"prompts": np.array(batch.texts), "questions": np.array(batch.questions, dtype=object)}


def tunix_learner(config, model, tx: optax.GradientTransformation) -> tuple[GRPOLearner, nnx.Module]:
    """Returns stock Tunix's learner on one device, with our parts in it, and the module that it trains."""
    rewards = [Reward("mean_token", 1.0, mean_token)]
    parts = plug_in(config, model, NumberTokenizer(), ExactTask("numbers", [], []), rewards, prompt_width=8)
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=parts.actor,
        reference=None,
        tokenizer=NumberTokenizer(),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, one_device_mesh()),
            rollout_engine=parts.rollout_engine,
            rollout_config=parts.rollout_config,
            training_config=rl_cluster.RLTrainingConfig(actor_optimizer=tx, eval_every_n_steps=100, max_steps=2),
        ),
    )
    assert type(learner := GRPOLearner(cluster, parts.algo_config, parts.reward_fns)) is GRPOLearner
    return learner, parts.actor


def test_groups_that_a_failed_reward_leaves_out_teach_tunix_nothing():
    rewards = [
        Reward("own", 1.0, lambda _: [1.0, Failure("error", "failed"), 3.0, 4.0], on_error="skip_group"),
        Reward("other", 1.0, lambda samples: range(len(samples))),
    ]
    drawn = types.SimpleNamespace(lengths=dict.fromkeys("abcd", 1), step=1, max_tokens=4)
    algorithm = types.SimpleNamespace(drawn=drawn, task=None, num_generations=2)
    questions = [Question("q", "")] * 4
    made = RewardManager(rewards, algorithm)(prompts=["q"] * 4, completions=list("abcd"), questions=questions)
    assert made["rewards"].tolist() == [0.0, 0.0, 5.0, 7.0]


@pytest.mark.long
def test_tunix_own_loop_makes_the_updates_of_ours(compose, folder):
    """Two steps of two prompts: the adapters agree within float32 rounding, and have moved."""
    rows = (np.array([0, 1]), np.array([2, 3]))
    ours = small_trainer(compose, folder, *SHORT, lora_rank=4, tx=optax.sgd(0.5))
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(ours.params)]
    for step, chosen in enumerate(rows, 1):
        ours.step(step, PROMPTS.batch(chosen, 4))
    config = compose(*SETTINGS, *SHORT, f"model.path={folder}")
    model = load(folder, lora_rank=4)
    with one_device_mesh():
        learner, actor = tunix_learner(config, model, optax.sgd(0.5))
        learner.train(batches(*rows))
    theirs = jax.tree.leaves(trained_leaves(actor))
    moved = 0.0
    for start, mine, other in zip(before, jax.tree.leaves(ours.params), theirs, strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(mine), atol=2e-6)
        moved = max(moved, np.abs(np.asarray(mine) - start).max())
    assert moved > 1e-3


def test_a_reference_of_full_fine_tuning_is_refused(compose, folder):
    config = compose(*SETTINGS, *SHORT, f"model.path={folder}")
    with pytest.raises(UserError, match=r"grpo.beta=0.05: .*give model.lora_rank, or grpo.beta=0"):
        plug_in(config, load(folder), NumberTokenizer(), ExactTask("numbers", [], []), [], prompt_width=8)


@pytest.mark.long
@pytest.mark.parametrize("lora_rank", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_a_trained_state_goes_into_tunix_own_module_and_out_of_one(compose, tmp_path, lora_rank):
    """Tunix's forward pass on its module gives the logits of our decoder (1e-4, float32), and its leaves are ours.

    With Qwen 3 at the rope base that Tunix assumes, since it reads none from config.json.
    """
    write_model("qwen3-tied", tmp_path, num_hidden_layers=2)
    model = load(tmp_path, lora_rank=lora_rank)
    learner = small_trainer(compose, tmp_path, "grpo.beta=0.0", tx=optax.sgd(0.5), lora_rank=lora_rank)
    learner.step(1, PROMPTS.batch(np.array([0, 1]), 4))
    trained = dataclasses.replace(model, trained=jax.tree.map(np.asarray, learner.params))
    if lora_rank is None:
        module = tunix_module(trained)
    else:  # Tunix's way to an adapter that its forward pass reads
        base = tunix_module(dataclasses.replace(model, trained={}))
        pattern = target_pattern("all", model.spec)
        provider = qwix.LoraProvider(module_path=pattern, rank=lora_rank, alpha=lora_rank * model.lora_scale)
        module = qwix.apply_lora_to_model(base, provider, rngs=nnx.Rngs(0), **base.get_model_input())
        nnx.update(module, trained.trained)
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 97, (2, 9)))
    positions = jnp.arange(9)[None].repeat(2, axis=0)
    mask = jnp.tril(jnp.ones((9, 9), bool))[None].repeat(2, axis=0)
    theirs, _ = module(tokens, positions, None, mask)
    for weights, close in ((trained.decoder_weights(), True), (model.decoder_weights(), False)):
        hidden, _ = forward(model.spec, weights, tokens, positions, jnp.ones((2, 9), bool))
        difference = np.abs(np.asarray(head_logits(weights, hidden)) - np.asarray(theirs)).max()
        assert (difference < 1e-4) == close
    out = traverse_util.flatten_dict(trained_leaves(module))
    assert out.keys() == traverse_util.flatten_dict(learner.params).keys()
    for path, leaf in traverse_util.flatten_dict(learner.params).items():
        np.testing.assert_array_equal(out[path], leaf)

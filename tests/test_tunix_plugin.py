"""Our parts in Tunix's own learner: the same completions and the same updates as in our loop."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOLearner

from helpers.models import load, one_device_mesh, write_model
from helpers.trainer import NumberTokenizer, mean_token, number_prompts, small_learner
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward
from tunix_grpo.tasks.base import ExactTask
from tunix_grpo.tunix_plugin import plug_in

PROMPTS = number_prompts(8)
SETTINGS = ("model=hf", "device=cpu", "grpo.num_generations=4", "training.micro_batch_size=2")
SHORT = ("generation.max_generation_steps=6", "grpo.beta=0.05")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model("llama", folder, num_hidden_layers=2)
    return folder


def batches(*rows: np.ndarray):
    """Yields the prompts of some steps as Tunix's learner takes them."""
    for chosen in rows:
        batch = PROMPTS.batch(chosen, 4)
        yield {"prompts": np.array(batch.texts), "questions": np.array(batch.questions, dtype=object)}


def tunix_learner(config, model, tx: optax.GradientTransformation) -> GRPOLearner:
    """Returns stock Tunix's learner on one device, with our parts in it."""
    rewards = [Reward("mean_token", 1.0, mean_token)]
    parts = plug_in(config, model, NumberTokenizer(), ExactTask("numbers", [], []), rewards, prompt_width=8)
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    cluster = rl_cluster.RLCluster(
        actor=model.actor,
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
    return learner


def test_tunix_own_loop_makes_the_updates_of_ours(compose, folder):
    """Two steps of two prompts: the adapters agree within float32 rounding, and have moved."""
    rows = (np.array([0, 1]), np.array([2, 3]))
    ours = small_learner(compose, folder, *SHORT, lora_rank=4, tx=optax.sgd(0.5))
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(ours.params)]
    for step, chosen in enumerate(rows, 1):
        ours.step(step, PROMPTS.batch(chosen, 4))
    config = compose(*SETTINGS, *SHORT, f"model.path={folder}")
    model = load(folder, lora_rank=4)
    with one_device_mesh():
        tunix_learner(config, model, optax.sgd(0.5)).train(batches(*rows))
    theirs = jax.tree.leaves(nnx.as_pure(nnx.state(model.actor, model.trainable)))
    moved = 0.0
    for start, mine, other in zip(before, jax.tree.leaves(ours.params), theirs, strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(mine), atol=2e-6)
        moved = max(moved, np.abs(np.asarray(mine) - start).max())
    assert moved > 1e-3


def test_a_reference_of_full_fine_tuning_is_refused(compose, folder):
    config = compose(*SETTINGS, *SHORT, f"model.path={folder}")
    with pytest.raises(UserError, match=r"grpo.beta=0.05: .*give model.lora_rank, or grpo.beta=0"):
        plug_in(config, load(folder), NumberTokenizer(), ExactTask("numbers", [], []), [], prompt_width=8)

"""Stock Tunix, timed on the same work: its model, sampler and learner. Runs in a process of its own, see `worker`.

The weights are read by this project's table, since Tunix has a loader per family; what computes is Tunix's alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
import transformers
from flax import nnx, traverse_util
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout import base_rollout

from tunix_grpo.benchmark.job import Job, worth
from tunix_grpo.benchmark.link import Link
from tunix_grpo.config import MeshConfig
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.loading import stored_weights
from tunix_grpo.model.lora import target_pattern
from tunix_grpo.model.placing import place_leaves
from tunix_grpo.model.tunix_modules import module_with
from tunix_grpo.run.devices import open_devices, peak_memory_bytes


def serve(settings: Mapping[str, Any], link: Link) -> None:
    """Trains for as many steps as there are, each when it is asked for.

    Args:
        settings: of the `Job`.
    """
    job = Job(**settings)
    mesh = open_devices(job.device, MeshConfig(fsdp=1, tp=1), None).mesh
    with mesh:
        actor, reference = _models(job, mesh)
        learner = GRPOLearner(
            rl_cluster=_cluster(job, mesh, actor, reference),
            reward_fns=[_reward],
            algo_config=GRPOConfig(num_generations=job.generations, beta=job.beta),
        )
        learner.train(_batches(job, link, actor))


def _batches(job: Job, link: Link, actor: nnx.Module) -> Iterator[dict[str, np.ndarray]]:
    """Yields a step's prompts when it is asked for; that the next ones are wanted means that it is done."""
    link.send(ready=True)
    for step in range(job.total_steps):
        link.receive()
        start = time.perf_counter()
        rows = slice(step * job.prompts, (step + 1) * job.prompts)
        yield {"prompts": np.array(job.texts[rows]), "answer": np.array(job.answers[rows])}
        jax.block_until_ready(nnx.state(actor))
        link.send(step_s=time.perf_counter() - start, peak_bytes=peak_memory_bytes())


def _models(job: Job, mesh: jax.sharding.Mesh) -> tuple[nnx.Module, nnx.Module]:
    """Returns the model that is trained, and the one that stays."""
    directory = Path(job.directory)
    spec = read_spec(directory)

    def loaded() -> nnx.Module:
        placed = place_leaves(spec, stored_weights(spec, directory), mesh, jnp.dtype(job.dtype))
        return module_with(spec, traverse_util.flatten_dict(placed))

    reference = loaded()
    if job.lora_rank is None:
        return loaded(), reference
    provider = qwix.LoraProvider(module_path=target_pattern("all", spec), rank=job.lora_rank, alpha=job.lora_alpha)
    actor = qwix.apply_lora_to_model(reference, provider, rngs=nnx.Rngs(job.seed), **reference.get_model_input())
    return actor, reference


def _cluster(job: Job, mesh: jax.sharding.Mesh, actor: nnx.Module, reference: nnx.Module) -> rl_cluster.RLCluster:
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    return rl_cluster.RLCluster(
        actor=actor,
        reference=reference,
        tokenizer=transformers.AutoTokenizer.from_pretrained(job.tokenizer),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(roles, mesh),
            rollout_engine="vanilla",
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(job.learning_rate)),
                eval_every_n_steps=10**9,
                max_steps=job.total_steps + 1,  # the batches end first, so that the last step is measured too
                mini_batch_size=job.prompts,
                train_micro_batch_size=job.micro_batch_size,
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=job.completion_tokens,
                max_prompt_length=job.prompt_width,
                kv_cache_size=job.prompt_width + job.completion_tokens,
                temperature=job.temperature,
                top_p=1.0,
                top_k=None,
                eos_tokens=[-1],  # no token ends a completion
            ),
        ),
    )


def _reward(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    del prompts
    return [worth(text, right) for text, right in zip(completions, answer, strict=True)]

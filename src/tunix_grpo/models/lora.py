"""LoRA (arXiv:2106.09685) on Tunix's modules, through qwix.

qwix decides where the adapters hang and what shapes they have; their values are ours: float32, so that a small
update is never rounded away, A uniform (He), B zero, each A drawn from (seed, its place).
"""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

from tunix_grpo.errors import UserError
from tunix_grpo.models.weights import fitting_sharding
from tunix_grpo.spec import DecoderSpec

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_einsum", "kv_einsum", "qkv_einsum", "attn_vec_einsum")
_MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = {"attention": _ATTENTION, "mlp": _MLP, "all": _ATTENTION + _MLP}


def target_pattern(target_modules: str) -> str:
    """Returns the regular expression over module paths for `attention`, `mlp`, `all` or a user's own expression."""
    if target_modules in TARGETS:
        return "|".join(f".*{name}" for name in TARGETS[target_modules])
    try:
        re.compile(target_modules)
    except re.error as error:
        raise UserError(
            f"model.lora_target_modules={target_modules!r} is neither attention, mlp, all nor a regular "
            f"expression ({error})"
        ) from error
    return target_modules


def add_lora(
    base: nnx.Module, spec: DecoderSpec, *, rank: int, alpha: float, targets: str, seed: int, mesh: jax.sharding.Mesh
) -> nnx.Module:
    """Returns a module that shares the base's arrays and has adapters beside them.

    Args:
        rank: >= 1.
        alpha: the adapter's output is scaled by alpha / rank.
        targets: as `model.lora_target_modules`.

    Raises:
        UserError: the targets match nothing, or what cannot have an adapter.
    """
    provider = qwix.LoraProvider(module_path=target_pattern(targets), rank=rank, alpha=alpha)
    graph, state = nnx.split(base)

    def adapted(state: nnx.State) -> nnx.Module:
        module = nnx.merge(graph, state)
        return qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **module.get_model_input())

    actor = nnx.eval_shape(adapted, state)
    lora = nnx.to_flat_state(nnx.state(actor, nnx.LoRAParam))
    if not lora:
        raise UserError(f"model.lora_target_modules={targets!r} matches no module of a {spec.family} model")
    outside = sorted({str(path[0]) for path, _ in lora if path[0] != "layers"})
    if outside:
        raise UserError(
            f"model.lora_target_modules={targets!r} matches {outside[0]}, but only the linear layers of attention and "
            "MLP can have an adapter; model.lora_target_modules=all takes them all"
        )
    filled = []
    for index, (path, variable) in enumerate(sorted(lora, key=lambda item: str(item[0]))):
        if str(path[-1]).endswith("_a"):
            fan_in = math.prod(variable.shape[:-1])
            key = jax.random.fold_in(jax.random.key(seed), index)
            bound = (6.0 / fan_in) ** 0.5
            leaf = jax.random.uniform(key, variable.shape, jnp.float32, -bound, bound)
        else:
            leaf = jnp.zeros(variable.shape, jnp.float32)
        filled.append((path, variable.replace(jax.device_put(leaf, fitting_sharding(mesh, leaf.shape, None)))))
    nnx.update(actor, nnx.from_flat_state(filled), state)
    return actor

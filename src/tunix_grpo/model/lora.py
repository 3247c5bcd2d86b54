"""LoRA (arXiv:2106.09685) on Tunix's modules, through qwix.

qwix decides where the adapters hang and what shapes they have; their values are ours: float32, so that a small
update is never rounded away, A uniform (He), B zero, each A drawn from (seed, its place).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import qwix
from flax import nnx

from tunix_grpo import seeds
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.model.loading import abstract_module, fitting_sharding

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
    base: nnx.Module, spec: DecoderSpec, *, rank: int, targets: str, seed: int, mesh: jax.sharding.Mesh
) -> nnx.Module:
    """Returns a module that shares the base's arrays and has adapters beside them.

    Args:
        rank: >= 1.
        targets: as `model.lora_target_modules`.

    Raises:
        UserError: the targets match nothing, or what cannot have an adapter.
    """
    pattern = target_pattern(targets)
    actor = nnx.merge(*nnx.split(base))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(base, nnx.Param))]
    matched = [path for path in paths if re.fullmatch(pattern, "/".join(map(str, path[:-1])))]
    if outside := [path[0] for path in matched if path[0] in ("embedder", "lm_head")]:
        raise UserError(
            f"model.lora_target_modules={targets!r} matches {outside[0]}, but only the linear layers of attention and "
            "MLP can have an adapter; model.lora_target_modules=all takes them all"
        )
    shapes = _adapter_shapes(spec, rank)
    adapted = sorted(path for path in matched if path[2:] in shapes)
    if not adapted:
        raise UserError(f"model.lora_target_modules={targets!r} matches no module of a {spec.family} model")
    stream = seeds.key("lora", seed)
    for index, path in enumerate(adapted):
        shape_a, shape_b = shapes[path[2:]]
        bound = (6.0 / math.prod(shape_a[:-1])) ** 0.5
        a = jax.random.uniform(jax.random.fold_in(stream, index), shape_a, jnp.float32, -bound, bound)
        module = functools.reduce(_child, path[:-1], actor)
        for suffix, leaf in (("a", a), ("b", jnp.zeros(shape_b, jnp.float32))):
            placed = jax.device_put(leaf, fitting_sharding(mesh, leaf.shape, None))
            setattr(module, f"{path[-1]}_lora_{suffix}", nnx.LoRAParam(placed))
    return actor


def _child(module: nnx.Module, name: str | int) -> nnx.Module:
    return module[name] if isinstance(name, int) else vars(module)[name]


def _adapter_shapes(spec: DecoderSpec, rank: int) -> dict[tuple, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns, per weight leaf of a layer (its path within the layer), the shapes of A and B, as qwix makes them.

    qwix finds them by tracing the model; all layers are alike, so one layer is traced.
    """
    one_layer = dataclasses.replace(spec, num_layers=1, windows=spec.windows[:1], ropes=spec.ropes[:1])
    graph, state = nnx.split(abstract_module(one_layer))
    provider = qwix.LoraProvider(module_path=target_pattern("all"), rank=rank, alpha=1.0)

    def adapted(state: nnx.State) -> nnx.Module:
        module = nnx.merge(graph, state)
        return qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **module.get_model_input())

    traced = nnx.eval_shape(adapted, state)
    found = {path[2:]: variable.shape for path, variable in nnx.to_flat_state(nnx.state(traced, nnx.LoRAParam))}
    leaves = {(*path[:-1], path[-1].removesuffix("_lora_a")) for path in found if path[-1].endswith("_lora_a")}
    return {
        leaf: (found[(*leaf[:-1], f"{leaf[-1]}_lora_a")], found[(*leaf[:-1], f"{leaf[-1]}_lora_b")]) for leaf in leaves
    }

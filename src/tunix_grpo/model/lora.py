"""LoRA (arXiv:2106.09685): the adapters beside a frozen base.

Adapters hang where qwix hangs them and have its shapes; their values are ours: float32, so that a small
update is never rounded away, A uniform (He), B zero, each A drawn from (seed, its place).
"""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp

from tunix_grpo import seeds
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.model.layout import TARGETS, Leaf, LeafTree, leaves, nested
from tunix_grpo.model.placing import fitting_sharding, trained_specs


def target_pattern(target_modules: str, spec: DecoderSpec) -> str:
    """Returns the regular expression over module paths for `attention`, `mlp`, `all` or a user's own expression."""
    if target_modules in TARGETS:
        roles = TARGETS[target_modules]
        names = {str(leaf.path[-2]) for leaf in leaves(spec) if leaf.roles[0] in roles}
        return "|".join(f".*{name}" for name in sorted(names))
    try:
        re.compile(target_modules)
    except re.error as error:
        raise UserError(
            f"model.lora_target_modules={target_modules!r} is neither attention, mlp, all nor a regular "
            f"expression ({error})"
        ) from error
    return target_modules


def adapted_leaves(spec: DecoderSpec, targets: str) -> list[Leaf]:
    """Returns the leaves that get an adapter, in the order in which their numbers are drawn.

    Args:
        targets: as `model.lora_target_modules`.

    Raises:
        UserError: the targets match nothing, or what cannot have an adapter.
    """
    pattern = target_pattern(targets, spec)
    matched = [leaf for leaf in leaves(spec) if re.fullmatch(pattern, leaf.module)]
    if outside := [leaf.path[0] for leaf in matched if leaf.roles[0] in ("embed", "head")]:
        raise UserError(
            f"model.lora_target_modules={targets!r} matches {outside[0]}, but only the linear layers of attention and "
            "MLP can have an adapter; model.lora_target_modules=all takes them all"
        )
    adapted = sorted((leaf for leaf in matched if leaf.is_projection), key=lambda leaf: leaf.path)
    if not adapted:
        raise UserError(f"model.lora_target_modules={targets!r} matches no module of a {spec.family} model")
    return adapted


def new_adapters(spec: DecoderSpec, *, rank: int, targets: str, seed: int, mesh: jax.sharding.Mesh) -> LeafTree:
    """Returns adapters that change nothing yet, as a nested dictionary of Tunix's leaves.

    Args:
        rank: >= 1.
        targets: as `model.lora_target_modules`.

    Raises:
        UserError: see `adapted_leaves`.
    """
    stream = seeds.key("lora", seed)
    axes = trained_specs(spec) if mesh.size > 1 else {}
    placed = {}
    for index, leaf in enumerate(adapted_leaves(spec, targets)):
        inputs, outputs = leaf.adapter_shapes
        bound = (6.0 / math.prod(inputs)) ** 0.5
        a = jax.random.uniform(jax.random.fold_in(stream, index), (*inputs, rank), jnp.float32, -bound, bound)
        for path, array in zip(leaf.adapter_paths, (a, jnp.zeros((rank, *outputs), jnp.float32)), strict=True):
            placed[path] = layouts.put(array, fitting_sharding(mesh, array.shape, axes.get(path)))
    return nested(placed)

"""The decoder's dictionary of weights (see `decoder/layer.py`), from the leaves of Tunix's module and from adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.spec import DecoderSpec, layer_places, stacks
from tunix_grpo.model.layout import PROJECTIONS, Array, LeafTree, flattened, leaves

if TYPE_CHECKING:
    import qwix

Stored: TypeAlias = "Array | qwix.QArray"  # a weight as the decoder's dictionary holds it
# (layer, role) -> A [in, rank], B [rank, out] times alpha / rank
Pairs: TypeAlias = Mapping[tuple[int, str], tuple[Array, Array]]


def array_at(spec: DecoderSpec, weights: Weights, layer: int | None, role: str) -> Stored:
    """Returns one of the decoder's arrays."""
    projection, _, part = role.partition(".")
    if layer is None:
        return weights[role]
    stack, repeat, place = layer_places(spec)[layer]
    found = weights["stacks"][stack][projection]
    whole = found[part or "w"] if projection in PROJECTIONS else found
    return jax.tree.map(lambda leaf: leaf[repeat, place], whole)


def put_at(weights: Weights, stack: int | None, role: str, array: Stored) -> None:
    """Puts an array where the decoder looks for it.

    Args:
        stack: its number, None outside of the layers; then the array is that of all layers of the stack.
    """
    projection, _, part = role.partition(".")
    here = weights if stack is None else weights["stacks"][stack]
    if projection in PROJECTIONS:
        here.setdefault(projection, {})[part or "w"] = array
    else:
        here[role] = array


def empty_weights(spec: DecoderSpec) -> Weights:
    """Returns the dictionary without any array."""
    return {"stacks": [{} for period in stacks(spec) for _ in period]}


def whole_weights(spec: DecoderSpec, trained: LeafTree, dtype: jnp.dtype) -> Weights:
    """Returns the decoder's weights from all leaves of Tunix's module; differentiable.

    Args:
        trained: nested dictionary of arrays.
        dtype: of the computation; parameters kept in float32 are rounded to it here.
    """
    flat = flattened(trained)
    weights = empty_weights(spec)
    parts: dict[tuple[int, str], list[Array]] = {}
    for leaf in leaves(spec):
        arrays = leaf.decoder_arrays(flat[leaf.path].astype(dtype))
        for role, array in zip(leaf.roles, arrays, strict=True):
            if leaf.layer is None:
                put_at(weights, None, role, array)
            else:
                parts.setdefault((layer_places(spec)[leaf.layer].stack, role), []).append(array)
    for (stack, role), arrays in parts.items():
        put_at(weights, stack, role, stacked(spec, stack, arrays))
    return weights


def adapter_pairs(spec: DecoderSpec, trained: LeafTree, scale: float, dtype: jnp.dtype) -> Pairs:
    """Returns the adapters among Tunix's leaves as the decoder uses them.

    Args:
        trained: nested dictionary of arrays.
        scale: alpha / rank.
        dtype: of the computation.
    """
    flat = flattened(trained)
    pairs = {}
    for leaf in leaves(spec):
        path_a, path_b = leaf.adapter_paths
        if path_a in flat:
            for role, (a, b) in zip(leaf.roles, leaf.adapters(flat[path_a], flat[path_b]), strict=True):
                pairs[leaf.layer, role] = (a.astype(dtype), b.astype(dtype) * scale)
    return pairs


def with_adapters(spec: DecoderSpec, base: Weights, pairs: Pairs) -> Weights:
    """Returns weights that share the base's arrays and have adapters; differentiable in those.

    Where only some layers of a stack have an adapter, the others get one that is zero.
    """
    found = list(base["stacks"])
    flat_stacks = [stack for period in stacks(spec) for stack in period]
    for number, role in sorted({(layer_places(spec)[layer].stack, role) for layer, role in pairs}):
        layers = [layer for run in flat_stacks[number].layers for layer in run]
        nothing = jax.tree.map(jnp.zeros_like, next(pairs[layer, role] for layer in layers if (layer, role) in pairs))
        a, b = zip(*(pairs.get((layer, role), nothing) for layer in layers), strict=True)
        adapter = {"a": stacked(spec, number, a), "b": stacked(spec, number, b)}
        found[number] = {**found[number], role: {**found[number][role], **adapter}}
    return {**base, "stacks": found}


def stacked(spec: DecoderSpec, stack: int, arrays: Sequence[Array]) -> jax.Array:
    """Returns arrays of a stack's layers as one array [repeats, length, ...]."""
    repeats = len([stack for period in stacks(spec) for stack in period][stack].layers)
    return jnp.stack(arrays).reshape(repeats, -1, *arrays[0].shape)

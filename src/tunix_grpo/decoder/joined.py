"""Weights prepared for a single token per row: projections that share an input become one matrix product.

With few rows a product costs the reading of its weights and the start of a kernel, not arithmetic; so fewer and larger
products are faster, and adapters ride along. On a CPU the matrices are turned as well (`matmul.product_of_few`). That
takes a copy of the weights. Where there is no memory for one, they are read where they lie (`in_place`), and only the
adapters are joined.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder import layouts, matmul
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.quantized import is_quantized
from tunix_grpo.decoder.spec import DecoderSpec, layer_places

_GROUPS = (("q", "k", "v"), ("gate", "up"), ("o",), ("down",))  # projections that share an input


def for_tokens(spec: DecoderSpec, weights: Weights, copies: bool) -> Weights:
    """Returns the weights as `layer_of_token` takes them.

    Args:
        copies: of the matrices that stay, joined, may be made; otherwise they are read where they lie.
    """
    return joined(spec, weights) if copies else in_place(spec, weights)


def beside_layers(weights: Weights, copies: bool) -> Weights:
    """Returns what `for_tokens` leaves as it is: all but the layers, and their stacks where there are no copies."""
    return {name: leaf for name, leaf in weights.items() if name != "stacks" or not copies}


def apart(spec: DecoderSpec, weights: Weights) -> Weights:
    """Returns the weights with a dictionary for every layer instead of stacks."""

    def layer(stack: int, repeat: int, place: int) -> Weights:
        return jax.tree.map(lambda leaf: leaf[repeat, place], weights["stacks"][stack])

    layers = [layer(*place) for place in layer_places(spec)]
    return {**beside_layers(weights, copies=True), "layers": layers}


def joined(spec: DecoderSpec, weights: Weights) -> Weights:
    """Returns the weights by layer, with the projections that share an input joined into one product.

    In float32 adapters are merged into the weights, which rounds nothing that counts. In bfloat16 it would round most
    of a small adapter away: there, a is put beside w and b is applied to what comes out. Quantized weights stay apart,
    and so do all where devices share the heads: a cut through joined columns would part neither q nor k nor v.
    """
    weights = apart(spec, weights)
    if layouts.devices(layouts.TP) > 1:
        return weights
    return {**weights, "layers": [join_layer(layer) for layer in weights["layers"]]}


def join_layer(layer: Weights) -> Weights:
    """Returns a layer with q, k and v in one product, and gate and up in another."""
    rest = dict(layer)
    for names in _GROUPS:
        leaves = [layer[name] for name in names]
        if not any(is_quantized(leaf["w"]) for leaf in leaves):
            rest = {name: leaf for name, leaf in rest.items() if name not in names}
            rest["+".join(names)] = _join(leaves)
    return rest


def in_place(spec: DecoderSpec, weights: Weights) -> Weights:
    """Returns the weights as they are, and what is small of every layer beside them: adapters joined, norms, biases."""
    return {**weights, "layers": [_join_beside(layer) for layer in apart(spec, weights)["layers"]]}


def layer_of_token(spec: DecoderSpec, weights: Weights, index: int, x: jax.Array) -> tuple[Weights, jax.Array]:
    """Returns a layer as one token at a time reads it, and its input.

    Args:
        weights: as `for_tokens` gives them.
        x: what the layer is given. Matrices that are read where they lie are cut out of their stacks when it is there:
            XLA would cut all of them out at once, or even before the first token, which is the copy again.
    """
    layer = weights["layers"][index]
    if "stacks" not in weights:
        return layer, x
    stack, *place = layer_places(spec)[index]
    x, zero = jax.lax.optimization_barrier((x, jnp.int32(0)))

    def matrix(name: str) -> jax.Array:
        return jax.tree.map(
            lambda leaf: leaf[tuple(axis + zero for axis in place)], weights["stacks"][stack][name]["w"]
        )

    for names in _GROUPS:
        together = "+".join(names)
        layer = {**layer, together: {**layer[together], "w": tuple(map(matrix, names))}}
    return layer, x


def _join_beside(layer: Weights) -> Weights:
    """Returns a layer with the adapters and biases of projections that share an input in one."""
    rest = {name: leaf for name, leaf in layer.items() if not any(name in names for names in _GROUPS)}
    return {**rest, **{"+".join(names): _beside([layer[name] for name in names]) for names in _GROUPS}}


def _join(leaves: list[Weights]) -> Weights:
    w = jnp.concatenate([_merged(leaf) for leaf in leaves], axis=1)
    beside = _beside(leaves if w.dtype != jnp.float32 else [_without_adapter(leaf) for leaf in leaves])
    if "a" in beside:
        w = jnp.concatenate([w, beside.pop("a")], axis=1)
    return {"turned": w.T, **beside} if matmul.outputs_first(w.dtype) else {"w": w, **beside}


def _beside(leaves: list[Weights]) -> Weights:
    """Returns what is added to the product with the joined weights: one bias, and one adapter."""
    joined: Weights = {}
    if any("bias" in leaf for leaf in leaves):
        joined["bias"] = jnp.concatenate([leaf["bias"] for leaf in leaves])
    adapted = [leaf for leaf in leaves if "a" in leaf]
    if adapted:
        ends = np.cumsum([leaf["w"].shape[1] for leaf in leaves])
        blocks = []
        for leaf, end in zip(leaves, ends, strict=True):
            if "a" in leaf:
                width = leaf["w"].shape[1]
                blocks.append(jnp.pad(leaf["b"], ((0, 0), (end - width, ends[-1] - end))))
        joined["a"] = jnp.concatenate([leaf["a"] for leaf in adapted], axis=1)
        joined["b"] = jnp.concatenate(blocks)
    return joined


def _without_adapter(leaf: Weights) -> Weights:
    return {part: array for part, array in leaf.items() if part not in ("a", "b")}


def _merged(leaf: Weights) -> jax.Array:
    if "a" not in leaf or leaf["w"].dtype != jnp.float32:
        return leaf["w"]
    return leaf["w"] + jnp.matmul(leaf["a"], leaf["b"], precision=jax.lax.Precision.HIGHEST)

"""Weights prepared for a single token per row: projections that share an input become one matrix product.

With few rows a product costs the reading of its weights and the start of a kernel, not arithmetic; so fewer and larger
products are faster, and adapters ride along.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.quantized import is_quantized
from tunix_grpo.decoder.spec import DecoderSpec, layer_places


def apart(spec: DecoderSpec, weights: Weights) -> Weights:
    """Returns the weights with a dictionary for every layer instead of stacks."""
    rest = {name: leaf for name, leaf in weights.items() if name != "stacks"}

    def layer(stack: int, repeat: int, place: int) -> Weights:
        return jax.tree.map(lambda leaf: leaf[repeat, place], weights["stacks"][stack])

    return {**rest, "layers": [layer(*place) for place in layer_places(spec)]}


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
    for names in (("q", "k", "v"), ("gate", "up"), ("o",), ("down",)):
        leaves = [layer[name] for name in names]
        if not any(is_quantized(leaf["w"]) for leaf in leaves):
            rest = {name: leaf for name, leaf in rest.items() if name not in names}
            rest["+".join(names)] = _join(leaves)
    return rest


def _join(leaves: list[Weights]) -> Weights:
    w = jnp.concatenate([_merged(leaf) for leaf in leaves], axis=1)
    whole: Weights = {}
    if any("bias" in leaf for leaf in leaves):
        whole["bias"] = jnp.concatenate([leaf["bias"] for leaf in leaves])
    adapted = [leaf for leaf in leaves if "a" in leaf] if w.dtype != jnp.float32 else []
    if adapted:
        ends = np.cumsum([leaf["w"].shape[1] for leaf in leaves])
        blocks = []
        for leaf, end in zip(leaves, ends, strict=True):
            if "a" in leaf:
                width = leaf["w"].shape[1]
                blocks.append(jnp.pad(leaf["b"], ((0, 0), (end - width, ends[-1] - end))))
        whole["b"] = jnp.concatenate(blocks)
        w = jnp.concatenate([w, *(leaf["a"] for leaf in adapted)], axis=1)
    return {"w": w, **whole}


def _merged(leaf: Weights) -> jax.Array:
    if "a" not in leaf or leaf["w"].dtype != jnp.float32:
        return leaf["w"]
    return leaf["w"] + jnp.matmul(leaf["a"], leaf["b"], precision=jax.lax.Precision.HIGHEST)

"""The parts of a layer, of which every pass is made: norms, projections, rotary embedding, the MLP.

Letters in shape comments: B rows, T tokens, D embed_dim, F hidden_dim, N query heads, K key/value heads, H head_dim, V
vocabulary.

Weights: {"embed": [V, D], "head": [V, D] if not tied, "final_norm": [D], "stacks": [one dict per stack of layers]}; a
stack (see `spec.stacks`) holds arrays [repeats, length, ...] of what a layer holds: norms as vectors, and projections q
k v o gate up down as {"w": [in, out], possibly quantized} with, where it is adapted by LoRA, "a": [in, rank] and "b":
[rank, out] (already scaled by alpha / rank), and "bias": [out] where there is one. Token by token the layers are apart:
"layers": [one dict per layer] instead of "stacks" (see `joined.py`).

Numbers: matrix products run in the weights' dtype and accumulate in float32; norms, rotary angles and softmax are
float32.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.matmul import product, product_of_few
from tunix_grpo.decoder.quantized import whole_weight
from tunix_grpo.decoder.spec import DecoderSpec, Rope

Weights: TypeAlias = dict[str, Any]  # the keys above nest to different depths, and a reader of a key knows its depth

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}
PROJECTIONS = "projections"  # the matrix products that remat=block keeps


def embed(spec: DecoderSpec, weights: Weights, tokens: jax.Array, by_columns: bool = False) -> jax.Array:
    """Returns [..., D] embeddings of int32[...] tokens.

    Args:
        by_columns: devices look up their columns of all rows, and exchange them: for a table that is divided so,
            whose gradient then never lies whole on one of them.
    """
    x = weights["embed"][tokens]
    x = layouts.rows(layouts.columns(x) if by_columns else x)
    return x if spec.embedding_scale == 1.0 else x * jnp.asarray(spec.embedding_scale, x.dtype)


def rms_norm(spec: DecoderSpec, x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm (arXiv:1910.07467) in float32; Gemma multiplies by 1 + scale, then rounds; the others the reverse."""
    x32, scale = x.astype(jnp.float32), layouts.whole(scale)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + spec.norm_eps)
    if spec.norm_plus_one:
        return (normed * (1.0 + scale.astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * scale


def linear(leaf: Weights, x: jax.Array) -> jax.Array:
    """Returns x @ w (+ x @ a @ b) (+ bias), summed in float32 so that a small adapter is not rounded away.

    A leaf with "b" but without "a" has the columns of a behind those of w, so that x is read once. Several w, a tuple,
    are those of neighbouring columns. "turned" is w as [out, in], for few rows.
    """
    if "turned" in leaf:
        y = product_of_few(x, leaf["turned"])
    elif isinstance(leaf["w"], tuple):
        # Of products with one input XLA would put the matrices together, in a copy, for each token.
        x, *inputs = jax.lax.optimization_barrier((x,) * (1 + len(leaf["w"])))
        parts = [product(*pair) for pair in zip(inputs, map(whole_weight, leaf["w"]), strict=True)]
        y = jnp.concatenate(parts, axis=-1)
    else:
        y = product(x, whole_weight(leaf["w"]))
    if "b" in leaf:
        if "a" in leaf:
            low = product(x, leaf["a"])
        else:
            y, low = jnp.split(y, [leaf["b"].shape[1]], axis=-1)
        y = y + product(low.astype(x.dtype), leaf["b"])
    if "bias" in leaf:
        y = y + leaf["bias"]
    return y.astype(x.dtype)


def projections(layer: Weights, names: tuple[str, ...], x: jax.Array, widths: tuple[int, ...]) -> list[jax.Array]:
    """Returns the named projections of one input; in one product if the layer holds them joined, as "q+k+v"."""
    joined = layer.get("+".join(names))
    if joined is not None:
        ends = np.cumsum(widths)[:-1]
        return jnp.split(linear(joined, x), ends, axis=-1)
    return [checkpoint_name(linear(layer[name], x), PROJECTIONS) for name in names]


def rotary_angles(spec: DecoderSpec, positions: jax.Array) -> dict[Rope, tuple[jax.Array, jax.Array]]:
    """Returns (sin, cos), each float32[B, T, 1, H / 2], for each kind of rotary embedding that the layers use."""
    tables = {}
    # In the order of the layers. That of a set differs between processes, and so would their programs: none would be
    # found in the folder of compiled ones.
    for rope in dict.fromkeys(spec.ropes):
        angle = positions[..., None].astype(jnp.float32) * rope_frequencies(rope, spec.head_dim)
        tables[rope] = (jnp.sin(angle)[:, :, None], jnp.cos(angle)[:, :, None])
    return tables


def rope_frequencies(rope: Rope, head_dim: int) -> jax.Array:
    """Returns float32[H / 2] radians per position, scaled as transformers defines `linear` and `llama3`."""
    frequencies = rope.theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if rope.llama3 is None:
        return frequencies / rope.factor
    low_factor, high_factor, context = rope.llama3
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low_factor) / (high_factor - low_factor)
    smooth = jnp.clip(smooth, 0.0, 1.0)
    return (1 - smooth) * frequencies / rope.factor + smooth * frequencies


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H / 2]) of [B, T, heads, H] by the position's angles."""
    sin, cos = table
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def qkv(
    spec: DecoderSpec, layer: Weights, x: jax.Array, table: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns queries [B, T, N, H], keys and values [B, T, K, H] of one layer."""
    h = rms_norm(spec, x, layer["attention_norm"])
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    flat = projections(layer, ("q", "k", "v"), h, tuple(count * spec.head_dim for count in heads))
    q, k, v = (y.reshape(*h.shape[:2], count, spec.head_dim) for y, count in zip(flat, heads, strict=True))
    if spec.qk_norm:
        q = rms_norm(spec, q, layer["q_norm"])
        k = rms_norm(spec, k, layer["k_norm"])
    q, k, v = map(layouts.heads, (q, k, v))
    return rotate(q, table), rotate(k, table), v


def finish_layer(spec: DecoderSpec, layer: Weights, x: jax.Array, context: jax.Array) -> jax.Array:
    """Adds the attention output and the MLP to the residual stream [B, T, D]."""
    attended = layouts.rows(linear(layer["o"], context))
    if spec.sandwich_norms:
        attended = rms_norm(spec, attended, layer["post_attention_norm"])
    x = x + attended
    h = rms_norm(spec, x, layer["mlp_norm"])
    gate, up = projections(layer, ("gate", "up"), h, (spec.hidden_dim, spec.hidden_dim))
    h = layouts.inner(_ACTIVATIONS[spec.activation](gate) * up)
    h = layouts.rows(linear(layer["down"], h))
    if spec.sandwich_norms:
        h = rms_norm(spec, h, layer["post_mlp_norm"])
    return x + h

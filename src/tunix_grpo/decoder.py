"""The model's arithmetic, once: one decoder for every supported family.

Prefill, reference and update run through `forward`, token-by-token generation through `decoding.py`, which is made of
the same parts, so that rollout and trainer agree by construction. The functions are pure: they take a `DecoderSpec`
(static) and the weights as a dictionary of arrays, and are differentiable in the weights.

Letters in shape comments: B rows, T tokens, S earlier tokens, D embed_dim, F hidden_dim, N query heads, K key/value
heads, H head_dim, V vocabulary, M prompts (each shared by B / M rows).

Weights: {"embed": [V, D], "head": [V, D] if not tied, "final_norm": [D], "layers": [one dict per layer]}; a layer
holds norms as vectors and the projections q k v o gate up down as {"w": [in, out], possibly quantized} with, where it
is adapted by LoRA, "a": [in, rank] and "b": [rank, out] (already scaled by alpha / rank), and "bias": [out] where
there is one.

Numbers: matrix products run in the weights' dtype and accumulate in float32; norms, rotary angles and softmax are
float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from jax.ad_checkpoint import checkpoint_name

from tunix_grpo import attention
from tunix_grpo.products import product
from tunix_grpo.spec import DecoderSpec, Rope, Stack, stacks

Weights = dict[str, Any]

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}
_PROJECTIONS = "projections"  # the matrix products that remat=block keeps
# training.remat -> what becomes of a layer's function.
_REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,
    "block": lambda layer: jax.checkpoint(
        layer, policy=jax.checkpoint_policies.save_only_these_names(_PROJECTIONS), prevent_cse=False
    ),
    "full": lambda layer: jax.checkpoint(layer, prevent_cse=False),
}
_AUTO_BYTES = 2**30  # what auto lets `block` keep


class Segment(NamedTuple):
    """Keys and values of consecutive tokens, after rotary embedding.

    Attributes:
        keys: one array per stack of layers (see `spec.stacks`), [repeats, length, M, S, K, H].
        values: the same.
        positions: int32[M, S], each token's position in its text.
        valid: bool[M, S], False for padding.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array
    valid: jax.Array


def choose_remat(wanted: str, spec: DecoderSpec, tokens: int, dtype: jnp.dtype) -> str:
    """Returns `wanted`, or for auto `block` where what it keeps is at most 1 GiB, and else `full`.

    Args:
        tokens: that a device runs through all layers before it runs backward.
        dtype: of the activations.
    """
    if wanted != "auto":
        return wanted
    width = spec.embed_dim + (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim + 2 * spec.hidden_dim
    return "block" if tokens * width * spec.num_layers * jnp.dtype(dtype).itemsize <= _AUTO_BYTES else "full"


def text_positions(valid: jax.Array) -> jax.Array:
    """Returns int32[B, T]: each valid token's index among the valid tokens of its row (padding: 0)."""
    return jnp.maximum(jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, 0)


def forward(
    spec: DecoderSpec,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    prefix: Segment | None = None,
    *,
    attention_form: str = attention.PLAIN,
    remat: str = "none",
) -> tuple[jax.Array, Segment]:
    """Runs all layers over whole rows of tokens.

    Layers that are alike run in a loop over their stacked weights: compiled once, whatever their number.

    Args:
        tokens: int32[B, T].
        positions: int32[B, T], position of each token in its text (that of the prefix included).
        valid: bool[B, T], False for padding, on either side.
        prefix: what every row has already seen: M rows, row i of it shared by the B / M rows from i * B / M on.
        attention_form: as `attention.attend` takes it.
        remat: what is computed again in a backward pass instead of being kept: `none` of it; `block`: all of a layer
            but its wide matrix products; `full`: all but each layer's input.

    Returns:
        float[B, T, D] hidden states after the final norm, and the rows' own keys and values.
    """
    angles = rotary_angles(spec, positions)
    key_positions, key_valid = _behind(prefix and (prefix.positions, prefix.valid), positions, valid)

    def run_layer(stack: Stack, x: jax.Array, layer: Weights, earlier: tuple[jax.Array, jax.Array] | None) -> tuple:
        q, k, v = qkv(spec, layer, x, angles[stack.rope])
        context = attention.attend(
            q,
            *_behind(earlier, k, v),
            query_positions=positions,
            key_positions=key_positions,
            key_valid=key_valid,
            window=stack.window,
            scale=spec.attention_scale,
            form=attention_form,
        )
        return finish_layer(spec, layer, x, context.reshape(*x.shape[:2], -1)), (k, v)

    def run_stack(stack: Stack, x: jax.Array, inputs: tuple) -> tuple[jax.Array, tuple]:
        wrapped = _REMAT[remat](functools.partial(run_layer, stack))
        return jax.lax.scan(lambda x, part: wrapped(x, *part), x, inputs)

    def run_period(period: tuple[Stack, ...], x: jax.Array, inputs: list) -> tuple[jax.Array, list]:
        own = []
        for stack, part in zip(period, inputs, strict=True):
            x, keys_and_values = run_stack(stack, x, part)
            own.append(keys_and_values)
        return x, own

    x = embed(spec, weights, tokens)
    own = []
    for period in stacks(spec):
        start = len(own)
        inputs = [
            (_stacked(weights, stack), prefix and (prefix.keys[start + place], prefix.values[start + place]))
            for place, stack in enumerate(period)
        ]
        x, keys_and_values = jax.lax.scan(functools.partial(run_period, period), x, inputs)
        own += keys_and_values
    x = rms_norm(spec, x, weights["final_norm"])
    keys, values = zip(*own, strict=True)
    return x, Segment(keys, values, positions, valid)


def _behind(earlier: tuple[jax.Array, jax.Array] | None, *own: jax.Array) -> tuple[jax.Array, ...]:
    """Returns arrays [B, T, ...] behind those of what their rows have seen before, [M, S, ...], if anything."""
    if earlier is None:
        return own
    shared = (jnp.repeat(old, new.shape[0] // old.shape[0], axis=0) for old, new in zip(earlier, own, strict=True))
    return tuple(jnp.concatenate(pair, axis=1) for pair in zip(shared, own, strict=True))


def _stacked(weights: Weights, stack: Stack) -> Weights:
    """Returns the weights of a stack's layers as one dictionary of arrays [repeats, length, ...].

    Where only some of the layers have an adapter, the others get one that is zero.
    """
    layers = [weights["layers"][layer] for period in stack.layers for layer in period]

    def together(*leaves: jax.Array) -> jax.Array:
        return jnp.stack(leaves).reshape(len(stack.layers), -1, *leaves[0].shape)

    def completed(name: str) -> list[Any]:
        found = [layer[name] for layer in layers]
        adapters = [
            {part: leaf[part] for part in ("a", "b")} for leaf in found if isinstance(leaf, dict) and "a" in leaf
        ]
        if not adapters:
            return found
        nothing = jax.tree.map(jnp.zeros_like, adapters[0])
        return [{**nothing, **leaf} for leaf in found]

    return {name: jax.tree.map(together, *completed(name)) for name in layers[0]}


def head_logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """Returns float32[..., V] logits of float[..., D] hidden states."""
    head = weights["head"] if "head" in weights else weights["embed"]
    return product(hidden, head, True)


# --- the parts of a layer ---


def embed(spec: DecoderSpec, weights: Weights, tokens: jax.Array) -> jax.Array:
    """Returns [..., D] embeddings of int32[...] tokens."""
    x = weights["embed"][tokens]
    return x if spec.embedding_scale == 1.0 else x * jnp.asarray(spec.embedding_scale, x.dtype)


def rms_norm(spec: DecoderSpec, x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm (arXiv:1910.07467) in float32; Gemma multiplies by 1 + scale, then rounds; the others the reverse."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + spec.norm_eps)
    if spec.norm_plus_one:
        return (normed * (1.0 + scale.astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * scale


def linear(leaf: Weights, x: jax.Array) -> jax.Array:
    """Returns x @ w (+ x @ a @ b) (+ bias), summed in float32 so that a small adapter is not rounded away.

    A leaf with "b" but without "a" has the columns of a behind those of w, so that x is read once.
    """
    w = qwix.dequantize(leaf["w"]) if isinstance(leaf["w"], qwix.QArray) else leaf["w"]
    y = product(x, w)
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
    return [checkpoint_name(linear(layer[name], x), _PROJECTIONS) for name in names]


def rotary_angles(spec: DecoderSpec, positions: jax.Array) -> dict[Rope, tuple[jax.Array, jax.Array]]:
    """Returns (sin, cos), each float32[B, T, 1, H / 2], for each kind of rotary embedding that the layers use."""
    tables = {}
    for rope in set(spec.ropes):
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
    return rotate(q, table), rotate(k, table), v


def finish_layer(spec: DecoderSpec, layer: Weights, x: jax.Array, context: jax.Array) -> jax.Array:
    """Adds the attention output and the MLP to the residual stream [B, T, D]."""
    attended = linear(layer["o"], context)
    if spec.sandwich_norms:
        attended = rms_norm(spec, attended, layer["post_attention_norm"])
    x = x + attended
    h = rms_norm(spec, x, layer["mlp_norm"])
    gate, up = projections(layer, ("gate", "up"), h, (spec.hidden_dim, spec.hidden_dim))
    h = _ACTIVATIONS[spec.activation](gate) * up
    h = linear(layer["down"], h)
    if spec.sandwich_norms:
        h = rms_norm(spec, h, layer["post_mlp_norm"])
    return x + h

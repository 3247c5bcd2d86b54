"""The model's arithmetic, once: one decoder for every supported family.

Prefill, token-by-token generation, reference and update all run through `forward` and
`decode_step`, so that rollout and trainer agree by construction. The functions are pure: they take a
`DecoderSpec` (static) and the weights as a dictionary of arrays, and are differentiable in the weights.

Letters in shape comments: B rows, T tokens, S earlier tokens, D embed_dim, F hidden_dim, N query heads, K key/value
heads, R = N / K, H head_dim, V vocabulary, M prompts (each shared by B / M rows).

Weights: {"embed": [V, D], "head": [V, D] if not tied, "final_norm": [D], "layers": [one dict per layer]}; a layer
holds norms as vectors and the projections q k v o gate up down as {"w": [in, out], possibly quantized} with, where it
is adapted by LoRA, "a": [in, rank] and "b": [rank, out] (already scaled by alpha / rank), and "bias": [out] where
there is one.

Numbers: matrix products run in the weights' dtype and accumulate in float32; norms, rotary angles and softmax are
float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import qwix

from tunix_grpo.spec import DecoderSpec, Rope

Weights = dict[str, Any]

_ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}
# Finite, so that a row without any visible key (padding) gives a number instead of NaN.
_MASKED_SCORE = -1e30


class Segment(NamedTuple):
    """Keys and values of consecutive tokens, after rotary embedding.

    Attributes:
        keys: per layer [M, S, K, H].
        values: per layer [M, S, K, H].
        positions: int32[M, S], each token's position in its text.
        valid: bool[M, S], False for padding and for slots that are not written yet.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array
    valid: jax.Array


def without_lora(weights: Weights) -> Weights:
    """Returns the same weights with every adapter left out: the reference model."""

    def bare(leaf: Any) -> Any:
        if isinstance(leaf, dict) and "w" in leaf:
            return {name: value for name, value in leaf.items() if name not in ("a", "b")}
        return leaf

    layers = [{name: bare(leaf) for name, leaf in layer.items()} for layer in weights["layers"]]
    return {**weights, "layers": layers}


def text_positions(valid: jax.Array) -> jax.Array:
    """Returns int32[B, T]: each valid token's index among the valid tokens of its row (padding: 0)."""
    return jnp.maximum(jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, 0)


def empty_segment(spec: DecoderSpec, rows: int, slots: int, dtype: jnp.dtype) -> Segment:
    """Returns a segment of `slots` unwritten places per row, for `decode_step` to fill."""
    shape = (rows, slots, spec.num_kv_heads, spec.head_dim)
    zeros = tuple(jnp.zeros(shape, dtype) for _ in range(spec.num_layers))
    return Segment(
        keys=zeros,
        values=tuple(jnp.zeros(shape, dtype) for _ in range(spec.num_layers)),
        positions=jnp.zeros((rows, slots), jnp.int32),
        valid=jnp.zeros((rows, slots), bool),
    )


def forward(
    spec: DecoderSpec,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    prefix: Segment | None = None,
    layer_wrapper: Callable = lambda function: function,
) -> tuple[jax.Array, Segment]:
    """Runs all layers over whole rows of tokens.

    Args:
        tokens: int32[B, T].
        positions: int32[B, T], position of each token in its text (that of the prefix included).
        valid: bool[B, T], False for padding, on either side.
        prefix: what every row has already seen: M rows, row i of it shared by the B / M rows from i * B / M on.
        layer_wrapper: applied to the function of one layer, for example `jax.checkpoint`.

    Returns:
        float[B, T, D] hidden states after the final norm, and the rows' own keys and values.
    """
    masks = _Masks(spec, positions, positions, valid, prefix)
    angles = _angles(spec, positions)
    x = _embed(spec, weights, tokens)
    keys, values = [], []
    for index, layer in enumerate(weights["layers"]):

        def run(layer: Weights, x: jax.Array, index: int = index) -> tuple[jax.Array, jax.Array, jax.Array]:
            q, k, v = _qkv(spec, layer, x, angles[spec.ropes[index]])
            sources = _sources(prefix, index) + [(k, v)]
            context = _attend(spec, q, sources, masks.of(spec.windows[index]))
            return _finish_layer(spec, layer, x, context), k, v

        x, k, v = layer_wrapper(run)(layer, x)
        keys.append(k)
        values.append(v)
    x = _rms_norm(spec, x, weights["final_norm"])
    return x, Segment(tuple(keys), tuple(values), positions, valid)


def decode_step(
    spec: DecoderSpec,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    slot: jax.Array,
    cache: Segment,
    prefix: Segment,
) -> tuple[jax.Array, Segment]:
    """Runs all layers over one new token per row.

    Args:
        tokens: int32[B], the new tokens.
        positions: int32[B], their positions.
        slot: int32[], the place in the cache where this token's keys and values go.
        cache: what the rows themselves have generated so far (B rows).
        prefix: the prompts (M rows, each shared by B / M rows).

    Returns:
        float[B, D] hidden states after the final norm, and the cache with the slot written.
    """
    positions = positions[:, None]
    cache = cache._replace(
        positions=jax.lax.dynamic_update_slice(cache.positions, positions, (0, slot)),
        valid=jax.lax.dynamic_update_slice(cache.valid, jnp.ones_like(positions, bool), (0, slot)),
    )
    masks = _Masks(spec, positions, cache.positions, cache.valid, prefix)
    angles = _angles(spec, positions)
    x = _embed(spec, weights, tokens[:, None])
    keys, values = [], []
    for index, layer in enumerate(weights["layers"]):
        q, k, v = _qkv(spec, layer, x, angles[spec.ropes[index]])
        keys.append(jax.lax.dynamic_update_slice(cache.keys[index], k, (0, slot, 0, 0)))
        values.append(jax.lax.dynamic_update_slice(cache.values[index], v, (0, slot, 0, 0)))
        sources = _sources(prefix, index) + [(keys[-1], values[-1])]
        context = _attend(spec, q, sources, masks.of(spec.windows[index]))
        x = _finish_layer(spec, layer, x, context)
    x = _rms_norm(spec, x, weights["final_norm"])
    return x[:, 0], cache._replace(keys=tuple(keys), values=tuple(values))


def head_logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """Returns float32[..., V] logits of float[..., D] hidden states."""
    head = weights["head"] if "head" in weights else weights["embed"]
    return jnp.einsum("...d,vd->...v", hidden, head, preferred_element_type=jnp.float32)


# --- the parts of a layer ---


def _embed(spec: DecoderSpec, weights: Weights, tokens: jax.Array) -> jax.Array:
    x = weights["embed"][tokens]
    return x if spec.embedding_scale == 1.0 else x * jnp.asarray(spec.embedding_scale, x.dtype)


def _rms_norm(spec: DecoderSpec, x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm (arXiv:1910.07467) in float32; Gemma multiplies by 1 + scale, then rounds; the others the reverse."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + spec.norm_eps)
    if spec.norm_plus_one:
        return (normed * (1.0 + scale.astype(jnp.float32))).astype(x.dtype)
    return normed.astype(x.dtype) * scale


def _linear(leaf: Weights, x: jax.Array) -> jax.Array:
    """Returns x @ w (+ x @ a @ b) (+ bias), summed in float32 so that a small adapter is not rounded away."""
    w = qwix.dequantize(leaf["w"]) if isinstance(leaf["w"], qwix.QArray) else leaf["w"]
    y = jnp.einsum("...i,io->...o", x, w, preferred_element_type=jnp.float32)
    if "a" in leaf:
        low = jnp.einsum("...i,ir->...r", x, leaf["a"])
        y = y + jnp.einsum("...r,ro->...o", low, leaf["b"], preferred_element_type=jnp.float32)
    if "bias" in leaf:
        y = y + leaf["bias"]
    return y.astype(x.dtype)


def _angles(spec: DecoderSpec, positions: jax.Array) -> dict[Rope, tuple[jax.Array, jax.Array]]:
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


def _rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the pairs (x[i], x[i + H / 2]) of [B, T, heads, H] by the position's angles."""
    sin, cos = table
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def _qkv(
    spec: DecoderSpec, layer: Weights, x: jax.Array, table: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns queries [B, T, N, H] (scaled), keys and values [B, T, K, H] of one layer."""
    h = _rms_norm(spec, x, layer["attention_norm"])
    batch, length, _ = h.shape
    q = _linear(layer["q"], h).reshape(batch, length, spec.num_heads, spec.head_dim)
    k = _linear(layer["k"], h).reshape(batch, length, spec.num_kv_heads, spec.head_dim)
    v = _linear(layer["v"], h).reshape(batch, length, spec.num_kv_heads, spec.head_dim)
    if spec.qk_norm:
        q = _rms_norm(spec, q, layer["q_norm"])
        k = _rms_norm(spec, k, layer["k_norm"])
    return _rotate(q, table), _rotate(k, table), v


def _sources(prefix: Segment | None, index: int) -> list[tuple[jax.Array, jax.Array]]:
    return [] if prefix is None else [(prefix.keys[index], prefix.values[index])]


class _Masks:
    """Who may see whom, per kind of window: computed once and shared by the layers."""

    def __init__(
        self,
        spec: DecoderSpec,
        query_positions: jax.Array,
        own_positions: jax.Array,
        own_valid: jax.Array,
        prefix: Segment | None,
    ):
        self._masks = {}
        rows = query_positions.shape[0]
        for window in set(spec.windows):
            own = _visible(query_positions, own_positions, own_valid, window)
            masks = [own]
            if prefix is not None:
                share = rows // prefix.valid.shape[0]
                positions = jnp.repeat(prefix.positions, share, axis=0)
                valid = jnp.repeat(prefix.valid, share, axis=0)
                masks.insert(0, _visible(query_positions, positions, valid, window))
            self._masks[window] = jnp.concatenate(masks, axis=-1)

    def of(self, window: int | None) -> jax.Array:
        """Returns bool[B, T, S]: prefix first, then the rows' own tokens."""
        return self._masks[window]


def _visible(
    query_positions: jax.Array, key_positions: jax.Array, key_valid: jax.Array, window: int | None
) -> jax.Array:
    """Returns bool[B, T, S]: key is real, not later than the query, and inside the window."""
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    visible = key_valid[:, None, :] & (distance >= 0)
    return visible if window is None else visible & (distance < window)


def _attend(spec: DecoderSpec, q: jax.Array, sources: list[tuple[jax.Array, jax.Array]], mask: jax.Array) -> jax.Array:
    """Grouped-query attention (arXiv:2305.13245) over several segments of keys and values.

    Args:
        q: [B, T, N, H].
        sources: (keys, values) pairs, each [M, S, K, H]; row i serves the B / M query rows from i * B / M on.
        mask: bool[B, T, sum of S].

    Returns:
        [B, T, N * H] in q's dtype.
    """
    batch, length, _, head_dim = q.shape
    kv_heads = spec.num_kv_heads
    repeat = spec.num_heads // kv_heads

    def grouped(rows: int) -> jax.Array:
        return q.reshape(rows, batch // rows, length, kv_heads, repeat, head_dim)

    scores = []
    for keys, _ in sources:
        rows = keys.shape[0]
        score = jnp.einsum("mgtkrh,mskh->mgkrts", grouped(rows), keys, preferred_element_type=jnp.float32)
        scores.append(score.reshape(batch, kv_heads, repeat, length, keys.shape[1]))
    score = jnp.concatenate(scores, axis=-1) * spec.attention_scale
    score = jnp.where(mask[:, None, None], score, _MASKED_SCORE)
    probs = jax.nn.softmax(score, axis=-1).astype(q.dtype)

    context = jnp.zeros((), jnp.float32)
    start = 0
    for keys, values in sources:
        rows, slots = keys.shape[:2]
        part = probs[..., start : start + slots]
        part = part.reshape(rows, batch // rows, kv_heads, repeat, length, slots)
        mixed = jnp.einsum("mgkrts,mskh->mgtkrh", part, values, preferred_element_type=jnp.float32)
        context = context + mixed.reshape(batch, length, spec.num_heads * head_dim)
        start += slots
    return context.astype(q.dtype)


def _finish_layer(spec: DecoderSpec, layer: Weights, x: jax.Array, context: jax.Array) -> jax.Array:
    """Adds the attention output and the MLP to the residual stream [B, T, D]."""
    attended = _linear(layer["o"], context)
    if spec.sandwich_norms:
        attended = _rms_norm(spec, attended, layer["post_attention_norm"])
    x = x + attended
    h = _rms_norm(spec, x, layer["mlp_norm"])
    h = _ACTIVATIONS[spec.activation](_linear(layer["gate"], h)) * _linear(layer["up"], h)
    h = _linear(layer["down"], h)
    if spec.sandwich_norms:
        h = _rms_norm(spec, h, layer["post_mlp_norm"])
    return x + h

"""Attention over whole rows, in two forms that are tested equal: plain matrix products, and one fused kernel.

The plain form runs anywhere. The fused one is cuDNN's flash attention through `jax.nn.dot_product_attention`, which
never holds an array of [T, S] scores; `usable_form` takes it where it works and gives the right numbers.

Letters: B rows, T queries, S keys (S >= T), N query heads, K key/value heads, R = N / K, H head_dim.
"""

from __future__ import annotations

import functools
import logging
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo import seeds
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.platform import described, platform
from tunix_grpo.errors import one_line

PLAIN, FUSED = "plain", "fused"
Implementation = Literal["cudnn", "xla"]  # of jax.nn.dot_product_attention

# Finite, so that a row without any visible key (padding) gives a number instead of NaN.
MASKED_SCORE = -1e30
# Scores that the plain form holds at once; longer rows are worked off in blocks of queries.
_SCORE_BYTES = 512 * 2**20
# Between two bfloat16 computations of numbers of size 1, as a part of the largest: a wrong mask makes 0.1 and more.
_BFLOAT16_TOLERANCE = 0.03

_log = logging.getLogger(__name__)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    query_positions: jax.Array,
    key_positions: jax.Array,
    key_valid: jax.Array,
    window: int | None,
    scale: float,
    form: str,
) -> jax.Array:
    """Causal grouped-query attention (arXiv:2305.13245); softmax in float32.

    The last T keys are the queries' own. A row's valid keys lie side by side, at positions that count up by one.

    Args:
        q: [B, T, N, H].
        k: [B, S, K, H].
        v: [B, S, K, H].
        query_positions: int32[B, T], in the text.
        key_positions: int32[B, S].
        key_valid: bool[B, S], False for padding.
        window: a query sees itself and the window - 1 tokens before it; None: all before it.
        scale: factor on the products of queries and keys.
        form: `plain` or `fused`; cuDNN wants queries, keys and values divided alike, so that it is plain where `tp`
            does not divide the key/value heads.

    Returns:
        [B, T, N, H] in q's dtype; meaningless where the query is padding.
    """
    if form == FUSED and k.shape[2] % layouts.devices(layouts.TP) == 0:
        return fused(q, k, v, key_valid, window=window, scale=scale, implementation="cudnn")
    by_head = (_by_head(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2))
    return _plain(*by_head, _Sight(query_positions, key_positions, key_valid, window), scale)


def visible(
    query_positions: jax.Array, key_positions: jax.Array, key_valid: jax.Array, window: int | None
) -> jax.Array:
    """Returns bool[..., T, S]: key is real, not later than the query, and inside the window."""
    distance = query_positions[..., :, None] - key_positions[..., None, :]
    seen = key_valid[..., None, :] & (distance >= 0)
    return seen if window is None else seen & (distance < window)


def _by_head(q: jax.Array, kv_heads: int) -> jax.Array:
    """[B, T, N, H] -> [B, K, R, T, H]."""
    batch, length, heads, head_dim = q.shape
    return q.reshape(batch, length, kv_heads, heads // kv_heads, head_dim).transpose(0, 2, 3, 1, 4)


class _Sight(NamedTuple):
    """What decides which keys a query sees: arguments of `visible`."""

    query_positions: jax.Array
    key_positions: jax.Array
    key_valid: jax.Array
    window: int | None


def _plain(q: jax.Array, k: jax.Array, v: jax.Array, sight: _Sight, scale: float) -> jax.Array:
    """Attention of [B, K, R, T, H] queries to [B, K, S, H] keys, in blocks of queries if there are many."""
    batch, kv_heads, repeat, length, head_dim = q.shape
    blocks = -(-4 * batch * kv_heads * repeat * length * k.shape[2] // _SCORE_BYTES)
    if blocks == 1:
        out = _plain_block(q, k, v, sight, scale)
    else:
        size = -(-length // blocks)
        padding = blocks * size - length
        q = jnp.pad(q, ((0, 0),) * 3 + ((0, padding), (0, 0)))
        positions = jnp.pad(sight.query_positions, ((0, 0), (0, padding)))
        q = jnp.moveaxis(q.reshape(batch, kv_heads, repeat, blocks, size, head_dim), 3, 0)
        positions = jnp.moveaxis(positions.reshape(batch, blocks, size), 1, 0)

        @jax.checkpoint
        def of_block(block: tuple[jax.Array, jax.Array]) -> jax.Array:
            return _plain_block(block[0], k, v, sight._replace(query_positions=block[1]), scale)

        out = jnp.moveaxis(jax.lax.map(of_block, (q, positions)), 0, 3)
        out = out.reshape(batch, kv_heads, repeat, blocks * size, head_dim)[..., :length, :]
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * repeat, head_dim)


def _plain_block(q: jax.Array, k: jax.Array, v: jax.Array, sight: _Sight, scale: float) -> jax.Array:
    batch, kv_heads, repeat, length, head_dim = q.shape
    flat = (batch, kv_heads, repeat * length)
    flat_q = _kept_apart(q.reshape(*flat, head_dim))
    score = jnp.einsum("bkqh,bksh->bkqs", flat_q, k, preferred_element_type=jnp.float32)
    score = _kept_apart(score).reshape(batch, kv_heads, repeat, length, -1) * scale
    score = jnp.where(visible(*sight)[:, None, None], score, MASKED_SCORE)
    probs = _kept_apart(jax.nn.softmax(score, axis=-1).astype(q.dtype).reshape(*flat, -1))
    out = jnp.einsum("bkqs,bksh->bkqh", probs, v, preferred_element_type=jnp.float32)
    return _kept_apart(out.astype(q.dtype)).reshape(q.shape)


def _kept_apart(operand: jax.Array) -> jax.Array:
    """Returns an operand of a matrix product, forward or backward, that a GPU computes before it and not inside of it.

    Else XLA takes what makes it into the product's kernel, where its rows are those of several heads, T behind T: it
    finds no tiles for them, and refuses the program, unless a live device offers it other kernels.
    """
    return jax.lax.optimization_barrier(operand) if platform() == "gpu" else operand


def fused(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    key_valid: jax.Array,
    *,
    window: int | None,
    scale: float,
    implementation: Implementation,
) -> jax.Array:
    """Attention as `attend` computes it, through `jax.nn.dot_product_attention`.

    Its kernels want padding at the end of a row and causality by index: every row is rolled to its first valid key,
    and the queries stand at the places of their own keys.

    Args:
        implementation: `cudnn`, or `xla` for the same call without a GPU.
    """
    length, ends = q.shape[1], k.shape[1]
    slots = ends + ends % 2  # cuDNN's backward pass takes even lengths only
    k, v, key_valid = (jnp.pad(x, ((0, 0), (0, slots - ends), *((0, 0),) * (x.ndim - 2))) for x in (k, v, key_valid))
    first = jnp.argmax(key_valid, axis=1)[:, None]
    counts = jnp.sum(key_valid, axis=1, dtype=jnp.int32)
    there = (jnp.arange(slots) + first) % slots
    back = (jnp.arange(slots) - first) % slots

    q = jnp.pad(q, ((0, 0), (ends - length, slots - ends), (0, 0), (0, 0)))
    out = jax.nn.dot_product_attention(
        _turned(q, there, back),
        _turned(k, there, back),
        _turned(v, there, back),
        scale=scale,
        is_causal=True,
        query_seq_lengths=counts,
        key_value_seq_lengths=counts,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return _turned(out, back, there)[:, ends - length : ends]


def _in_order(x: jax.Array, places: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns [B, S, N, H] in the order of places int32[B, S], a permutation of each row whose inverse is given too."""
    return jnp.take_along_axis(x, places[:, :, None, None], axis=1)


def _in_order_forward(x: jax.Array, places: jax.Array, inverse: jax.Array) -> tuple[jax.Array, tuple]:
    return _in_order(x, places, inverse), (places, inverse)


def _in_order_backward(orders: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, None, None]:
    """Puts gradients back by the inverse; automatic differentiation would add them up, by atomic operations."""
    places, inverse = orders
    return _turned(g, inverse, places), None, None


_turned = jax.custom_vjp(_in_order)
_turned.defvjp(_in_order_forward, _in_order_backward)


def usable_form(num_heads: int, num_kv_heads: int, head_dim: int, window: int | None, dtype: jnp.dtype) -> str:
    """Returns `fused` if the device's flash attention takes these shapes and gives the plain form's numbers.

    For a device that is only described, whether its documentation says so.
    """
    if platform() != "gpu" or dtype not in (jnp.bfloat16, jnp.float16):
        return PLAIN
    if (device := described()) is not None:
        return FUSED if head_dim <= device.longest_head else PLAIN
    return _tried_form(num_heads, num_kv_heads, head_dim, window, dtype)


@functools.cache
def _tried_form(num_heads: int, num_kv_heads: int, head_dim: int, window: int | None, dtype: jnp.dtype) -> str:
    """Runs both forms on a small padded batch, and compares their values and gradients.

    Kernels have been seen to ignore masks silently.
    """
    try:
        difference = _difference((num_heads, num_kv_heads, head_dim), window, dtype, "cudnn")
    except (RuntimeError, ValueError, NotImplementedError) as error:  # what JAX and cuDNN raise for what they lack
        _log.info("flash attention does not take these shapes (%s); plain attention is used", one_line(error))
        return PLAIN
    if not difference < _BFLOAT16_TOLERANCE:
        _log.warning("flash attention is off by %.2g here; plain attention is used", difference)
        return PLAIN
    return FUSED


def _difference(
    heads: tuple[int, int, int], window: int | None, dtype: jnp.dtype, implementation: Literal["cudnn", "xla"]
) -> float:
    """Returns the largest difference between the two forms, values and gradients, as a part of the largest number."""
    num_heads, kv_heads, head_dim = heads
    rows, length, slots = 2, 128, 255
    rng = seeds.generator("kernel trial", 0)
    shapes = ((rows, length, num_heads, head_dim), *((rows, slots, kv_heads, head_dim),) * 2)
    inputs = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    places = np.arange(slots)
    key_valid = jnp.asarray(np.stack([places >= 40, places < 200]))
    key_positions = jnp.maximum(jnp.cumsum(key_valid, axis=1) - 1, 0)
    query_valid = key_valid[:, -length:, None, None]
    scale = head_dim**-0.5

    def plain_form(q, k, v):
        return attend(
            q,
            k,
            v,
            query_positions=key_positions[:, -length:],
            key_positions=key_positions,
            key_valid=key_valid,
            window=window,
            scale=scale,
            form=PLAIN,
        )

    def fused_form(q, k, v):
        return fused(q, k, v, key_valid, window=window, scale=scale, implementation=implementation)

    def outputs(form):
        def total(*inputs):
            out = jnp.where(query_valid, form(*inputs).astype(jnp.float32), 0.0)
            return jnp.sum(jnp.sin(out)), out

        gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*inputs)
        return [out, *gradients]

    pairs = zip(outputs(plain_form), outputs(fused_form), strict=True)
    return max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))) / jnp.max(jnp.abs(a))) for a, b in pairs
    )

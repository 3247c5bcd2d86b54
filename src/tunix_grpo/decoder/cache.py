"""What generation remembers: keys and values of the prompts, shared by a group, and of the completions so far.

Letters: P prompts, B rows, S prompt slots, C cache slots, K key/value heads, H head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.spec import DecoderSpec

# Slots of the first cache; each later one has twice as many.
_FIRST_SLOTS = 256


class Prompts(NamedTuple):
    """What the prompts leave to their completions.

    Attributes:
        keys: per layer [P, K, S, H]; of a layer with a sliding window only what the first new token can see.
        values: the same.
        positions: int32[P, S].
        valid: bool[P, S].
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array
    valid: jax.Array

    def lengths(self) -> jax.Array:
        """Returns int32[P], the prompts' lengths in tokens: the position of the first new token."""
        return jnp.sum(self.valid, axis=1, dtype=jnp.int32)


class Cache(NamedTuple):
    """Keys and values of the completions: token t of every row is in slot t modulo C.

    Attributes:
        keys: per layer [B, K, H, C], the slots last: a CPU multiplies that with the queries twice as fast.
        values: per layer [B, K, C, H].
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def cache_sizes(steps: int) -> list[int]:
    """Returns the cache sizes that `steps` tokens pass through, none for no tokens."""
    sizes = []
    while steps > 0 and (not sizes or sizes[-1] < steps):
        sizes.append(min(steps, 2 * sizes[-1] if sizes else _FIRST_SLOTS))
    return sizes


def empty_cache(spec: DecoderSpec, rows: int, slots: int, dtype: jnp.dtype) -> Cache:
    """Returns unwritten slots, `slots` of them or as many as a layer's sliding window."""
    sizes = [min(slots, window or slots) for window in spec.windows]
    heads, width = spec.num_kv_heads, spec.head_dim
    # Every array its own, so that they can be donated.
    keys = tuple(jnp.zeros((rows, heads, width, size), dtype) for size in sizes)
    return Cache(keys, tuple(jnp.zeros((rows, heads, size, width), dtype) for size in sizes))


def grown(spec: DecoderSpec, cache: Cache, slots: int) -> Cache:
    """Returns the cache with `slots` slots, or as many as a layer's sliding window; it must not have wrapped around."""

    def longer(array: jax.Array, window: int | None, axis: int) -> jax.Array:
        padding = [(0, 0)] * 4
        padding[axis] = (0, min(slots, window or slots) - array.shape[axis])
        return layouts.cached(jnp.pad(array, padding))

    return Cache(
        tuple(longer(keys, window, 3) for keys, window in zip(cache.keys, spec.windows, strict=True)),
        tuple(longer(values, window, 2) for values, window in zip(cache.values, spec.windows, strict=True)),
    )


def written(
    keys: jax.Array, values: jax.Array, k: jax.Array, v: jax.Array, slot: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Returns a layer's keys and values with those of one more token per row.

    Args:
        keys: [B, K, H, C].
        values: [B, K, C, H].
        k: [B, K, H].
        v: [B, K, H].
        slot: int32[], or int32[B] where each row has its own.
    """
    if jnp.ndim(slot) == 0:
        keys = jax.lax.dynamic_update_slice(keys, k[:, :, :, None], (0, 0, 0, slot))
        return keys, jax.lax.dynamic_update_slice(values, v[:, :, None], (0, 0, slot, 0))
    rows = jnp.arange(keys.shape[0])
    return keys.at[rows, :, :, slot].set(k), values.at[rows, :, slot].set(v)

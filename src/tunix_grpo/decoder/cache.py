"""What generation remembers: keys and values of the prompts, shared by a group, and of the completions so far.

Letters: P prompts, B rows, S prompt slots, C cache slots, K key/value heads, H head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.spec import DecoderSpec


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

"""What is measured of the logits of tokens, a chunk of them at once: those of all would not fit into memory.

Letters: N tokens in all, n of a chunk, D embed_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.forward import head
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.matmul import product

# (float32[n, V] logits, int32[n] targets) -> two of float32[n].
Measure: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def _chunk_bytes() -> int:
    """Returns how many bytes of float32 logits are held at once.

    A CPU's caches like few. A GPU reads the whole head for each chunk, and wants fewer chunks.
    """
    return 2**25 if jax.default_backend() == "cpu" else 2**27


def head_in_chunks(
    weights: Weights,
    hidden: jax.Array,
    targets: jax.Array,
    temperature: float,
    vocab_size: int,
    *,
    measure: Measure,
) -> tuple[jax.Array, jax.Array]:
    """Returns two measures of the logits, float32[N] each, from float[N, D] hidden states.

    A chunk has as many tokens of every data-parallel device, so that all of them work on each.
    """
    count = hidden.shape[0]
    parts = layouts.devices(layouts.FSDP)
    parts = parts if count % parts == 0 else 1
    part_axes, vocab_axes = layouts.chunk_axes(vocab_size)
    axes = (None, vocab_axes) if parts == 1 else (part_axes, None, vocab_axes)
    of_part = count // parts
    chunk = max(16, min(of_part, _chunk_bytes() // (4 * vocab_size)))
    chunks = -(-of_part // chunk)

    def cut(x: jax.Array) -> jax.Array:
        """[N, ...] -> [chunks, chunk, ...], or [chunks, parts, chunk, ...] of several parts."""
        if parts == 1:
            x = jnp.pad(x, ((0, chunks * chunk - count), *((0, 0),) * (x.ndim - 1)))
            return x.reshape(chunks, chunk, *x.shape[1:])
        x = x.reshape(parts, of_part, *x.shape[1:])
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - of_part), *((0, 0),) * (x.ndim - 2)))
        return layouts.laid(jnp.moveaxis(x.reshape(parts, chunks, chunk, *x.shape[2:]), 1, 0), None, layouts.FSDP)

    def whole(x: jax.Array) -> jax.Array:
        """What `cut` has cut."""
        if parts == 1:
            return x.reshape(-1)[:count]
        return jnp.moveaxis(x, 0, 1).reshape(parts, -1)[:, :of_part].reshape(-1)

    matrix = layouts.laid(head(weights), vocab_axes)  # once, before the loop

    @jax.checkpoint
    def of_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden, targets = inputs
        return measure(layouts.laid(product(hidden, matrix, True), *axes) / temperature, targets)

    first, second = jax.lax.map(of_chunk, (cut(hidden), cut(targets)))
    return whole(first), whole(second)


def logps_and_entropies(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns float32[n] log-probabilities of the targets, and the entropies there, which have no gradient."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    logps = _picked(logits, targets) - normaliser
    fixed = jax.lax.stop_gradient(logits - normaliser[..., None])
    return logps, -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)


def logps_and_hits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns float32[n] log-probabilities of the targets, and 1 where a target is the likeliest token, else 0."""
    hits = jax.lax.stop_gradient(jnp.argmax(logits, axis=-1) == targets)
    return _picked(logits, targets) - jax.nn.logsumexp(logits, axis=-1), hits.astype(jnp.float32)


def _picked(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns float32[..., T], the logits of the targets among float32[..., T, V]."""
    if layouts.devices(layouts.VOCABULARY) == 1:
        return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    # A gather would look into the vocabularies of other devices, and scatter backward.
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    return jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)

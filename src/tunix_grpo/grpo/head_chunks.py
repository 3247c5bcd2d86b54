"""What is measured of the logits of tokens, a chunk of them at once: those of all would not fit into memory.

Letters: N tokens in all, n of a chunk, D embed_dim, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.forward import head
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.matmul import product
from tunix_grpo.decoder.platform import memory, platform

# (float32[n, V] logits, int32[n] targets) -> float32[n], the logarithms of the sums of exp(logits), and a measure of
# the logits that has no gradient, float32[n].
Measure: TypeAlias = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


class _How(NamedTuple):
    """What decides how a chunk is measured, and is no array.

    Attributes:
        axes: of the mesh, along which the logits lie.
    """

    temperature: float
    axes: tuple[layouts.Axes, ...]
    measure: Measure

    def logits(self, hidden: jax.Array, matrix: jax.Array) -> jax.Array:
        """Returns float32[..., V] of [..., D] and [V, D]."""
        return layouts.laid(product(hidden, matrix, True), *self.axes) / self.temperature


def _chunk_bytes() -> int:
    """Returns how many bytes of float32 logits are held at once.

    A CPU's caches like few. A GPU reads the whole head for each chunk, and wants few chunks: a power of two, which is a
    64th of the device's memory at most.
    """
    if platform() == "cpu":
        return 2**25
    held = memory()
    return 2**27 if held is None else 2 ** min(28, (held // 64).bit_length() - 1)


def head_in_chunks(
    weights: Weights,
    hidden: jax.Array,
    targets: jax.Array,
    temperature: float,
    vocab_size: int,
    *,
    measure: Measure,
) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probabilities of the targets and another measure, float32[N] each, of float[N, D] hidden states.

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

    first, second = _measured_chunks(cut(hidden), matrix, cut(targets), _How(temperature, axes, measure))
    return whole(first), whole(second)


def normalisers_and_entropies(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns float32[n] logarithms of the sums of exp(logits), and the entropies of the softmax: one more reading."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    shifted = logits - top
    parts = jnp.exp(shifted)
    total = jnp.sum(parts, axis=-1)
    logarithm = jnp.log(total)
    return top[..., 0] + logarithm, logarithm - jnp.sum(parts * shifted, axis=-1) / total


def normalisers_and_hits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns float32[n] logarithms of the sums of exp(logits), and 1 where a target is the likeliest token, else 0."""
    hits = jnp.argmax(logits, axis=-1) == targets
    return jax.nn.logsumexp(logits, axis=-1), hits.astype(jnp.float32)


def _chunks(hidden: jax.Array, matrix: jax.Array, targets: jax.Array, how: _How) -> tuple[jax.Array, jax.Array]:
    """Returns what `_measured` does, of one chunk after the other."""
    return jax.lax.map(lambda chunk: _measured(chunk[0], matrix, chunk[1], how), (hidden, targets))


def _chunks_forward(
    hidden: CustomVJPPrimal, matrix: CustomVJPPrimal, targets: CustomVJPPrimal, how: _How
) -> tuple[tuple[jax.Array, jax.Array], jax.Array | Callable]:
    """Keeps what the backward pass wants.

    Each log-probability is one number: where the head has no gradient, that by the hidden states is had with the logits
    at hand and only scaled later, a product with the head less. A trained head's is a sum over tokens that are scaled
    differently: for it the logits are computed again.
    """
    if matrix.perturbed:
        measured = functools.partial(_chunks, targets=targets.value, how=how)
        first, kept, second = jax.vjp(measured, hidden.value, matrix.value, has_aux=True)
    else:
        chunks = hidden.value, targets.value
        first, second, kept = jax.lax.map(lambda chunk: _with_slopes(chunk[0], matrix.value, chunk[1], how), chunks)
    return (first, second), kept


def _chunks_backward(how: _How, kept: jax.Array | Callable, g: tuple[jax.Array, jax.Array]) -> tuple:
    if callable(kept):
        return *kept(g[0]), None
    return (g[0][..., None] * kept).astype(kept.dtype), None, None


_measured_chunks = jax.custom_vjp(_chunks, nondiff_argnums=(3,))
_measured_chunks.defvjp(_chunks_forward, _chunks_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _measured(hidden: jax.Array, matrix: jax.Array, targets: jax.Array, how: _How) -> tuple[jax.Array, jax.Array]:
    """Returns the targets' log-probabilities and the other measure, float32[...] each."""
    return _forward(hidden, matrix, targets, how)[0]


def _forward(hidden: jax.Array, matrix: jax.Array, targets: jax.Array, how: _How) -> tuple[tuple, tuple]:
    logits = how.logits(hidden, matrix)
    normalisers, second = how.measure(logits, targets)
    return (_picked(logits, targets) - normalisers, second), (hidden, matrix, targets, normalisers)


def _backward(how: _How, kept: tuple, g: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, None]:
    """Computes the logits again, and reads them once.

    Automatic differentiation would compute the normalisers again too, and on a GPU scatter the targets' share into the
    logits' gradient.
    """
    hidden, matrix, targets, normalisers = kept
    logits, back = jax.vjp(how.logits, hidden, matrix)
    return *back(g[0][..., None] * _by_logits(logits, targets, normalisers)), None


_measured.defvjp(_forward, _backward)


def _with_slopes(
    hidden: jax.Array, matrix: jax.Array, targets: jax.Array, how: _How
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns what `_measured` does, and the log-probabilities' gradient by the hidden states, each by its own."""
    logits, back = jax.vjp(how.logits, hidden, matrix)
    normalisers, second = how.measure(logits, targets)
    slopes, _ = back(_by_logits(logits, targets, normalisers))
    return _picked(logits, targets) - normalisers, second, slopes


def _by_logits(logits: jax.Array, targets: jax.Array, normalisers: jax.Array) -> jax.Array:
    """Returns float32[..., V], the gradient of each target's log-probability by the logits of its token."""
    return _is_target(logits, targets) - jnp.exp(logits - normalisers[..., None])


def _picked(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns float32[..., T], the logits of the targets among float32[..., T, V]."""
    if layouts.devices(layouts.VOCABULARY) == 1:
        return jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    # A gather would look into the vocabularies of other devices.
    return jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.arange(logits.shape[-1]) == targets[..., None]

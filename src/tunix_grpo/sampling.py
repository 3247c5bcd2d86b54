"""Draws the next token.

A row's draw depends on its own key alone, not on the batch around it. One uniform number per row is compared with the
cumulative distribution: the same distribution as Gumbel noise on every logit, for a fraction of the random numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_GROUP = 128  # tokens whose probabilities are summed first, so that the cumulative sums stay short and exact


def sample(
    logits: jax.Array, keys: jax.Array, *, temperature: float, top_k: int | None = None, top_p: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Draws one token per row.

    Args:
        logits: float32[B, V].
        keys: key[B], one per row.
        temperature: logits are divided by it; 0 takes the most probable token.
        top_k: only the k most probable tokens, or None for all.
        top_p: only the most probable tokens that together hold this probability, in (0, 1] (nucleus sampling,
            arXiv:1904.09751).

    Returns:
        int32[B] tokens, and float32[B] their log-probabilities under the tempered distribution before top_k and
        top_p cut it (at temperature 0: under the model's own).
    """
    scaled = logits if temperature == 0 else logits / temperature
    if temperature == 0:
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        tokens = _draw(_truncate(scaled, top_k, top_p), keys)
    chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    return tokens, chosen - jax.nn.logsumexp(scaled, axis=-1)


def _truncate(logits: jax.Array, top_k: int | None, top_p: float) -> jax.Array:
    """Returns the logits with what top_k and top_p leave out at minus infinity; top_k first."""
    if top_k is not None and top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    if top_p < 1.0:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        # A token stays if those before it do not yet hold top_p; the first always stays.
        stays = jnp.cumsum(probs, axis=-1) - probs < top_p
        smallest = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= smallest, logits, -jnp.inf)
    return logits


def _draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """Inverts the cumulative distribution of softmax(logits) at one uniform number per row."""
    rows, vocab = logits.shape
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    groups = -(-vocab // _GROUP)
    weights = jnp.pad(weights, ((0, 0), (0, groups * _GROUP - vocab))).reshape(rows, groups, _GROUP)
    group_ends = jnp.cumsum(weights.sum(axis=-1), axis=-1)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    target = uniform * group_ends[:, -1]

    group = _first_above(group_ends, target)
    before = jnp.where(group > 0, jnp.take_along_axis(group_ends, jnp.maximum(group - 1, 0)[:, None], 1)[:, 0], 0.0)
    inside = jnp.take_along_axis(weights, group[:, None, None], axis=1)[:, 0]
    place = _first_above(jnp.cumsum(inside, axis=-1), target - before)
    # Rounding can point behind the last token of a group that has a chance at all: take that one then.
    place = jnp.minimum(place, _last_positive(inside))
    return (group * _GROUP + place).astype(jnp.int32)


def _first_above(ends: jax.Array, target: jax.Array) -> jax.Array:
    """Returns int32[B], the first index whose cumulative sum exceeds the target, at most the last index."""
    index = jnp.sum(ends <= target[:, None], axis=-1)
    return jnp.minimum(index, ends.shape[-1] - 1)


def _last_positive(weights: jax.Array) -> jax.Array:
    places = jnp.arange(weights.shape[-1])
    return jnp.max(jnp.where(weights > 0, places, 0), axis=-1)

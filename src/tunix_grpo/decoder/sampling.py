"""Draws the next token, in a few passes over the logits and without sorting the vocabulary.

A row's draw depends on its own logits and key alone, not on the batch around it. One uniform number per row is compared
with the cumulative distribution: the same distribution as Gumbel noise on every logit, for a fraction of the random
numbers. The vocabulary is cut into groups of neighbours, so that what follows a first pass is small:

  * a draw finds its group from the groups' sums, then its token in that group alone;
  * the k largest logits lie in the k groups with the largest maxima (top_k);
  * whether a token is among the most probable that hold top_p takes one pass, not an order of all tokens. So one is
    drawn, refused if those more probable hold top_p without it, and then drawn again from those: exact, and with a
    top_p of 0.9 or more over after one or two rounds, as a rule (https://flashinfer.ai/2025/03/10/sampling.html).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts

_GROUP = 128  # neighbours, whose weights are summed first: sums stay short and accurate


def sample(
    logits: jax.Array, keys: jax.Array, *, temperature: float, top_k: int | None = None, top_p: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Draws one token per row.

    Args:
        logits: float32[B, V].
        keys: key[B], one per row.
        temperature: logits are divided by it; 0 takes the most probable token.
        top_k: only the k most probable tokens and those as probable as the k-th, or None for all.
        top_p: only the most probable tokens that together hold this probability, in (0, 1], of what top_k leaves, and
            those as probable as the last of them (nucleus sampling, arXiv:1904.09751). A token stays if those more
            probable do not yet hold top_p; where their float32 sum is within 1e-6 of it, rounding decides.

    Returns:
        int32[B] tokens, and float32[B] their log-probabilities under the tempered distribution before top_k and
        top_p cut it (at temperature 0: under the model's own).
    """
    logits = layouts.rows_of_all(logits)
    divisor = temperature if temperature > 0 else 1.0
    grouped = _grouped(logits)
    largest = jnp.max(logits, axis=-1)
    weights = jnp.exp((grouped - largest[:, None, None]) / divisor)
    sums = _sums(weights)
    if temperature == 0:
        tokens = _most_probable(grouped)
    elif top_k is not None and top_k < logits.shape[-1]:
        kept = _truncated(grouped, weights, top_k, top_p)
        tokens = _draw(kept, _sums(kept), keys)
    elif top_p < 1.0:
        tokens = _draw_nucleus(grouped, weights, sums, keys, top_p)
    else:
        tokens = _draw(weights, sums, keys)
    return tokens, (_pick(logits, tokens) - largest) / divisor - jnp.log(jnp.sum(sums, axis=-1))


def _grouped(logits: jax.Array) -> jax.Array:
    """Returns float32[B, groups, _GROUP]; minus infinity fills the last group."""
    rows, vocab = logits.shape
    missing = -vocab % _GROUP
    if missing:
        logits = jnp.pad(logits, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    return logits.reshape(rows, -1, _GROUP)


def _sums(weights: jax.Array) -> jax.Array:
    """Returns float32[B, groups]. The barrier keeps XLA from reading all weights once more for the sum of these."""
    return jax.lax.optimization_barrier(jnp.sum(weights, axis=-1))


def _pick(values: jax.Array, index: jax.Array) -> jax.Array:
    """Returns values[b, index[b]] for every row b."""
    index = index.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.take_along_axis(values, index, axis=1)[:, 0]


def _most_probable(grouped: jax.Array) -> jax.Array:
    """Returns int32[B], the first of the largest logits; by groups, because a wide argmax is slow on a CPU."""
    group = jnp.argmax(jnp.max(grouped, axis=-1), axis=-1)
    return (group * _GROUP + jnp.argmax(_pick(grouped, group), axis=-1)).astype(jnp.int32)


def _draw(weights: jax.Array, sums: jax.Array, keys: jax.Array) -> jax.Array:
    """Returns int32[B]: inverts the cumulative distribution of float32[B, groups, _GROUP] weights, given their sums."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys)
    target = uniform * jnp.sum(sums, axis=-1)
    group, before = _reach(sums, target)
    place, _ = _reach(_pick(weights, group), target - before)
    return (group * _GROUP + place).astype(jnp.int32)


def _reach(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first index where the cumulative sum exceeds the target, and the sum before it.

    Always one with a weight: a parallel cumulative sum is not monotone to the last bit. The last such where rounding
    puts the target behind all.
    """
    ends = jnp.cumsum(weights, axis=-1)
    index = jnp.arange(weights.shape[-1])
    last = jnp.max(jnp.where(weights > 0, index, 0), axis=-1, keepdims=True)
    reached = jnp.min(jnp.where((weights > 0) & (ends > target[:, None]), index, last), axis=-1)
    return reached, _pick(ends - weights, reached)


def _draw_nucleus(grouped: jax.Array, weights: jax.Array, sums: jax.Array, keys: jax.Array, top_p: float) -> jax.Array:
    """Draws as `_draw` does, among the most probable tokens that hold top_p.

    A refused token leaves with all that are no more probable, none of which is in the nucleus. So what is accepted has
    the nucleus's distribution, and the rounds end: their mean is at most 1 + log(1 / top_p).
    """
    limit = _limit(sums, top_p)

    def attempt(state):
        number, refused, sums, tokens, done = state
        rest = jnp.where(grouped > refused[:, None, None], weights, 0.0)
        drawn = _draw(rest, sums, jax.vmap(jax.random.fold_in, (0, None))(keys, number))
        logit = _pick(grouped.reshape(len(drawn), -1), drawn)
        above = _sums_above(grouped, weights, logit)
        tokens = jnp.where(done, tokens, drawn)
        done |= ~(jnp.sum(above, axis=-1) >= limit)  # so that not-a-number, too, comes to an end
        return number + 1, jnp.where(done, refused, logit), jnp.where(done[:, None], sums, above), tokens, done

    rows = len(sums)
    start = (0, jnp.full(rows, -jnp.inf), sums, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))
    return jax.lax.while_loop(lambda state: ~jnp.all(state[-1]), attempt, start)[3]


def _limit(sums: jax.Array, top_p: float) -> jax.Array:
    """Returns float32[B], the weight of top_p; above 0, so that the most probable token always stays."""
    return jnp.maximum(top_p * jnp.sum(sums, axis=-1), jnp.finfo(jnp.float32).tiny)


def _sums_above(grouped: jax.Array, weights: jax.Array, logit: jax.Array) -> jax.Array:
    """Returns float32[B, groups], the sums over tokens more probable than one with this logit, float32[B]."""
    return _sums(jnp.where(grouped > logit[:, None, None], weights, 0.0))


def _truncated(grouped: jax.Array, weights: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Returns the weights with what top_k, then top_p leave out at 0."""
    places = _largest(grouped, top_k)
    logits = jnp.take_along_axis(grouped.reshape(len(places), -1), places, axis=1)
    smallest = logits[:, -1]
    if top_p < 1.0:
        limit = _limit(_sums(jnp.where(grouped >= smallest[:, None, None], weights, 0.0)), top_p)
        candidates = jnp.take_along_axis(weights.reshape(len(places), -1), places, axis=1)
        above = jnp.cumsum(candidates, axis=-1) - candidates
        smallest = jnp.min(jnp.where(above < limit[:, None], logits, jnp.inf), axis=-1)
    return jnp.where(grouped >= smallest[:, None, None], weights, 0.0)


def _largest(grouped: jax.Array, count: int) -> jax.Array:
    """Returns int32[B, count], where the largest logits of a row are, in falling order.

    The groups are here so wide that there are about as many as candidates in those chosen. More than an eighth of the
    vocabulary is no longer worth it. Only top_k's indices are used: without them XLA sorts.
    """
    logits = grouped.reshape(len(grouped), -1)
    width = min(_GROUP, 1 << (logits.shape[1] // count).bit_length() // 2)
    if width < 4:
        return jax.lax.top_k(logits, count)[1]
    parts = logits.reshape(len(logits), -1, width)
    found = jax.lax.top_k(jnp.max(parts, axis=-1), count)[1]
    candidates = jnp.take_along_axis(parts, found[:, :, None], axis=1).reshape(len(logits), -1)
    best = jax.lax.top_k(candidates, count)[1]
    return jnp.take_along_axis(found, best // width, axis=1) * width + best % width

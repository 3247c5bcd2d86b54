"""Completions while they are drawn: how a token is drawn, and what is kept of it.

Letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.sampling import sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        num_generations: completions per prompt.
        max_tokens: of a completion, its stop token included.
        temperature: 0 is greedy.
        top_p: in (0, 1].
        top_k: None for all tokens.
    """

    num_generations: int
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int | None = None


class Drawn(NamedTuple):
    """Completions as they grow.

    Attributes:
        tokens: int32[B, T], behind a stop token padding.
        logps: float32[B, T], log-probabilities under the tempered distribution, 0 behind the end.
        lengths: int32[B], the stop token included.
        stopped: bool[B], a stop token was drawn.
    """

    tokens: jax.Array
    logps: jax.Array
    lengths: jax.Array
    stopped: jax.Array

    def going_on(self, limits: jax.Array | int) -> jax.Array:
        """Returns bool[B], the rows that lack a stop token and are shorter than their limit."""
        return ~self.stopped & (self.lengths < limits)

    def cut(self, width: int) -> Drawn:
        """Returns the first tokens of the rows, `width` of each."""
        return self._replace(tokens=self.tokens[:, :width], logps=self.logps[:, :width])


class DrawRule(NamedTuple):
    """What a draw obeys, the same for all rows.

    Attributes:
        stop_ids: tokens that end a completion.
        pad_id: what stands behind the end.
    """

    config: Sampling
    stop_ids: tuple[int, ...]
    pad_id: int


def no_tokens(rows: int, width: int, pad_id: int) -> Drawn:
    """Returns completions without a token, with room for `width`."""
    return Drawn(
        jnp.full((rows, width), pad_id, jnp.int32),
        jnp.zeros((rows, width), jnp.float32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
    )


def with_next(
    rule: DrawRule, drawn: Drawn, logits: jax.Array, keys: jax.Array, t: jax.Array | int, limits: jax.Array | int
) -> Drawn:
    """Returns the completions with token t drawn for all rows that go on.

    Args:
        logits: float32[B, V].
        keys: key[B], of the rows.
        t: int32[], from 0; or int32[B], each row's own.
        limits: tokens that a row may have, int32[] or int32[B].
    """
    of_each = jnp.ndim(t) > 0
    token, logp = sample(
        logits,
        jax.vmap(jax.random.fold_in, (0, 0 if of_each else None))(keys, t),
        temperature=rule.config.temperature,
        top_k=rule.config.top_k,
        top_p=rule.config.top_p,
    )
    goes_on = ~drawn.stopped & (t < limits)
    token = jnp.where(goes_on, token, rule.pad_id)
    logp = jnp.where(goes_on, logp, 0.0)
    stops = jnp.array(rule.stop_ids, jnp.int32)
    return Drawn(
        _put(drawn.tokens, token, t),
        _put(drawn.logps, logp, t),
        drawn.lengths + goes_on,
        drawn.stopped | (goes_on & jnp.isin(token, stops)),
    )


def _put(array: jax.Array, column: jax.Array, t: jax.Array | int) -> jax.Array:
    """Returns [B, T] with [B] at column t; where rows have their own t, one behind the last column goes nowhere."""
    if jnp.ndim(t) == 0:
        return jax.lax.dynamic_update_slice(array, column[:, None], (0, t))
    return array.at[jnp.arange(len(array)), t].set(column, mode="drop")

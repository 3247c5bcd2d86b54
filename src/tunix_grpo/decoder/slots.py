"""A fixed number of rows that answer any number of prompts: a row that has ended makes room for the next prompt.

Two programs do it: `refilled` encodes prompts and puts them into free rows, `continued` draws a few tokens of all rows.
Each row has its own prompt and is at its own token; token t of a row is in slot t of its cache, wherever its neighbours
are, so a row is computed as in a batch.

Letters: R rows, N new prompts, M new rows, S prompt slots, T completion tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo import seeds
from tunix_grpo.decoder.cache import Cache, Prompts, empty_cache
from tunix_grpo.decoder.drawing import Drawn, DrawRule, no_tokens, with_next
from tunix_grpo.decoder.forward import next_logits
from tunix_grpo.decoder.generation import decode_step, prefill
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.spec import DecoderSpec


class Slots(NamedTuple):
    """Rows that draw side by side.

    Attributes:
        prompts: one for each row.
        cache: the rows' tokens so far.
        drawn: the rows' completions.
        keys: key[R], what each row draws from.
        limits: int32[R], tokens that a row may have; 0 of a row that is free.
    """

    prompts: Prompts
    cache: Cache
    drawn: Drawn
    keys: jax.Array
    limits: jax.Array


class Newcomers(NamedTuple):
    """What goes into free rows.

    Attributes:
        prompt_tokens: int32[N, S], padded on the left.
        prompt_valid: bool[N, S].
        prompt: int32[M], which of the prompts a row gets.
        row: int32[M], where it goes; R fills up and goes nowhere.
        keys: key[M].
        limits: int32[M].
    """

    prompt_tokens: jax.Array
    prompt_valid: jax.Array
    prompt: jax.Array
    row: jax.Array
    keys: jax.Array
    limits: jax.Array


def free_slots(spec: DecoderSpec, rows: int, prompt_width: int, size: int, rule: DrawRule, dtype: jnp.dtype) -> Slots:
    """Returns rows that are all free.

    Args:
        size: of the cache, as `cache_sizes` gives the first.
        dtype: of keys and values.
    """
    seen = [min(prompt_width, window or prompt_width) for window in spec.windows]

    def empty() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros((rows, spec.num_kv_heads, width, spec.head_dim), dtype) for width in seen)

    positions = jnp.zeros((rows, prompt_width), jnp.int32)
    return Slots(
        Prompts(empty(), empty(), positions, jnp.zeros((rows, prompt_width), bool)),
        empty_cache(spec, rows, size, dtype),
        no_tokens(rows, rule.config.max_tokens, rule.pad_id),
        jax.random.split(seeds.key("evaluation", 0), rows),  # a free row draws nothing that anybody reads
        jnp.zeros(rows, jnp.int32),
    )


def refilled(
    spec: DecoderSpec, weights: Weights, slots: Slots, new: Newcomers, rule: DrawRule, attention_form: str
) -> Slots:
    """Returns the rows with new ones, each with its first token.

    Args:
        weights: as for `forward`.
    """
    hidden, prompts = prefill(spec, weights, new.prompt_tokens, new.prompt_valid, attention_form)
    drawn = no_tokens(len(new.row), rule.config.max_tokens, rule.pad_id)
    drawn = with_next(rule, drawn, next_logits(weights, hidden[new.prompt]), new.keys, 0, new.limits)
    of_rows = jax.tree.map(lambda array: array[new.prompt], prompts)

    def placed(old: jax.Array, fresh: jax.Array) -> jax.Array:
        return old.at[new.row].set(fresh, mode="drop")

    fresh = (of_rows, drawn, new.keys, new.limits)
    prompts, drawn, keys, limits = jax.tree.map(placed, (slots.prompts, *slots[2:]), fresh)
    return Slots(prompts, slots.cache, drawn, keys, limits)


def continued(spec: DecoderSpec, weights: Weights, slots: Slots, rule: DrawRule, tokens: int) -> Slots:
    """Returns the rows with so many more tokens, those that have ended as they are.

    Args:
        weights: as for `decode_step`.
        tokens: at most as many as the cache has room for.
    """

    def next_token(_: int, state: tuple[Drawn, Cache]) -> tuple[Drawn, Cache]:
        drawn, cache = state
        last = jnp.maximum(drawn.lengths - 1, 0)
        token = jnp.take_along_axis(drawn.tokens, last[:, None], axis=1)[:, 0]
        hidden, cache = decode_step(spec, weights, token, last, cache, slots.prompts)
        logits = next_logits(weights, hidden)
        return with_next(rule, drawn, logits, slots.keys, drawn.lengths, slots.limits), cache

    drawn, cache = jax.lax.fori_loop(0, tokens, next_token, (slots.drawn, slots.cache))
    return slots._replace(drawn=drawn, cache=cache)

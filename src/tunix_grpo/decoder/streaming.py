"""One completion, token by token, for a person who reads along.

The same arithmetic as a rollout's, in two programs that are compiled once: the prompt with the first token, and one
more token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.attention import PLAIN
from tunix_grpo.decoder.forward import next_logits
from tunix_grpo.decoder.generation import Cache, Prompts, Sampling, decode_step, empty_cache, prefill
from tunix_grpo.decoder.joined import beside_layers, for_tokens
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import left_padded
from tunix_grpo.decoder.sampling import sample
from tunix_grpo.decoder.spec import DecoderSpec

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def stream_tokens(
    spec: DecoderSpec,
    weights: Weights,
    prompt: Sequence[int],
    sampling_config: Sampling,
    key: jax.Array,
    *,
    prompt_width: int,
    stop_ids: Sequence[int],
    pad_id: int,
    copies: bool = True,
) -> Iterator[int]:
    """Yields the tokens of one completion as they are drawn, up to and with its stop token.

    Args:
        weights: as `Model.decoder_weights` returns them.
        prompt: token ids, at most `prompt_width`.
        sampling_config: how to draw; `num_generations` is not read.
        key: of the row, as in a rollout.
        prompt_width: tokens that the prompt is padded to, so that one program serves all prompts.
        copies: see `joined.for_tokens`.
    """
    tokens, valid = left_padded([prompt], prompt_width, pad_id)
    token, prompts = _first(spec, weights, tokens, valid, key, sampling_config)
    weights = {**beside_layers(weights, copies), "layers": _layers(spec, weights, copies)}
    cache = empty_cache(spec, 1, max(sampling_config.max_tokens - 1, 1), weights["embed"].dtype)
    for place in range(1, sampling_config.max_tokens + 1):
        drawn = token
        if place < sampling_config.max_tokens:
            # Started before the host reads the token, so that the device works while the text is shown.
            token, cache = _next(spec, weights, drawn, place, cache, prompts, key, sampling_config)
        yield int(drawn[0])
        if int(drawn[0]) in stop_ids:
            return


def text_pieces(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Yields the text of tokens piece by piece; together the pieces are the text of all of them.

    A character that is spread over several tokens is held back until the last of them is there.
    """
    ids: list[int] = []
    shown = 0
    text = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        whole = len(text.rstrip(_REPLACEMENT))
        if whole > shown:
            yield text[shown:whole]
            shown = whole
    if len(text) > shown:
        yield text[shown:]


@functools.partial(jax.jit, static_argnames=("spec", "sampling_config"))
def _first(
    spec: DecoderSpec,
    weights: Weights,
    tokens: jax.Array,
    valid: jax.Array,
    key: jax.Array,
    sampling_config: Sampling,
) -> tuple[jax.Array, Prompts]:
    """Returns int32[1], the first token, and the prompt's keys and values."""
    hidden, prompts = prefill(spec, weights, tokens, valid, PLAIN)
    return _draw(weights, hidden, key, 0, sampling_config), prompts


@functools.partial(jax.jit, static_argnames=("spec", "copies"))
def _layers(spec: DecoderSpec, weights: Weights, copies: bool) -> list[Weights]:
    """Only what is new: a program hands out a copy of what it is given."""
    return for_tokens(spec, weights, copies)["layers"]


@functools.partial(jax.jit, static_argnames=("spec", "sampling_config"), donate_argnames="cache")
def _next(
    spec: DecoderSpec,
    weights: Weights,
    token: jax.Array,
    place: int,
    cache: Cache,
    prompts: Prompts,
    key: jax.Array,
    sampling_config: Sampling,
) -> tuple[jax.Array, Cache]:
    """Returns int32[1], the token at `place` of the completion, and the cache with the token before it."""
    hidden, cache = decode_step(spec, weights, token, place - 1, cache, prompts)
    return _draw(weights, hidden, key, place, sampling_config), cache


def _draw(
    weights: Weights, hidden: jax.Array, key: jax.Array, place: int | jax.Array, sampling_config: Sampling
) -> jax.Array:
    token, _ = sample(
        next_logits(weights, hidden),
        jnp.expand_dims(jax.random.fold_in(key, place), 0),
        temperature=sampling_config.temperature,
        top_k=sampling_config.top_k,
        top_p=sampling_config.top_p,
    )
    return token

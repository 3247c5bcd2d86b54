"""Token-by-token generation: prompts in, completions and their log-probabilities out.

`generate` is all of it as one program. Its parts, `first_tokens` and `drawn_until`, are programs of their own where the
host wants to look at the rows in between.

Each prompt is encoded once and its G completions share its keys and values. What stays the same for all tokens is
prepared before the loop: the projections that share an input are joined, and the caches hold no more slots than the
completions have reached (in stages of doubling length) or a sliding window can see (a ring).

Letters: P prompts, G completions of each, B = P * G rows, S prompt slots, C cache slots, K key/value heads, R query
heads per key/value head, H head_dim, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.attention import MASKED_SCORE, PLAIN, visible
from tunix_grpo.decoder.cache import Cache, Prompts, cache_sizes, empty_cache, grown, written
from tunix_grpo.decoder.drawing import Drawn, DrawRule, Sampling, no_tokens, with_next
from tunix_grpo.decoder.forward import forward, next_logits, text_positions
from tunix_grpo.decoder.joined import for_tokens, layer_of_token
from tunix_grpo.decoder.layer import Weights, embed, finish_layer, qkv, rms_norm, rotary_angles
from tunix_grpo.decoder.platform import platform
from tunix_grpo.decoder.spec import DecoderSpec, layer_places

# See `block_of_device`. A GPU gives its answer to the host each time it is asked.
_BLOCK = {"cpu": 1}
_ACCELERATOR_BLOCK = 32


class Growing(NamedTuple):
    """Completions that are being drawn, all at the same token.

    Attributes:
        t: int32[], tokens so far of every row that goes on.
        prompts: P of them, each shared by B / P rows.
        keys: key[B], what each row draws from.
        ends: int32[] or int32[B], tokens that a row may have.
    """

    t: jax.Array
    drawn: Drawn
    cache: Cache
    prompts: Prompts
    keys: jax.Array
    ends: jax.Array


def generate(
    spec: DecoderSpec,
    weights: Weights,
    prompt_tokens: jax.Array,
    prompt_valid: jax.Array,
    keys: jax.Array,
    config: Sampling,
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    attention_form: str = PLAIN,
    block: int | None = None,
    limits: jax.Array | None = None,
    copies: bool = True,
) -> Drawn:
    """Draws G completions of every prompt.

    Args:
        prompt_tokens: int32[P, S], padded on the left.
        prompt_valid: bool[P, S].
        keys: key[B], what each row draws from.
        config: how to draw.
        stop_ids: tokens that end a completion.
        pad_id: what stands behind the end.
        attention_form: of the prompts' pass.
        block: tokens between two looks at whether all rows have stopped; None: what suits the device.
        limits: int32[B], tokens of each row, at most config.max_tokens; None: that many.
        copies: see `for_tokens`.
    """
    rule = DrawRule(config, tuple(stop_ids), pad_id)
    block = block or block_of_device()
    steps = padded_steps(config.max_tokens, block)
    asked = prompt_tokens, prompt_valid, keys
    weights, growing = first_tokens(
        spec, weights, *asked, rule, steps, attention_form=attention_form, limits=limits, copies=copies
    )
    for slots in cache_sizes(steps):
        growing = with_room(spec, growing, slots)
        growing = drawn_until(spec, weights, growing, rule, min(slots, steps), block)
    return growing.drawn.cut(config.max_tokens)


def block_of_device() -> int:
    """Returns the tokens between two looks at whether all rows have stopped, as they suit the device."""
    return _BLOCK.get(platform(), _ACCELERATOR_BLOCK)


def padded_steps(max_tokens: int, block: int) -> int:
    """Returns how many tokens are drawn behind the first one at the most: whole blocks."""
    return -(-(max_tokens - 1) // block) * block


def first_tokens(
    spec: DecoderSpec,
    weights: Weights,
    prompt_tokens: jax.Array,
    prompt_valid: jax.Array,
    keys: jax.Array,
    rule: DrawRule,
    steps: int,
    *,
    attention_form: str,
    limits: jax.Array | None = None,
    copies: bool = True,
) -> tuple[Weights, Growing]:
    """Encodes the prompts and draws the first token of every completion.

    Args:
        steps: see `padded_steps`.
        copies: see `for_tokens`.

    Returns:
        the weights as the further tokens read them, and the completions, their cache without a slot.
    """
    hidden, prompts = prefill(spec, weights, prompt_tokens, prompt_valid, attention_form)
    if copies:  # which are made when the prompts are done, so that they and the prompts' activations share memory
        hidden, prompts, weights = jax.lax.optimization_barrier((hidden, prompts, weights))
    weights = for_tokens(spec, weights, copies)
    config = rule.config
    rows = prompt_tokens.shape[0] * config.num_generations
    ends = jnp.int32(config.max_tokens) if limits is None else limits
    hidden = jnp.repeat(hidden, config.num_generations, axis=0)
    drawn = Drawn(*map(layouts.rows, no_tokens(rows, steps + 1, rule.pad_id)))
    drawn = with_next(rule, drawn, next_logits(weights, hidden), keys, 0, ends)
    return weights, Growing(jnp.int32(1), drawn, empty_cache(spec, rows, 0, hidden.dtype), prompts, keys, ends)


def drawn_until(
    spec: DecoderSpec, weights: Weights, growing: Growing, rule: DrawRule, last: jax.Array | int, block: int
) -> Growing:
    """Draws tokens up to the one of index `last`, or until all rows have stopped.

    Args:
        weights: as `first_tokens` gives them.
        growing: with `last` slots or more.
        block: tokens between two looks at whether all rows have stopped; `last` is a multiple of it.
    """

    def next_token(_: int, carry: tuple) -> tuple:
        t, drawn, cache = carry
        token = jax.lax.dynamic_slice_in_dim(drawn.tokens, t - 1, 1, axis=1)[:, 0]
        hidden, cache = decode_step(spec, weights, token, t - 1, cache, growing.prompts)
        return t + 1, with_next(rule, drawn, next_logits(weights, hidden), growing.keys, t, growing.ends), cache

    t, drawn, cache = jax.lax.while_loop(
        lambda carry: (carry[0] <= last) & jnp.any(carry[1].going_on(growing.ends)),
        lambda carry: jax.lax.fori_loop(0, block, next_token, carry),
        growing[:3],
    )
    return growing._replace(t=t, drawn=drawn, cache=cache)


def with_room(spec: DecoderSpec, growing: Growing, slots: int) -> Growing:
    """Returns the completions with a cache of `slots` slots; see `cache.grown`."""
    return growing._replace(cache=grown(spec, growing.cache, slots))


def with_rows(growing: Growing, rows: jax.Array) -> Growing:
    """Returns some of the completions, at the indices int32[b], each with its prompt beside it."""
    group = len(growing.keys) // len(growing.prompts.valid)

    def taken(array: jax.Array, rows: jax.Array) -> jax.Array:
        return layouts.cached(array[rows]) if array.ndim == 4 else layouts.rows(array[rows])

    prompts = jax.tree.map(lambda array: taken(array, rows // group), growing.prompts)
    drawn, cache, keys = jax.tree.map(lambda array: taken(array, rows), (growing.drawn, growing.cache, growing.keys))
    ends = growing.ends if jnp.ndim(growing.ends) == 0 else taken(growing.ends, rows)
    return Growing(growing.t, drawn, cache, prompts, keys, ends)


def prefill(
    spec: DecoderSpec, weights: Weights, tokens: jax.Array, valid: jax.Array, attention_form: str
) -> tuple[jax.Array, Prompts]:
    """Encodes left-padded prompts; returns float[P, D], the last tokens' hidden states, and what completions see."""
    positions = text_positions(valid)
    hidden, segment = forward(spec, weights, tokens, positions, valid, attention_form=attention_form)

    def of_layer(stacked: tuple[jax.Array, ...], layer: int) -> jax.Array:
        number, repeat, place = layer_places(spec)[layer]
        kept = min(tokens.shape[1], spec.windows[layer] or tokens.shape[1])
        return layouts.cached(stacked[number][repeat, place, :, -kept:].swapaxes(1, 2))

    keys, values = (
        tuple(of_layer(stacked, layer) for layer in range(spec.num_layers))
        for stacked in (segment.keys, segment.values)
    )
    return hidden[:, -1], Prompts(keys, values, positions, valid)


def decode_step(
    spec: DecoderSpec, weights: Weights, tokens: jax.Array, t: jax.Array | int, cache: Cache, prompts: Prompts
) -> tuple[jax.Array, Cache]:
    """Runs all layers over one new token per row.

    Args:
        weights: the decoder's, by layer: see `joined.layer_of_token`.
        tokens: int32[B], token t of every completion.
        t: int32[], from 0; or int32[B] where each row has a prompt of its own and is at its own token.
        cache: the tokens before it.

    Returns:
        float[B, D] hidden states after the final norm, and the cache with the token's keys and values.
    """
    group = tokens.shape[0] // prompts.valid.shape[0]
    first = (prompts.lengths() + t)[:, None]
    angles = rotary_angles(spec, jnp.repeat(first, group, axis=0))
    x = embed(spec, weights, tokens[:, None])
    keys, values = [], []
    for index in range(spec.num_layers):
        layer, x = layer_of_token(spec, weights, index, x)
        window = spec.windows[index]
        q, k, v = qkv(spec, layer, x, angles[spec.ropes[index]])
        slots = cache.keys[index].shape[3]
        of_layer = written(cache.keys[index], cache.values[index], k[:, 0], v[:, 0], t % slots)
        keys.append(of_layer[0])
        values.append(of_layer[1])
        seen = prompts.keys[index].shape[2]
        prompt_mask = visible(first, prompts.positions[:, -seen:], prompts.valid[:, -seen:], window)
        # Slot j holds the newest token whose index is j modulo the slots; none yet if that would be before the first.
        newest = jnp.asarray(t)[..., None, None, None]
        own_mask = newest - (newest - jnp.arange(slots)) % slots >= 0
        context = _attend(
            q[:, 0],
            spec.attention_scale,
            _Seen(prompts.keys[index], prompts.values[index], prompt_mask),
            _Seen(keys[-1], values[-1], own_mask),
        )
        x = finish_layer(spec, layer, x, context[:, None])
    x = rms_norm(spec, x, weights["final_norm"])
    return x[:, 0], Cache(tuple(keys), tuple(values))


class _Seen(NamedTuple):
    """Earlier tokens and which of them are seen."""

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


def _attend(q: jax.Array, scale: float, prompt: _Seen, own: _Seen) -> jax.Array:
    """Attention of one token per row to its prompt and to its own earlier tokens; softmax in float32.

    Args:
        q: [B, N, H].
        prompt: keys and values [P, K, S, H], mask bool[P, 1, S].
        own: keys [B, K, H, C], values [B, K, C, H], mask bool[1 or B, 1, 1, C].

    Returns:
        [B, N * H] in q's dtype.
    """
    prompts, kv_heads, prompt_slots, head_dim = prompt.keys.shape
    group = q.shape[0] // prompts
    q = q.reshape(prompts, group, kv_heads, -1, head_dim)

    def by_prompt(x: jax.Array) -> jax.Array:
        """[P, G, K, R, ...] -> [P, K, G * R, ...]: what one prompt's keys serve, side by side."""
        return x.swapaxes(1, 2).reshape(prompts, kv_heads, -1, x.shape[-1])

    def by_row(x: jax.Array) -> jax.Array:
        """[P, K, G * R, ...] -> [B, K, R, ...]."""
        x = x.reshape(prompts, kv_heads, group, -1, x.shape[-1]).swapaxes(1, 2)
        return x.reshape(prompts * group, *x.shape[2:])

    score = jnp.einsum("pkqh,pksh->pkqs", by_prompt(q), prompt.keys, preferred_element_type=jnp.float32)
    score = jnp.where(prompt.mask[:, None], score * scale, MASKED_SCORE)
    own_q = q.reshape(-1, *q.shape[2:])
    own_score = jnp.einsum("bkrh,bkhc->bkrc", own_q, own.keys, preferred_element_type=jnp.float32)
    own_score = jnp.where(own.mask, own_score * scale, MASKED_SCORE)
    own_score = by_prompt(own_score.reshape(*q.shape[:-1], -1))
    probs = jax.nn.softmax(jnp.concatenate([score, own_score], axis=-1), axis=-1).astype(q.dtype)
    of_prompt, of_own = jnp.split(probs, [prompt_slots], axis=-1)
    context = jnp.einsum("pkqs,pksh->pkqh", of_prompt, prompt.values, preferred_element_type=jnp.float32)
    context = by_row(context) + jnp.einsum(
        "bkrc,bkch->bkrh", by_row(of_own), own.values, preferred_element_type=jnp.float32
    )
    return context.astype(q.dtype).reshape(prompts * group, -1)

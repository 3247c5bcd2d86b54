"""Whole rows of tokens through all layers: one arithmetic for every supported family.

Prefill, reference and update run through `forward`, token-by-token generation through `generation.py`, which is made of
the same parts (`layer.py`), so that rollout and trainer agree by construction. The functions are pure: they take a
`DecoderSpec` (static) and the weights as a dictionary of arrays, and are differentiable in the weights.

Letters in shape comments: B rows, T tokens, S earlier tokens, D embed_dim, K key/value heads, H head_dim, V vocabulary,
M prompts (each shared by B / M rows).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.attention import PLAIN, attend
from tunix_grpo.decoder.layer import PROJECTIONS, Weights, embed, finish_layer, qkv, rms_norm, rotary_angles
from tunix_grpo.decoder.matmul import product, product_of_few
from tunix_grpo.decoder.spec import DecoderSpec, Stack, stacks

# training.remat -> what becomes of a layer's function.
_REMAT: dict[str, Callable] = {
    "none": lambda layer: layer,
    "block": lambda layer: jax.checkpoint(
        layer, policy=jax.checkpoint_policies.save_only_these_names(PROJECTIONS), prevent_cse=False
    ),
    "full": lambda layer: jax.checkpoint(layer, prevent_cse=False),
}
_AUTO_BYTES = 2**30  # what auto lets `block` keep


class KeysValues(NamedTuple):
    """What the attention of a layer, or of a stack of layers, reads of some tokens."""

    keys: jax.Array
    values: jax.Array


class Segment(NamedTuple):
    """Keys and values of consecutive tokens, after rotary embedding.

    Attributes:
        keys: one array per stack of layers (see `spec.stacks`), [repeats, length, M, S, K, H].
        values: the same.
        positions: int32[M, S], each token's position in its text.
        valid: bool[M, S], False for padding.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array
    valid: jax.Array


def choose_remat(wanted: str, spec: DecoderSpec, tokens: int, dtype: jnp.dtype) -> str:
    """Returns `wanted`, or for auto `block` where what it keeps is at most 1 GiB, and else `full`.

    Args:
        tokens: that a device runs through all layers before it runs backward.
        dtype: of the activations.
    """
    if wanted != "auto":
        return wanted
    width = spec.embed_dim + (spec.num_heads + 2 * spec.num_kv_heads) * spec.head_dim + 2 * spec.hidden_dim
    return "block" if tokens * width * spec.num_layers * jnp.dtype(dtype).itemsize <= _AUTO_BYTES else "full"


def text_positions(valid: jax.Array) -> jax.Array:
    """Returns int32[B, T]: each valid token's index among the valid tokens of its row (padding: 0)."""
    return jnp.maximum(jnp.cumsum(valid, axis=-1, dtype=jnp.int32) - 1, 0)


def forward(
    spec: DecoderSpec,
    weights: Weights,
    tokens: jax.Array,
    positions: jax.Array,
    valid: jax.Array,
    prefix: Segment | None = None,
    *,
    attention_form: str = PLAIN,
    remat: str = "none",
) -> tuple[jax.Array, Segment]:
    """Runs all layers over whole rows of tokens.

    Layers that are alike run in a loop over their stacked weights: compiled once, whatever their number.

    Args:
        tokens: int32[B, T].
        positions: int32[B, T], position of each token in its text (that of the prefix included).
        valid: bool[B, T], False for padding, on either side.
        prefix: what every row has already seen: M rows, row i of it shared by the B / M rows from i * B / M on.
        attention_form: as `attention.attend` takes it.
        remat: what is computed again in a backward pass instead of being kept: `none` of it; `block`: all of a layer
            but its wide matrix products; `full`: all but each layer's input.

    Returns:
        float[B, T, D] hidden states after the final norm, and the rows' own keys and values.
    """
    angles = rotary_angles(spec, positions)
    key_positions, key_valid = _behind(prefix and (prefix.positions, prefix.valid), positions, valid)

    def run_layer(
        stack: Stack, x: jax.Array, read: Weights, place: tuple, layer: Weights, earlier: KeysValues | None
    ) -> tuple[jax.Array, KeysValues]:
        layer = _with_read(layer, read, place)
        q, k, v = qkv(spec, layer, x, angles[stack.rope])
        context = attend(
            q,
            *_behind(earlier, k, v),
            query_positions=positions,
            key_positions=key_positions,
            key_valid=key_valid,
            window=stack.window,
            scale=spec.attention_scale,
            form=attention_form,
        )
        return finish_layer(spec, layer, x, context.reshape(*x.shape[:2], -1)), KeysValues(k, v)

    def run_stack(
        stack: Stack, x: jax.Array, read: Weights, repeat: jax.Array, inputs: tuple
    ) -> tuple[jax.Array, KeysValues]:
        wrapped = _REMAT[remat](functools.partial(run_layer, stack))
        places = jnp.arange(len(stack.layers[0]))
        return jax.lax.scan(lambda x, part: wrapped(x, read, (repeat, part[0]), *part[1:]), x, (places, *inputs))

    def run_period(
        period: tuple[Stack, ...], read: tuple[Weights, ...], x: jax.Array, inputs: tuple[jax.Array, list]
    ) -> tuple[jax.Array, list]:
        own: list[KeysValues] = []  # of this pass, a stack after the other
        repeat, parts = inputs
        for stack, whole, part in zip(period, read, parts, strict=True):
            x, of_stack = run_stack(stack, x, whole, repeat, part)
            own.append(of_stack)
        return x, own

    x = embed(spec, weights, tokens, by_columns=True)
    own: list[KeysValues] = []
    for period in stacks(spec):
        numbers = range(len(own), len(own) + len(period))  # of the period's stacks
        sliced, read = zip(*(_sliced_and_read(weights["stacks"][number]) for number in numbers), strict=True)
        earlier = [prefix and KeysValues(prefix.keys[number], prefix.values[number]) for number in numbers]
        inputs = jnp.arange(len(period[0].layers)), list(zip(sliced, earlier, strict=True))
        x, of_period = jax.lax.scan(functools.partial(run_period, period, read), x, inputs)
        own += of_period
    x = rms_norm(spec, x, weights["final_norm"])
    return x, Segment(tuple(kv.keys for kv in own), tuple(kv.values for kv in own), positions, valid)


def _sliced_and_read(stack: Weights) -> tuple[Weights, Weights]:
    """Returns a stack without the weights that adapters stand beside, and these.

    They have no gradient: a layer reads them where they lie, while the loop over the periods, which would hand them
    down in a copy of as many layers as a period has, need not know of them.
    """
    read = {name: leaf["w"] for name, leaf in stack.items() if isinstance(leaf, dict) and "a" in leaf}

    def without(leaf: Weights) -> Weights:
        return {part: array for part, array in leaf.items() if part != "w"}

    return {name: without(leaf) if name in read else leaf for name, leaf in stack.items()}, read


def _with_read(layer: Weights, read: Weights, place: tuple[jax.Array, jax.Array]) -> Weights:
    """Returns a layer with its weights out of `read`, [repeats, length, ...] each."""
    taken = jax.tree.map(lambda array: array[place], read)
    return {**layer, **{name: {**layer[name], "w": w} for name, w in taken.items()}}


def _behind(earlier: tuple[jax.Array, jax.Array] | None, *own: jax.Array) -> tuple[jax.Array, ...]:
    """Returns arrays [B, S + T, ...]: `own` [B, T, ...] behind `earlier` [M, S, ...], whose rows B / M rows share."""
    if earlier is None:
        return own
    shared = (jnp.repeat(old, new.shape[0] // old.shape[0], axis=0) for old, new in zip(earlier, own, strict=True))
    return tuple(jnp.concatenate(pair, axis=1) for pair in zip(shared, own, strict=True))


def head_logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """Returns float32[..., V] logits of float[..., D] hidden states."""
    return layouts.logits(product(hidden, head(weights), True))


def next_logits(weights: Weights, hidden: jax.Array) -> jax.Array:
    """Returns float32[B, V], as `head_logits`, for one token of every row."""
    return layouts.logits(product_of_few(hidden, head(weights)))


def head(weights: Weights) -> jax.Array:
    """Returns the head, float[V, D]."""
    return weights["head"] if "head" in weights else weights["embed"]

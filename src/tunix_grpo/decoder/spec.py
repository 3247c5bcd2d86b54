"""What a decoder computes: the numbers and choices that a Hugging Face config.json fixes.

A `DecoderSpec` is a plain, hashable description of one decoder-only language model (gemma3, qwen2, qwen3 or llama). The
arithmetic of this folder is driven by it, and so is the table of weights in `model/`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotary position embedding of one kind of layer (RoFormer, arXiv:2104.09864).

    Attributes:
        theta: base of the geometric series of wavelengths.
        factor: positions are divided by it (linear scaling), >= 1; for `llama3` the long wavelengths are.
        llama3: (low_freq_factor, high_freq_factor, original_max_position_embeddings) of Llama 3.1's
            wavelength-dependent scaling, or None.
    """

    theta: float
    factor: float = 1.0
    llama3: tuple[float, float, int] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """Shapes and choices of one decoder. Hashable, so that it can be a static argument of a compiled program.

    Attributes:
        windows: one entry per layer: the sliding window in tokens (the token itself included), None for full attention.
        ropes: one entry per layer.
        attention_scale: factor on the query-key products.
        embedding_scale: factor on the input embeddings.
        norm_plus_one: RMSNorm multiplies by (1 + weight), as Gemma does, instead of weight.
        sandwich_norms: the outputs of attention and MLP are normalised too (Gemma 3).
        qk_norm: queries and keys are RMS-normalised per head.
        qkv_bias: the query, key and value projections add a bias.
        tied_head: the output head is the input embedding.
    """

    family: str
    vocab_size: int
    num_layers: int
    embed_dim: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    windows: tuple[int | None, ...]
    ropes: tuple[Rope, ...]
    attention_scale: float
    embedding_scale: float
    activation: str
    norm_plus_one: bool
    sandwich_norms: bool
    qk_norm: bool
    qkv_bias: bool
    tied_head: bool


class Stack(NamedTuple):
    """Layers of one kind whose weights are stacked, so that a loop runs through them.

    Attributes:
        layers: indices, int[repeats, length]: `length` of them in a row, in each of `repeats` periods.
        window: of these layers, as DecoderSpec.windows has it.
        rope: of these layers.
    """

    layers: tuple[tuple[int, ...], ...]
    window: int | None
    rope: Rope


@functools.cache
def stacks(spec: DecoderSpec) -> tuple[tuple[Stack, ...], ...]:
    """Returns the layers as periods of like runs, and then what is left over.

    Kinds of layers alternate with a period (Gemma 3: five with a sliding window, then one without). The first entry
    holds the runs of that period, repeated; the second, if there is one, the runs behind the last whole period.
    """
    kinds = list(zip(spec.windows, spec.ropes, strict=True))
    count = spec.num_layers
    period = next(p for p in range(1, count + 1) if kinds == (kinds[:p] * count)[:count])
    whole = count // period * period

    def runs(start: int, end: int, repeats: int) -> tuple[Stack, ...]:
        changes = [i for i in range(start, end) if i == start or kinds[i] != kinds[i - 1]]
        return tuple(
            Stack(tuple(tuple(range(i + r * period, j + r * period)) for r in range(repeats)), *kinds[i])
            for i, j in zip(changes, [*changes[1:], end], strict=True)
        )

    periods = (runs(0, period, count // period),)
    return periods if whole == count else (*periods, runs(whole, count, 1))


class Place(NamedTuple):
    """Where a layer is among the stacked weights: its stack, counted over all of `stacks`, and its indices there."""

    stack: int
    repeat: int
    place: int


@functools.cache
def layer_places(spec: DecoderSpec) -> tuple[Place, ...]:
    """Returns the place of every layer."""
    every_stack = [stack for period in stacks(spec) for stack in period]
    places = {
        layer: Place(number, repeat, place)
        for number, stack in enumerate(every_stack)
        for repeat, run in enumerate(stack.layers)
        for place, layer in enumerate(run)
    }
    return tuple(places[layer] for layer in range(spec.num_layers))

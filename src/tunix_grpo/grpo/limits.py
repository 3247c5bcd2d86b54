"""What a GRPO step must do at the least: bytes that are read, products that are added up.

A limit is the time that a machine needs for just that at its highest measured rates, so no program can be faster. It
counts what the mathematics asks for, however a program goes about it:

* each prompt passes through the model once per group, in rollout, reference and update; its completions attend to it;
* attention is causal, and sees no further back than a layer's window;
* the vocabulary head is applied to the positions that predict a completion's token, once per pass;
* the last token of a completion is never an input;
* nothing is computed twice: no recomputation in the backward pass;
* the backward pass computes gradients of all activations, and of those weights alone that are trained;
* adapters count in the update only: a rollout can have them added into the weights.

Norms, activations, the optimizer and sampling are left out; they are small.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tunix_grpo.decoder.spec import DecoderSpec

_STORED_BYTES = {"int8": 1.0, "nf4": 0.5}  # of a quantized weight, its scales left out


class Ceilings(NamedTuple):
    """What a device can do.

    Attributes:
        bandwidth: bytes per second from its memory.
        arithmetic: FLOP per second in products of large matrices.
    """

    bandwidth: float
    arithmetic: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """The size of a step.

    Attributes:
        prompts: P, different ones.
        generations: G, completions of each.
        prompt_tokens: S, of each prompt.
        completion_tokens: T, of the longest completion that there may be.
        lengths: B, tokens of each completion, each prompt's side by side; None: T.
    """

    prompts: int
    generations: int
    prompt_tokens: int
    completion_tokens: int
    lengths: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """P x G completions."""
        return self.prompts * self.generations

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """Tokens of each completion."""
        return self.lengths or (self.completion_tokens,) * self.rows

    @property
    def predicted(self) -> int:
        """Tokens of all completions."""
        return sum(self.row_lengths)

    @property
    def inputs(self) -> int:
        """Of them, those that are inputs of a forward pass."""
        return self.predicted - self.rows

    @property
    def tokens(self) -> int:
        """Inputs of a forward pass over the step."""
        return self.prompts * self.prompt_tokens + self.inputs

    def sizes(self) -> dict[str, int]:
        """Returns the numbers P, G, S and T by name."""
        names = ("prompts", "generations", "prompt_tokens", "completion_tokens")
        return {name: getattr(self, name) for name in names}

    def share(self, devices: int) -> Work:
        """Returns what one of so many devices does at the least, whichever completions it has."""
        prompts = self.prompts // devices
        if self.lengths is None or devices == 1:
            return dataclasses.replace(self, prompts=prompts)
        longest_first = sorted(self.lengths, reverse=True)
        return dataclasses.replace(self, prompts=prompts, lengths=tuple(longest_first[devices - 1 :: devices]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The least seconds that the parts of a step can take.

    Attributes:
        reference: 0 without a KL term.
    """

    rollout: float
    reference: float
    update: float

    @property
    def step(self) -> float:
        """Of a whole step, whose parts need one another's results."""
        return self.rollout + self.reference + self.update


def step_limits(
    spec: DecoderSpec,
    work: Work,
    ceilings: Ceilings,
    *,
    bytes_per_weight: int,
    quantization: str | None,
    adapter_parameters: int | None,
    with_reference: bool,
    num_iterations: int,
) -> Limits:
    """Returns the limits of a step.

    Args:
        work: of one data-parallel device.
        ceilings: of the devices that share it.
        bytes_per_weight: in the dtype of the computation.
        quantization: of the frozen projections: int8, nf4 or None.
        adapter_parameters: trained parameters of LoRA; None where all weights are trained.
        with_reference: whether reference log-probabilities are computed.
        num_iterations: updates of a step.
    """
    weights = weight_bytes(spec, bytes_per_weight, quantization)
    steps = max(work.row_lengths) - 1
    prefill = max(weights / ceilings.bandwidth, prefill_flops(spec, work) / ceilings.arithmetic)
    decode = 0.0
    if steps:
        cache = cache_entries(spec, work) / steps * cache_entry_bytes(spec, bytes_per_weight)
        decode = max((weights + cache) / ceilings.bandwidth, decode_flops(spec, work) / steps / ceilings.arithmetic)
    return Limits(
        rollout=prefill + steps * decode,
        reference=forward_flops(spec, work) / ceilings.arithmetic if with_reference else 0.0,
        update=num_iterations * update_flops(spec, work, adapter_parameters) / ceilings.arithmetic,
    )


# --- weights and cache ---


def projection_parameters(spec: DecoderSpec) -> int:
    """Returns the weights of a layer's matrix products."""
    attention = 2 * spec.embed_dim * spec.head_dim * (spec.num_heads + spec.num_kv_heads)
    return attention + 3 * spec.embed_dim * spec.hidden_dim


def layer_parameters(spec: DecoderSpec) -> int:
    """Returns all weights of a layer, norms and biases included."""
    norms = (4 if spec.sandwich_norms else 2) * spec.embed_dim + 2 * spec.head_dim * spec.qk_norm
    biases = spec.head_dim * (spec.num_heads + 2 * spec.num_kv_heads) * spec.qkv_bias
    return projection_parameters(spec) + norms + biases


def head_parameters(spec: DecoderSpec) -> int:
    """Returns the weights of the vocabulary head."""
    return spec.vocab_size * spec.embed_dim


def all_parameters(spec: DecoderSpec) -> int:
    """Returns the weights of a model, an input embedding of its own included."""
    embeddings = (1 if spec.tied_head else 2) * head_parameters(spec)
    return spec.num_layers * layer_parameters(spec) + embeddings + spec.embed_dim


def weight_bytes(spec: DecoderSpec, bytes_per_weight: int, quantization: str | None = None) -> float:
    """Returns the bytes of all weights that a forward pass reads; of an input embedding of its own it reads little."""
    projections = spec.num_layers * projection_parameters(spec)
    others = spec.num_layers * layer_parameters(spec) - projections + head_parameters(spec) + spec.embed_dim
    stored = bytes_per_weight if quantization is None else _STORED_BYTES[quantization]
    return projections * stored + others * bytes_per_weight


def cache_entry_bytes(spec: DecoderSpec, bytes_per_weight: int) -> int:
    """Returns the bytes of a token's key and value in one layer."""
    return 2 * spec.num_kv_heads * spec.head_dim * bytes_per_weight


def cache_entries(spec: DecoderSpec, work: Work) -> int:
    """Returns how many keys (with their values) all decode steps of a rollout read, over layers and rows.

    What lies in the prompt is read once per group.
    """
    total, lengths = 0, np.reshape(work.row_lengths, (work.prompts, work.generations))
    for generated in range(1, int(lengths.max())):
        drawing = lengths > generated
        prompts, rows = int(drawing.any(axis=1).sum()), int(drawing.sum())
        for window, layers in _layers_by_window(spec):
            seen = _seen(window, work.prompt_tokens + generated)
            own = min(generated, seen)
            total += layers * (prompts * (seen - own) + rows * own)
    return total


# --- arithmetic ---


def prefill_flops(spec: DecoderSpec, work: Work) -> float:
    """Returns the FLOP of the prompts' forward pass, with the logits of each prompt's last position."""
    tokens = work.prompts * work.prompt_tokens
    return _projection_flops(spec, tokens) + _prompt_attention(spec, work) + _head_flops(spec, work.prompts)


def decode_flops(spec: DecoderSpec, work: Work) -> float:
    """Returns the FLOP of all decode steps of a rollout."""
    attention = _completion_attention(spec, work)
    return _projection_flops(spec, work.inputs) + attention + _head_flops(spec, work.inputs)


def forward_flops(spec: DecoderSpec, work: Work) -> float:
    """Returns the FLOP of the log-probabilities of a step's completions."""
    return _projection_flops(spec, work.tokens) + _attention_flops(spec, work) + _head_flops(spec, work.predicted)


def update_flops(spec: DecoderSpec, work: Work, adapter_parameters: int | None) -> float:
    """Returns the FLOP of an update: forward pass, gradients of activations, gradients of what is trained.

    Args:
        adapter_parameters: trained parameters of LoRA; None where all weights are trained.
    """
    forward = forward_flops(spec, work)
    # A product of activations with weights has one gradient of activations; one of activations alone has two.
    backward = forward + _attention_flops(spec, work)
    if adapter_parameters is not None:
        return forward + backward + 3 * 2 * adapter_parameters * work.tokens
    trained = _projection_flops(spec, work.tokens) + _head_flops(spec, work.predicted)
    return forward + backward + trained


def _projection_flops(spec: DecoderSpec, tokens: int) -> float:
    return 2.0 * spec.num_layers * projection_parameters(spec) * tokens


def _head_flops(spec: DecoderSpec, positions: int) -> float:
    return 2.0 * head_parameters(spec) * positions


def _attention_flops(spec: DecoderSpec, work: Work) -> float:
    return _prompt_attention(spec, work) + _completion_attention(spec, work)


def _prompt_attention(spec: DecoderSpec, work: Work) -> float:
    return work.prompts * _pair_flops(spec, 0, work.prompt_tokens)


def _completion_attention(spec: DecoderSpec, work: Work) -> float:
    alike = Counter(work.row_lengths).items()
    return sum(rows * _pair_flops(spec, work.prompt_tokens, length - 1) for length, rows in alike)


def _pair_flops(spec: DecoderSpec, before: int, count: int) -> float:
    """Returns the FLOP of attention of `count` tokens in a row that has `before` tokens in front of them."""
    pairs = sum(
        layers * sum(_seen(window, before + place) for place in range(1, count + 1))
        for window, layers in _layers_by_window(spec)
    )
    return 4.0 * spec.num_heads * spec.head_dim * pairs


def _layers_by_window(spec: DecoderSpec) -> Iterator[tuple[int | None, int]]:
    """Yields each kind of window with its number of layers."""
    yield from Counter(spec.windows).items()


def _seen(window: int | None, length: int) -> int:
    """Returns how many positions the last of `length` tokens attends to, itself included."""
    return length if window is None else min(length, window)

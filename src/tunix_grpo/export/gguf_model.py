"""A decoder as llama.cpp computes it: its name there, its numbers, its tensors; and what it has no form for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import gguf
import numpy as np

from tunix_grpo.decoder.layer import rope_frequencies
from tunix_grpo.decoder.spec import DecoderSpec, Rope
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.model.layout import leaves

ROPE_FACTORS = "rope_freqs.weight"
_GEMMA_PERIOD = 6  # every sixth layer of a Gemma 3 has full attention
_GEMMA_27B_LAYERS = 62


class Architecture(NamedTuple):
    """A model family in llama.cpp.

    Attributes:
        kind: what `gguf` calls it.
        neighbours: the pairs of numbers that are rotated together are neighbours, not half a head apart.
        context: tokens of the longest text, where config.json says nothing: transformers' default.
    """

    kind: gguf.MODEL_ARCH
    neighbours: bool
    context: int


ARCHITECTURES = {
    "gemma3": Architecture(gguf.MODEL_ARCH.GEMMA3, False, 131072),
    "llama": Architecture(gguf.MODEL_ARCH.LLAMA, True, 2048),
    "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2, False, 32768),
    "qwen3": Architecture(gguf.MODEL_ARCH.QWEN3, False, 32768),
}


def architecture(spec: DecoderSpec) -> Architecture:
    """Returns a model's family in llama.cpp.

    Raises:
        UserError: there is none, or it computes something else.
    """
    found = ARCHITECTURES.get(spec.family)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"format=gguf: llama.cpp is not known to have model.family={spec.family}, only {known}")
    for what in _differences(spec):
        raise UserError(
            f"format=gguf: llama.cpp has no {spec.family} model with {what}; give format=merged or format=full"
        )
    return found


def _differences(spec: DecoderSpec) -> Iterator[str]:
    """Yields what llama.cpp computes in another way, or not at all."""
    if spec.activation != ("gelu_tanh" if spec.family == "gemma3" else "silu"):
        yield f"the activation {spec.activation}"
    if spec.family == "gemma3":
        yield from _gemma_differences(spec)
        return
    if any(spec.windows):
        yield "sliding windows"
    if spec.ropes[0].llama3 is not None and spec.family != "llama":
        yield "rotary embeddings of the kind llama3"
    if spec.family == "qwen2" and spec.num_heads * spec.head_dim != spec.embed_dim:
        yield f"{spec.num_heads} heads of {spec.head_dim} numbers beside a hidden_size of {spec.embed_dim}"


def _gemma_differences(spec: DecoderSpec) -> Iterator[str]:
    if any(spec.windows):
        own = [window is not None for window in spec.windows]
        if own != [bool((layer + 1) % _GEMMA_PERIOD) for layer in range(spec.num_layers)]:
            yield f"other layers of full attention than every {_GEMMA_PERIOD}th"
    width = spec.embed_dim // spec.num_heads if spec.num_layers == _GEMMA_27B_LAYERS else spec.head_dim
    if abs(spec.attention_scale * width**0.5 - 1) > 1e-6:
        yield f"a query_pre_attn_scalar of {spec.attention_scale**-2:g}, only of {width}"
    if any(rope != Rope(theta=rope.theta) for rope, sliding in zip(spec.ropes, spec.windows, strict=True) if sliding):
        yield "scaled rotary embeddings in layers with a sliding window"
    if any(rope.llama3 for rope in spec.ropes):
        yield "rotary embeddings of the kind llama3"


def add_numbers(writer: gguf.GGUFWriter, spec: DecoderSpec, context: int) -> None:
    """Writes the shapes and choices of a model."""
    writer.add_context_length(context)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_embedding_length(spec.embed_dim)
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(spec.hidden_dim)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    kinds = dict(zip(spec.windows, spec.ropes, strict=True))
    rope = kinds.get(None) or spec.ropes[0]
    writer.add_rope_freq_base(rope.theta)
    if rope.factor != 1.0 and rope.llama3 is None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)
    for window in filter(None, kinds):
        writer.add_sliding_window(window)
        writer.add_rope_freq_base_swa(kinds[window].theta)


def rope_factors(spec: DecoderSpec) -> np.ndarray | None:
    """Returns float32[H / 2], by what each frequency is divided, where that differs between them."""
    rope = spec.ropes[0]
    if rope.llama3 is None:
        return None
    plain = np.asarray(rope_frequencies(Rope(theta=rope.theta), spec.head_dim))
    return plain / np.asarray(rope_frequencies(rope, spec.head_dim))


def context_length(config: dict[str, Json], default: int) -> int:
    """Returns the tokens of the longest text that a config.json names."""
    text = config.get("text_config")
    value = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return value if isinstance(value, int) and value > 0 else default


class TensorForm(NamedTuple):
    """How llama.cpp holds a Hugging Face tensor.

    Attributes:
        name: there.
        shape: of both.
        heads: into which its rows are cut whose halves are rotated as neighbours; 0: rows stay.
        offset: that is added.
    """

    name: str
    shape: tuple[int, ...]
    heads: int
    offset: float

    @property
    def is_vector(self) -> bool:
        """Vectors stay in float32, where llama.cpp wants them."""
        return len(self.shape) == 1

    def to_file(self, tensor: np.ndarray) -> np.ndarray:
        """Returns llama.cpp's tensor."""
        if self.heads:
            rows = tensor.reshape(self.heads, 2, -1, *self.shape[1:])
            tensor = rows.swapaxes(1, 2).reshape(self.shape)
        return tensor + np.float32(self.offset) if self.offset else tensor

    def of_file(self, tensor: np.ndarray) -> np.ndarray:
        """Returns the Hugging Face tensor."""
        if self.heads:
            rows = tensor.reshape(self.heads, -1, 2, *self.shape[1:])
            tensor = rows.swapaxes(1, 2).reshape(self.shape)
        return tensor - np.float32(self.offset) if self.offset else tensor


def tensor_forms(spec: DecoderSpec) -> dict[str, TensorForm]:
    """Returns, by the Hugging Face tensors' names in the order of the layout table, how llama.cpp holds them."""
    own = architecture(spec)
    names = gguf.get_tensor_name_map(own.kind, spec.num_layers)
    rotated = {"q": spec.num_heads, "k": spec.num_kv_heads} if own.neighbours else {}
    forms = {}
    for leaf in leaves(spec):
        for name, role in zip(leaf.names, leaf.roles, strict=True):
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert theirs is not None, name  # every family of the table above has all of ours
            offset = 1.0 if spec.norm_plus_one and role.endswith("norm") else 0.0
            forms[name] = TensorForm(theirs, leaf.file_shape, rotated.get(role, 0), offset)
    return forms

"""Qwen 2 and 2.5: a Llama with biases on queries, keys and values."""

from __future__ import annotations

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.families.family import Family
from tunix_grpo.model.families.llama_like import llama_like_rows, read_llama_like, tunix_llama_like

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
}


def _read(fields: Fields) -> DecoderSpec:
    return read_llama_like(fields, DEFAULTS, head_dim=None, sliding=True, qkv_bias=True)


QWEN2 = Family(
    model_types=("qwen2",),
    read=_read,
    rows=lambda spec: llama_like_rows(qkv_bias=True),
    tunix=lambda spec: tunix_llama_like(spec, "qwen2", "Qwen2"),
)

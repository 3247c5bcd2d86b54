"""Llama 2 and 3, and what calls itself so (SmolLM2, many distilled models)."""

from __future__ import annotations

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.families.family import Family
from tunix_grpo.model.families.llama_like import llama_like_rows, read_llama_like, tunix_llama_like

_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 0,
    "max_position_embeddings": 2048,
}


def _read(fields: Fields) -> DecoderSpec:
    return read_llama_like(fields, _DEFAULTS, head_dim=None, sliding=False)


LLAMA = Family(
    model_types=("llama",),
    read=_read,
    rows=lambda spec: llama_like_rows(),
    tunix=lambda spec: tunix_llama_like(spec, "llama3", "Llama3", tied="weight_tying"),
)

"""Qwen 3: a Llama whose queries and keys are normalised."""

from __future__ import annotations

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.families.family import Family
from tunix_grpo.model.families.llama_like import llama_like_rows, read_llama_like, tunix_llama_like
from tunix_grpo.model.families.qwen2 import DEFAULTS


def _read(fields: Fields) -> DecoderSpec:
    return read_llama_like(fields, DEFAULTS, head_dim=128, sliding=True, qk_norm=True)


QWEN3 = Family(
    model_types=("qwen3",),
    read=_read,
    rows=lambda spec: llama_like_rows(qk_norm=True),
    tunix=lambda spec: tunix_llama_like(spec, "qwen3", "Qwen3"),
)

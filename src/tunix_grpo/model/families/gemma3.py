"""Gemma 3: sandwiched norms, sliding windows in five of six layers, projections that are stored by head."""

from __future__ import annotations

import logging
import math

import numpy as np

from tunix_grpo.decoder.spec import DecoderSpec, Rope
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.families.family import HEADS, STACKED_HEADS, TRANSPOSED, Family, Row, TunixModule
from tunix_grpo.model.families.llama_like import mlp_rows, tunix_shapes
from tunix_grpo.model.families.reading import (
    ACTIVATIONS,
    FULL,
    SLIDING,
    layer_kinds,
    merged,
    read_rope,
    read_shapes,
    refuse_uncovered,
    require_whole_groups,
    windows,
)

_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
}
_FULL_THETA, _SLIDING_THETA = 1e6, 1e4
_NORMS = {
    "pre_attention_norm": ("input_layernorm", "attention_norm"),
    "post_attention_norm": ("post_attention_layernorm", "post_attention_norm"),
    "pre_ffw_norm": ("pre_feedforward_layernorm", "mlp_norm"),
    "post_ffw_norm": ("post_feedforward_layernorm", "post_mlp_norm"),
}
_log = logging.getLogger(__name__)


def _read(fields: Fields) -> DecoderSpec:
    refuse_uncovered(fields)
    shapes = read_shapes(fields, _DEFAULTS)
    num_kv_heads, head_dim = fields.integer("num_key_value_heads", 4), fields.integer("head_dim", 256)
    require_whole_groups(fields, shapes["num_heads"], num_kv_heads, head_dim)
    sliding = layer_kinds(fields, shapes["num_layers"])
    if sliding is None:
        pattern = fields.integer("sliding_window_pattern", 6, null_is_absent=True)
        sliding = [bool((layer + 1) % pattern) for layer in range(shapes["num_layers"])]
    window = None if "sliding_window" in fields and fields.raw("sliding_window") is None else 4096
    window = window and fields.integer("sliding_window", window)
    full_rope, sliding_rope = _ropes(fields)
    return DecoderSpec(
        family="",
        **shapes,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        windows=windows(fields, sliding, window),
        ropes=tuple(sliding_rope if is_sliding else full_rope for is_sliding in sliding),
        attention_scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        embedding_scale=math.sqrt(shapes["embed_dim"]),
        activation=fields.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        norm_plus_one=True,
        sandwich_norms=True,
        qk_norm=True,
        qkv_bias=False,
        tied_head=fields.boolean("tie_word_embeddings", True),
    )


def _ropes(fields: Fields) -> tuple[Rope, Rope]:
    """Returns the rotary embeddings of (full attention layers, sliding window layers).

    transformers reads rope_parameters by kind of layer, and completes a kind that is not there; what stands beside the
    kinds is of no effect.
    """
    context = fields.integer("max_position_embeddings", 131072)
    theta = fields.number("rope_theta", _FULL_THETA)
    sliding_theta = fields.number("rope_local_base_freq", _SLIDING_THETA)
    parameters = merged(fields, "rope_parameters")
    full = merged(fields, "rope_scaling") if fields.raw("rope_scaling") else merged(parameters, FULL)
    ropes = read_rope(full, theta, context), read_rope(merged(parameters, SLIDING), sliding_theta, context)
    by_kind = FULL in parameters or SLIDING in parameters
    if not by_kind and "rope_theta" in parameters and read_rope(parameters, theta, context) != ropes[0]:
        _log.warning(
            "%s: rope_parameters names no kind of layer, so that it is not read, as transformers does not; "
            "full attention has rope_theta=%g",
            fields.file,
            ropes[0].theta,
        )
    return ropes


def _rows(spec: DecoderSpec) -> tuple[Row, ...]:
    layer, file_layer = "layers.*", "model.layers.*"
    attention, file_attention = f"{layer}.attn", f"{file_layer}.self_attn"
    q, k, v = (f"{file_attention}.{role}_proj.weight" for role in "qkv")
    if spec.num_heads == spec.num_kv_heads:
        projections = [Row(f"{attention}.qkv_einsum.w", (q, k, v), ("q", "k", "v"), STACKED_HEADS)]
    else:
        projections = [
            Row(f"{attention}.q_einsum.w", (q,), ("q",), HEADS),
            Row(f"{attention}.kv_einsum.w", (k, v), ("k", "v"), STACKED_HEADS),
        ]
    norms = [
        Row(f"{layer}.{path}.scale", (f"{file_layer}.{name}.weight",), (role,)) for path, (name, role) in _NORMS.items()
    ]
    return (
        Row("embedder.input_embedding", ("model.embed_tokens.weight",), ("embed",)),
        Row("final_norm.scale", ("model.norm.weight",), ("final_norm",)),
        Row("lm_head.w", ("lm_head.weight",), ("head",), TRANSPOSED),
        *norms,
        *projections,
        Row(f"{attention}.attn_vec_einsum.w", (f"{file_attention}.o_proj.weight",), ("o",), TRANSPOSED),
        Row(f"{attention}._query_norm.scale", (f"{file_attention}.q_norm.weight",), ("q_norm",)),
        Row(f"{attention}._key_norm.scale", (f"{file_attention}.k_norm.weight",), ("k_norm",)),
        *mlp_rows(),
    )


def _tunix(spec: DecoderSpec) -> TunixModule:
    # Tunix wants a window for its fixed pattern of layers; the arithmetic reads spec.windows instead.
    window = max((window for window in spec.windows if window is not None), default=1)
    fields = {"num_embed": spec.vocab_size, "sliding_window_size": window, "param_dtype": np.float32}
    return TunixModule("gemma3", "Gemma3", fields | tunix_shapes(spec))


GEMMA3 = Family(
    model_types=("gemma3", "gemma3_text"),
    read=_read,
    rows=_rows,
    tunix=_tunix,
    text_model={"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"},
)

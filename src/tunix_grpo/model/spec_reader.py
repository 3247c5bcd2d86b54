"""Reads a Hugging Face config.json into what a decoder computes.

What the arithmetic does not cover is refused here, with the reason, rather than computed wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tunix_grpo.decoder.spec import DecoderSpec, Rope
from tunix_grpo.errors import UserError

FAMILIES = ("gemma3", "qwen2", "qwen3", "llama")


_MODEL_TYPES = {
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "llama": "llama",
}


# What transformers assumes for a key that an older config.json leaves out.
_GEMMA3_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
}


_LLAMA_LIKE_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "hidden_act": "silu"}


_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def spec_from_config(config: Mapping[str, Any]) -> DecoderSpec:
    """Reads a Hugging Face config.json.

    Args:
        config: the parsed file; of a multimodal Gemma 3 the text part is taken.

    Raises:
        UserError: the model type or one of its options is not covered; the sentence names it.
    """
    model_type = config.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise UserError(
            f"config.json: model_type={model_type!r} is not supported; supported are {', '.join(sorted(_MODEL_TYPES))}"
        )
    family = _MODEL_TYPES[model_type]
    text = config.get("text_config")
    if isinstance(text, Mapping):
        # A multimodal file keeps some keys (tie_word_embeddings) outside of its text part.
        config = {**{k: v for k, v in config.items() if k == "tie_word_embeddings"}, **text}
    defaults = _GEMMA3_DEFAULTS if family == "gemma3" else _LLAMA_LIKE_DEFAULTS
    config = {**defaults, **{k: v for k, v in config.items() if v is not None}}
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        if key not in config:
            raise UserError(f"config.json: {key} is missing")
    _refuse_uncovered(family, config)

    num_heads = config["num_attention_heads"]
    num_layers = config["num_hidden_layers"]
    head_dim = config.get("head_dim") or config["hidden_size"] // num_heads
    is_gemma = family == "gemma3"
    sliding = _sliding_layers(family, config)
    full_rope, sliding_rope = _ropes(family, config)
    return DecoderSpec(
        family=family,
        vocab_size=config["vocab_size"],
        num_layers=num_layers,
        embed_dim=config["hidden_size"],
        hidden_dim=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        norm_eps=config["rms_norm_eps"],
        windows=tuple(config["sliding_window"] if s else None for s in sliding),
        ropes=tuple(sliding_rope if s else full_rope for s in sliding),
        attention_scale=(config["query_pre_attn_scalar"] if is_gemma else head_dim) ** -0.5,
        embedding_scale=math.sqrt(config["hidden_size"]) if is_gemma else 1.0,
        activation=_ACTIVATIONS[_activation(family, config)],
        norm_plus_one=is_gemma,
        sandwich_norms=is_gemma,
        qk_norm=family in ("gemma3", "qwen3"),
        qkv_bias=family == "qwen2",
        tied_head=bool(config["tie_word_embeddings"]),
    )


def _activation(family: str, config: Mapping[str, Any]) -> str:
    return config["hidden_activation"] if family == "gemma3" else config["hidden_act"]


def _refuse_uncovered(family: str, config: Mapping[str, Any]) -> None:
    """Raises UserError for an option that would change the arithmetic in a way that decoder.py does not compute."""
    refused = {
        "attention_bias": "biases in the attention projections",
        "mlp_bias": "biases in the MLP",
        "attn_logit_softcapping": "soft-capped attention scores",
        "final_logit_softcapping": "soft-capped logits",
        "use_bidirectional_attention": "attention to later tokens",
        "num_experts": "mixtures of experts",
    }
    for key, meaning in refused.items():
        if config.get(key):
            raise UserError(f"config.json: {key}={config[key]!r} is not supported ({meaning})")
    if _activation(family, config) not in _ACTIVATIONS:
        raise UserError(
            f"config.json: activation {_activation(family, config)!r} is not supported; "
            f"supported are {', '.join(_ACTIVATIONS)}"
        )
    if float(config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError("config.json: partial_rotary_factor other than 1 is not supported")


def _sliding_layers(family: str, config: Mapping[str, Any]) -> list[bool]:
    """Returns, per layer, whether its attention is limited to a sliding window."""
    num_layers = config["num_hidden_layers"]
    if "layer_types" in config:
        kinds = config["layer_types"]
        unknown = set(kinds) - {"sliding_attention", "full_attention"}
        if unknown or len(kinds) != num_layers:
            raise UserError(f"config.json: layer_types {sorted(set(kinds))} for {num_layers} layers is not supported")
        sliding = [kind == "sliding_attention" for kind in kinds]
    elif family == "gemma3":
        pattern = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
        sliding = [bool((layer + 1) % pattern) for layer in range(num_layers)]
    elif family in ("qwen2", "qwen3") and config.get("use_sliding_window"):
        sliding = [layer >= config.get("max_window_layers", 28) for layer in range(num_layers)]
    else:
        sliding = [False] * num_layers
    if any(sliding) and not config.get("sliding_window"):
        raise UserError("config.json: some layers use a sliding window, but sliding_window is missing")
    return sliding


def _ropes(family: str, config: Mapping[str, Any]) -> tuple[Rope, Rope]:
    """Returns the rotary embeddings of (full attention layers, sliding window layers)."""
    new_style = config.get("rope_parameters")
    if family == "gemma3":
        if new_style:
            return _rope(new_style["full_attention"], 1e6), _rope(new_style["sliding_attention"], 1e4)
        full = {"rope_theta": config.get("rope_theta", 1e6), **(config.get("rope_scaling") or {})}
        return _rope(full, 1e6), Rope(theta=float(config.get("rope_local_base_freq", 1e4)))
    old_style = {"rope_theta": config.get("rope_theta", 1e4), **(config.get("rope_scaling") or {})}
    rope = _rope({**old_style, **(new_style or {})}, 1e4)
    return rope, rope


def _rope(parameters: Mapping[str, Any], default_theta: float) -> Rope:
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    theta = float(parameters.get("rope_theta", default_theta))
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, factor=float(parameters["factor"]))
    if kind == "llama3":
        return Rope(
            theta=theta,
            factor=float(parameters["factor"]),
            llama3=(
                float(parameters["low_freq_factor"]),
                float(parameters["high_freq_factor"]),
                int(parameters["original_max_position_embeddings"]),
            ),
        )
    raise UserError(f"config.json: rope type {kind!r} is not supported; supported are default, linear and llama3")

"""What a decoder computes: the numbers and choices that a Hugging Face config.json fixes.

A `DecoderSpec` is a plain, hashable description of one decoder-only language model (gemma3, qwen2, qwen3 or llama). The
arithmetic in `decoder.py` is driven by it, and so is the table of weights in `models/`. Everything that this project's
arithmetic does not cover is refused here, with the reason, rather than computed wrongly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

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

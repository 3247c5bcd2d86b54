"""What Llama and the families that follow it share: config.json, the layout table, Tunix's config."""

from __future__ import annotations

from collections.abc import Mapping

from tunix_grpo.decoder.spec import DecoderSpec, Rope
from tunix_grpo.json_fields import Fields
from tunix_grpo.model.families.family import TRANSPOSED, Row, TunixModule
from tunix_grpo.model.families.reading import (
    ACTIVATIONS,
    layer_kinds,
    merged,
    read_rope,
    read_shapes,
    refuse_uncovered,
    require_whole_groups,
    windows,
)

_LAYER, _FILE_LAYER = "layers.*", "model.layers.*"
DEFAULT_THETA = 1e4


def read_llama_like(
    fields: Fields,
    defaults: Mapping[str, int],
    *,
    head_dim: int | None,
    sliding: bool,
    qk_norm: bool = False,
    qkv_bias: bool = False,
) -> DecoderSpec:
    """Reads config.json.

    Args:
        defaults: as `read_shapes` takes them, with num_key_value_heads (0: as many as query heads) and
            max_position_embeddings.
        head_dim: numbers of a head where config.json has none; None: hidden_size / num_attention_heads.
        sliding: layers may have a sliding window, as Qwen's.
    """
    refuse_uncovered(fields)
    shapes = read_shapes(fields, defaults)
    if head_dim is None:
        width: int = fields.integer("head_dim", 0, null_is_absent=True) or _even_part(fields, shapes)
    else:
        width = fields.integer("head_dim", head_dim)
    if fields.raw("num_key_value_heads") is None and "num_key_value_heads" in fields:
        num_kv_heads = shapes["num_heads"]
    else:
        num_kv_heads = fields.integer("num_key_value_heads", defaults["num_key_value_heads"] or shapes["num_heads"])
    require_whole_groups(fields, shapes["num_heads"], num_kv_heads, width)
    window = _window(fields) if sliding else None
    is_sliding = _sliding_layers(fields, shapes["num_layers"], window) if sliding else [False] * shapes["num_layers"]
    rope = _rope(fields, defaults["max_position_embeddings"])
    return DecoderSpec(
        family="",
        **shapes,
        num_kv_heads=num_kv_heads,
        head_dim=width,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        windows=windows(fields, is_sliding, window),
        ropes=(rope,) * shapes["num_layers"],
        attention_scale=width**-0.5,
        embedding_scale=1.0,
        activation=fields.choice("hidden_act", ACTIVATIONS, "silu"),
        norm_plus_one=False,
        sandwich_norms=False,
        qk_norm=qk_norm,
        qkv_bias=qkv_bias,
        tied_head=fields.boolean("tie_word_embeddings", False),
    )


def _even_part(fields: Fields, shapes: Mapping[str, int]) -> int:
    if shapes["embed_dim"] % shapes["num_heads"]:
        raise fields.error("hidden_size", f"is not a multiple of num_attention_heads={shapes['num_heads']}")
    return shapes["embed_dim"] // shapes["num_heads"]


def _window(fields: Fields) -> int | None:
    """Returns the size of the sliding window, None where it is switched off."""
    in_use = fields.boolean("use_sliding_window", False)
    is_null = "sliding_window" in fields and fields.raw("sliding_window") is None
    return fields.integer("sliding_window", 4096) if in_use and not is_null else None


def _sliding_layers(fields: Fields, num_layers: int, window: int | None) -> list[bool]:
    kinds = layer_kinds(fields, num_layers)
    first = fields.integer("max_window_layers", 28, least=0)
    return [window is not None and layer >= first for layer in range(num_layers)] if kinds is None else kinds


def _rope(fields: Fields, default_context: int) -> Rope:
    context = fields.integer("max_position_embeddings", default_context)
    context = fields.integer("original_max_position_embeddings", context, null_is_absent=True)
    theta = fields.number("rope_theta", DEFAULT_THETA)
    return read_rope(merged(fields, "rope_scaling", "rope_parameters"), theta, context)


def llama_like_rows(*, qk_norm: bool = False, qkv_bias: bool = False) -> tuple[Row, ...]:
    """Returns the layout table."""
    attention, file_attention = f"{_LAYER}.attn", f"{_FILE_LAYER}.self_attn"
    rows = [
        Row("embedder.input_embedding", ("model.embed_tokens.weight",), ("embed",)),
        Row("final_norm.w", ("model.norm.weight",), ("final_norm",)),
        Row("lm_head.w", ("lm_head.weight",), ("head",), TRANSPOSED),
        Row(f"{_LAYER}.input_layernorm.w", (f"{_FILE_LAYER}.input_layernorm.weight",), ("attention_norm",)),
        Row(f"{_LAYER}.post_attention_layernorm.w", (f"{_FILE_LAYER}.post_attention_layernorm.weight",), ("mlp_norm",)),
    ]
    for role in ("q", "k", "v"):
        rows.append(Row(f"{attention}.{role}_proj.w", (f"{file_attention}.{role}_proj.weight",), (role,), TRANSPOSED))
        if qkv_bias:
            rows.append(Row(f"{attention}.{role}_bias", (f"{file_attention}.{role}_proj.bias",), (f"{role}.bias",)))
    rows.append(Row(f"{attention}.o_proj.w", (f"{file_attention}.o_proj.weight",), ("o",), TRANSPOSED))
    for role in ("q_norm", "k_norm") if qk_norm else ():
        rows.append(Row(f"{attention}.{role}.w", (f"{file_attention}.{role}.weight",), (role,)))
    return (*rows, *mlp_rows())


def mlp_rows() -> tuple[Row, ...]:
    """Returns the rows of a gated MLP, which all families have in the same place."""
    return tuple(
        Row(
            f"{_LAYER}.mlp.{role}_proj.kernel",
            (f"{_FILE_LAYER}.mlp.{role}_proj.weight",),
            (role,),
            TRANSPOSED,
        )
        for role in ("gate", "up", "down")
    )


def tunix_shapes(spec: DecoderSpec) -> dict[str, int]:
    """Returns the fields that all of Tunix's configs have."""
    names = ("num_layers", "embed_dim", "hidden_dim", "num_heads", "num_kv_heads", "head_dim")
    return {name: getattr(spec, name) for name in names}


def tunix_llama_like(spec: DecoderSpec, package: str, name: str, tied: str = "use_tied_embedding") -> TunixModule:
    """Returns Tunix's module.

    Args:
        tied: what Tunix's config calls DecoderSpec.tied_head.
    """
    fields = {
        "vocab_size": spec.vocab_size,
        "rope_theta": int(spec.ropes[0].theta),
        "norm_eps": spec.norm_eps,
        tied: spec.tied_head,
    }
    return TunixModule(package, name, fields | tunix_shapes(spec))

"""The parts of a config.json that families share: shapes, activations, rotary embeddings, sliding windows.

Defaults are those that transformers completes; a test compares them with its config classes. What the arithmetic does
not cover is refused, rather than computed wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunix_grpo.decoder.spec import Rope
from tunix_grpo.json_fields import Fields

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
SLIDING, FULL = "sliding_attention", "full_attention"
_MOST_LAYERS = 10_000  # each has entries of its own in tables, long before there are weights
_REFUSED = {
    "attention_bias": "biases in the attention projections",
    "mlp_bias": "biases in the MLP",
    "attn_logit_softcapping": "soft-capped attention scores",
    "final_logit_softcapping": "soft-capped logits",
    "use_bidirectional_attention": "attention to later tokens",
    "num_experts": "mixtures of experts",
}


def refuse_uncovered(fields: Fields) -> None:
    """Raises UserError for an option that would change the arithmetic in a way that the decoder does not compute."""
    for key, meaning in _REFUSED.items():
        if fields.raw(key):
            raise fields.error(key, f"is not supported ({meaning}); choose another model")
    if fields.number("partial_rotary_factor", 1.0, null_is_absent=True) != 1.0:
        raise fields.error("partial_rotary_factor", "is not supported (only 1 is); choose another model")


def read_shapes(fields: Fields, defaults: Mapping[str, int]) -> dict[str, int]:
    """Returns the decoder's sizes but those of a head.

    Args:
        defaults: of vocab_size, hidden_size, intermediate_size, num_hidden_layers and num_attention_heads.
    """
    names = {
        "vocab_size": "vocab_size",
        "num_layers": "num_hidden_layers",
        "embed_dim": "hidden_size",
        "hidden_dim": "intermediate_size",
        "num_heads": "num_attention_heads",
    }
    shapes = {ours: fields.integer(theirs, defaults[theirs]) for ours, theirs in names.items()}
    if shapes["num_layers"] > _MOST_LAYERS:
        raise fields.error("num_hidden_layers", f"is more than {_MOST_LAYERS}; correct it")
    return shapes


def require_whole_groups(fields: Fields, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Raises UserError for heads that cannot share keys evenly, or that cannot be rotated in pairs."""
    if num_heads % num_kv_heads:
        raise fields.error(
            "num_key_value_heads", f"does not divide num_attention_heads={num_heads}; correct one of them"
        )
    if head_dim % 2:
        raise fields.error("head_dim", f"makes heads of {head_dim} numbers, which cannot be rotated in pairs")


def layer_kinds(fields: Fields, num_layers: int) -> list[bool] | None:
    """Returns, per layer, whether layer_types limits it to a sliding window; None where there is no layer_types."""
    kinds = fields.words("layer_types", (SLIDING, FULL), num_layers)
    return None if kinds is None else [kind == SLIDING for kind in kinds]


def windows(fields: Fields, sliding: list[bool], size: int | None) -> tuple[int | None, ...]:
    """Returns DecoderSpec.windows."""
    if any(sliding) and size is None:
        raise fields.error("sliding_window", "is no window, but some layers use one; give a whole number of at least 1")
    return tuple(size if is_sliding else None for is_sliding in sliding)


def read_rope(fields: Fields, default_theta: float, context: int) -> Rope:
    """Returns the rotary embedding that an object such as rope_parameters describes.

    Args:
        default_theta: where the object has no rope_theta.
        context: tokens of the longest text, the default of original_max_position_embeddings.
    """
    named = "rope_type" if "rope_type" in fields else "type"
    kinds = {name: name for name in ("default", "linear", "llama3")}
    kind = fields.choice(named, kinds, "default")
    if fields.number("partial_rotary_factor", 1.0, null_is_absent=True) != 1.0:
        raise fields.error("partial_rotary_factor", "is not supported (only 1 is); choose another model")
    theta = fields.number("rope_theta", default_theta)
    if kind == "default":
        return Rope(theta=theta)
    factor = fields.number("factor")
    if kind == "linear":
        return Rope(theta=theta, factor=factor)
    bands = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    return Rope(
        theta=theta, factor=factor, llama3=(*bands, fields.integer("original_max_position_embeddings", context))
    )


def merged(fields: Fields, *keys: str) -> Fields:
    """Returns the first of the named objects that is there and not empty, or an empty one."""
    for key in keys:
        found = fields.object(key)
        if found is not None and fields.raw(key):
            return found
    return Fields(fields.file, {}, f"{keys[-1]}.")

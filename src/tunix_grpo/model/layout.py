"""Where each weight lives: in the Hugging Face file, in Tunix's module, and in the decoder's dictionary.

Tunix's modules (`tunix.models.{gemma3,qwen2,qwen3,llama3}`) hold, shard and adapt the weights; `tensors` is the one
table that ties their leaves to the names and layouts of a Hugging Face directory, in both directions, and
`decoder_weights` reads them, LoRA included, into the form that `decoder.py` computes with.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx

from tunix_grpo.decoder.spec import DecoderSpec

Array = Any  # numpy or jax
Path = tuple[str | int, ...]

_LLAMA_LIKE_NORMS = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
}
_GEMMA3_NORMS = {
    "pre_attention_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_ffw_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One leaf of a Tunix module and the Hugging Face tensors that it is made of.

    Attributes:
        path: of the leaf in the module, as nnx.to_flat_state names it.
        names: of the Hugging Face tensors, without any prefix before `model.`.
        shapes: of the Hugging Face tensors.
        load: Hugging Face arrays -> the leaf.
        save: the leaf -> Hugging Face arrays.
    """

    path: Path
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    load: Callable[[list[Array]], Array]
    save: Callable[[Array], list[Array]]


def _same(path: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(path, (name,), (shape,), lambda arrays: arrays[0], lambda leaf: [leaf])


def _transposed(path: Path, name: str, shape: tuple[int, int], leaf_shape: tuple[int, ...]) -> Tensor:
    """A torch linear weight [out, in] against a leaf that flattens to [in, out]."""
    return Tensor(
        path,
        (name,),
        (shape,),
        lambda arrays: arrays[0].T.reshape(leaf_shape),
        lambda leaf: [leaf.reshape(shape[1], shape[0]).T],
    )


def _heads(path: Path, names: tuple[str, ...], heads: int, spec: DecoderSpec, stacked: bool) -> Tensor:
    """Gemma's projections: torch [heads * H, D] against [heads, D, H], several of them stacked in front."""

    def to_leaf(array: Array) -> Array:
        return array.reshape(heads, spec.head_dim, spec.embed_dim).swapaxes(1, 2)

    def to_torch(leaf: Array) -> Array:
        return leaf.swapaxes(1, 2).reshape(heads * spec.head_dim, spec.embed_dim)

    shapes = ((heads * spec.head_dim, spec.embed_dim),) * len(names)
    if not stacked:
        return Tensor(path, names, shapes, lambda arrays: to_leaf(arrays[0]), lambda leaf: [to_torch(leaf)])
    return Tensor(
        path,
        names,
        shapes,
        lambda arrays: np.stack([to_leaf(array) for array in arrays]),
        lambda leaf: [to_torch(part) for part in leaf],
    )


def tensors(spec: DecoderSpec) -> list[Tensor]:
    """Returns the table of all weights of a model."""
    norm = "scale" if spec.family == "gemma3" else "w"
    dim = (spec.embed_dim,)
    table = [
        _same(("embedder", "input_embedding"), "model.embed_tokens.weight", (spec.vocab_size, spec.embed_dim)),
        _same(("final_norm", norm), "model.norm.weight", dim),
    ]
    if not spec.tied_head:
        shape = (spec.vocab_size, spec.embed_dim)
        table.append(_transposed(("lm_head", "w"), "lm_head.weight", shape, shape[::-1]))
    for index in range(spec.num_layers):
        here: Path = ("layers", index)
        there = f"model.layers.{index}"
        norms = _GEMMA3_NORMS if spec.family == "gemma3" else _LLAMA_LIKE_NORMS
        table += [_same((*here, ours, norm), f"{there}.{theirs}.weight", dim) for ours, theirs in norms.items()]
        attention = _gemma3_attention if spec.family == "gemma3" else _llama_like_attention
        table += attention(spec, (*here, "attn"), f"{there}.self_attn")
        for name in ("gate_proj", "up_proj", "down_proj"):
            leaf_shape = (spec.embed_dim, spec.hidden_dim)
            leaf_shape = leaf_shape[::-1] if name == "down_proj" else leaf_shape
            path = (*here, "mlp", name, "kernel")
            table.append(_transposed(path, f"{there}.mlp.{name}.weight", leaf_shape[::-1], leaf_shape))
    return table


def _gemma3_attention(spec: DecoderSpec, here: Path, there: str) -> list[Tensor]:
    q, k, v = (f"{there}.{name}_proj.weight" for name in "qkv")
    width = spec.num_heads * spec.head_dim
    if spec.num_heads == spec.num_kv_heads:
        projections = [_heads((*here, "qkv_einsum", "w"), (q, k, v), spec.num_heads, spec, stacked=True)]
    else:
        projections = [
            _heads((*here, "q_einsum", "w"), (q,), spec.num_heads, spec, stacked=False),
            _heads((*here, "kv_einsum", "w"), (k, v), spec.num_kv_heads, spec, stacked=True),
        ]
    leaf_shape = (spec.num_heads, spec.head_dim, spec.embed_dim)
    return [
        *projections,
        _transposed((*here, "attn_vec_einsum", "w"), f"{there}.o_proj.weight", (spec.embed_dim, width), leaf_shape),
        _same((*here, "_query_norm", "scale"), f"{there}.q_norm.weight", (spec.head_dim,)),
        _same((*here, "_key_norm", "scale"), f"{there}.k_norm.weight", (spec.head_dim,)),
    ]


def _llama_like_attention(spec: DecoderSpec, here: Path, there: str) -> list[Tensor]:
    table = []
    for name, heads in (("q", spec.num_heads), ("k", spec.num_kv_heads), ("v", spec.num_kv_heads)):
        width = heads * spec.head_dim
        leaf_shape = (spec.embed_dim, heads, spec.head_dim)
        path = (*here, f"{name}_proj", "w")
        table.append(_transposed(path, f"{there}.{name}_proj.weight", (width, spec.embed_dim), leaf_shape))
        if spec.qkv_bias:
            table.append(_same((*here, f"{name}_bias"), f"{there}.{name}_proj.bias", (width,)))
    width = spec.num_heads * spec.head_dim
    leaf_shape = (spec.num_heads, spec.head_dim, spec.embed_dim)
    table.append(_transposed((*here, "o_proj", "w"), f"{there}.o_proj.weight", (spec.embed_dim, width), leaf_shape))
    if spec.qk_norm:
        table.append(_same((*here, "q_norm", "w"), f"{there}.q_norm.weight", (spec.head_dim,)))
        table.append(_same((*here, "k_norm", "w"), f"{there}.k_norm.weight", (spec.head_dim,)))
    return table


def module_class(spec: DecoderSpec) -> tuple[type[nnx.Module], Any]:
    """Returns Tunix's module class for a family and its ModelConfig with the spec's shapes."""
    package = {"llama": "llama3"}.get(spec.family, spec.family)
    model = importlib.import_module(f"tunix.models.{package}.model")
    shapes = {
        "num_layers": spec.num_layers,
        "embed_dim": spec.embed_dim,
        "hidden_dim": spec.hidden_dim,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
    }
    if spec.family == "gemma3":
        # Tunix wants a window for its fixed pattern of layers; the arithmetic reads spec.windows instead.
        window = max((w for w in spec.windows if w is not None), default=1)
        return model.Gemma3, model.ModelConfig(
            num_embed=spec.vocab_size, sliding_window_size=window, param_dtype=jnp.float32, **shapes
        )
    tied = "weight_tying" if spec.family == "llama" else "use_tied_embedding"
    config = model.ModelConfig(
        vocab_size=spec.vocab_size,
        rope_theta=int(spec.ropes[0].theta),
        norm_eps=spec.norm_eps,
        **{tied: spec.tied_head},
        **shapes,
    )
    name = {"llama": "Llama3", "qwen2": "Qwen2", "qwen3": "Qwen3"}[spec.family]
    return vars(model)[name], config


def decoder_weights(
    spec: DecoderSpec, params: Mapping[str, Any], lora_scale: float, dtype: jnp.dtype
) -> dict[str, Any]:
    """Reads a Tunix module's parameters into the dictionary of `decoder.py`; differentiable.

    Args:
        params: nested dictionary of arrays, as nnx.to_pure_dict gives it.
        lora_scale: alpha / rank.
        dtype: of the computation; parameters kept in float32 are rounded to it here.
    """
    # A quantized leaf keeps its small values; what it becomes when it is used is of this dtype.
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params, is_leaf=lambda x: isinstance(x, qwix.QArray))
    norm = "scale" if spec.family == "gemma3" else "w"
    weights = {
        "embed": params["embedder"]["input_embedding"],
        "final_norm": params["final_norm"][norm],
        "layers": [_layer(spec, params["layers"][index], norm, lora_scale) for index in range(spec.num_layers)],
    }
    if not spec.tied_head:
        weights["head"] = params["lm_head"]["w"].T
    return weights


def _layer(spec: DecoderSpec, layer: Mapping[str, Any], norm: str, lora_scale: float) -> dict[str, Any]:
    attention = layer["attn"]
    if spec.family == "gemma3":
        weights = {
            **_gemma3_qkv(spec, attention, lora_scale),
            "o": _projection(attention["attn_vec_einsum"], "w", spec.embed_dim, lora_scale),
            "q_norm": attention["_query_norm"][norm],
            "k_norm": attention["_key_norm"][norm],
            "attention_norm": layer["pre_attention_norm"][norm],
            "post_attention_norm": layer["post_attention_norm"][norm],
            "mlp_norm": layer["pre_ffw_norm"][norm],
            "post_mlp_norm": layer["post_ffw_norm"][norm],
        }
    else:
        weights = {
            "attention_norm": layer["input_layernorm"][norm],
            "mlp_norm": layer["post_attention_layernorm"][norm],
            "o": _projection(attention["o_proj"], "w", spec.embed_dim, lora_scale),
        }
        for name, heads in (("q", spec.num_heads), ("k", spec.num_kv_heads), ("v", spec.num_kv_heads)):
            weights[name] = _projection(attention[f"{name}_proj"], "w", heads * spec.head_dim, lora_scale)
            if spec.qkv_bias:
                weights[name]["bias"] = attention[f"{name}_bias"]
        if spec.qk_norm:
            weights |= {"q_norm": attention["q_norm"][norm], "k_norm": attention["k_norm"][norm]}
    for name, width in (("gate", spec.hidden_dim), ("up", spec.hidden_dim), ("down", spec.embed_dim)):
        weights[name] = _projection(layer["mlp"][f"{name}_proj"], "kernel", width, lora_scale)
    return weights


def _projection(module: Mapping[str, Any], name: str, width: int, lora_scale: float) -> dict[str, Any]:
    """A leaf that flattens to [in, out], with its adapter where it has one."""
    leaf = {"w": module[name].reshape(math.prod(module[name].shape) // width, width)}
    if f"{name}_lora_a" in module:
        a, b = module[f"{name}_lora_a"], module[f"{name}_lora_b"]
        leaf |= {"a": a.reshape(-1, a.shape[-1]), "b": b.reshape(b.shape[0], width) * lora_scale}
    return leaf


def _gemma3_qkv(spec: DecoderSpec, attention: Mapping[str, Any], lora_scale: float) -> dict[str, Any]:
    """Splits Gemma's stacked projections [heads, D, H]; one LoRA `a` serves all that are stacked together."""

    def split(module: Mapping[str, Any], part: int | None, heads: int) -> dict[str, Any]:
        width = heads * spec.head_dim
        w = module["w"] if part is None else module["w"][part]
        leaf = {"w": w.swapaxes(0, 1).reshape(spec.embed_dim, width)}
        if "w_lora_a" in module:
            b = module["w_lora_b"] if part is None else module["w_lora_b"][:, part]
            leaf |= {"a": module["w_lora_a"], "b": b.reshape(b.shape[0], width) * lora_scale}
        return leaf

    if "qkv_einsum" in attention:
        return {name: split(attention["qkv_einsum"], part, spec.num_heads) for part, name in enumerate("qkv")}
    return {
        "q": split(attention["q_einsum"], None, spec.num_heads),
        "k": split(attention["kv_einsum"], 0, spec.num_kv_heads),
        "v": split(attention["kv_einsum"], 1, spec.num_kv_heads),
    }

"""Writes trained weights as Hugging Face files: a whole model, or a PEFT adapter.

A leaf of the module becomes the tensors that `layout.leaves` names for it. Adapters are merged in float32 and
rounded once, to the type of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import jax
import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.model.finding import find_family
from tunix_grpo.model.layout import Array, Leaf, LeafTree, flattened, leaves
from tunix_grpo.model.layout import Path as LeafPath
from tunix_grpo.model.loading import stored_types

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
MODEL_FILE = "model.safetensors"
MODEL_INDEX = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PEFT_PREFIX = "base_model.model."

Adapters: TypeAlias = dict[str, tuple[Array, Array]]


class Rounding:
    """Rounds tensors to the type of a file, adapters merged before in float32, and adds up what that loses of them."""

    def __init__(self) -> None:
        self._lost = self._changed = 0.0

    @property
    def lost(self) -> float:
        """What was lost of the adapters' change to the weights, as a part of it (Frobenius norms); 0 without any."""
        return (self._lost / self._changed) ** 0.5 if self._changed else 0.0

    def merged(self, tensor: np.ndarray, delta: np.ndarray | None, dtype: np.dtype) -> np.ndarray:
        """Returns a tensor, with what an adapter adds to it, in the type of the file."""
        if delta is None:
            return tensor.astype(dtype)
        merged = tensor.astype(np.float32) + delta
        rounded = merged.astype(dtype)
        self._lost += float(np.sum(np.square(rounded.astype(np.float32) - merged)))
        self._changed += float(np.sum(np.square(delta)))
        return rounded


def own_dtypes(spec: DecoderSpec, directory: Path) -> dict[str, np.dtype]:
    """Returns the type that each tensor has in a model directory.

    Raises:
        UserError: it is none that weights are trained from.
    """
    types = stored_types(spec, directory)
    for name, kind in types.items():
        if kind not in _DTYPES:
            raise UserError(f"{directory}: {name} is stored as {kind}, which cannot be written; give dtype=float32")
    return {name: _DTYPES[kind] for name, kind in types.items()}


def uniform_dtypes(spec: DecoderSpec, dtype: np.dtype) -> dict[str, np.dtype]:
    """Returns one type for all tensors."""
    return {name: dtype for leaf in leaves(spec) for name in leaf.names}


def adapters(spec: DecoderSpec, trained: LeafTree) -> Adapters:
    """Returns Hugging Face module name -> (A float32[rank, in], B float32[out, rank]) of every adapted module.

    Where Tunix stacks projections, they share one A.
    """
    flat = flattened(trained)
    return {
        name.removesuffix(".weight"): pair
        for leaf in leaves(spec)
        for name, pair in zip(leaf.names, _pairs_of(leaf, flat), strict=False)
    }


def write_weights(
    folder: Path,
    spec: DecoderSpec,
    array_of: Callable[[Leaf], Array],
    trained: LeafTree,
    *,
    lora_scale: float,
    dtypes: Mapping[str, np.dtype],
    shard_bytes: int,
) -> float:
    """Writes safetensors files, several with an index where one would be too large.

    Args:
        array_of: leaf -> its array, without an adapter.
        trained: the adapters among them are merged.
        lora_scale: alpha / rank.
        dtypes: Hugging Face tensor name -> type in the file.
        shard_bytes: a file is not larger, unless one leaf alone is.

    Returns:
        What rounding lost of the adapters, see `Rounding.lost`.
    """
    rounding = Rounding()
    flat = flattened(trained)
    shards = _shards(spec, dtypes, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = MODEL_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            tensor_name: np.ascontiguousarray(rounding.merged(tensor, delta, dtypes[tensor_name]))
            for leaf in shard
            for tensor_name, tensor, delta in leaf_tensors(leaf, array_of(leaf), flat, lora_scale)
        }
        _save(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        total = sum(_bytes(leaf, dtypes) for shard in shards for leaf in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return rounding.lost


def leaf_tensors(
    leaf: Leaf, array: Array, trained: Mapping[LeafPath, jax.Array], lora_scale: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yields the name of each Hugging Face tensor of a leaf, the tensor, and what its adapter adds, in float32.

    Args:
        array: the leaf without an adapter.
        trained: adapters by the paths of their leaves.
    """
    pairs = _pairs_of(leaf, trained)
    for index, (name, tensor) in enumerate(zip(leaf.names, leaf.save(np.asarray(array)), strict=True)):
        a, b = pairs[index] if pairs else (None, None)
        yield name, np.asarray(tensor), None if a is None or b is None else np.asarray(lora_scale * (b @ a))


def text_config(config: Mapping[str, Json], spec: DecoderSpec, dtype: np.dtype) -> dict[str, Json]:
    """Returns the config.json of the model that is written: of a multimodal one its text model.

    Args:
        config: of the base model.
        dtype: of the file.
    """
    named = "torch_dtype" if "torch_dtype" in config else "dtype"  # transformers reads either
    config = {**config, named: dtype.name}
    if "use_cache" in config:
        config["use_cache"] = True  # a base that was saved in training says false, which makes generation slow
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    outer = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype")
    # What the file leaves to transformers' defaults is written down.
    shapes = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.embed_dim,
        "intermediate_size": spec.hidden_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_head,
    }
    return {
        **text,
        **{key: config[key] for key in outer if config.get(key) is not None},
        **shapes,
        **find_family(spec.family).text_model,
        "use_cache": True,
    }


def write_adapter(
    folder: Path,
    spec: DecoderSpec,
    trained: LeafTree,
    *,
    rank: int,
    alpha: float,
    base: str,
    revision: str | None,
    multimodal: bool,
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as PEFT reads them.

    Args:
        base: hub id or directory of the model that the adapter is for.
        revision: of the hub id.
        multimodal: the base keeps its text model as `model.language_model`.
    """
    pairs = adapters(spec, trained)
    if multimodal:
        pairs = {name.replace("model.", "model.language_model.", 1): pair for name, pair in pairs.items()}
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b)
    _save(tensors, folder / ADAPTER_FILE)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "revision": revision,
        "target_modules": _targets(spec, pairs, multimodal),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_adapter(folder: Path) -> tuple[Adapters, float]:
    """Returns what write_adapter wrote, by the text model's module names, and alpha / rank."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    arrays = load_file(folder / ADAPTER_FILE)
    pairs = {}
    for name, a in arrays.items():
        if name.endswith(".lora_A.weight"):
            module = name.removeprefix(_PEFT_PREFIX).removesuffix(".lora_A.weight")
            pairs[module.replace("model.language_model.", "model.", 1)] = (a, arrays[name.replace("lora_A", "lora_B")])
    return pairs, config["lora_alpha"] / config["r"]


def _save(arrays: dict[str, np.ndarray], file: Path) -> None:
    try:
        save_file(arrays, file, metadata={"format": "pt"})
    except SafetensorError as error:
        raise UserError(f"{file}: cannot be written ({error}); choose another folder") from error


def _pairs_of(leaf: Leaf, trained: Mapping[LeafPath, jax.Array]) -> list[tuple[Array, Array]]:
    """Returns (A [rank, in], B [out, rank]) for each Hugging Face tensor of an adapted leaf, nothing for another."""
    path_a, path_b = leaf.adapter_paths
    if path_a not in trained:
        return []
    pairs = leaf.adapters(*(np.asarray(trained[path], np.float32) for path in (path_a, path_b)))
    return [(a.T, b.T) for a, b in pairs]


def _targets(spec: DecoderSpec, pairs: Adapters, multimodal: bool) -> list[str]:
    """Returns target_modules: short names where they say it all, else every module by its full name."""
    short = sorted({name.rpartition(".")[2] for name in pairs})
    if multimodal or len(short) * spec.num_layers != len(pairs):  # short names would match more than was trained
        return sorted(pairs)
    return short


def _bytes(leaf: Leaf, dtypes: Mapping[str, np.dtype]) -> int:
    return sum(math.prod(leaf.file_shape) * dtypes[name].itemsize for name in leaf.names)


def _shards(spec: DecoderSpec, dtypes: Mapping[str, np.dtype], shard_bytes: int) -> list[list[Leaf]]:
    """Returns the table cut into files, in its order."""
    shards: list[list[Leaf]] = [[]]
    filled = 0
    for leaf in leaves(spec):
        size = _bytes(leaf, dtypes)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(leaf)
        filled += size
    return shards

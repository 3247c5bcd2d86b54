"""A model without arrays: shapes, types and places, from which every program of a run can be compiled."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from tunix_grpo.config import ModelConfig
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.spec import DecoderSpec, layer_places
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.decoder_form import empty_weights, put_at
from tunix_grpo.model.layout import Leaf, LeafTree, leaves, nested
from tunix_grpo.model.lora import adapted_leaves
from tunix_grpo.model.model import Model, computing_dtype
from tunix_grpo.model.placing import (
    fitting_sharding,
    layer_counts,
    leaf_shardings,
    stacked_sharding,
    trained_specs,
)
from tunix_grpo.model.quantization import quantize_projection


def abstract_model(config: ModelConfig, directory: Path, mesh: Mesh) -> Model:
    """Returns what `load_model` would, with `jax.ShapeDtypeStruct` in the place of arrays.

    Args:
        directory: with config.json; weights are not looked for.

    Raises:
        UserError: an unsupported model, or targets of LoRA that match nothing.
    """
    spec, dtype = read_spec(directory, config.family), computing_dtype(config.dtype)
    reference = _stacks(spec, mesh, dtype, config.quantization)
    trained = _trained(spec, mesh, config)
    scale = 0.0 if config.lora_rank is None else config.lora_alpha / config.lora_rank
    return Model(spec, directory, trained, reference, scale, dtype)


def _trained(spec: DecoderSpec, mesh: Mesh, config: ModelConfig) -> LeafTree:
    rank = config.lora_rank
    if rank is None:
        shapes = {leaf.path: leaf.shape for leaf in leaves(spec)}
        axes = {path: place.spec for path, place in leaf_shardings(spec, mesh).items()}
    else:
        axes = trained_specs(spec) if mesh.size > 1 else {}
        shapes = {}
        for leaf in adapted_leaves(spec, config.lora_target_modules):
            inputs, outputs = leaf.adapter_shapes
            shapes |= zip(leaf.adapter_paths, ((*inputs, rank), (rank, *outputs)), strict=True)
    placed: dict[Any, Any] = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=fitting_sharding(mesh, shape, axes.get(path)))
        for path, shape in shapes.items()
    }
    return nested(placed)


def _stacks(spec: DecoderSpec, mesh: Mesh, dtype: jnp.dtype, qtype: str | None) -> Weights:
    """Returns the shapes that `placing.place_stacks` would fill."""
    shardings = leaf_shardings(spec, mesh)
    counts, weights = layer_counts(spec), empty_weights(spec)
    for leaf in leaves(spec):
        axes = leaf.decoder_spec(shardings[leaf.path].spec)
        for role in leaf.roles:
            part = _part(leaf, role, dtype, qtype)
            if leaf.layer is None:
                put_at(weights, None, role, jax.tree.map(functools.partial(_alone, mesh, axes), part))
                continue
            stack = layer_places(spec)[leaf.layer].stack
            put_at(weights, stack, role, jax.tree.map(functools.partial(_stacked, mesh, axes, counts[stack]), part))
    return weights


def _part(leaf: Leaf, role: str, dtype: jnp.dtype, qtype: str | None) -> jax.ShapeDtypeStruct:
    part = jax.ShapeDtypeStruct(leaf.matrix_shape if leaf.is_projection else leaf.file_shape, dtype)
    if qtype is None or not leaf.is_matrix(role):
        return part
    return jax.eval_shape(lambda matrix: quantize_projection(leaf, matrix, qtype), part)


def _alone(mesh: Mesh, axes: PartitionSpec, part: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=fitting_sharding(mesh, part.shape, axes))


def _stacked(
    mesh: Mesh, axes: PartitionSpec, counts: tuple[int, int], part: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
    sharding = stacked_sharding(mesh, part.shape, axes)
    return jax.ShapeDtypeStruct((*counts, *part.shape), part.dtype, sharding=sharding)

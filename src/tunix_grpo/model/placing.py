"""Puts weights onto a mesh in the form that programs take: leaf by leaf, layers of one kind in one array.

Beside what the mesh holds, the memory never has more than the tensors of one leaf.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.layouts import FSDP
from tunix_grpo.decoder.spec import DecoderSpec, layer_places, stacks
from tunix_grpo.model.decoder_form import Stored, empty_weights, put_at
from tunix_grpo.model.layout import Array, Leaf, LeafTree, Path, leaves, nested

if TYPE_CHECKING:
    import qwix

Arrays: TypeAlias = Iterable[tuple[Leaf, Sequence[Array]]]  # each leaf with the decoder's arrays that it is made of


def place_leaves(spec: DecoderSpec, source: Arrays, mesh: jax.sharding.Mesh, dtype: jnp.dtype) -> LeafTree:
    """Returns all leaves of Tunix's module, as a nested dictionary."""
    shardings = leaf_shardings(spec, mesh)
    placed = {
        leaf.path: layouts.put(np.asarray(leaf.of_decoder(arrays), dtype, order="C"), shardings[leaf.path])
        for leaf, arrays in source
    }
    return nested(placed)


def place_stacks(
    spec: DecoderSpec,
    source: Arrays,
    mesh: jax.sharding.Mesh,
    dtype: jnp.dtype,
    quantize: Callable[[Leaf, jax.Array], qwix.QArray] | None = None,
) -> Weights:
    """Returns the decoder's weights.

    Args:
        quantize: what becomes of a projection's matrix.
    """
    shardings = leaf_shardings(spec, mesh)
    counts, weights = layer_counts(spec), empty_weights(spec)
    whole: dict[tuple[int, str], Stored] = {}
    for leaf, arrays in source:
        axes = leaf.decoder_spec(shardings[leaf.path].spec)
        for role, array in zip(leaf.roles, arrays, strict=True):
            # From here on it is on the mesh, where one layer after another is written into the array of all.
            placed = layouts.put(np.asarray(array, dtype, order="C"), NamedSharding(mesh, axes))
            part = placed if quantize is None or not leaf.is_matrix(role) else quantize(leaf, placed)
            if leaf.layer is None:
                put_at(weights, None, role, part)
                continue
            stack, repeat, place = layer_places(spec)[leaf.layer]
            if (stack, role) not in whole:
                whole[stack, role] = _empty(part, counts[stack], axes, mesh)
            # Waited for, so that the parts of many layers do not lie in memory until they are written.
            whole[stack, role] = jax.block_until_ready(_written(whole[stack, role], part, repeat, place))
    for (stack, role), array in whole.items():
        put_at(weights, stack, role, array)
    return weights


def leaf_shardings(spec: DecoderSpec, mesh: jax.sharding.Mesh) -> dict[Path, NamedSharding]:
    """Returns, per leaf, the sharding that Tunix's module asks for, where the leaf divides evenly."""
    axes = _partition_specs(spec) if mesh.size > 1 else {}
    return {leaf.path: fitting_sharding(mesh, leaf.shape, axes.get(leaf.path)) for leaf in leaves(spec)}


def trained_specs(spec: DecoderSpec) -> dict[Path, PartitionSpec]:
    """Returns, per leaf and per adapter of one, along which axes of a mesh it lies, where they divide it.

    Adapters lie as the leaf does along its inputs or outputs; that half of them which `fsdp` would leave whole is
    divided along the rank.
    """
    axes = _partition_specs(spec)
    found = dict(axes)
    for leaf in leaves(spec):
        if leaf.is_projection:
            of_adapters = leaf.adapter_specs(axes[leaf.path])
            found |= zip(leaf.adapter_paths, of_adapters, strict=True)
    return found


def _partition_specs(spec: DecoderSpec) -> dict[Path, PartitionSpec]:
    from tunix_grpo.model.tunix_modules import partition_specs  # it loads flax.nnx, which one device has no use for

    return partition_specs(spec)


def without_fsdp(spec: PartitionSpec) -> PartitionSpec:
    """Returns how an array lies that is whole along `fsdp`."""
    return PartitionSpec(*(None if axis == FSDP else axis for axis in spec))


def fitting_sharding(mesh: jax.sharding.Mesh, shape: tuple[int, ...], spec: PartitionSpec | None) -> NamedSharding:
    """Returns the sharding with those axes left out that do not divide the array."""
    axes = tuple(spec or ())
    kept = [axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, shape, strict=False)]
    return NamedSharding(mesh, PartitionSpec(*kept))


def stacked_sharding(mesh: jax.sharding.Mesh, shape: tuple[int, ...], axes: PartitionSpec) -> NamedSharding:
    """Returns where an array of such parts lies, one for each layer of a stack, whose first two axes are the layers."""
    return NamedSharding(mesh, PartitionSpec(None, None, *fitting_sharding(mesh, shape, axes).spec))


def layer_counts(spec: DecoderSpec) -> list[tuple[int, int]]:
    """Returns the first two axes of the arrays of every stack."""
    return [(len(stack.layers), len(stack.layers[0])) for period in stacks(spec) for stack in period]


def _empty(part: Stored, counts: tuple[int, int], axes: PartitionSpec, mesh: jax.sharding.Mesh) -> Stored:
    """Returns zeros for all layers of a stack, from one of them."""

    def zeros(array: jax.Array) -> jax.Array:
        return jnp.zeros((*counts, *array.shape), array.dtype, device=stacked_sharding(mesh, array.shape, axes))

    return jax.tree.map(zeros, part)


@functools.partial(jax.jit, donate_argnums=0)
def _written(whole: Stored, part: Stored, repeat: int, place: int) -> Stored:
    """Returns the array of all layers with one of them written into it, in the same memory."""

    def write(array: jax.Array, layer: jax.Array) -> jax.Array:
        start = (repeat, place, *(0,) * layer.ndim)
        return jax.lax.dynamic_update_slice(array, layer[None, None], start)

    return jax.tree.map(write, whole, part)

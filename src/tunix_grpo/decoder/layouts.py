"""Where arrays lie on several devices: rows over `fsdp`, heads over `tp`, the vocabulary of a loss over both.

Every device then holds its own rows from the embedding to the logits and is sent weights. Left to itself, XLA keeps the
weights still and sends every layer's activations, of all rows, for every token.

The mesh is the one that `jax.set_mesh` has set. Without one, and on one device, the functions return what they are
given. An axis that does not divide an array evenly is left out.

Letters: B rows, T tokens, D embed_dim, F hidden_dim, H head_dim, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

FSDP, TP = "fsdp", "tp"
ALL_ROWS = (FSDP, TP)
VOCABULARY = (TP, FSDP)  # in the order in which a table that lies [V over tp, D over fsdp] becomes it with one exchange
Axes: TypeAlias = str | tuple[str, ...] | None  # of a mesh, that divide one axis of an array


def on(mesh: jax.sharding.Mesh) -> contextlib.AbstractContextManager:
    """Returns a context in which programs are laid out on this mesh; one device needs none."""
    return jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext()


def put(tree: Any, shardings: Any) -> Any:
    """Returns the arrays of a tree where a sharding says, or each where its own in a tree of shardings does.

    Where devices of other processes take part, every process gives the same arrays and hands its own devices their
    slices; `jax.device_put` would send each array everywhere, to compare it.
    """
    every = jax.tree.leaves(shardings, is_leaf=lambda leaf: isinstance(leaf, Sharding))
    if all(sharding.is_fully_addressable for sharding in every):
        return jax.device_put(tree, shardings)
    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda leaf: _put_slices(leaf, shardings), tree)
    return jax.tree.map(_put_slices, tree, shardings)


def _put_slices(array: Any, sharding: Sharding) -> jax.Array:
    if isinstance(array, jax.Array):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_put_slices(jax.random.key_data(array), sharding))
        if not array.is_fully_addressable:
            return jax.device_put(array, sharding)
    held = np.asarray(array)
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])


def fetched(tree: Any) -> Any:
    """Returns the arrays of a tree on the host, whole, also where other processes hold parts of them.

    All processes call it together.
    """

    leaves, structure = jax.tree.flatten(tree)
    parted = [place for place, leaf in enumerate(leaves) if _is_parted(leaf)]
    if parted:
        whole = _whole(leaves[parted[0]].sharding.mesh)([leaves[place] for place in parted])
        for place, array in zip(parted, whole, strict=True):
            leaves[place] = array
    return jax.device_get(jax.tree.unflatten(structure, leaves))


def _is_parted(leaf: Any) -> bool:
    """Says whether other processes hold parts of an array that this one does not."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


@functools.cache
def _whole(mesh: jax.sharding.Mesh) -> Callable[[list[jax.Array]], list[jax.Array]]:
    """Returns one program for all arrays of a list: the arrays, whole on every device."""

    def whole(arrays: list[jax.Array]) -> list[jax.Array]:
        return arrays

    return jax.jit(whole, out_shardings=NamedSharding(mesh, PartitionSpec()))


def devices(axes: Axes) -> int:
    """Returns how many devices the mesh has along these axes; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def laid(x: jax.Array, *axes: Axes) -> jax.Array:
    """Returns the array, whose first axes lie along these axes of the mesh; the others are whole on every device."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return x
    fitting = [along if size % devices(along) == 0 else None for along, size in zip(axes, x.shape, strict=False)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def rows(x: jax.Array) -> jax.Array:
    """Lays out [B, ...] by rows."""
    return laid(x, FSDP)


def rows_of_all(x: jax.Array) -> jax.Array:
    """Lays out [B, ...] by rows over all devices where these divide them, over `fsdp` otherwise."""
    return laid(x, ALL_ROWS if x.shape[0] % devices(ALL_ROWS) == 0 else FSDP)


def columns(x: jax.Array) -> jax.Array:
    """Lays out [B, T, D] along D, over the devices that have the rows elsewhere."""
    return laid(x, None, None, FSDP)


def heads(x: jax.Array) -> jax.Array:
    """Lays out [B, T, heads, H] by rows and heads."""
    return laid(x, FSDP, None, TP)


def inner(x: jax.Array) -> jax.Array:
    """Lays out [B, T, F], what is between the two halves of an MLP, by rows and along F."""
    return laid(x, FSDP, None, TP)


def cached(x: jax.Array) -> jax.Array:
    """Lays out [B, heads, ...] keys or values by rows and heads."""
    return laid(x, FSDP, TP)


def logits(x: jax.Array) -> jax.Array:
    """Lays out [B, ..., V] logits by rows and vocabulary, as the product with the head leaves them."""
    return laid(x, FSDP, *(None,) * (x.ndim - 2), TP)


def chunk_axes(vocab_size: int) -> tuple[Axes, Axes]:
    """Returns how a loss lays out [parts, T, V] logits: along which axes the parts, and along which the vocabulary.

    Over all devices where they divide the vocabulary: then nobody holds the whole head or its gradient, and what is
    sent are hidden states.
    """
    return (None, VOCABULARY) if vocab_size % devices(VOCABULARY) == 0 else (FSDP, TP)


def whole(x: jax.Array) -> jax.Array:
    """Lays out the array whole on every device."""
    return laid(x)

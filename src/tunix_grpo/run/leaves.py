"""The arrays of a pytree by name, as checkpoints hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax

Tree = TypeVar("Tree")  # a pytree of arrays


def apart(arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns arrays whose memory no update reuses: on a CPU Orbax writes from the arrays themselves."""

    def copy(array: jax.Array) -> jax.Array:
        on_host = next(iter(array.sharding.device_set)).platform == "cpu"
        return jax.device_put(array, array.sharding, may_alias=False) if on_host else array

    return jax.block_until_ready({name: copy(array) for name, array in arrays.items()})


def flat_leaves(tree: object) -> dict[str, jax.Array]:
    """Returns a flat dictionary of a pytree's leaves, so that a file names each of them plainly."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def like(tree: Tree, flat: Mapping[str, jax.Array]) -> Tree:
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    return jax.tree_util.tree_unflatten(structure, [flat[name] for name in names])

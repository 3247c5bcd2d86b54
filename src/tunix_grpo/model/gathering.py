"""The weights as a rollout reads them: sent once, so that no token waits for any.

A rollout reads all weights for every token, and its devices draw different rows. So each device gets a whole copy
before the first token. Where such a copy leaves too little memory, neighbours share one, as in tensor parallelism. A
device alone has the weights; where it has no memory for the joined copy of them, a rollout goes without.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.layouts import FSDP, TP
from tunix_grpo.decoder.platform import memory
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model, ModelForm
from tunix_grpo.model.placing import fitting_sharding, without_fsdp

_log = logging.getLogger(__name__)

Held: TypeAlias = tuple[LeafTree, Weights]  # the trained leaves and what stays, as `Model` holds them

_SPARE = 0.25  # of a device's memory, for the caches and activations of a rollout
_TRAINING_COPIES = 4  # of a trained leaf, in its dtype: itself, its gradient, and two moments


class Gathering:
    """Where a model's weights lie during a rollout.

    Attributes:
        mesh: of the rollout: that of training, or one of the same devices with a larger `tp`.
        form: of the rollout, see `form_of_rollout`.
    """

    def __init__(self, model: Model, mesh: Mesh):
        held = (model.trained, model.frozen)
        self.mesh = mesh_of_rollout(model, mesh)
        self.form = form_of_rollout(model, mesh)
        if self.mesh != mesh:
            _log.info("a rollout's weights are shared by mesh.tp=%d devices: copies do not fit", self.mesh.shape[TP])
        if not self.form.copies:
            _log.info("a rollout reads the weights where they lie: a joined copy of them does not fit")
        self._dtype = model.dtype
        self._gather = None
        if mesh.size > 1 and mesh.shape[FSDP] > 1:
            self._gather = jax.jit(self._rounded, out_shardings=gathered_shardings(held, self.mesh))

    def weights(self, held: Held) -> Held:
        """Returns the weights as a rollout reads them; on one device those that are given."""
        return held if self._gather is None else self._gather(held)

    def _rounded(self, held: Held) -> Held:
        """The trained leaves in the dtype of the computation, which is half as much to send."""
        trained, frozen = held
        return jax.tree.map(lambda leaf: leaf.astype(self._dtype), trained), frozen


def gathered_shapes(held: Held, dtype: jnp.dtype) -> list[jax.ShapeDtypeStruct]:
    """Returns what a rollout reads of each weight, with where it lies in training."""
    trained, frozen = held
    leaves = [(leaf, dtype) for leaf in jax.tree.leaves(trained)]
    leaves += [(leaf, leaf.dtype) for leaf in jax.tree.leaves(frozen)]
    return [jax.ShapeDtypeStruct(leaf.shape, kind, sharding=leaf.sharding) for leaf, kind in leaves]


def gathered_like(model: Model, mesh: Mesh, wider: Mesh) -> Held:
    """Returns the shapes of the weights as `Gathering.weights` gives them.

    Args:
        mesh: of training.
        wider: of the rollout, see `mesh_of_rollout`.
    """
    held = (model.trained, model.frozen)
    if mesh.shape[FSDP] == 1:
        return held
    places = jax.tree.leaves(gathered_shardings(held, wider))
    shapes = zip(gathered_shapes(held, model.dtype), places, strict=True)
    leaves = [jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place) for shape, place in shapes]
    return jax.tree.unflatten(jax.tree.structure(held), leaves)


def gathered_shardings(held: Held, mesh: Mesh) -> Held:
    """Returns where each weight lies on the mesh of a rollout: as in training, but whole along `fsdp`."""
    return jax.tree.map(lambda leaf: _gathered(leaf, mesh), held)


def mesh_of_rollout(model: Model, mesh: Mesh) -> Mesh:
    """Returns the mesh that a model's completions are drawn on, where it is trained on `mesh`."""
    if mesh.size == 1:
        return mesh
    return rollout_mesh(mesh, gathered_shapes((model.trained, model.frozen), model.dtype), _resident(model), memory())


def form_of_rollout(model: Model, mesh: Mesh) -> ModelForm:
    """Returns the model's form, for rollouts without copies of the weights where these leave too little memory.

    That is of one device, and of weights that stay: all that are trained have to be rounded, which is a copy.
    """
    form, memory_of_device = model.form, memory()
    if mesh.size > 1 or not model.frozen or memory_of_device is None:
        return form
    needed = _resident(model) + bytes_per_device(model.frozen["stacks"])
    return dataclasses.replace(form, copies=needed <= (1 - _SPARE) * memory_of_device)


def _resident(model: Model) -> int:
    """Returns the bytes that training keeps on each device."""
    return _TRAINING_COPIES * bytes_per_device(model.trained) + bytes_per_device(model.reference)


def rollout_mesh(mesh: Mesh, shapes: list[jax.ShapeDtypeStruct], resident: int, memory: int | None) -> Mesh:
    """Returns the mesh of a rollout: as many data-parallel devices as there is memory for copies of the weights.

    Args:
        shapes: of the weights, see `gathered_shapes`.
        resident: bytes that training keeps on each device.
        memory: bytes of a device, None where it does not tell; then copies fit.
    """
    fsdp, tp = mesh.shape[FSDP], mesh.shape[TP]
    choices = [share for share in range(1, fsdp + 1) if fsdp % share == 0]
    for share in choices:
        # The last axis of a mesh are neighbours, which have the fastest links.
        wider = mesh if share == 1 else Mesh(mesh.devices.reshape(fsdp // share, tp * share), mesh.axis_names)
        copies = 2 if tp * share == 1 else 1  # with the joined one, see `decoder/joined.py`
        needed = resident + copies * sum(_shard_bytes(shape, _gathered(shape, wider)) for shape in shapes)
        if memory is None or needed <= (1 - _SPARE) * memory or share == choices[-1]:
            return wider
    raise AssertionError("a mesh has at least one data-parallel device")


def _gathered(leaf: jax.Array | jax.ShapeDtypeStruct, mesh: Mesh) -> NamedSharding:
    spec = leaf.sharding.spec if isinstance(leaf.sharding, NamedSharding) else PartitionSpec()
    return fitting_sharding(mesh, leaf.shape, without_fsdp(spec))


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes that arrays, or shapes with places, take on each device."""
    return sum(_shard_bytes(leaf, leaf.sharding) for leaf in jax.tree.leaves(tree))


def _shard_bytes(leaf: jax.Array | jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize

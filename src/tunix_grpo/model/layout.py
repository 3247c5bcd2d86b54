"""Where each weight lives: in the Hugging Face files, in Tunix's module, and in the decoder's dictionary.

A family has one table (`families.family.Row`); everything that concerns a place is derived from it here: files <->
leaves <-> the decoder's arrays, what LoRA adapts and quantization cuts, how leaves are divided, and the names of PEFT.

A projection is a matrix [in, out] in the decoder, its transpose [out, in] in the files. Letters: D embed_dim, N query
heads, K key/value heads, H head_dim, F hidden_dim, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import PartitionSpec

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.families.family import HEADS, SAME, STACKED_HEADS, TRANSPOSED
from tunix_grpo.model.finding import find_family

Array: TypeAlias = np.ndarray | jax.Array
Path = tuple[str | int, ...]
# Leaves of Tunix's module in nested dictionaries, a level for each part of their paths.
LeafTree: TypeAlias = "dict[str | int, LeafTree | jax.Array]"

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
PROJECTIONS = ATTENTION + MLP
# model.lora_target_modules -> roles.
TARGETS = {"attention": ATTENTION, "mlp": MLP, "all": PROJECTIONS}


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of Tunix's module.

    Attributes:
        path: as nnx.to_flat_state names it.
        layer: its number, None outside of the layers.
        names: of the Hugging Face tensors, without any prefix before `model.`.
        roles: of each of them in the decoder, see `Row`.
        kind: how the leaf holds them, see `Row`.
        inputs: the sizes of the axes that a projection sums over: (D,), (N, H) or (F,); () for a vector.
        outputs: the sizes of the axes of a projection's result, such as (K, H); the length of a vector.
    """

    path: Path
    layer: int | None
    names: tuple[str, ...]
    roles: tuple[str, ...]
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def is_projection(self) -> bool:
        return self.roles[0] in PROJECTIONS

    def is_matrix(self, role: str) -> bool:
        """Says whether what plays a role of the leaf is a projection's matrix, which may be quantized."""
        return self.is_projection and not role.endswith(".bias")

    @property
    def module(self) -> str:
        """The path of the module that holds the leaf, as patterns of model.lora_target_modules see it."""
        return "/".join(map(str, self.path[:-1]))

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return math.prod(self.inputs), math.prod(self.outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.kind in (HEADS, STACKED_HEADS):
            heads, size = self.outputs
            shape = (heads, *self.inputs, size)
            return shape if self.kind == HEADS else (len(self.names), *shape)
        return self.inputs + self.outputs

    @property
    def file_shape(self) -> tuple[int, ...]:
        """The shape of each of its Hugging Face tensors."""
        return self.shape if self.kind == SAME else self.matrix_shape[::-1]

    @property
    def adapter_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of A and B but for the rank, A's last and B's first axis: as qwix makes them."""
        stacked = (len(self.names),) if self.kind == STACKED_HEADS else ()
        return self.inputs, (*stacked, *self.outputs)

    @property
    def adapter_paths(self) -> tuple[Path, Path]:
        *module, name = self.path
        return (*module, f"{name}_lora_a"), (*module, f"{name}_lora_b")

    def load(self, arrays: Sequence[Array]) -> Array:
        """Returns the leaf that Hugging Face tensors make."""
        return arrays[0] if self.kind == SAME else self._joined([array.T for array in arrays])

    def save(self, leaf: Array) -> list[Array]:
        """Returns the Hugging Face tensors that a leaf is made of."""
        return [leaf] if self.kind == SAME else [matrix.T for matrix in self._matrices(leaf)]

    def decoder_arrays(self, leaf: Array) -> list[Array]:
        """Returns, per role, what the decoder computes with."""
        if self.kind == SAME:
            return [leaf]
        matrices = self._matrices(leaf)
        return (
            matrices if self.is_projection else [matrix.T for matrix in matrices]
        )  # the head is [V, D], as it is used

    def of_decoder(self, arrays: Sequence[Array]) -> Array:
        """Returns the leaf that the decoder's arrays make: what decoder_arrays takes apart."""
        if self.kind == SAME:
            return arrays[0]
        return self._joined(arrays if self.is_projection else [array.T for array in arrays])

    def files_to_decoder(self, arrays: Sequence[Array]) -> Sequence[Array]:
        """Returns, per role, what the decoder computes with, from the Hugging Face tensors."""
        return [array.T for array in arrays] if self.is_projection else arrays

    def decoder_spec(self, spec: PartitionSpec) -> PartitionSpec:
        """Returns how each of the decoder's arrays lies on a mesh where the leaf lies as `spec` says.

        Where an axis is cut into heads, the heads are what a mesh divides.
        """
        axes = (*spec, *(None,) * (len(self.shape) - len(spec)))
        if self.kind == SAME:
            return PartitionSpec(*axes)
        if self.kind in (HEADS, STACKED_HEADS):
            heads, inputs, _ = axes[-3:]
            return PartitionSpec(inputs, heads)
        inputs, outputs = axes[0], axes[len(self.inputs)]
        return PartitionSpec(inputs, outputs) if self.is_projection else PartitionSpec(outputs, inputs)

    def adapter_specs(self, spec: PartitionSpec) -> tuple[PartitionSpec, PartitionSpec]:
        """Returns how A and B lie on a mesh where the leaf lies as `spec` says; what would be whole by its rank."""
        axes = [*spec, *(None,) * (len(self.shape) - len(spec))]
        if self.kind in (HEADS, STACKED_HEADS):
            heads, *inputs, size = axes[-len(self.inputs) - 2 :]
            stacked = axes[: -len(self.inputs) - 2]
            outputs = [*stacked, heads, size]
        else:
            inputs, outputs = axes[: len(self.inputs)], axes[len(self.inputs) :]
        by_rank = [None if "fsdp" in side else "fsdp" for side in (inputs, outputs)]
        return PartitionSpec(*inputs, by_rank[0]), PartitionSpec(by_rank[1], *outputs)

    def adapters(self, a: Array, b: Array) -> list[tuple[Array, Array]]:
        """Returns, per role, A [in, rank] and B [rank, out]; what is stacked shares one A."""
        a = a.reshape(-1, a.shape[-1])
        parts = [b] if self.kind != STACKED_HEADS else [b[:, part] for part in range(len(self.roles))]
        return [(a, part.reshape(part.shape[0], -1)) for part in parts]

    def _joined(self, matrices: Sequence[Array]) -> Array:
        """[in, out] of each -> the leaf."""
        split = [matrix.reshape(self.inputs + self.outputs) for matrix in matrices]
        if self.kind == TRANSPOSED:
            return split[0]
        parts = [part.swapaxes(0, 1) for part in split]
        return parts[0] if self.kind == HEADS else (jnp if isinstance(parts[0], jax.Array) else np).stack(parts)

    def _matrices(self, leaf: Array) -> list[Array]:
        """The leaf -> [in, out] of each."""
        parts = [leaf[part] for part in range(len(self.names))] if self.kind == STACKED_HEADS else [leaf]
        if self.kind in (HEADS, STACKED_HEADS):
            parts = [part.swapaxes(0, 1) for part in parts]
        return [part.reshape(self.matrix_shape) for part in parts]


def flattened(tree: LeafTree) -> dict[Path, jax.Array]:
    """Returns the arrays of a tree by the paths of their leaves."""
    flat: dict[Path, jax.Array] = {}
    for part, below in tree.items():
        if isinstance(below, dict):
            flat |= {(part, *path): array for path, array in flattened(below).items()}
        else:
            flat[part,] = below
    return flat


def nested(arrays: Mapping[Path, jax.Array]) -> LeafTree:
    """Returns the tree that `flattened` takes apart."""
    return traverse_util.unflatten_dict(dict(arrays))


def leaves(spec: DecoderSpec) -> list[Leaf]:
    """Returns all weights of a model, in the order in which they are drawn and written."""
    sizes = _sizes(spec)
    rows = [row for row in find_family(spec.family).rows(spec) if not (spec.tied_head and row.roles == ("head",))]
    outside = [row for row in rows if "*" not in row.path]
    inside = [row for row in rows if "*" in row.path]

    def of_layer(layer: int | None) -> list[Leaf]:
        def path(text: str) -> Path:
            parts = text.split(".")
            return tuple(layer if part == "*" and layer is not None else part for part in parts)

        def name(text: str) -> str:
            return text.replace("*", str(layer))

        here = outside if layer is None else inside
        return [
            Leaf(path(row.path), layer, tuple(map(name, row.names)), row.roles, row.kind, *sizes[row.roles[0]])
            for row in here
        ]

    return [leaf for layer in (None, *range(spec.num_layers)) for leaf in of_layer(layer)]


def _sizes(spec: DecoderSpec) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns role -> (inputs, outputs), as Leaf has them."""
    dim, hidden = (spec.embed_dim,), (spec.hidden_dim,)
    queries, keys = (spec.num_heads, spec.head_dim), (spec.num_kv_heads, spec.head_dim)
    projections = {
        "q": (dim, queries),
        "k": (dim, keys),
        "v": (dim, keys),
        "o": (queries, dim),
        "gate": (dim, hidden),
        "up": (dim, hidden),
        "down": (hidden, dim),
    }
    biases = {f"{role}.bias": ((), (math.prod(outputs),)) for role, (_, outputs) in projections.items()}
    norms = ("final_norm", "attention_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm")
    return {
        "embed": ((spec.vocab_size,), dim),
        "head": (dim, (spec.vocab_size,)),
        **projections,
        **biases,
        **dict.fromkeys(norms, ((), dim)),
        **dict.fromkeys(("q_norm", "k_norm"), ((), (spec.head_dim,))),
    }


def projection_names(spec: DecoderSpec) -> dict[str, tuple[int, str]]:
    """Returns, by the names that PEFT has for the modules with projections, the layer and the role."""
    return {
        name.removesuffix(".weight"): (leaf.layer, role)
        for leaf in leaves(spec)
        if leaf.is_projection and leaf.layer is not None
        for name, role in zip(leaf.names, leaf.roles, strict=True)
    }

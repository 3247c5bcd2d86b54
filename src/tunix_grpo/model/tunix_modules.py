"""Tunix's modules, as far as this package needs them: the one place beside the plugin that imports tunix.

A run takes from them how weights are divided over several devices; whoever lives in Tunix gets a module with a model's
weights. `import tunix` brings pandas and all of its reinforcement learning, so that it waits until a module is built.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.finding import find_family
from tunix_grpo.model.layout import Array, LeafTree, Path, leaves


class _OneKey(nnx.RngStream):
    """Random keys that are all the same, for shapes alone: flax counts keys, in a trace at a cost that grows with their
    number squared (7 seconds for Gemma 3 27B)."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def abstract_module(spec: DecoderSpec) -> nnx.Module:
    """Returns Tunix's module with shapes instead of arrays."""
    wanted = find_family(spec.family).tunix(spec)
    code = importlib.import_module(f"tunix.models.{wanted.package}.model")
    config = code.ModelConfig(**wanted.fields)

    def made() -> nnx.Module:
        rngs = nnx.Rngs(0)
        rngs.default = _OneKey(0, tag="default")  # pyright: ignore[reportAttributeAccessIssue] (a stream by its name)
        return vars(code)[wanted.name](config, rngs=rngs)

    return nnx.eval_shape(made)


@functools.cache
def partition_specs(spec: DecoderSpec) -> dict[Path, jax.sharding.PartitionSpec]:
    """Returns, per leaf, how Tunix divides it over a mesh."""
    found = nnx.get_partition_spec(nnx.state(abstract_module(spec), nnx.Param))
    return {_path(parts): variable.get_value() for parts, variable in nnx.to_flat_state(found)}


def module_with(spec: DecoderSpec, arrays: Mapping[Path, Array]) -> nnx.Module:
    """Returns Tunix's module with the given leaves; adapters among them hang beside what they adapt."""
    module = abstract_module(spec)
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    nnx.update(
        module, nnx.from_flat_state([(parts, variable.replace(arrays[_path(parts)])) for parts, variable in state])
    )
    for leaf in leaves(spec):
        for path in leaf.adapter_paths:
            if path in arrays:
                parent = functools.reduce(_child, path[:-1], module)
                setattr(parent, str(path[-1]), nnx.LoRAParam(arrays[path]))
    return module


def _child(module: Any, name: str | int) -> Any:
    """Returns what a module, or a list of modules, holds under a part of a path."""
    return module[name] if isinstance(name, int) else vars(module)[name]


def _path(parts: Iterable[object]) -> Path:
    """Returns flax's path of a leaf as ours."""
    return tuple(part if isinstance(part, int) else str(part) for part in parts)


def trained_leaves(module: nnx.Module) -> LeafTree:
    """Returns what is trained in Tunix's module, as `Model.trained` holds it: adapters, or all where there are none."""
    return arrays_of(module, nnx.LoRAParam) or arrays_of(module, nnx.Param)


def arrays_of(module: nnx.Module, kind: type[nnx.Variable]) -> LeafTree:
    """Returns the arrays of one kind in a module, by their path."""
    leaves_of_kind: Any = nnx.to_pure_dict(nnx.state(module, kind))  # flax does not say what the dictionary holds
    return leaves_of_kind

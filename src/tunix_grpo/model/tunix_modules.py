"""Tunix's modules, as far as this package needs them: the one place beside the plugin that imports tunix.

`import tunix` brings pandas and all of its reinforcement learning, so that it waits until a module is built.
"""

from __future__ import annotations

import importlib

import jax
from flax import nnx

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.model.finding import find_family


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
        rngs.default = _OneKey(0, tag="default")
        return vars(code)[wanted.name](config, rngs=rngs)

    return nnx.eval_shape(made)

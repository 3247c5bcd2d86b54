"""The programs of a rollout, from shapes: the same functions that a run calls, on the mesh that it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tunix_grpo import seeds
from tunix_grpo.config import Config
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.cache import cache_sizes
from tunix_grpo.decoder.drawing import DrawRule
from tunix_grpo.decoder.generation import block_of_device, padded_steps
from tunix_grpo.grpo import engine, stages
from tunix_grpo.grpo.at_once import completions_drawn
from tunix_grpo.grpo.rollout import train_sampling
from tunix_grpo.model.gathering import bytes_per_device, form_of_rollout, gathered_like, mesh_of_rollout
from tunix_grpo.model.model import Model
from tunix_grpo.model.placing import fitting_sharding
from tunix_grpo.preflight.compiling import Program

# What ends a row and what fills it decide nothing about memory.
_STOP_IDS, _PAD_ID = (1,), 0


class RolloutPrograms:
    """What draws the completions of a step."""

    def __init__(self, config: Config, model: Model, mesh: Mesh, resident: int):
        """
        Args:
            mesh: of training.
            resident: bytes of what lives as long as the run, on each device.
        """
        self._config, self._form, self._sampling = config, form_of_rollout(model, mesh), train_sampling(config)
        self._mesh = mesh_of_rollout(model, mesh)
        self._held = gathered_like(model, mesh, self._mesh)
        copies = bytes_per_device(self._held) if mesh.shape[layouts.FSDP] > 1 else 0
        self._there = resident + copies
        self._rows = config.completions_per_step(mesh.shape[layouts.FSDP])
        self._prompts = self._rows // self._sampling.num_generations

    def all(self) -> Iterator[Program]:
        """Yields the programs in the order of a step."""
        most = self._config.generation.max_rows
        if most is not None and self._rows > most:
            yield self._in_slots(most)
        elif self._sampling.max_tokens <= stages.SHORT:
            ends = {"stop_ids": _STOP_IDS, "pad_id": _PAD_ID}
            arguments = (self._form, *self._held, *self._asked(), self._sampling)
            yield self._program("rollout", completions_drawn, arguments, self._held, ends)
        else:
            yield from self._in_stages()

    def _in_stages(self) -> Iterator[Program]:
        rule = DrawRule(self._sampling, _STOP_IDS, _PAD_ID)
        steps = padded_steps(self._sampling.max_tokens, block_of_device())
        started = (self._form, self._held, *self._asked(), None, rule, steps)
        prompts = self._program("rollout, prompts", stages._started, started, self._held)
        yield prompts
        with layouts.on(self._mesh):
            made, growing = stages._started.eval_shape(*started)
            growing = stages._with_room.eval_shape(self._form, growing, cache_sizes(steps)[-1])
        if self._mesh.shape[layouts.TP] == 1 or isinstance(prompts.made, str):
            weights, growing = self._weights_of_a_token(), jax.tree.map(self._placed, growing)
        else:
            places = prompts.made.output_shardings
            cache = jax.tree.map(self._placed, growing.cache)
            made, growing = jax.tree.map(_laid, (made, growing), places)
            weights, growing = self._form.token_weights(made, self._held[1]), growing._replace(cache=cache)
        arguments = (self._form, weights, growing, rule, stages.STAGE, block_of_device())
        yield self._program("rollout, tokens", stages._continued, arguments, self._as_they_were(weights))

    def _in_slots(self, rows: int) -> Program:
        """Returns the program that draws in slots, in its largest cache."""
        devices = self._mesh.shape[layouts.FSDP]
        slots = engine.Engine(
            form=self._form,
            mesh=self._mesh,
            stop_ids=_STOP_IDS,
            pad_id=_PAD_ID,
            rows=math.ceil(rows / devices) * devices,
            prompt_width=self._config.generation.max_prompt_length,
        )
        program, (form, mesh, _, growing, *rest) = slots.largest_program(self._held, self._sampling)
        weights, growing = self._weights_of_a_token(), jax.tree.map(self._by_rows, growing)
        arguments = (form, mesh, weights, growing, *rest)
        return self._program("rollout, tokens", program, arguments, self._as_they_were(weights))

    def _asked(self) -> tuple[Any, Any, Any]:
        """Returns the shapes of the prompts, which of their tokens are valid, and of the keys."""
        width = self._config.generation.max_prompt_length
        shapes = ((self._prompts, width), np.int32), ((self._prompts, width), bool)
        keys = (self._rows,), seeds.key("rollout", 0).dtype
        tokens, valid, keys = (self._by_rows(jax.ShapeDtypeStruct(*shape)) for shape in (*shapes, keys))
        return tokens, valid, keys

    def _weights_of_a_token(self) -> Any:
        """Returns the shapes of the weights as one token at a time reads them, with where they lie.

        On devices that share heads only their compiler knows where; otherwise, and where it refuses, they are whole on
        every device.
        """
        joining = self._program("weights of a token", engine._made, (self._form, *self._held), self._held)
        with layouts.on(self._mesh):
            made = engine._made.eval_shape(*joining.arguments)
        if self._mesh.shape[layouts.TP] == 1 or isinstance(joining.made, str):
            whole = NamedSharding(self._mesh, PartitionSpec())
            made = jax.tree.map(lambda leaf: _laid(leaf, whole), made)
        else:
            made = jax.tree.map(_laid, made, joining.made.output_shardings)
        return self._form.token_weights(made, self._held[1])

    def _as_they_were(self, weights: Any) -> Any:
        """Returns those weights of a token's that are no copies; the others live beside what they are made of."""
        _, frozen = self._held
        return {name: leaf for name, leaf in weights.items() if name != "layers"} if frozen else {}

    def _placed(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Places a part of a rollout in stages, see `generation.with_rows`."""
        if leaf.ndim == 4:
            spec = PartitionSpec(layouts.FSDP, layouts.TP)
            return _laid(leaf, fitting_sharding(self._mesh, leaf.shape, spec))
        return self._by_rows(leaf)

    def _by_rows(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return _laid(leaf, NamedSharding(self._mesh, PartitionSpec(*[layouts.FSDP] * (leaf.ndim > 0))))

    def _program(
        self, name: str, function: Any, arguments: tuple, held: Any, keywords: dict[str, Any] | None = None
    ) -> Program:
        """Returns a program; `held` are its inputs that live as long as the rollout."""
        return Program(name, function, arguments, keywords or {}, self._mesh, self._there - bytes_per_device(held))


def _laid(leaf: jax.ShapeDtypeStruct, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

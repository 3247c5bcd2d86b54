"""The programs of a training, from shapes: the same functions that a run calls."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tunix_grpo.config import Config
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo import passes
from tunix_grpo.grpo.loss import LossSums
from tunix_grpo.grpo.needed import completions_like, loss_inputs_like
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.spikes import Limits
from tunix_grpo.grpo.updates import applying
from tunix_grpo.model.gathering import bytes_per_device
from tunix_grpo.model.model import Model
from tunix_grpo.preflight.compiling import Program
from tunix_grpo.preflight.rollout_programs import RolloutPrograms
from tunix_grpo.run.room import tree_bytes


class Programs:
    """The programs of a training on a mesh.

    Attributes:
        pass_form: of the passes over whole rows.
        saved: bytes of a checkpoint.
        resident: bytes of what lives as long as the run, on each device.
    """

    def __init__(self, config: Config, model: Model, mesh: Mesh):
        """
        Args:
            model: without arrays, see `model.abstract`.
        """
        self._config, self._model, self._mesh = config, model, mesh
        self._whole = NamedSharding(mesh, PartitionSpec())
        self.pass_form = passes.pass_form(config, model, config.generation.max_prompt_length)
        schedule = build_schedule(config.optimizer, config.scheduler, config.training.num_batches or 1)
        self._optimizer = build_optimizer(config.optimizer, schedule)
        state = jax.eval_shape(self._optimizer.init, model.trained)
        self._state = jax.tree.map(self._like_its_leaf, state)
        self.saved = tree_bytes((model.trained, self._state))
        of_reference = model.reference if model.frozen or config.grpo.beta > 0 else {}
        self.resident = bytes_per_device((model.trained, self._state, of_reference))

    def all(self) -> Iterator[Program]:
        """Yields the programs in the order of a step."""
        yield from RolloutPrograms(self._config, self._model, self._mesh, self.resident).all()
        batch, number = self._batch(), self._shape((), np.float32, self._whole)
        form, params, frozen = self.pass_form, self._model.trained, self._model.frozen
        if self._config.grpo.beta > 0:
            arguments = (form, None, self._model.reference, batch)
            yield self._program("reference", passes.whole_logps, *arguments, held=(self._model.reference,))
        grpo, sums = self._config.grpo, LossSums(*[number] * len(LossSums._fields))
        state = (params, sums) if self._config.training.gradient_accumulation_steps > 1 else None
        later = grpo.num_iterations > 1 or grpo.num_minibatches > 1
        inputs = loss_inputs_like(form.objective, batch, number, old=later, sampled=grpo.importance != "none")
        yield self._program("update", passes.accumulate, form, params, frozen, state, inputs, held=(params, frozen))
        layouts_of = (jax.tree.map(lambda leaf: leaf.sharding, tree) for tree in (params, self._state))
        arguments = (self._optimizer, params, self._state, params, number, Limits(number, number))
        yield self._program("optimizer", applying(*layouts_of), *arguments, held=(params, self._state))

    def _batch(self) -> Completions:
        """Returns the shapes of a micro batch whose completions are all of full length."""
        config = self._config
        prompts = config.training.micro_batch_size * self._mesh.shape["fsdp"]
        rows = prompts * config.grpo.num_generations
        width, length = config.generation.max_prompt_length, config.generation.max_generation_steps
        by_rows = NamedSharding(self._mesh, PartitionSpec("fsdp"))
        return completions_like(by_rows, (prompts, width), (rows, length))

    def _program(self, name: str, function: Any, *arguments: Any, held: tuple[Any, ...]) -> Program:
        """Returns a program; `held` are its inputs that live as long as the run."""
        return Program(name, function, arguments, {}, self._mesh, self.resident - bytes_per_device(held))

    def _shape(self, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def _like_its_leaf(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Places a part of the optimizer's state: a moment lies as its parameter does."""
        return self._shape(leaf.shape, leaf.dtype, self._places.get(leaf.shape, self._whole))

    @functools.cached_property
    def _places(self) -> dict[tuple[int, ...], NamedSharding]:
        return {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(self._model.trained)}

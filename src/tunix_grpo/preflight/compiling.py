"""The programs of a training, compiled from shapes: the same functions that a run calls."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tunix_grpo import seeds
from tunix_grpo.config import Config
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.cache import cache_sizes
from tunix_grpo.decoder.drawing import DrawRule, Sampling
from tunix_grpo.decoder.generation import block_of_device, padded_steps
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo import passes, stages
from tunix_grpo.grpo.at_once import completions_drawn
from tunix_grpo.grpo.engine import Engine
from tunix_grpo.grpo.loss import LossSums
from tunix_grpo.grpo.needed import completions_like, loss_inputs_like, program_bytes
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.rollout import train_sampling
from tunix_grpo.grpo.spikes import Limits
from tunix_grpo.grpo.updates import applying
from tunix_grpo.model.gathering import gathered_like
from tunix_grpo.model.model import Model
from tunix_grpo.run.room import tree_bytes

# What ends a row and what fills it decide nothing about memory.
_STOP_IDS, _PAD_ID = (1,), 0


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a program needs, per device.

    Attributes:
        name: what of a step it is.
        peak: bytes at its highest, with its inputs and outputs.
        beside: bytes of what lives on the device meanwhile and is no input of it.
        refusal: what the compiler said instead; the figures are 0 then.
        seconds: that it took to compile.
        text: the compiled program.
    """

    name: str
    peak: int
    beside: int
    seconds: float
    refusal: str = ""
    text: str = ""

    @property
    def total(self) -> int:
        """Bytes of the device while it runs."""
        return self.peak + self.beside


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to be compiled.

    Attributes:
        function: what `jax.jit` returns.
        arguments: shapes, and static ones.
        resident: bytes of its inputs that live as long as the run.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    resident: int


class Programs:
    """The programs of a training on a mesh."""

    def __init__(self, config: Config, model: Model, mesh: Mesh):
        """
        Args:
            model: without arrays, see `model.abstract`.
        """
        self._config, self._model, self._mesh = config, model, mesh
        self._by_rows = NamedSharding(mesh, PartitionSpec("fsdp"))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self.pass_form = passes.pass_form(config, model, config.generation.max_prompt_length)
        schedule = build_schedule(config.optimizer, config.scheduler, config.training.num_batches or 1)
        self._optimizer = build_optimizer(config.optimizer, schedule)
        state = jax.eval_shape(self._optimizer.init, model.trained)
        self._state = jax.tree.map(self._like_its_leaf, state)
        self._frozen = model.frozen
        self.saved = tree_bytes((model.trained, self._state))
        of_reference = model.reference if model.frozen or config.grpo.beta > 0 else {}
        self.resident = sum(self._bytes(tree) for tree in (model.trained, self._state, of_reference))

    def all(self) -> Iterator[Program]:
        """Yields the programs in the order of a step."""
        yield from self._rollout()
        batch, number = self._batch(), self._shape((), np.float32, self._whole)
        form, params, frozen = self.pass_form, self._model.trained, self._frozen
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

    def _rollout(self) -> Iterator[Program]:
        config, form = self._config, self._model.form
        sampling = train_sampling(config)
        rows = config.completions_per_step(self._mesh.shape["fsdp"])
        held = gathered_like((self._model.trained, self._frozen), self._mesh, self._model.dtype)
        prompts = rows // sampling.num_generations
        width = config.generation.max_prompt_length
        asked = (self._rows((prompts, width), np.int32), self._rows((prompts, width), bool))
        keys = self._rows((rows,), seeds.key("rollout", 0).dtype)
        rule = DrawRule(sampling, _STOP_IDS, _PAD_ID)
        most = config.generation.max_rows
        if most is not None and rows > most:
            yield self._slots(held, sampling, most)
        elif sampling.max_tokens <= stages.SHORT:
            keywords = {"stop_ids": _STOP_IDS, "pad_id": _PAD_ID}
            yield self._program(
                "rollout", completions_drawn, form, *held, *asked, keys, sampling, held=held, **keywords
            )
        else:
            steps = padded_steps(sampling.max_tokens, block_of_device())
            started = (form, held, *asked, keys, None, rule, steps)
            yield self._program("rollout, prompts", stages._started, *started, held=held)
            weights, growing = self._shapes(stages._started, *started)
            growing = self._shapes(stages._with_room, form, growing, cache_sizes(steps)[-1])
            arguments = (form, weights, growing, rule, stages.STAGE, block_of_device())
            yield self._program("rollout, tokens", stages._continued, *arguments, held=(self._as_they_were(weights),))

    def _slots(self, held: tuple[Any, Any], sampling: Sampling, rows: int) -> Program:
        """Returns the program that draws in slots, in its largest cache."""
        devices = self._mesh.shape["fsdp"]
        engine = Engine(
            form=self._model.form,
            mesh=self._mesh,
            stop_ids=_STOP_IDS,
            pad_id=_PAD_ID,
            rows=math.ceil(rows / devices) * devices,
            prompt_width=self._config.generation.max_prompt_length,
        )
        program, (form, mesh, weights, slots, *rest) = engine.largest_program(held, sampling)
        weights, slots = self._placed((weights, slots), engine.rows)
        as_they_were = self._as_they_were(weights)
        return self._program("rollout, tokens", program, form, mesh, weights, slots, *rest, held=(as_they_were,))

    def _as_they_were(self, weights: Any) -> Any:
        """Returns those weights of a token's that are no copies; the others live beside what they are made of."""
        return {name: leaf for name, leaf in weights.items() if self._frozen and name != "layers"}

    def _batch(self) -> Completions:
        """Returns the shapes of a micro batch whose completions are all of full length."""
        config = self._config
        prompts = config.training.micro_batch_size * self._mesh.shape["fsdp"]
        rows = prompts * config.grpo.num_generations
        width, length = config.generation.max_prompt_length, config.generation.max_generation_steps
        return completions_like(self._by_rows, (prompts, width), (rows, length))

    def _program(self, name: str, function: Any, *arguments: Any, held: tuple[Any, ...], **keywords: Any) -> Program:
        return Program(name, function, arguments, keywords, sum(map(self._bytes, held)))

    def _shapes(self, function: Any, *arguments: Any) -> Any:
        """Returns the shapes of what a program of a rollout returns."""
        return self._placed(
            function.eval_shape(*arguments), self._config.completions_per_step(self._mesh.shape["fsdp"])
        )

    def _placed(self, tree: Any, rows: int) -> Any:
        """Returns shapes of a rollout with their places: rows and prompts by rows, the rest whole on every device."""
        by_rows = (rows, rows // self._config.grpo.num_generations)

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            is_by_rows = leaf.ndim > 0 and leaf.shape[0] in by_rows
            return self._shape(leaf.shape, leaf.dtype, self._by_rows if is_by_rows else self._whole)

        return jax.tree.map(placed, tree)

    def _rows(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._shape(shape, dtype, self._by_rows)

    def _shape(self, shape: tuple[int, ...], dtype: Any, sharding: NamedSharding) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def _like_its_leaf(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        """Places a part of the optimizer's state: a moment lies as its parameter does."""
        return self._shape(leaf.shape, leaf.dtype, self._places.get(leaf.shape, self._whole))

    @functools.cached_property
    def _places(self) -> dict[tuple[int, ...], NamedSharding]:
        return {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(self._model.trained)}

    def _bytes(self, tree: Any) -> int:
        """Returns the bytes that arrays take on each device."""
        return sum(
            int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * jnp.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )


def compiled(program: Program, lowering: str, mesh: Mesh, resident: int) -> Needs:
    """Compiles a program.

    Args:
        lowering: what it is lowered for: cpu, cuda or tpu.
        resident: bytes that live as long as the run, on each device.
    """
    begun = time.perf_counter()
    beside = resident - program.resident
    with layouts.on(mesh):
        traced = program.function.trace(*program.arguments, **program.keywords)
        try:
            made = traced.lower(lowering_platforms=(lowering,)).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Needs(program.name, 0, beside, time.perf_counter() - begun, refusal=str(error).splitlines()[0])
    peak = made.memory_analysis().peak_memory_in_bytes or program_bytes(made) or 0
    return Needs(program.name, peak, beside, time.perf_counter() - begun, text=made.as_text() or "")

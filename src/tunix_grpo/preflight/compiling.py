"""The programs of a training, compiled from shapes: the same functions that a run calls."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
from tunix_grpo.decoder.drawing import DrawRule
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import block_of_device, padded_steps
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo import engine, passes, stages
from tunix_grpo.grpo.algorithms import Divisors, objective_of
from tunix_grpo.grpo.loss import LossInputs, LossSums
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule
from tunix_grpo.grpo.rollout import completions_drawn, train_sampling
from tunix_grpo.grpo.spikes import Limits
from tunix_grpo.grpo.updates import apply_gradient
from tunix_grpo.model.gathering import gathered_shapes, gathered_shardings
from tunix_grpo.model.model import Model

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
        generation, group = config.generation, config.grpo.num_generations
        width = generation.max_prompt_length + group * generation.max_generation_steps
        remat = choose_remat(config.training.remat, model.spec, config.training.micro_batch_size * width, model.dtype)
        self.pass_form = passes.PassForm(model.form, objective_of(config.grpo), generation.temperature, remat)
        schedule = build_schedule(config.optimizer, config.scheduler, config.training.num_batches or 1)
        self._optimizer = build_optimizer(config.optimizer, schedule)
        state = jax.eval_shape(self._optimizer.init, model.trained)
        self._state = jax.tree.map(self._like_its_leaf, state)
        self._frozen = model.frozen
        of_reference = model.reference if model.frozen or config.grpo.beta > 0 else {}
        self.resident = sum(self._bytes(tree) for tree in (model.trained, self._state, of_reference))

    def all(self) -> Iterator[Program]:
        """Yields the programs in the order of a step."""
        yield from self._rollout()
        batch = self._batch()
        if self._config.grpo.beta > 0:
            arguments = (self.pass_form, None, self._model.reference, batch)
            yield self._program("reference", passes.whole_logps, *arguments, held=(self._model.reference,))
        params, frozen = self._model.trained, self._frozen
        several = self._config.training.gradient_accumulation_steps > 1
        sums = LossSums(*(self._shape((), np.float32, self._whole) for _ in LossSums._fields))
        state = (params, sums) if several else None
        arguments = (self.pass_form, params, frozen, state, self._loss_inputs(batch))
        yield self._program("update", passes.accumulate, *arguments, held=(params, frozen))
        apply = jax.jit(apply_gradient, static_argnums=0, donate_argnums=(1, 2))
        scalar: Any = sums.loss
        arguments = (self._optimizer, params, self._state, params, scalar, Limits(scalar, scalar))
        yield self._program("optimizer", apply, *arguments, held=(params, self._state))

    def _rollout(self) -> Iterator[Program]:
        config, form = self._config, self._model.form
        sampling = train_sampling(config)
        rows = config.completions_per_step(self._mesh.shape["fsdp"])
        held = self._gathered()
        prompts = rows // sampling.num_generations
        width = config.generation.max_prompt_length
        asked = (self._rows((prompts, width), np.int32), self._rows((prompts, width), bool))
        keys = self._rows((rows,), seeds.key("rollout", 0).dtype)
        rule = DrawRule(sampling, _STOP_IDS, _PAD_ID)
        most = config.generation.max_rows
        if most is not None and rows > most:
            yield from self._slots(held, rule, most)
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

    def _slots(self, held: tuple[Any, Any], rule: DrawRule, rows: int) -> Iterator[Program]:
        """Yields the program that draws in slots, in its largest cache."""
        form, config = self._model.form, self._config
        size = (cache_sizes(rule.config.max_tokens - 1) or [1])[-1]
        rule = rule._replace(config=dataclasses.replace(rule.config, num_generations=1))
        width = config.generation.max_prompt_length
        slots = self._shapes(engine._free, form, self._mesh, rows, width, size, rule)
        weights = self._shapes(engine._joined, form, *held)
        arguments = (form, self._mesh, weights, slots, rule, engine.tokens_of_round())
        yield self._program("rollout, tokens", engine._continued, *arguments, held=(self._as_they_were(weights),))

    def _as_they_were(self, weights: Any) -> Any:
        """Returns those weights of a token's that are no copies; the others live beside what they are made of."""
        return {name: leaf for name, leaf in weights.items() if self._frozen and name != "layers"}

    def _batch(self) -> Completions:
        """Returns the shapes of a micro batch whose completions are all of full length."""
        config = self._config
        prompts = config.training.micro_batch_size * self._mesh.shape["fsdp"]
        rows = prompts * config.grpo.num_generations
        width, length = config.generation.max_prompt_length, config.generation.max_generation_steps
        shapes = ((prompts, width), np.int32), ((prompts, width), bool), ((rows, length), np.int32), ((rows,), np.int32)
        return Completions(*(self._rows(*shape) for shape in shapes))

    def _loss_inputs(self, batch: Completions) -> LossInputs:
        per_row = self._rows(batch.lengths.shape, np.float32)
        scalar = self._shape((), np.float32, self._whole)
        logps = self._rows(batch.tokens.shape, np.float32)
        grpo = self._config.grpo
        later = grpo.num_iterations > 1 or grpo.num_minibatches > 1
        return LossInputs(
            batch,
            per_row,
            per_row,
            Divisors(per_row, scalar),
            logps if grpo.beta > 0 else None,
            logps if later else None,
            logps if grpo.importance != "none" else None,
        )

    def _gathered(self) -> tuple[Any, Any]:
        """Returns the weights as a rollout reads them."""
        held = (self._model.trained, self._frozen)
        if self._mesh.shape["fsdp"] == 1:
            return held
        places = jax.tree.leaves(gathered_shardings(held, self._mesh))
        shapes = gathered_shapes(held, self._model.dtype)
        leaves = [self._shape(shape.shape, shape.dtype, place) for shape, place in zip(shapes, places, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(held), leaves)

    def _program(self, name: str, function: Any, *arguments: Any, held: tuple[Any, ...], **keywords: Any) -> Program:
        return Program(name, function, arguments, keywords, sum(map(self._bytes, held)))

    def _shapes(self, function: Any, *arguments: Any) -> Any:
        """Returns the shapes of what a program returns: rows by rows, the rest whole on every device."""
        rows = self._config.completions_per_step(self._mesh.shape["fsdp"])
        found = function.eval_shape(*arguments)

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            by_rows = leaf.ndim > 0 and leaf.shape[0] in (rows, rows // self._config.grpo.num_generations)
            return self._shape(leaf.shape, leaf.dtype, self._by_rows if by_rows else self._whole)

        return jax.tree.map(placed, found)

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
    with layouts.on(mesh) if mesh.size > 1 else contextlib.nullcontext():
        traced = program.function.trace(*program.arguments, **program.keywords)
        try:
            made = traced.lower(lowering_platforms=(lowering,)).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Needs(program.name, 0, beside, time.perf_counter() - begun, refusal=str(error).splitlines()[0])
    memory = made.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.peak_memory_in_bytes or memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    return Needs(program.name, peak, beside, time.perf_counter() - begun, text=made.as_text() or "")

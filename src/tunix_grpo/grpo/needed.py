"""What the largest programs of a step need on a device, as the compiler says it; nothing is run or held for that."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import Divisors, Objective
from tunix_grpo.grpo.loss import LossInputs, LossSums
from tunix_grpo.grpo.passes import PassForm, accumulate, whole_logps
from tunix_grpo.model.layout import LeafTree


def program_bytes(program: jax.stages.Compiled) -> int | None:
    """Returns arguments, results and temporaries of a program on one device; None where the compiler does not say."""
    memory = program.memory_analysis()
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return held + memory.temp_size_in_bytes


def completions_like(sharding: jax.sharding.Sharding, prompts: tuple[int, int], rows: tuple[int, int]) -> Completions:
    """Returns the shapes of a micro batch.

    Args:
        prompts: P, and tokens of each.
        rows: B, and tokens of each.
    """
    shapes = (prompts, jnp.int32), (prompts, bool), (rows, jnp.int32), (rows[:1], jnp.int32)
    return Completions(*(_like(shape, dtype, sharding) for shape, dtype in shapes))


def loss_inputs_like(
    objective: Objective, batch: Completions, number: Any, *, old: bool, sampled: bool = False
) -> LossInputs:
    """Returns the shapes of what a loss is computed from.

    Args:
        batch: shapes, as `completions_like` returns them.
        number: shape of a float32[].
        old: with the log-probabilities of a pass before.
        sampled: with those of the sampler.
    """
    sharding = batch.tokens.sharding
    rows, tokens = (_like(array.shape, jnp.float32, sharding) for array in (batch.lengths, batch.tokens))
    wanted = (objective.beta > 0, old, sampled)
    return LossInputs(batch, rows, rows, Divisors(rows, number), *(tokens if each else None for each in wanted))


def update_bytes(form: PassForm, params: LeafTree, frozen: Weights, batch: Completions) -> int | None:
    """Returns what a micro batch of an update needs, the gradient that it is added to included.

    Args:
        batch: shapes, as `completions_like` returns them.
    """
    number = _like((), jnp.float32)
    inputs = loss_inputs_like(form.objective, batch, number, old=True)
    gradient = jax.tree.map(lambda leaf: _like(leaf.shape, leaf.dtype, leaf.sharding), params)
    state = gradient, LossSums(*[number] * len(LossSums._fields))
    return program_bytes(accumulate.lower(form, params, frozen, state, inputs).compile())


def reference_bytes(form: PassForm, reference: Weights, batch: Completions) -> int | None:
    """Returns what the reference needs for a micro batch of these shapes."""
    return program_bytes(whole_logps.lower(form, None, reference, batch).compile())


def _like(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    """Returns what stands for an array where a program is only compiled."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

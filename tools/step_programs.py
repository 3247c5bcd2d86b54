"""The programs of a step of a Gemma 3 in bfloat16, from shapes alone: 4 prompts x 4 completions of 256 + 512 tokens.

That is for each data-parallel device. Those who import it have set XLA's flags before: jax is loaded here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.generation import Sampling, generate
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo import passes
from tunix_grpo.grpo.algorithms import Divisors, Objective, token
from tunix_grpo.grpo.loss import LossInputs, LossSums, completion_logprobs, grpo_loss
from tunix_grpo.grpo.needed import completions_like, loss_inputs_like
from tunix_grpo.model.abstract import abstract_model
from tunix_grpo.model.gathering import gathered_like
from tunix_grpo.model.model import Model
from tunix_grpo.model.placing import fitting_sharding

SHAPES = Path(__file__).resolve().parent.parent / "src" / "tunix_grpo" / "assets" / "shapes"
PROMPTS, GROUP, PROMPT_TOKENS, COMPLETION_TOKENS = 4, 4, 256, 512  # prompts of each data-parallel device
STOPS, PAD = (1, 106), 0
_OBJECTIVE = Objective(ratio=token, epsilon_low=0.2, epsilon_high=0.2, beta=0.08)


def described_model(directory: Path, rank: int, mesh: Mesh) -> Model:
    """Returns a model with shapes in place of arrays, which lie on the mesh as a loaded model's do."""
    config: Any = SimpleNamespace(
        family=None,
        dtype="bfloat16",
        lora_rank=rank or None,
        lora_alpha=rank,
        lora_target_modules="all",
        quantization=None,
    )
    return abstract_model(config, directory, mesh)


def by_rows(mesh: Mesh, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=fitting_sharding(mesh, shape, PartitionSpec("fsdp")))


def completions(mesh: Mesh) -> Completions:
    prompts = PROMPTS * mesh.shape["fsdp"]
    by_rows = NamedSharding(mesh, PartitionSpec("fsdp"))
    return completions_like(by_rows, (prompts, PROMPT_TOKENS), (prompts * GROUP, COMPLETION_TOKENS))


def update(model: Model, mesh: Mesh, form: str, remat: str = "auto") -> tuple[Callable, tuple]:
    """The gradient of a step that is one micro batch, as `Trainer` computes it."""
    tokens = PROMPTS * (PROMPT_TOKENS + GROUP * COMPLETION_TOKENS)
    remat = choose_remat(remat, model.spec, tokens, model.dtype)
    batch = completions(mesh)
    rows = batch.tokens.shape[0]

    def program(trained: Any, frozen: Any, batch: Completions, gains: jax.Array, reference: jax.Array) -> Any:
        def loss_of(trained: Any) -> tuple[jax.Array, Any]:
            weights = own.decoder_weights(own.laid_out(trained), frozen)
            logps, entropies = completion_logprobs(model.spec, weights, batch, 1.0, attention_form=form, remat=remat)
            divisors = Divisors(batch.lengths.clip(1), jnp.float32(rows))
            inputs = LossInputs(batch, gains, jnp.ones(rows), divisors, reference)
            sums = grpo_loss(logps, entropies, inputs, _OBJECTIVE)
            return sums.loss, (sums, logps)

        return jax.grad(loss_of, has_aux=True)(trained)

    own = model.form  # a trial of flash attention is behind it, which is over before anything is traced
    return program, (model.trained, model.frozen, batch, by_rows(mesh, (rows,)), by_rows(mesh, batch.tokens.shape))


def rollout(model: Model, mesh: Mesh, form: str, copies: bool = True) -> tuple[Callable, tuple]:
    """All completions of a step; without `copies` of the weights where there is no memory for them."""
    sampling = Sampling(num_generations=GROUP, max_tokens=COMPLETION_TOKENS, temperature=1.0)

    def program(trained: Any, frozen: Any, tokens: jax.Array, valid: jax.Array, keys: jax.Array) -> Any:
        weights = own.decoder_weights(trained, frozen)
        return generate(
            model.spec,
            weights,
            tokens,
            valid,
            keys,
            sampling,
            stop_ids=STOPS,
            pad_id=PAD,
            attention_form=form,
            copies=copies,
        )

    own = model.form
    batch = completions(mesh)
    keys = by_rows(mesh, batch.lengths.shape, jax.random.key(0).dtype)
    return program, (*gathered_like(model, mesh, mesh), batch.prompt_tokens, batch.prompt_valid, keys)


def reference(model: Model, mesh: Mesh, form: str) -> tuple[Callable, tuple]:
    """The log-probabilities of the weights that stay."""

    def program(weights: Any, batch: Completions) -> jax.Array:
        return completion_logprobs(model.spec, weights, batch, 1.0, attention_form=form)[0]

    return program, (model.reference, completions(mesh))


def prompts(model: Model, mesh: Mesh, form: str) -> tuple[Callable, tuple]:
    """What the pieces of a micro batch see of their prompts."""
    return functools.partial(passes.prefix_of, _pass_form(model, form)), _of_prompts(model, mesh)


def update_piece(model: Model, mesh: Mesh, form: str, remat: str = "auto") -> tuple[Callable, tuple]:
    """The gradient of a quarter of a step's completions, of half their length, whose prompts have run."""
    own, whole = _pass_form(model, form, remat), completions(mesh)
    rows, width = whole.tokens.shape[0] // 4, COMPLETION_TOKENS // 2
    piece = completions_like(whole.tokens.sharding, whole.prompt_tokens.shape, (rows, width))
    inputs = loss_inputs_like(_OBJECTIVE, piece._replace(prompt=piece.lengths), by_rows(mesh, ()), old=False)
    prefix, gradient = _prefix(own, model, mesh), _prefix(own, model, mesh, jnp.float32)
    state = (_sums(model, mesh), gradient)
    return functools.partial(passes.accumulate_behind, own), (model.trained, model.frozen, state, prefix, inputs)


def update_prompts(model: Model, mesh: Mesh, form: str, remat: str = "auto") -> tuple[Callable, tuple]:
    """What the loss of the pieces owes to their prompts."""
    own = _pass_form(model, form, remat)
    trained, frozen, prompts = _of_prompts(model, mesh)
    gradient = _prefix(own, model, mesh, jnp.float32)
    return functools.partial(passes.accumulate_prompts, own), (trained, frozen, _sums(model, mesh), gradient, prompts)


def _pass_form(model: Model, form: str, remat: str = "none") -> passes.PassForm:
    """Returns what decides which programs run; `auto` as it is for pieces."""
    tokens = PROMPTS * max(PROMPT_TOKENS, GROUP // 4 * COMPLETION_TOKENS)
    remat = choose_remat(remat, model.spec, tokens, model.dtype)
    own = dataclasses.replace(model.form, attention_form=form)
    return passes.PassForm(own, _OBJECTIVE, 1.0, remat, remat)


def _of_prompts(model: Model, mesh: Mesh) -> tuple:
    return model.trained, model.frozen, completions(mesh)[:2]


def _sums(model: Model, mesh: Mesh) -> passes.Gradient:
    """Returns the shapes of a gradient, and of what is summed up beside it."""
    return model.trained, LossSums(*[by_rows(mesh, ())] * len(LossSums._fields))


def _prefix(own: passes.PassForm, model: Model, mesh: Mesh, dtype: Any = None) -> Any:
    """Returns the shapes of what completions see of their prompts, or of a gradient by it."""
    whole = NamedSharding(mesh, PartitionSpec())
    prefix = jax.eval_shape(functools.partial(passes.prefix_of, own), *_of_prompts(model, mesh))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=whole), prefix)


PROGRAMS = {
    "update": update,
    "prompts": prompts,
    "update_piece": update_piece,
    "update_prompts": update_prompts,
    "rollout": rollout,
    "rollout_in_place": functools.partial(rollout, copies=False),
    "reference": reference,
}

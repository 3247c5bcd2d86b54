"""The passes of a model over completions, compiled.

A micro batch is one program where its rows run together, and several where they are cut by length (`buckets`): one for
its prompts, one for each piece, and in an update one that takes the prompts' gradient further.

Of the module, not of a trainer, so that all trainers of a process, such as the jobs of a sweep, share what is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.config import TrainerConfig
from tunix_grpo.decoder.forward import choose_remat
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import Objective, objective_of
from tunix_grpo.grpo.buckets import most_pieces
from tunix_grpo.grpo.loss import LossInputs, LossSums, Prefix, Prompts, completion_logprobs, grpo_loss, prompt_prefix
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model, ModelForm

Gradient: TypeAlias = tuple[LeafTree, LossSums]  # of the micro batches so far, added up


@dataclasses.dataclass(frozen=True)
class PassForm:
    """What decides which programs a trainer runs. Hashable, to be a static argument of them.

    Attributes:
        temperature: of the sampling, above 0.
        remat: what of the passes with a gradient is computed again where a micro batch is whole: none, block or full.
        remat_of_pieces: the same where it is cut.
    """

    model: ModelForm
    objective: Objective
    temperature: float
    remat: str
    remat_of_pieces: str

    def logprobs(
        self, weights: Weights, batch: Completions, prefix: Prefix | None = None, remat: str = "none"
    ) -> tuple[jax.Array, jax.Array]:
        """Returns float32[B, T] twice, as `loss.completion_logprobs` does."""
        form = {"attention_form": self.model.attention_form, "remat": remat}
        return completion_logprobs(self.model.spec, weights, batch, self.temperature, prefix, **form)

    def prefix(self, weights: Weights, prompts: Prompts, remat: str = "none") -> Prefix:
        """Returns what completions see of their prompts."""
        form = {"attention_form": self.model.attention_form, "remat": remat}
        return prompt_prefix(self.model.spec, weights, prompts, **form)

    def weights(self, params: LeafTree | None, frozen: Weights) -> Weights:
        """Returns the decoder's weights; without trained ones those that stay are whole."""
        return frozen if params is None else self.model.decoder_weights(params, frozen)


def pass_form(config: TrainerConfig, model: Model, prompt_width: int) -> PassForm:
    """Returns what decides which programs a trainer runs.

    Args:
        prompt_width: tokens that prompts are padded to.
    """
    prompts, longest = config.training.micro_batch_size, config.generation.max_generation_steps
    rows = prompts * config.grpo.num_generations
    whole = prompts * prompt_width + rows * longest
    piece = max(prompts * prompt_width, rows // most_pieces(rows) * longest)
    remat, of_pieces = (choose_remat(config.training.remat, model.spec, each, model.dtype) for each in (whole, piece))
    return PassForm(model.form, objective_of(config.grpo), config.generation.temperature, remat, of_pieces)


def token_logps(form: PassForm, params: LeafTree | None, frozen: Weights, pieces: list[Completions]) -> list[jax.Array]:
    """Returns float32[r, T] for each piece of a micro batch, log-probabilities of its tokens.

    Args:
        params: the trained weights; None: `frozen` is a whole model, such as the reference.
    """
    if len(pieces) == 1:
        return [whole_logps(form, params, frozen, pieces[0])]
    prefix = prefix_of(form, params, frozen, pieces[0][:2])
    return [logps_behind(form, params, frozen, prefix, piece) for piece in pieces]


def accumulate_pieces(
    form: PassForm, params: LeafTree, frozen: Weights, state: Gradient | None, pieces: list[LossInputs]
) -> tuple[Gradient, list[jax.Array]]:
    """Adds the gradient and the sums of a micro batch to `state`; returns the log-probabilities of its tokens too.

    Args:
        state: as `accumulate` takes it; not None before several pieces.
    """
    if len(pieces) == 1:
        added, whole = accumulate(form, params, frozen, state, pieces[0])
        return added, [whole]
    assert state is not None
    prefix = prefix_of(form, params, frozen, pieces[0].completions[:2])
    to_prefix = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, device=x.sharding), prefix)
    logps = []
    for piece in pieces:
        (state, to_prefix), of_piece = accumulate_behind(form, params, frozen, (state, to_prefix), prefix, piece)
        logps.append(of_piece)
    return accumulate_prompts(form, params, frozen, state, to_prefix, pieces[0].completions[:2]), logps


@functools.partial(jax.jit, static_argnames="form")
def whole_logps(form: PassForm, params: LeafTree | None, frozen: Weights, batch: Completions) -> jax.Array:
    """Returns float32[B, T], log-probabilities of the tokens of completions, whose prompts run first."""
    return form.logprobs(form.weights(params, frozen), batch)[0]


@functools.partial(jax.jit, static_argnames="form")
def prefix_of(form: PassForm, params: LeafTree | None, frozen: Weights, prompts: Prompts) -> Prefix:
    """Returns what completions see of their prompts."""
    return form.prefix(form.weights(params, frozen), prompts)


@functools.partial(jax.jit, static_argnames="form")
def logps_behind(
    form: PassForm, params: LeafTree | None, frozen: Weights, prefix: Prefix, batch: Completions
) -> jax.Array:
    """Returns float32[r, T], log-probabilities of the tokens of completions, whose prompts have run."""
    return form.logprobs(form.weights(params, frozen), batch, prefix)[0]


@functools.partial(jax.jit, static_argnames="form", donate_argnames="state")
def accumulate(
    form: PassForm, params: LeafTree, frozen: Weights, state: Gradient | None, inputs: LossInputs
) -> tuple[Gradient, jax.Array]:
    """Adds the gradient and the sums of a micro batch to `state`; returns the log-probabilities of its tokens too.

    Args:
        state: None before the only micro batch of an update; its memory is used again.
    """

    def loss_of(params: LeafTree) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
        return _loss(form, params, frozen, inputs)

    gradient, (sums, logps) = jax.grad(loss_of, has_aux=True)(params)
    added = (gradient, sums)
    if state is not None:
        added = jax.tree.map(jnp.add, state, added)
    return added, logps


@functools.partial(jax.jit, static_argnames="form", donate_argnames="state")
def accumulate_behind(
    form: PassForm,
    params: LeafTree,
    frozen: Weights,
    state: tuple[Gradient, Prefix],
    prefix: Prefix,
    inputs: LossInputs,
) -> tuple[tuple[Gradient, Prefix], jax.Array]:
    """Adds gradient and sums of a piece, whose prompts have run, to `state`; returns its log-probabilities too.

    Args:
        state: with the gradient of the loss by the prefix, float32, which `accumulate_prompts` takes further.
    """

    def loss_of(params: LeafTree, prefix: Prefix) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
        return _loss(form, params, frozen, inputs, prefix)

    (gradient, to_prefix), (sums, logps) = jax.grad(loss_of, argnums=(0, 1), has_aux=True)(params, prefix)
    return jax.tree.map(jnp.add, state, ((gradient, sums), to_prefix)), logps


@functools.partial(jax.jit, static_argnames="form", donate_argnames="state")
def accumulate_prompts(
    form: PassForm, params: LeafTree, frozen: Weights, state: Gradient, to_prefix: Prefix, prompts: Prompts
) -> Gradient:
    """Adds to `state` what the loss of completions owes to their prompts.

    Args:
        to_prefix: the gradient of the loss by what they see of them.
    """

    def prefix_of(params: LeafTree) -> Prefix:
        weights = form.model.decoder_weights(form.model.laid_out(params), frozen)
        return form.prefix(weights, prompts, form.remat_of_pieces)

    prefix, pull = jax.vjp(prefix_of, params)
    (gradient,) = pull(jax.tree.map(lambda of, like: of.astype(like.dtype), to_prefix, prefix))
    return jax.tree.map(jnp.add, state[0], gradient), state[1]


def _loss(
    form: PassForm, params: LeafTree, frozen: Weights, inputs: LossInputs, prefix: Prefix | None = None
) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
    weights = form.model.decoder_weights(form.model.laid_out(params), frozen)
    remat = form.remat if prefix is None else form.remat_of_pieces
    logps, entropies = form.logprobs(weights, inputs.completions, prefix, remat)
    sums = grpo_loss(logps, entropies, inputs, form.objective)
    return sums.loss, (sums, logps)

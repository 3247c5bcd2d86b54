"""The passes of a model over completions, compiled.

Of the module, not of a trainer, so that all trainers of a process, such as the jobs of a sweep, share what is compiled.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import Objective
from tunix_grpo.grpo.loss import LossInputs, LossSums, completion_logprobs, grpo_loss
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import ModelForm

Gradient: TypeAlias = tuple[LeafTree, LossSums]  # of the micro batches so far, added up


@dataclasses.dataclass(frozen=True)
class PassForm:
    """What decides which programs a trainer runs. Hashable, to be a static argument of them.

    Attributes:
        temperature: of the sampling, above 0.
        remat: what of the passes with a gradient is computed again: none, block or full.
    """

    model: ModelForm
    objective: Objective
    temperature: float
    remat: str

    def logprobs(self, weights: Weights, batch: Completions, remat: str = "none") -> tuple[jax.Array, jax.Array]:
        """Returns float32[B, T] twice, as `loss.completion_logprobs` does."""
        spec, attention_form = self.model.spec, self.model.attention_form
        return completion_logprobs(spec, weights, batch, self.temperature, attention_form=attention_form, remat=remat)


@functools.partial(jax.jit, static_argnames="form")
def reference_logps(form: PassForm, weights: Weights, batch: Completions) -> jax.Array:
    """Returns float32[B, T], log-probabilities under weights that stay."""
    return form.logprobs(weights, batch)[0]


@functools.partial(jax.jit, static_argnames="form")
def policy_logps(form: PassForm, params: LeafTree, frozen: Weights, batch: Completions) -> jax.Array:
    """Returns float32[B, T], log-probabilities under the trained weights."""
    return form.logprobs(form.model.decoder_weights(params, frozen), batch)[0]


@functools.partial(jax.jit, static_argnames="form", donate_argnames="state")
def accumulate(
    form: PassForm, params: LeafTree, frozen: Weights, state: Gradient | None, inputs: LossInputs
) -> tuple[Gradient, jax.Array]:
    """Adds the gradient and the sums of a micro batch to `state`; returns the log-probabilities of its tokens too.

    Args:
        state: None before the only micro batch of an update; its memory is used again.
    """

    def loss_of(params: LeafTree) -> tuple[jax.Array, tuple[LossSums, jax.Array]]:
        weights = form.model.decoder_weights(form.model.laid_out(params), frozen)
        logps, entropies = form.logprobs(weights, inputs.completions, form.remat)
        sums = grpo_loss(logps, entropies, inputs, form.objective)
        return sums.loss, (sums, logps)

    gradient, (sums, logps) = jax.grad(loss_of, has_aux=True)(params)
    added = (gradient, sums)
    if state is not None:
        added = jax.tree.map(jnp.add, state, added)
    return added, logps

"""The GRPO loss, from token ids to gradients, without ever holding an array of shape [B, T, V].

Each prompt is encoded once and its G completions attend to it; the vocabulary head runs over chunks of tokens whose
logits are computed again in the backward pass.

Letters: P prompts, G completions of each, B = P * G rows (row i belongs to prompt i // G), S prompt tokens, T
completion tokens, V vocabulary, D embed_dim.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.attention import PLAIN
from tunix_grpo.decoder.forward import Segment, forward, text_positions
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.grpo.algorithms import Divisors, Objective, Tokens, importance_weights
from tunix_grpo.grpo.head_chunks import Measure, head_in_chunks, normalisers_and_entropies, normalisers_and_hits

Prompts: TypeAlias = tuple[jax.Array, jax.Array]  # tokens int32[P, S], padded on the left; bool[P, S], which are real


class LossSums(NamedTuple):
    """Sums over the completion tokens of a part of an update; the sums of all parts add up to the update's.

    Attributes:
        tokens: that have a loss.
        loss: the part's share of the update's loss.
        ratio: of the probability ratios.
        clipped_low: tokens whose gradient the clip below took away.
    """

    tokens: jax.Array
    loss: jax.Array
    kl: jax.Array
    entropy: jax.Array
    ratio: jax.Array
    clipped_low: jax.Array
    clipped_high: jax.Array


class LossInputs(NamedTuple):
    """A part of an update, ready for the loss.

    Attributes:
        completions: B rows.
        advantages: float32[B].
        kept: float32[B], 1 for a completion that has a loss, else 0.
        divisors: what the whole update is divided by, with those of its rows that are here.
        ref_logps: float32[B, T] under the reference; None if beta is 0.
        old_logps: float32[B, T] under the weights that sampled; None: these are the trained weights (the ratio is 1,
            its gradient is not 0).
        sampled_logps: float32[B, T] as the sampler computed them; None where they have no part in the loss.
    """

    completions: Completions
    advantages: jax.Array
    kept: jax.Array
    divisors: Divisors
    ref_logps: jax.Array | None = None
    old_logps: jax.Array | None = None
    sampled_logps: jax.Array | None = None


class Prefix(NamedTuple):
    """What completions see of their prompts.

    Attributes:
        hidden: float[P, D], hidden states of the prompts' last tokens.
        keys: of the prompts, as `Segment` has them.
        values: the same.
    """

    hidden: jax.Array
    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prompt_prefix(
    spec: DecoderSpec, weights: Weights, prompts: Prompts, *, attention_form: str = PLAIN, remat: str = "none"
) -> Prefix:
    """Returns what completions see of their prompts."""
    tokens, valid = prompts
    run = functools.partial(forward, spec, weights, attention_form=attention_form, remat=remat)
    hidden, segment = run(tokens, text_positions(valid), valid)
    return Prefix(hidden[:, -1], segment.keys, segment.values)


def completion_logprobs(
    spec: DecoderSpec,
    weights: Weights,
    batch: Completions,
    temperature: float,
    prefix: Prefix | None = None,
    *,
    attention_form: str = PLAIN,
    remat: str = "none",
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[B, T] log-probabilities of the completions' tokens, and the entropies there.

    Both are of the tempered distribution, softmax(logits / temperature); what lies behind a completion's end is
    meaningless and must be masked.

    Args:
        temperature: of the sampling; at 0 the model's own distribution is meant.
        prefix: of the batch's prompts; None: they run first.
        attention_form: as `attention.attend` takes it.
        remat: as `decoder.forward` takes it.
    """
    form = {"attention_form": attention_form, "remat": remat}
    return _of_tokens(spec, weights, batch, temperature or 1.0, normalisers_and_entropies, prefix, **form)


def completion_hits(
    spec: DecoderSpec, weights: Weights, batch: Completions, *, attention_form: str = PLAIN, remat: str = "none"
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[B, T] log-probabilities of the completions' tokens, and 1 where a token is the likeliest, else 0.

    What lies behind a completion's end is meaningless and must be masked. The arguments are those of
    `completion_logprobs`.
    """
    form = {"attention_form": attention_form, "remat": remat}
    return _of_tokens(spec, weights, batch, 1.0, normalisers_and_hits, None, **form)


def _of_tokens(
    spec: DecoderSpec,
    weights: Weights,
    batch: Completions,
    temperature: float,
    measure: Measure,
    prefix: Prefix | None,
    *,
    attention_form: str,
    remat: str,
) -> tuple[jax.Array, jax.Array]:
    """Returns each completion token's log-probability, and what else is measured of its logits: float32[B, T] each."""
    if prefix is None:
        prefix = prompt_prefix(spec, weights, batch[:2], attention_form=attention_form, remat=remat)
    hidden, seen = _seen_by_rows(prefix, batch)
    rows, length = batch.tokens.shape
    group = rows // len(hidden)
    # A completion's first token is predicted by its prompt's last one, the others by their predecessors.
    predicting = jnp.repeat(hidden[:, None], group, axis=0)
    if length > 1:
        start = jnp.repeat(seen.positions[:, -1:] + 1, group, axis=0)
        positions = start + jnp.arange(length - 1)
        run = functools.partial(forward, spec, weights, attention_form=attention_form, remat=remat)
        hidden, _ = run(batch.tokens[:, :-1], positions, batch.mask()[:, :-1], seen)
        predicting = jnp.concatenate([predicting, hidden], axis=1)
    predicting = layouts.rows(predicting)
    flat = predicting.reshape(rows * length, -1)
    first, second = head_in_chunks(
        weights, flat, batch.tokens.reshape(-1), temperature, spec.vocab_size, measure=measure
    )
    return layouts.rows(first.reshape(rows, length)), layouts.rows(second.reshape(rows, length))


def _seen_by_rows(prefix: Prefix, batch: Completions) -> tuple[jax.Array, Segment]:
    """Returns float[M, D], the prompts' last hidden states, and the prompts: M is P, or B where rows say theirs."""
    hidden, keys, values = prefix
    positions, valid = text_positions(batch.prompt_valid), batch.prompt_valid
    if batch.prompt is not None:
        devices = layouts.devices(layouts.FSDP)
        of_device = len(hidden) // devices
        # A product with ones and zeros, and not an index: backward that is a product too, and no scattering. Rows find
        # their prompts on their own device.
        choice = jax.nn.one_hot(batch.prompt.reshape(devices, -1), of_device, dtype=hidden.dtype)

        def chosen(x: jax.Array, axis: int) -> jax.Array:
            x = x.reshape(*x.shape[:axis], devices, of_device, *x.shape[axis + 1 :])
            ends = "abc"[:axis], "wxyz"[: x.ndim - axis - 2]
            form = f"drp,{ends[0]}dp{ends[1]}->{ends[0]}dr{ends[1]}"
            x = jnp.einsum(form, choice.astype(x.dtype), x, precision=jax.lax.Precision.HIGHEST)
            return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

        hidden = chosen(hidden, 0)
        keys, values = (tuple(chosen(x, 2) for x in stacks) for stacks in (keys, values))
        # float32 holds such small integers exactly
        positions, valid = (chosen(x.astype(jnp.float32), 0).astype(x.dtype) for x in (positions, valid))
    return hidden, Segment(keys, values, positions, valid)


def grpo_loss(logps: jax.Array, entropies: jax.Array, inputs: LossInputs, objective: Objective) -> LossSums:
    """Returns the policy loss with its KL penalty, to be minimised (GRPO: arXiv:2402.03300, equation 3).

    Its three switches are in `algorithms`. The sum over the parts of an update does not depend on how it was cut. The
    other sums are over the tokens that have a loss.

    Args:
        logps: float32[B, T] under the trained weights.
        entropies: float32[B, T], only summed up.
    """
    batch = inputs.completions
    mask = batch.mask()
    counted = mask * inputs.kept[:, None]
    old = jax.lax.stop_gradient(logps) if inputs.old_logps is None else inputs.old_logps
    log_ratios = jnp.where(mask, logps - old, 0.0)
    cost = objective.ratio(Tokens(logps, log_ratios, inputs.advantages[:, None], mask), objective)
    ratio = jnp.exp(log_ratios)
    token_loss, token_kl = cost.loss, jnp.zeros_like(logps)
    if inputs.sampled_logps is not None:
        token_loss = token_loss * importance_weights(old, inputs.sampled_logps, objective)
    if inputs.ref_logps is not None:
        log_kl = jnp.where(mask, inputs.ref_logps - logps, 0.0)
        token_kl = _token_kl(log_kl, ratio, objective.kl_estimator)
        token_loss = token_loss + objective.beta * token_kl
    per_row = jnp.sum(token_loss * counted, axis=1) / inputs.divisors.per_row
    fixed = jax.lax.stop_gradient
    return LossSums(
        tokens=jnp.sum(counted),
        loss=jnp.sum(per_row) / inputs.divisors.whole,
        kl=jnp.sum(token_kl * counted),
        entropy=jnp.sum(fixed(entropies) * counted),
        ratio=jnp.sum(fixed(ratio) * counted),
        clipped_low=jnp.sum(cost.clipped_low * counted),
        clipped_high=jnp.sum(cost.clipped_high * counted),
    )


@jax.jit
def sampling_difference(
    trained: jax.Array, sampled: jax.Array, batch: Completions
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns sum, maximum and number over the tokens, of |log-probability of the sampler - that of the trainer|.

    Args:
        trained: float32[B, T] under the weights that sampled, as the trainer computes them.
        sampled: float32[B, T] as the sampler computed them.
    """
    difference = jnp.where(batch.mask(), jnp.abs(sampled - trained), 0.0)
    return jnp.sum(difference), jnp.max(difference), jnp.sum(batch.lengths)


def _token_kl(log_ratio: jax.Array, policy_ratio: jax.Array, estimator: str) -> jax.Array:
    """Returns float32[B, T], per-token estimates of KL(policy || reference).

    Args:
        log_ratio: log(reference / policy).
        policy_ratio: policy / the policy that sampled.
    """
    if estimator == "mse_kl":
        return 0.5 * jnp.square(log_ratio)
    k3 = jnp.exp(log_ratio) - log_ratio - 1.0
    return k3 * policy_ratio if estimator == "unbiased" else k3

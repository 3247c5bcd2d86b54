"""The GRPO loss, from token ids to gradients, without ever holding an array of shape [B, T, V].

Each prompt is encoded once and its G completions attend to it; the vocabulary head runs over chunks of tokens whose
logits are computed again in the backward pass.

Letters: P prompts, G completions of each, B = P * G rows (row i belongs to prompt i // G), S prompt tokens, T
completion tokens, V vocabulary, D embed_dim.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder.attention import PLAIN
from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.decoder.spec import DecoderSpec


class LossSums(NamedTuple):
    """Sums over the completion tokens of a part of a step; the sums of all parts add up to the step's."""

    loss: jax.Array
    kl: jax.Array
    entropy: jax.Array
    clipped_low: jax.Array
    clipped_high: jax.Array


def group_advantages(rewards: np.ndarray, num_generations: int) -> np.ndarray:
    """Returns float32[B] advantages (r - mean) / (std + 1e-6) within each group (arXiv:2402.03300, equation 3.2.1).

    std is the sample standard deviation (divided by G - 1), as in Tunix and TRL. A group of equal rewards gets exactly
    zero, so that it moves nothing.

    Args:
        rewards: float[B], groups in a row.
        num_generations: G >= 2.
    """
    groups = np.asarray(rewards, np.float64).reshape(-1, num_generations)
    mean = groups.mean(axis=1, keepdims=True)
    std = groups.std(axis=1, ddof=1, keepdims=True)
    advantages = (groups - mean) / (std + 1e-6)
    equal = groups.max(axis=1, keepdims=True) == groups.min(axis=1, keepdims=True)
    return np.where(equal, 0.0, advantages).reshape(-1).astype(np.float32)


def completion_logprobs(
    spec: DecoderSpec,
    weights: Weights,
    batch: Completions,
    temperature: float,
    *,
    attention_form: str = PLAIN,
    remat: str = "none",
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[B, T] log-probabilities of the completions' tokens, and the entropies there.

    Both are of the tempered distribution, softmax(logits / temperature); what lies behind a completion's end is
    meaningless and must be masked.

    Args:
        temperature: of the sampling; at 0 the model's own distribution is meant.
        attention_form: as `attention.attend` takes it.
        remat: as `decoder.forward` takes it.
    """
    run = functools.partial(forward, spec, weights, attention_form=attention_form, remat=remat)
    rows, length = batch.tokens.shape
    group = rows // batch.prompt_tokens.shape[0]
    prompt_positions = text_positions(batch.prompt_valid)
    hidden, prefix = run(batch.prompt_tokens, prompt_positions, batch.prompt_valid)
    # A completion's first token is predicted by its prompt's last one, the others by their predecessors.
    predicting = jnp.repeat(hidden[:, -1:], group, axis=0)
    if length > 1:
        start = jnp.repeat(prompt_positions[:, -1:] + 1, group, axis=0)
        hidden, _ = run(batch.tokens[:, :-1], start + jnp.arange(length - 1), batch.mask()[:, :-1], prefix)
        predicting = jnp.concatenate([predicting, hidden], axis=1)
    flat = predicting.reshape(rows * length, -1)
    logps, entropies = _head_in_chunks(weights, flat, batch.tokens.reshape(-1), temperature or 1.0, spec.vocab_size)
    return logps.reshape(rows, length), entropies.reshape(rows, length)


def grpo_loss(
    logps: jax.Array,
    entropies: jax.Array,
    old_logps: jax.Array | None,
    ref_logps: jax.Array | None,
    advantages: jax.Array,
    batch: Completions,
    *,
    step_rows: int,
    epsilon: float,
    beta: float,
    kl_estimator: str,
) -> LossSums:
    """Returns the clipped GRPO objective with its KL penalty (arXiv:2402.03300, equation 3), to be minimised.

    Each completion's tokens are averaged, then the completions of the whole step: the sum over the parts of a step does
    not depend on how it was cut. The other sums are over tokens.

    Args:
        logps: float32[B, T] under the trained weights.
        old_logps: under the weights that sampled; None: the same weights (the ratio is 1, its gradient is not 0).
        ref_logps: under the reference; None if beta is 0.
        advantages: float32[B].
        step_rows: completions in the whole step.
        epsilon: the ratio is clipped to [1 - epsilon, 1 + epsilon].
        kl_estimator: low_var_kl (k3) or mse_kl (k2), http://joschu.net/blog/kl-approx.html.
    """
    mask = batch.mask().astype(jnp.float32)
    old = jax.lax.stop_gradient(logps) if old_logps is None else old_logps
    ratio = jnp.exp(jnp.where(batch.mask(), logps - old, 0.0))
    gain = advantages[:, None]
    clipped = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon)
    token_loss = -jnp.minimum(ratio * gain, clipped * gain)
    token_kl = jnp.zeros_like(logps)
    if ref_logps is not None:
        token_kl = _token_kl(jnp.where(batch.mask(), ref_logps - logps, 0.0), kl_estimator)
        token_loss = token_loss + beta * token_kl
    per_row = jnp.sum(token_loss * mask, axis=1) / jnp.maximum(batch.lengths, 1)
    return LossSums(
        loss=jnp.sum(per_row) / step_rows,
        kl=jnp.sum(token_kl * mask),
        entropy=jnp.sum(jax.lax.stop_gradient(entropies) * mask),
        clipped_low=jnp.sum((ratio < 1.0 - epsilon) * (gain < 0) * mask),
        clipped_high=jnp.sum((ratio > 1.0 + epsilon) * (gain > 0) * mask),
    )


def _token_kl(log_ratio: jax.Array, estimator: str) -> jax.Array:
    """Per-token estimate of KL(policy || reference) from log(reference / policy)."""
    if estimator == "low_var_kl":
        return jnp.exp(log_ratio) - log_ratio - 1.0
    return 0.5 * jnp.square(log_ratio)


def _chunk_bytes() -> int:
    """Returns how many bytes of float32 logits are held at once.

    A CPU's caches like few. A GPU reads the whole head for each chunk, and wants fewer chunks.
    """
    return 2**25 if jax.default_backend() == "cpu" else 2**27


def _head_in_chunks(
    weights: Weights, hidden: jax.Array, targets: jax.Array, temperature: float, vocab_size: int
) -> tuple[jax.Array, jax.Array]:
    """Returns float32[N] log-probabilities of the targets and entropies, from float[N, D] hidden states."""
    count = hidden.shape[0]
    chunk = max(16, min(count, _chunk_bytes() // (4 * vocab_size)))
    chunks = -(-count // chunk)
    padding = chunks * chunk - count
    hidden = jnp.pad(hidden, ((0, padding), (0, 0))).reshape(chunks, chunk, -1)
    targets = jnp.pad(targets, (0, padding)).reshape(chunks, chunk)

    @jax.checkpoint
    def of_chunk(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden, targets = inputs
        logits = head_logits(weights, hidden) / temperature
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        logps = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - normaliser
        fixed = jax.lax.stop_gradient(logits - normaliser[:, None])
        return logps, -jnp.sum(jnp.exp(fixed) * fixed, axis=-1)

    logps, entropies = jax.lax.map(of_chunk, (hidden, targets))
    return logps.reshape(-1)[:count], entropies.reshape(-1)[:count]

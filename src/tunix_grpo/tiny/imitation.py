"""The supervised training that the tiny model starts from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tokenizers import Tokenizer

from tunix_grpo import seeds
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.grpo.loss import completion_logprobs
from tunix_grpo.model.decoder_form import whole_weights
from tunix_grpo.model.layout import LeafTree, leaves, nested
from tunix_grpo.tiny.demonstrations import Sum, demonstration, training_questions
from tunix_grpo.tiny.tokenizer import prompt_text

QUESTIONS_PER_STEP = 64
DEMONSTRATIONS_PER_QUESTION = 2
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 200
LOG_INTERVAL_STEPS = 250
MAX_COMPLETION_TOKENS = 14  # of the longest demonstration

_log = logging.getLogger(__name__)


def warm_start(spec: DecoderSpec, tokenizer: Tokenizer, num_steps: int, seed: int) -> LeafTree:
    """Trains random weights on demonstrations.

    Returns:
        The parameters of Tunix's module, as a nested dictionary.
    """
    params = _random_params(spec, seed)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, PEAK_LEARNING_RATE, WARMUP_STEPS, max(num_steps, WARMUP_STEPS + 1)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))

    def loss(params: LeafTree, batch: Completions) -> jax.Array:
        weights = whole_weights(spec, params, jnp.dtype(jnp.float32))
        logps, _ = completion_logprobs(spec, weights, batch, 1.0)
        return -jnp.sum(logps * batch.mask()) / jnp.sum(batch.lengths)

    @jax.jit
    def update(
        params: optax.Params, state: optax.OptState, batch: Completions
    ) -> tuple[optax.Params, optax.OptState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    recent = []
    for step, batch in enumerate(batches(tokenizer, num_steps, seed), start=1):
        params, state, value = update(params, state, batch)
        recent.append(value)
        if step % LOG_INTERVAL_STEPS == 0:
            _log.info("step %d of %d: loss %.4f", step, num_steps, np.mean(recent))
            recent.clear()
    return params


def _random_params(spec: DecoderSpec, seed: int) -> LeafTree:
    """Returns matrices whose outputs have the size of their inputs, and norms as the identity."""
    rng = seeds.generator("tiny weights", seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.zeros(shape, np.float32)
        return rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))

    return nested(
        {leaf.path: jnp.asarray(leaf.load([draw(leaf.file_shape) for _ in leaf.names])) for leaf in leaves(spec)}
    )


def batches(tokenizer: Tokenizer, num_steps: int, seed: int) -> Iterator[Completions]:
    """Yields fresh demonstrations, pass after pass over the training questions."""
    rng = seeds.generator("tiny demonstrations", seed)
    texts = [question.question for question in training_questions()]
    sums = [Sum.of(text) for text in texts]
    prompts = _encode(tokenizer, [prompt_text(text) for text in texts])
    width = max(map(len, prompts))
    order: list[int] = []
    for _ in range(num_steps):
        if len(order) < QUESTIONS_PER_STEP:
            order = list(rng.permutation(len(texts)))
        rows, order = order[:QUESTIONS_PER_STEP], order[QUESTIONS_PER_STEP:]
        asked = np.repeat(rows, DEMONSTRATIONS_PER_QUESTION)
        ids = _encode(tokenizer, [demonstration(sums[row], rng) for row in asked])
        tokens = np.zeros((len(ids), MAX_COMPLETION_TOKENS), np.int32)
        for row, completion in enumerate(ids):
            tokens[row, : len(completion)] = completion
        lengths = np.array([len(completion) for completion in ids], np.int32)
        padded = left_padded([prompts[row] for row in rows], width, 0)
        yield Completions(*(jnp.asarray(part) for part in (*padded, tokens, lengths)))


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]

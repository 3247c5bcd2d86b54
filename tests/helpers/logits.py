"""Logits of left-padded rows: ours, those of transformers, and how far they are apart."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from helpers.models import load
from tunix_grpo.decoder.attention import PLAIN
from tunix_grpo.decoder.cache import empty_cache
from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.generation import decode_step, prefill
from tunix_grpo.decoder.joined import apart
from tunix_grpo.model.model import Model

LENGTH, PROMPT = 21, 10  # longer than the sliding windows of the variants


def left_padded_tokens() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(0).integers(0, 97, (3, LENGTH)).astype(np.int32)
    valid = np.ones((3, LENGTH), bool)
    valid[1, :4] = False
    valid[2, :9] = False
    return tokens, valid


def reference_logits(model, tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    positions = np.maximum(valid.cumsum(axis=1) - 1, 0)
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(tokens),
            attention_mask=torch.tensor(valid.astype(np.int64)),
            position_ids=torch.tensor(positions),
        )
    return output.logits.double().numpy()


def logits_at_once(model: Model, tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Returns [B, T, V]."""
    weights = model.reference
    positions = text_positions(jnp.asarray(valid))
    hidden, _ = forward(model.spec, weights, tokens, positions, jnp.asarray(valid))
    return np.asarray(head_logits(weights, hidden))


def our_logits(model: Model, tokens: np.ndarray, valid: np.ndarray, prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns [B, T, V] computed at once, and [B, T - prompt, V] of the tokens after the prompt, one by one."""
    weights = model.reference
    length = tokens.shape[1] - prompt
    start = (jnp.asarray(tokens[:, :prompt]), jnp.asarray(valid[:, :prompt]))
    _, prompts = prefill(model.spec, weights, *start, PLAIN)
    cache = empty_cache(model.spec, len(tokens), length, model.dtype)
    step = jax.jit(decode_step, static_argnums=0)
    layers = apart(model.spec, weights)
    one_by_one = []
    for t in range(length):
        hidden, cache = step(model.spec, layers, tokens[:, prompt + t], jnp.int32(t), cache, prompts)
        one_by_one.append(np.asarray(head_logits(weights, hidden)))
    return logits_at_once(model, tokens, valid), np.stack(one_by_one, axis=1)


class Distances(NamedTuple):
    """How far float32 logits are from float64 ones.

    Attributes:
        typical: the root mean square over the vocabulary, of the token in the middle.
        largest: of all tokens.
    """

    typical: float
    largest: float


def smollm2_distances(directory: Path) -> tuple[dict[str, Distances], float]:
    """Returns how far logits are from transformers' in float64, on three left-padded chat prompts.

    In float64 transformers still rounds norms and rotary angles to float32.

    Returns:
        Those of `transformers` itself in float32 and of ours `at once`; of the last 8 tokens those of `transformers,
        last` and of ours `one by one`; and the largest logit.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    questions = (
        "Name three fruits.",
        "What is 17 + 25?",
        "A train leaves at nine and arrives at noon. How long does it travel? Answer with the number of hours.",
    )
    batch = tokenizer.apply_chat_template(
        [[{"role": "user", "content": question}] for question in questions],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="np",
    )
    tokens, valid = batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)
    assert len(set(valid.sum(axis=1))) == len(questions)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    float32 = reference_logits(theirs, tokens, valid)
    exact = reference_logits(theirs.double(), tokens, valid)
    prompt = tokens.shape[1] - 8
    at_once, one_by_one = our_logits(load(directory), tokens, valid, prompt)
    last = valid & (np.arange(tokens.shape[1]) >= prompt)

    def distances(found: np.ndarray, places: np.ndarray) -> Distances:
        differences = found - exact[places]
        of_tokens = np.sqrt((differences**2).mean(axis=-1))
        return Distances(float(np.median(of_tokens)), float(np.abs(differences).max()))

    found = {
        "transformers": distances(float32[valid], valid),
        "at once": distances(at_once[valid], valid),
        "transformers, last": distances(float32[last], last),
        "one by one": distances(one_by_one[valid[:, prompt:]], last),
    }
    return found, float(np.abs(exact)[valid].max())

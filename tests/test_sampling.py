"""The sampler against the distribution that it should draw from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_grpo.sampling import _truncate, sample

DRAWS = 20_000


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("vocab", [7, 128, 300])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_frequencies_follow_the_softmax(vocab, temperature):
    """Chi-square over the whole vocabulary; 5 deviations above its mean would be one run in millions."""
    logits = 2.0 * jax.random.normal(jax.random.key(1), (vocab,))
    tokens, _ = sample(jnp.broadcast_to(logits, (DRAWS, vocab)), keys(DRAWS), temperature=temperature)
    expected = DRAWS * np.asarray(jax.nn.softmax(logits / temperature), np.float64)
    counts = np.bincount(np.asarray(tokens), minlength=vocab)
    common = expected >= 5  # the chi-square approximation needs some counts in every cell
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], max(expected[~common].sum(), 1e-9))
    used = wanted > 1
    statistic = ((observed - wanted)[used] ** 2 / wanted[used]).sum()
    degrees = used.sum() - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


def test_temperature_zero_is_greedy_and_its_log_probability_the_models():
    logits = jax.random.normal(jax.random.key(2), (5, 300))
    tokens, logps = sample(logits, keys(5), temperature=0.0)
    np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
    np.testing.assert_allclose(logps, jax.nn.log_softmax(logits).max(axis=-1), rtol=1e-6)


def test_a_row_depends_on_its_own_key_alone():
    logits = jax.random.normal(jax.random.key(3), (8, 300))
    together, _ = sample(logits, keys(8), temperature=1.0)
    alone = [int(sample(logits[i : i + 1], keys(8)[i : i + 1], temperature=1.0)[0][0]) for i in range(8)]
    assert list(together) == alone


def test_impossible_tokens_are_never_drawn():
    logits = jnp.full((2000, 300), -jnp.inf).at[:, [3, 131, 299]].set(0.0)
    tokens, _ = sample(logits, keys(2000), temperature=1.0)
    assert set(np.asarray(tokens).tolist()) == {3, 131, 299}


@pytest.mark.parametrize("top_k", [1, 5, 299])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 1.0])
def test_truncation_keeps_what_a_sorted_reference_keeps(top_k, top_p):
    logits = np.asarray(2.0 * jax.random.normal(jax.random.key(4), (4, 300)))
    kept = np.isfinite(np.asarray(_truncate(jnp.asarray(logits), top_k, top_p)))
    for row in range(4):
        order = np.argsort(-logits[row])[:top_k]
        probs = np.exp(logits[row][order].astype(np.float64))
        probs /= probs.sum()
        before = np.cumsum(probs) - probs
        assert set(np.flatnonzero(kept[row])) == set(order[before < top_p])


def test_log_probabilities_are_tempered():
    logits = jax.random.normal(jax.random.key(5), (6, 50))
    tokens, logps = sample(logits, keys(6), temperature=0.7)
    expected = jax.nn.log_softmax(logits / 0.7)[jnp.arange(6), tokens]
    np.testing.assert_allclose(logps, expected, atol=1e-6)

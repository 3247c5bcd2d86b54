"""The sampler against sorted float64 references: which tokens stay, and how often each is drawn."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tunix_grpo.decoder import sampling
from tunix_grpo.decoder.sampling import sample

TEMPERATURE = 0.8  # of the tests that do not vary it
ROUNDING = 1e-6  # what the sampler promises of its float32 sums


def keys(count: int, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


def normal(vocab: int, deviation: float = 2.0, seed: int = 1) -> np.ndarray:
    return (deviation * np.random.default_rng(seed).standard_normal(vocab)).astype(np.float32)


def all_kinds(vocab: int, seed: int = 0) -> np.ndarray:
    """Returns float32[7, V]: flat, steep, with ties, all equal, some impossible, one dominant, one possible alone."""
    rng = np.random.default_rng(seed)
    impossible = normal(vocab, 2.0, seed + 1)
    impossible[rng.random(vocab) < 0.5] = -np.inf
    dominated = normal(vocab, 1.0, seed + 2)
    alone = np.full(vocab, -np.inf, np.float32)
    impossible[-1], dominated[vocab // 2], alone[vocab // 3] = 1.0, 40.0, -3.0
    rounded = np.asarray(jnp.asarray(normal(vocab, 3.0, seed + 3), jnp.bfloat16), np.float32)
    flat, steep, equal = normal(vocab, 0.1, seed + 4), normal(vocab, 10.0, seed + 5), np.full(vocab, 0.25, np.float32)
    return np.stack([flat, steep, rounded, equal, impossible, dominated, alone])


def reference(logits: np.ndarray, top_k: int | None, top_p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns for one row what the cuts leave, by sorting.

    Returns:
        bool[V], what stays; float64[V], how much those more probable hold after top_k; float64[V], what sampling
        should make of it.
    """
    exact = logits.astype(np.float64)
    ordered = -np.sort(-exact)
    stays = exact >= ordered[min(top_k or len(exact), len(exact)) - 1]
    weights = np.where(stays, np.exp((exact - ordered[0]) / TEMPERATURE), 0.0)
    held = np.cumsum(np.append(0.0, -np.sort(-weights))) / weights.sum()
    before = held[np.searchsorted(-ordered, -exact, side="left")]
    if top_p < 1.0:
        stays &= before < top_p
    probabilities = np.where(stays, weights, 0.0)
    return stays, before, probabilities / probabilities.sum()


@functools.partial(jax.jit, static_argnames=("top_k", "top_p"))
def kept(logits, candidates, top_k, top_p):
    """Returns bool[B, C]: do these tokens, int[B, C], stay?"""
    grouped = sampling._grouped(logits)
    weights = jnp.exp((grouped - jnp.max(logits, axis=-1)[:, None, None]) / TEMPERATURE)
    if top_k is not None and top_k < logits.shape[1]:
        left = sampling._truncated(grouped, weights, top_k, top_p).reshape(len(logits), -1)
        return jnp.take_along_axis(left, candidates, axis=1) > 0
    limit = sampling._limit(sampling._sums(weights), top_p)

    def below_limit(tokens):
        logit = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
        return sampling._sums_above(grouped, weights, logit).sum(axis=-1) < limit

    return jax.lax.map(below_limit, candidates.T).T


def check_what_stays(vocab: int, top_k: int | None, top_p: float) -> None:
    """Compares with the reference: all tokens where that is quick, else those around the cut and some others."""
    logits = all_kinds(vocab)
    rows = [reference(row, top_k, top_p) for row in logits]
    candidates = np.tile(np.arange(vocab), (len(rows), 1))
    if vocab > 300 and top_k is None:
        order = np.stack([np.argsort(before, kind="stable") for _, before, _ in rows])
        cut = np.array([stays.sum() for stays, _, _ in rows])[:, None] + np.arange(-20, 20)
        others = np.random.default_rng(0).integers(0, vocab, (len(rows), 20))
        candidates = np.hstack([np.take_along_axis(order, np.clip(cut, 0, vocab - 1), axis=1), others])
    got = np.asarray(kept(jnp.asarray(logits), jnp.asarray(candidates), top_k, top_p))
    for index, (stays, before, _) in enumerate(rows):
        tokens = candidates[index]
        # Too improbable for a float32 is never drawn, whether it is said to stay or not.
        possible = (logits[index] - logits[index].max()) / TEMPERATURE > -80
        doubtful = (top_p < 1.0) & (np.abs(before - top_p) < ROUNDING)
        counts = (possible & ~doubtful)[tokens]
        np.testing.assert_array_equal(got[index][counts], stays[tokens][counts])


def check_draws(vocab: int, top_k: int | None, top_p: float, rounds: int) -> None:
    """Draws a few tokens of every row: all stay in the reference, with the log-probabilities of the uncut one."""
    logits = all_kinds(vocab)
    draw = jax.jit(functools.partial(sample, temperature=TEMPERATURE, top_k=top_k, top_p=top_p))
    for seed in range(rounds):
        tokens, logps = map(np.asarray, draw(jnp.asarray(logits), keys(len(logits), seed)))
        for row, token, logp in zip(logits, tokens, logps, strict=True):
            _, before, _ = reference(row, top_k, top_p)
            stays, _, _ = reference(row, top_k, 1.0)
            assert stays[token] and np.isfinite(row[token])
            assert before[token] < top_p + ROUNDING
            tempered = row.astype(np.float64) / TEMPERATURE
            np.testing.assert_allclose(logp, tempered[token] - np.logaddexp.reduce(tempered), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("vocab", "top_k", "top_p"),
    [
        (5, 2, 1.0),
        (5, None, 0.9),
        (128, 127, 0.999),
        (129, None, 0.01),
        (300, 1, 0.5),
        (300, 300, 0.9),
        (5000, 50, 1.0),
        (5000, 50, 0.5),
        (5000, None, 0.999),
    ],
)
def test_cuts_leave_what_a_sorted_reference_leaves(vocab, top_k, top_p):
    check_what_stays(vocab, top_k, top_p)
    check_draws(vocab, top_k, top_p, rounds=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(None, 0.01), (None, 0.9), (None, 0.999), (1, 1.0), (50, 0.01), (50, 0.9), (50, 1.0), (6144, 0.999), (7000, 1.0)],
)
@pytest.mark.parametrize("vocab", [49152, 262144])
def test_cuts_leave_what_a_sorted_reference_leaves_of_a_large_vocabulary(vocab, top_k, top_p):
    check_what_stays(vocab, top_k, top_p)
    check_draws(vocab, top_k, top_p, rounds=2)


@pytest.mark.parametrize(
    ("vocab", "top_k", "top_p"),
    [
        (7, None, 1.0),
        (128, None, 1.0),
        (300, None, 1.0),
        (300, 20, 1.0),
        (300, None, 0.9),
        (300, None, 0.3),
        (300, 20, 0.8),
    ],
)
def test_frequencies_follow_the_reference(vocab, top_k, top_p, optimised):
    """Chi-square of 50,000 draws. The seed is fixed: a right sampler fails one seed in a thousand, and not this one."""
    draws = 50_000
    logits = normal(vocab, 1.0)
    draw = jax.jit(functools.partial(sample, temperature=TEMPERATURE, top_k=top_k, top_p=top_p))
    tokens, _ = draw(jnp.broadcast_to(logits, (draws, vocab)), keys(draws))
    expected = draws * reference(logits, top_k, top_p)[2]
    counts = np.bincount(np.asarray(tokens), minlength=vocab)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5  # the approximation needs some counts in every cell; the rest share one
    rare = expected[~common].sum()
    observed = np.append(counts[common], counts[~common].sum() if rare >= 5 else [])
    wanted = np.append(expected[common], rare if rare >= 5 else [])
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    assert stats.chi2.sf(statistic, len(wanted) - 1) > 1e-3


def test_temperature_zero_is_greedy_and_its_log_probability_the_models():
    logits = jnp.asarray(np.stack([normal(300, seed=seed) for seed in range(5)]).round())  # with ties: the first wins
    tokens, logps = jax.jit(functools.partial(sample, temperature=0.0))(logits, keys(5))
    np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))
    np.testing.assert_allclose(logps, jax.nn.log_softmax(logits).max(axis=-1), rtol=1e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (None, 0.5), (50, 0.9)])
def test_a_row_depends_on_its_own_logits_and_key_alone(top_k, top_p):
    """Whatever the number of rows around it, and of the rounds that they need."""
    logits = jnp.asarray(np.stack([normal(1000, seed=seed) for seed in range(33)]))
    draw = jax.jit(functools.partial(sample, temperature=TEMPERATURE, top_k=top_k, top_p=top_p))
    tokens, logps = draw(logits, keys(33))
    for start, stop in [(0, 1), (5, 7), (1, 17)]:
        some_tokens, some_logps = draw(logits[start:stop], keys(33)[start:stop])
        np.testing.assert_array_equal(some_tokens, tokens[start:stop])
        np.testing.assert_allclose(some_logps, logps[start:stop], rtol=3e-7)  # log has another last bit in vectors


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (50, 0.9), (None, 0.5)])
def test_it_draws_the_same_inside_a_loop(top_k, top_p):
    logits = jnp.asarray(np.stack([normal(300, seed=seed) for seed in range(4)]))
    draw = functools.partial(sample, logits, temperature=TEMPERATURE, top_k=top_k, top_p=top_p)

    def step(carry):
        t, tokens = carry
        return t + 1, tokens.at[t].set(draw(jax.vmap(jax.random.fold_in, (0, None))(keys(4), t))[0])

    start = (0, jnp.zeros((3, 4), jnp.int32))
    _, looped = jax.jit(lambda start: jax.lax.while_loop(lambda carry: carry[0] < 3, step, start))(start)
    alone = [jax.jit(draw)(jax.vmap(jax.random.fold_in, (0, None))(keys(4), t))[0] for t in range(3)]
    np.testing.assert_array_equal(looped, alone)


@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (50, 1.0), (None, 0.95), (50, 0.95)])
def test_the_vocabulary_is_never_sorted(top_k, top_p):
    """On the compiled program: what it ranks is a tenth of the vocabulary at most, and nothing calls the host."""
    vocab = 49152
    draw = jax.jit(functools.partial(sample, temperature=TEMPERATURE, top_k=top_k, top_p=top_p))
    text = draw.lower(jax.ShapeDtypeStruct((16, vocab), jnp.float32), keys(16)).compile().as_text()
    shapes = dict(re.findall(r"(%\S+) = (\S+\[[\d,]*\])", text))
    calls = re.findall(r"custom-call\(([^)]*)\).*custom_call_target=\"(\w+)\"", text)
    assert {target for _, target in calls} <= {"TopK"}
    assert len(calls) == (0 if top_k is None else 2)
    for operand, _ in calls:
        assert max(map(int, re.findall(r"\d+", shapes[operand].split("[")[1]))) <= vocab / 10
    assert not re.search(r"\bsort\(", text)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_not_a_number_comes_to_an_end(top_p):
    """A model that has diverged must not hang the run."""
    draw = jax.jit(functools.partial(sample, temperature=1.0, top_p=top_p))
    tokens, logps = draw(jnp.full((2, 300), jnp.nan), keys(2))
    assert tokens.shape == (2,)
    assert np.isnan(logps).all()


@pytest.mark.parametrize("top_k", [None, 20])
def test_a_top_p_next_to_nothing_leaves_the_most_probable_token(top_k):
    logits = jnp.asarray(normal(300))[None]
    tokens, _ = jax.jit(functools.partial(sample, temperature=1.0, top_k=top_k, top_p=1e-60))(logits, keys(1))
    np.testing.assert_array_equal(tokens, jnp.argmax(logits, axis=-1))

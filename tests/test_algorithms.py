"""Every algorithm against numbers written down, against formulas in float64, and by every way to cut a step."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from helpers import float64
from tunix_grpo.config import GrpoConfig, plugins
from tunix_grpo.config.algorithm import in_words
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.advantages import advantage_of, group_advantages
from tunix_grpo.grpo.algorithms import AGGREGATIONS, importance_weights, objective_of
from tunix_grpo.grpo.loss import LossInputs, LossSums, grpo_loss
from tunix_grpo.grpo.minibatches import Part, cut_step, minibatch_order

CONF = Path(__file__).resolve().parent.parent / "conf"
DEFAULTS = yaml.safe_load((CONF / "grpo/default.yaml").read_text())
PRESETS = sorted(file.stem for file in (CONF / "algorithm").glob("*.yaml"))
NAN = np.nan  # what is never to be read


def settings(**changes) -> GrpoConfig:
    return GrpoConfig(**DEFAULTS | {"beta": 0.0} | changes)


def one_group() -> float64.Step:
    """The fixture that TRL 1.16's own loss lines were run on: ratios beyond each side of the clip for both signs."""
    return float64.Step(
        size=4,
        rewards=np.array([1, 0, 0.5, 0]),
        lengths=np.array([3, 2, 1, 3]),
        logps=np.array([[-0.5, -1.2, -0.3], [-0.9, -0.4, NAN], [-2, NAN, NAN], [-0.7, -1.5, -0.2]]),
        old=np.array([[-0.7, -1.1, -0.9], [-0.6, -0.45, NAN], [-1.6, NAN, NAN], [-1, -1.2, -0.25]]),
        ref=np.array([[-0.6, -1.3, -0.4], [-0.8, -0.5, NAN], [-1.9, NAN, NAN], [-0.75, -1.4, -0.3]]),
        truncated=np.array([False, False, False, True]),
        max_tokens=5,
    )


def several_groups(groups: int = 4, size: int = 3, longest: int = 5) -> float64.Step:
    """Random groups of unequal lengths, one of them of equal rewards, some completions cut."""
    rng = np.random.default_rng(2)
    rows = groups * size
    lengths = rng.integers(1, longest + 1, rows)
    rewards = rng.choice([0.0, 0.5, 1.0, 1.5], rows)
    rewards[:size] = 0.5
    old = -rng.uniform(0.1, 2.0, (rows, longest))
    moved, ref = (old + rng.normal(0, 0.35, old.shape) for _ in range(2))
    return float64.Step(size, rewards, lengths, moved, old, ref, rng.random(rows) < 0.3, longest)


GRPO = {"advantage": "group_std", "ratio": "token", "aggregation": "sequence_mean"}
# The losses of `one_group`, from a program in float64; those that TRL 1.16 has too agree with its own lines to 1e-9.
GOLDEN = [
    (GRPO, -0.013078374),
    (GRPO | {"beta": 0.04}, -0.012890790),
    (GRPO | {"beta": 0.04, "kl_estimator": "unbiased"}, -0.012900213),
    (GRPO | {"advantage": "center", "aggregation": "constant_length"}, -0.012733151),
    (GRPO | {"high": 0.28, "aggregation": "token_mean"}, -0.073817996),
    (GRPO | {"delta": 1.3}, -0.016333107),
    (GRPO | {"advantage": "batch_std", "aggregation": "token_mean"}, -0.059108065),
    (GRPO | {"advantage": "center", "ratio": "none", "aggregation": "token_mean"}, -0.077916703),
    (GRPO | {"ratio": "sequence", "low": 3e-4, "high": 4e-4}, 0.024623164),
    (GRPO | {"ratio": "gmpo", "low": 0.4, "high": 0.4}, -0.057394093),
    (GRPO | {"ratio": "cispo", "cap": 5.0, "aggregation": "token_mean"}, 0.072400691),
    (GRPO | {"ratio": "cispo", "cap": 1.28, "aggregation": "token_mean"}, 0.053064339),
    (GRPO | {"ratio": "sapo", "pos": 1.0, "neg": 1.05}, -0.125432903),
    (GRPO | {"advantage": "rloo", "ratio": "trajectory"}, -0.046521115),
    (GRPO | {"advantage": "rloo", "aggregation": "token_mean"}, -0.037727854),
    (GRPO | {"advantage": "max_rl", "aggregation": "token_mean"}, -0.075455709),
]
# More, for the formulas in float64 alone.
FURTHER = [
    GRPO | {"beta": 0.3, "kl_estimator": "mse_kl"},
    GRPO | {"beta": 0.3, "kl_estimator": "unbiased", "aggregation": "token_mean"},
    GRPO | {"mask_truncated": True},
    GRPO | {"mask_truncated": True, "aggregation": "token_mean", "beta": 0.2},
    GRPO | {"mask_truncated": True, "aggregation": "constant_length", "advantage": "center"},
    GRPO | {"ratio": "sequence", "low": 0.05, "high": 0.05, "delta": 1.1, "aggregation": "token_mean"},
    GRPO | {"ratio": "sapo", "pos": 3.0, "neg": 5.0, "aggregation": "constant_length"},
    GRPO | {"advantage": "batch_std"},
]
CASES = [case for case, _ in GOLDEN] + FURTHER
NAMES = {"low": "epsilon_low", "high": "epsilon_high", "pos": "sapo_temperature_pos", "neg": "sapo_temperature_neg"}


def algorithm(case: dict) -> GrpoConfig:
    return settings(**{NAMES.get(key, key): value for key, value in case.items()})


def gains_of(step: float64.Step, grpo: GrpoConfig) -> np.ndarray:
    return group_advantages(step.rewards, step.size, advantage_of(grpo.advantage))


def cut(step: float64.Step, grpo: GrpoConfig, num_minibatches: int, micro_prompts: int) -> list[list[Part]]:
    """Cuts a step as the trainer does, groups without a gradient left out."""
    kept = np.where(step.truncated & grpo.mask_truncated, np.float32(0), np.float32(1))
    has_gradient = None
    if grpo.beta == 0:
        has_gradient = ((gains_of(step, grpo) * kept) != 0).reshape(-1, step.size).any(axis=1)
    order = minibatch_order(len(kept) // step.size, num_minibatches, seed=3, step=7)
    aggregation = AGGREGATIONS[grpo.aggregation]
    return cut_step(order, micro_prompts, step.lengths, kept, aggregation, step.max_tokens, has_gradient)


def part_of_loss(step: float64.Step, part: Part, grpo: GrpoConfig) -> tuple[LossSums, np.ndarray]:
    """Returns the sums of a micro batch and its gradient by token."""
    rows, objective = part.rows, objective_of(grpo)
    shape = (len(rows), step.logps.shape[1])
    prompts = jnp.zeros((len(part.prompts), 1), jnp.int32)
    batch = Completions(prompts, prompts == 0, jnp.zeros(shape, jnp.int32), jnp.asarray(step.lengths[rows]))
    logps, old, ref = (np.nan_to_num(a[rows], nan=-3.0).astype(np.float32) for a in (step.logps, step.old, step.ref))
    inputs = LossInputs(batch, *part.loss_inputs(gains_of(step, grpo)), ref if objective.beta else None, old)

    def loss(logps: jax.Array) -> tuple[jax.Array, LossSums]:
        sums = grpo_loss(logps, logps, inputs, objective)
        return sums.loss, sums

    slope, sums = jax.grad(loss, has_aux=True)(jnp.asarray(logps))
    return sums, np.asarray(slope)


def our_losses(step, grpo, num_minibatches, micro_prompts) -> list[tuple[float, np.ndarray]]:
    """Returns loss and gradient float[B, T] of each minibatch."""
    found = []
    for minibatch in cut(step, grpo, num_minibatches, micro_prompts):
        loss, gradient = 0.0, np.zeros(step.logps.shape)
        for part in minibatch:
            sums, slope = part_of_loss(step, part, grpo)
            loss += float(sums.loss)
            gradient[part.rows] += slope
        found.append((loss, gradient))
    return found


@pytest.mark.parametrize(("case", "expected"), GOLDEN)
def test_the_losses_written_down(case, expected):
    """float32 against float64: sums of a few terms of size 1."""
    step = one_group()
    ((loss, gradient),) = our_losses(step, algorithm(case), 1, 1)
    assert loss == pytest.approx(expected, abs=2e-7)
    gains = float64.advantages(case["advantage"], step)

    def theirs(logps: np.ndarray) -> float:
        return float64.minibatch_loss(case, step, np.arange(4), logps, gains)

    assert theirs(step.logps) == pytest.approx(expected, abs=1e-9)
    slopes = np.nan_to_num(float64.slopes(theirs, step.logps))
    assert np.abs(slopes).max() > 0.01
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("group_std", [1.305579692, -0.783347815, 0.261115938, -0.783347815]),
        ("center", [0.625, -0.375, 0.125, -0.375]),
        ("batch_std", [1.305579692, -0.783347815, 0.261115938, -0.783347815]),  # one group is the whole step
        ("rloo", [0.833333333, -0.5, 0.166666667, -0.5]),
        ("max_rl", [1.666666667, -1, 0.333333333, -1]),
    ],
)
def test_the_advantages_written_down(name, expected):
    np.testing.assert_allclose(gains_of(one_group(), settings(advantage=name)), expected, atol=1e-7)


@pytest.mark.parametrize("name", plugins.ADVANTAGES)
def test_advantages_of_several_groups(name):
    step = several_groups(groups=5, size=4)
    got = gains_of(step, settings(advantage=name))
    np.testing.assert_allclose(got, float64.advantages(name, step), atol=1e-6)
    assert (got[:4] == 0.0).all() and np.abs(got[4:]).max() > 0.1


@pytest.mark.parametrize("value", [0.1, 0.0, -0.7, 1e30])
@pytest.mark.parametrize("name", plugins.ADVANTAGES)
def test_equal_rewards_have_exactly_no_advantage(name, value):
    """Three times 0.1 have a mean that rounds: still exactly zero."""
    got = group_advantages(np.array([value] * 3 + [1.0, 2.0, 4.0]), 3, advantage_of(name))
    assert (got[:3] == 0.0).all()


@pytest.mark.parametrize("cuts", [(1, 4), (1, 2), (1, 1), (2, 1), (2, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_loss_and_gradient_of_every_token_equal_the_formulas(case, cuts):
    """However the step is cut. float32 against float64; the gradient there by central differences."""
    step, (num_minibatches, micro_prompts) = several_groups(), cuts
    gains = float64.advantages(case["advantage"], step)
    order = minibatch_order(4, num_minibatches, seed=3, step=7)
    mine = our_losses(step, algorithm(case), num_minibatches, micro_prompts)
    for (loss, gradient), prompts in zip(mine, order, strict=True):
        rows = (prompts[:, None] * 3 + np.arange(3)).reshape(-1)

        def theirs(logps: np.ndarray, rows: np.ndarray = rows) -> float:
            return float64.minibatch_loss(case, step, rows, logps, gains)

        assert loss == pytest.approx(theirs(step.logps), rel=2e-5, abs=2e-6)
        np.testing.assert_allclose(gradient, float64.slopes(theirs, step.logps), rtol=2e-5, atol=2e-6)


def test_the_fixtures_would_show_every_mistake():
    """Ratios beyond either side of the clip for both signs of the advantage, cut completions, unequal lengths."""
    for step in (one_group(), several_groups()):
        gains = float64.advantages("group_std", step)[:, None] * np.ones(step.logps.shape)
        ratio = np.exp(step.logps - step.old)
        there = np.arange(step.logps.shape[1]) < step.lengths[:, None]
        for far in (ratio < 0.8, ratio > 1.2):
            assert (far & there & (gains > 0)).any() or step.size == 4
            assert (far & there & (gains < 0)).any()
        assert len(set(step.lengths)) > 2 and 0 < step.truncated.sum() < len(step.truncated)


def test_clipped_tokens_are_counted_by_side():
    step, grpo = several_groups(), settings(epsilon_low=0.1, epsilon_high=0.3, beta=1e-9)
    ((part,),) = cut(step, grpo, 1, 4)
    sums, _ = part_of_loss(step, part, grpo)
    gains = gains_of(step, grpo)[:, None]
    there = np.arange(5) < step.lengths[:, None]
    ratio = np.exp(step.logps - step.old)
    assert float(sums.clipped_low) == ((ratio < 0.9) & (gains < 0) & there).sum() > 0
    assert float(sums.clipped_high) == ((ratio > 1.3) & (gains > 0) & there).sum() > 0
    assert float(sums.ratio) == pytest.approx(ratio[there].sum(), rel=1e-5)
    assert float(sums.tokens) == there.sum()


@pytest.mark.parametrize(("importance", "expected"), [("tis", [0.4, 0.9, 1.9, 2.0]), ("icepop", [0.0, 0.9, 1.9, 0.0])])
def test_importance_weights(importance, expected):
    ratios = jnp.log(jnp.array([0.4, 0.9, 1.9, 2.5]))
    got = importance_weights(ratios, jnp.zeros(4), objective_of(settings(importance=importance)))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_importance_weights_are_factors_of_the_loss_without_a_gradient():
    step, grpo = one_group(), settings(importance="tis", aggregation="token_mean")
    ((part,),) = cut(step, grpo, 1, 1)
    prompts = jnp.zeros((1, 1), jnp.int32)
    batch = Completions(prompts, prompts == 0, jnp.zeros((4, 3), jnp.int32), jnp.asarray(step.lengths))
    logps = jnp.full((4, 3), -1.0)
    sampled = logps - jnp.log(jnp.array([2.0, 1.0, 10.0]))  # the trainer gives twice, once, ten times the probability
    inputs = LossInputs(batch, *part.loss_inputs(np.array([1.0, 0, 0, 0], np.float32)), None, logps, sampled)
    slope = jax.grad(lambda x: grpo_loss(x, x, inputs, objective_of(grpo)).loss)(logps)
    np.testing.assert_allclose(slope, np.outer([1, 0, 0, 0], [-2 / 9, -1 / 9, -2 / 9]), rtol=1e-6)


def test_a_group_without_gradient_is_left_out_where_that_saves_a_micro_batch():
    lengths, kept = np.full(12, 2), np.ones(12, np.float32)
    useful = np.array([False, True, False, True, False, False])

    def prompts(has_gradient, micro):
        (parts,) = cut_step([np.arange(6)], micro, lengths, kept, AGGREGATIONS["sequence_mean"], 4, has_gradient)
        assert all(float(part.divisors.whole) == 12 for part in parts)  # who is left out still counts
        return [part.prompts.tolist() for part in parts]

    assert prompts(useful, 1) == [[1], [3]]
    assert prompts(useful, 2) == [[1, 3]]
    assert prompts(useful, 3) == [[0, 1, 3]]
    assert prompts(useful, 6) == [[0, 1, 2, 3, 4, 5]]
    assert prompts(np.zeros(6, bool), 2) == [[0, 1]]
    assert prompts(None, 2) == [[0, 1], [2, 3], [4, 5]]


def test_minibatches_are_whole_groups_dealt_out_by_seed_and_step():
    def dealt(seed, step):
        return [part.tolist() for part in minibatch_order(12, 3, seed=seed, step=step)]

    assert sorted(sum(dealt(5, 1), [])) == list(range(12)) and [len(part) for part in dealt(5, 1)] == [4, 4, 4]
    assert dealt(5, 1) == dealt(5, 1)
    assert dealt(5, 2) != dealt(5, 1) != dealt(6, 1)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_it_says_and_an_override_wins(compose, preset):
    content = yaml.safe_load((CONF / f"algorithm/{preset}.yaml").read_text()).get("grpo", {})
    wanted = {key: float(value) if key.startswith("epsilon") else value for key, value in content.items()}
    chosen = compose(f"algorithm={preset}").grpo
    assert {key: getattr(chosen, key) for key in wanted} == wanted
    for words in (["grpo.beta=0.3", f"algorithm={preset}"], [f"algorithm={preset}", "grpo.beta=0.3"]):
        assert compose(*words).grpo.beta == 0.3


def test_the_default_is_grpo(compose):
    assert compose() == compose("algorithm=grpo")
    assert in_words(compose().grpo) == (
        "(r - mean) / std of the group, token ratio clipped to [0.8, 1.2], mean over each completion, "
        "KL 0.08 (low_var_kl)"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dr_grpo", ["r - mean of the group", "sum over tokens / max_generation_steps", "no KL term"]),
        ("dapo", ["clipped to [0.8, 1.28]", "truncated completions masked", "equal groups replaced"]),
        ("gspo", ["ratio of the sequence (geometric mean) clipped to [0.9997, 1.0004]"]),
        ("rloo", ["r - mean of the others", "ratio of the sequence (product)"]),
        ("cispo", ["token weight capped at 5", "mean over all tokens"]),
        ("sapo", ["soft gate 1/1.05"]),
        ("gmpo", ["geometric mean of log-ratios clipped to [-0.4, 0.4]"]),
        ("reinforce", ["ratio not clipped"]),
    ],
)
def test_the_start_table_says_an_algorithm_in_words(compose, name, words):
    said = in_words(compose(f"algorithm={name}").grpo)
    assert all(word in said for word in words), said


OWN = """import jax.numpy as jnp
import numpy as np

def best_only(rewards):
    return np.where(rewards == rewards.max(axis=1, keepdims=True), 1.0, 0.0)

def wrong_shape(rewards):
    return rewards[0]

def not_finite(rewards):
    return rewards / 0.0

def raises(rewards):
    return rewards.nothing

def plain(logps, old_logps, advantages, mask):
    return -jnp.exp(logps - old_logps) * advantages[:, None]
"""


@pytest.fixture
def own(tmp_path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    return file


def test_an_advantage_of_the_users_own(own, compose):
    chosen = compose(f"grpo.advantage={own}:best_only").grpo.advantage
    got = group_advantages(np.array([1.0, 2, 0, 5, 5, 5]), 3, advantage_of(chosen))
    assert got.tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("wrong_shape", r"returned float64\[3\] for rewards float64\[1, 3\]"),
        ("not_finite", "not finite"),
        ("raises", "raised AttributeError"),
    ],
)
def test_a_wrong_advantage_of_the_users_own(own, name, what):
    with np.errstate(all="ignore"), pytest.raises(UserError, match=what):
        group_advantages(np.array([1.0, 2, 0]), 3, advantage_of(f"{own}:{name}"))


def test_a_ratio_of_the_users_own(own):
    switches = {"advantage": "center", "aggregation": "token_mean"}
    ((mine, slope),) = our_losses(one_group(), settings(ratio=f"{own}:plain", **switches), 1, 1)
    ((theirs, other),) = our_losses(one_group(), settings(ratio="none", **switches), 1, 1)
    assert mine == pytest.approx(theirs, abs=1e-7)
    assert theirs == pytest.approx(-0.077916703, abs=2e-7)
    np.testing.assert_allclose(slope, other, atol=1e-7)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["grpo.advantage=gae"], "grpo.advantage=gae: must be one of group_std, center"),
        (["grpo.ratio=ppo"], "grpo.ratio=ppo: must be one of token, sequence"),
        (["grpo.advantage=nowhere.py:f"], "there is no such file"),
        (
            ["grpo.delta=1.1"],
            "grpo.delta=1.1 and grpo.epsilon=0.2 and grpo.epsilon_high=null: the bound must",
        ),
        (["grpo.aggregation=sum"], "grpo.aggregation=sum: must be one of sequence_mean, token_mean, constant_length"),
        (["grpo.num_minibatches=0"], "grpo.num_minibatches=0"),
    ],
)
def test_what_cannot_be_chosen(compose, words, sentence):
    with pytest.raises(UserError) as caught:
        compose(*words)
    assert sentence in str(caught.value)

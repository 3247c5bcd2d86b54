"""Every algorithm against numbers written down, against formulas in float64, and by every way to cut a step."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from helpers import float64
from helpers.steps import (
    CONF,
    GRPO,
    algorithm,
    cut,
    gains_of,
    one_group,
    our_losses,
    part_of_loss,
    settings,
    several_groups,
)
from tunix_grpo.config import plugins
from tunix_grpo.config.algorithm import in_words
from tunix_grpo.config.composing import checked_command_line
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.advantages import Advantages, advantage_of, group_advantages
from tunix_grpo.grpo.algorithms import AGGREGATIONS, importance_weights, objective_of
from tunix_grpo.grpo.loss import LossInputs, grpo_loss
from tunix_grpo.grpo.minibatches import cut_step, minibatch_order
from tunix_grpo.rewards.scoring import RewardTable

PRESETS = sorted(file.stem for file in (CONF / "algorithm").glob("*.yaml"))


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


def gdpo(parts: dict[str, list[float]], weights: dict[str, float], size: int) -> np.ndarray:
    """Each reward normalised within its group, weighted, summed, standardised over the step; arXiv:2601.05242."""
    summed = []
    for first in range(0, len(next(iter(parts.values()))), size):
        for row in range(first, first + size):
            total = 0.0
            for name, values in parts.items():
                group = values[first : first + size]
                mean = sum(group) / size
                std = np.sqrt(sum((value - mean) ** 2 for value in group) / (size - 1))
                total += weights[name] * (values[row] - mean) / (std + 1e-6)
            summed.append(total)
    mean = sum(summed) / len(summed)
    std = np.sqrt(sum((value - mean) ** 2 for value in summed) / (len(summed) - 1))
    return np.array([(value - mean) / (std + 1e-6) for value in summed])


PARTS = {"right": [1.0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1], "form": [0.0, 1, 1, 0, 1, 1, 1, 1, 0.5, 0, 1, 0.25]}
TOTAL = [2.0, 0.5, 0.5, 0, 2.5, 2.5, 2.5, 2.5, 0.25, 2, 0.5, 2.125]
WEIGHTS = {"right": 2.0, "form": 0.5, "seen": 0.0}


def table(**changes) -> RewardTable:
    return RewardTable(**{"total": TOTAL, "parts": PARTS | {"seen": [float(row) for row in range(12)]}} | changes)


def test_rewards_can_be_normalised_one_by_one():
    """Right and formed answers trade 2 to 0.5 in a sum, 1 to 1 where each is normalised and the weights are equal."""
    advantages = Advantages(advantage_of("group_std"), WEIGHTS)
    got = advantages.of(table(), 4)
    np.testing.assert_allclose(got, gdpo(PARTS, WEIGHTS, 4), atol=1e-6)
    assert (got[4:8] == 0.0).all()
    assert advantages.equal(table(), 4).tolist() == [False, True, False]
    summed = Advantages(advantage_of("group_std"), None).of(table(), 4)
    np.testing.assert_array_equal(summed, group_advantages(np.array(TOTAL), 4))
    assert np.abs(summed - got).max() > 0.1


def test_groups_whose_parts_differ_teach_something_though_their_sums_are_equal():
    parts = {"right": [1.0, 0, 1, 0], "form": [0.0, 4, 0, 4]}
    equal_sums = RewardTable([2.0] * 4, parts)
    assert Advantages(advantage_of("group_std"), None).equal(equal_sums, 4).tolist() == [True]
    each = Advantages(advantage_of("group_std"), {"right": 2.0, "form": 0.25})
    assert each.equal(equal_sums, 4).tolist() == [False] and np.abs(each.of(equal_sums, 4)).max() > 0.5


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_group_whose_reward_could_not_be_had_teaches_nothing(weights):
    advantages = Advantages(advantage_of("group_std"), weights)
    skipped = table(skipped=frozenset({8, 9, 10, 11}))
    assert advantages.equal(skipped, 4).tolist() == [False, True, True]
    assert (advantages.of(skipped, 4)[8:] == 0.0).all() and (advantages.of(skipped, 4)[:4] != 0.0).any()


@pytest.mark.parametrize("weights", [None, {"right": 1.0}])
def test_skipped_groups_have_no_part_in_what_is_taken_over_the_step(weights):
    """What is known of their rewards, here a large part of them, would change the deviation of the others."""
    values = [1.0, 0, 0, 1, 0, 0, 0, 1]
    advantages = Advantages(advantage_of("batch_std"), weights)
    alone = advantages.of(RewardTable(values, {"right": values}), 4)
    values = [*values, 90.0, -90, 0, 0]
    assert advantages.of(RewardTable(values, {"right": values}, skipped=frozenset(range(8, 12))), 4).tolist() == [
        *alone.tolist(),
        *[0.0] * 4,
    ]
    assert advantages.of(RewardTable(values, {"right": values}, skipped=frozenset(range(12))), 4).tolist() == [0.0] * 12


def test_a_reward_that_does_not_apply_counts_as_the_mean_of_its_group():
    parts = {"right": [1.0, 0, None, 0.5], "form": [None] * 4}
    got = Advantages(advantage_of("center"), {"right": 1.0, "form": 1.0}).of(RewardTable([0.0] * 4, parts), 4)
    np.testing.assert_allclose(got, np.array([0.5, -0.5, 0, 0]) / np.std([0.5, -0.5, 0, 0], ddof=1), rtol=1e-5)


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


def test_dapo_punishes_length_beside_whatever_rewards_are_selected(compose):
    assert compose().reward.overlong is None
    assert compose("algorithm=dapo", "reward=[correctness]").reward.overlong.weight == 1.0
    assert compose("algorithm=dapo", "reward.overlong.weight=0.3").reward.overlong.weight == 0.3
    words = ["reward.overlong=null", "algorithm=dapo"]
    assert checked_command_line(words, CONF, "config") == words
    assert compose(*words).reward.overlong is None


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


def test_the_start_table_says_how_several_rewards_are_normalised(compose):
    said = in_words(compose("reward.normalisation=per_reward").grpo, "per_reward")
    assert said.startswith("(r - mean) / std of the group, of each reward by itself, their sum standardised")


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


def of_rows(logps, old_logps, advantages, mask):
    return -advantages


def unlike(logps, old_logps, advantages, mask):
    return -jnp.exp(logps - old_logps) * advantages
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
    ("name", "what"),
    [("of_rows", r"returned an array of shape \[4\] for .* \[4, 3\]"), ("unlike", r"raised \w+Error: ")],
)
def test_a_wrong_ratio_of_the_users_own(own, name, what):
    with pytest.raises(UserError, match=f"^grpo.ratio=.*mine.py:{name} {what}"):
        our_losses(one_group(), settings(ratio=f"{own}:{name}"), 1, 1)


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

"""Intervals, pass@k, majority votes and paired tests: against counts by hand, and against scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tunix_grpo.grpo.statistics import (
    Estimate,
    majority_at_k,
    means,
    paired_means,
    paired_shares,
    pass_at_k,
    powers_up_to,
    share,
)


def right_or_wrong(gained: int, lost: int, both: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Returns what two models have right: so many questions only the first, only the second, both, neither."""
    ours = [True] * gained + [False] * lost + [True] * both + [False] * neither
    theirs = [False] * gained + [True] * lost + [True] * both + [False] * neither
    return ours, theirs


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (57, 128), (1, 1)])
def test_a_share_has_wilsons_interval(successes, count):
    z = 1.959963984540054
    centre = (successes + z**2 / 2) / (count + z**2)
    margin = z / (count + z**2) * math.sqrt(successes * (count - successes) / count + z**2 / 4)
    assert share(successes, count) == pytest.approx((successes / count, centre - margin, centre + margin))


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        rows = [True] * right + [False] * (samples - right)
        wanted = np.mean([any(chosen) for chosen in itertools.combinations(rows, k)])
        assert pass_at_k([right], samples, k) == pytest.approx([wanted])
    assert pass_at_k([0, samples], samples, samples) == pytest.approx([0, 1])


def test_pass_at_k_of_many_samples_overflows_nowhere():
    assert pass_at_k([1], 2000, 1000) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("votes", "k", "wanted"),
    [
        ("aab", 3, 1.0),
        ("bba", 3, 0.0),
        ("ab", 2, 1.0),  # equally common: the first one wins
        ("ba", 2, 0.0),
        ("-ab", 3, 1.0),  # no answer is no vote
        ("--a", 3, 1.0),
        ("---", 3, 0.0),
        ("aabb", 2, 0.5),  # two blocks
        ("aabbb", 2, 0.5),  # the fifth is in no block
        ("abab", 1, 0.5),
        ("bbaaa", 5, 1.0),
    ],
)
def test_the_commonest_answer_counts(votes, k, wanted):
    """a is right."""
    given = [None if vote == "-" else vote for vote in votes]
    assert majority_at_k(given, [vote == "a" for vote in given], k) == wanted


@pytest.mark.parametrize(("samples", "wanted"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_the_k_that_are_shown(samples, wanted):
    assert powers_up_to(samples) == wanted


def test_the_bootstrap_interval_is_that_of_scipy():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    found = means(values, seed=1)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx(values.mean())
    # Ends of two bootstraps differ by about 1/60 of the interval's half: a quantile of 10,000 draws.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found[1:] == pytest.approx(tuple(theirs.confidence_interval), abs=width / 30)
    assert means(values, seed=1) == found != means(values, seed=2)


def test_a_question_without_a_number_does_not_count():
    values = np.array([1.0, 2.0, 4.0])
    assert means(np.array([1.0, np.nan, 2.0, 4.0]), seed=0) == means(values, seed=0)


def test_intervals_say_so_where_there_is_nothing_to_resample():
    assert means(np.array([0.5]), seed=0) == Estimate(0.5, None, None)
    assert means(np.zeros(20), seed=0, shares=True) == share(0, 20)
    assert means(np.ones(20), seed=0, shares=True) == share(20, 20)
    assert means(np.ones(20), seed=0) == Estimate(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 2 / 2**5),
        (0, 6, 2 / 2**6),
        (4, 4, 1.0),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
    ],
)
def test_mcnemars_test_is_exact(gained, lost, p_value):
    found = paired_shares(*right_or_wrong(gained, lost, both=7, neither=3))
    assert found.p_value == pytest.approx(p_value)
    assert found.value == pytest.approx((gained - lost) / (gained + lost + 10))
    assert found.low < found.value < found.high


def test_the_interval_of_a_paired_difference_is_bonetts_and_prices():
    """Wald's, with one question added to either kind of discordant ones: 7 and 2 of 42 here."""
    found = paired_shares(*right_or_wrong(6, 1, both=20, neither=13))
    more, less = 7 / 42, 2 / 42
    margin = 1.959963984540054 * math.sqrt((more + less - (more - less) ** 2) / 42)
    assert (found.low, found.high) == pytest.approx((more - less - margin, more - less + margin))


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [(20, 2, "better"), (2, 20, "worse"), (6, 3, "no difference shown"), (0, 0, "no difference shown")],
)
def test_the_verdict(gained, lost, verdict):
    assert paired_shares(*right_or_wrong(gained, lost, both=40, neither=40)).verdict == verdict


def test_so_many_questions_are_needed():
    """Drawn at that number, McNemar's test sees the difference in about 80 of 100 trials."""
    gained, lost = 0.15, 0.05
    found = paired_shares(*right_or_wrong(15, 5, both=40, neither=40))
    assert found.needed == 155  # Connor: ((1.96 sqrt(0.2) + 0.8416 sqrt(0.19)) / 0.1)^2 = 154.6
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(found.needed, [gained, lost, 1 - gained - lost], size=2000)
    seen = [stats.binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b, _ in drawn if a + b]
    assert 0.72 < np.mean(seen) < 0.85  # the exact test sees a little less than the formula's


def test_equal_models_need_no_questions():
    assert paired_shares(*right_or_wrong(3, 3, both=4, neither=4)).needed is None
    same = np.array([0.5, 0.25, 1.0])
    assert paired_means(same, same, seed=0) == (0.0, 0.0, 0.0, 1.0, None)


def test_the_paired_bootstrap_agrees_with_students_test():
    rng = np.random.default_rng(3)
    theirs = rng.random(200)
    ours = theirs + rng.normal(0.03, 0.2, 200)
    found, student = paired_means(ours, theirs, seed=0), stats.ttest_rel(ours, theirs)
    assert found.value == pytest.approx(np.mean(ours - theirs))
    # For 200 questions both are normal; 10,000 resamples leave an error of about 0.005.
    assert found.p_value == pytest.approx(student.pvalue, abs=0.015)
    interval = student.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.003)
    z = 1.959963984540054 + 0.8416212335729143
    assert found.needed == math.ceil(z**2 * np.var(ours - theirs, ddof=1) / found.value**2)


def test_a_p_value_is_never_nothing():
    found = paired_means(np.ones(50), np.zeros(50), seed=0)
    assert (found.verdict, found.p_value) == ("better", pytest.approx(2 / 10_001))

"""How sure a measured number is: intervals, pass@k, majority votes, paired tests. NumPy and scipy alone.

Letters: Q questions, n samples of each, c of them right.

Sources: E. B. Wilson 1927 for a share; M. Chen et al. 2021 (arXiv:2107.03374) for pass@k; Q. McNemar 1947, exact as a
binomial test of the discordant pairs; D. G. Bonett and R. M. Price 2012 for the interval of a paired difference of
shares; R. J. Connor 1987 for the questions that it takes to see one; B. Efron 1979 for the bootstrap.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from tunix_grpo import seeds

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE  # of a test: a smaller p-value shows a difference
POWER = 0.8  # with which a difference is to be seen, where it is asked how many questions that takes
RESAMPLES = 10_000
_NUMBERS_AT_ONCE = 2_000_000  # of the bootstrap


class Estimate(NamedTuple):
    """A number with its 95 % interval; without one where there are too few questions for it."""

    value: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """How much larger a number is than its baseline on the same questions.

    Attributes:
        value: the difference.
        low, high: its 95 % interval.
        p_value: two-sided, of there being no difference, in [0, 1].
        needed: questions at which a difference of this size is seen four times of five (80 % power at the 5 % level);
            None where there is no difference.
    """

    value: float
    low: float
    high: float
    p_value: float
    needed: int | None

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`."""
        if self.p_value >= LEVEL or self.value == 0:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


def share(successes: int, count: int) -> Estimate:
    """Returns successes / count with Wilson's interval.

    Args:
        count: 1 or more.
    """
    interval = stats.binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / count, float(interval.low), float(interval.high))


def pass_at_k(right: Sequence[int], samples: int, k: int) -> np.ndarray:
    """Returns float64[Q]: how probable it is that one of k samples is right, without bias.

    Chen et al. 2021, 1 - C(n - c, k) / C(n, k), the chance that k of the n samples, drawn at random, are not all wrong.

    Args:
        right: int[Q], c of each question.
        samples: n.
        k: 1 to n.
    """
    by_count = [1.0 - math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)]
    return np.array([by_count[c] for c in right])


def majority_at_k(votes: Sequence[Hashable | None], right: Sequence[bool], k: int) -> float:
    """Returns how often the commonest of k answers to a question is right: the mean over blocks of k samples.

    Of answers that are equally common the one that was given first wins, as in lm-evaluation-harness. A sample without
    an answer has no vote, and a block without a vote is wrong.

    Args:
        votes: n answers, equal where they mean the same; None for no answer.
        right: bool[n]; of equal answers the first one decides.
        k: 1 to n; the last n mod k samples are in no block.
    """
    wins = []
    for start in range(0, len(votes) - k + 1, k):
        block = range(start, start + k)
        counts = Counter(votes[row] for row in block if votes[row] is not None)
        winner = max(counts, key=lambda vote: counts[vote], default=None)  # max returns the first, as it was inserted
        wins.append(winner is not None and next(right[row] for row in block if votes[row] == winner))
    return float(np.mean(wins))


def powers_up_to(samples: int) -> list[int]:
    """Returns 1, 2, 4, ... and n itself: the k that are shown of n samples."""
    return sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})


def means(values: np.ndarray, seed: int, *, shares: bool = False) -> Estimate:
    """Returns the mean over questions with its bootstrap interval (percentiles of means of resampled questions).

    Args:
        values: float64[Q], a number of each question; NaN where it has none.
        shares: the values are in [0, 1], so that Wilson's interval can stand in where all of them are 0 or all 1: there
            every resample is the same.
    """
    known = values[~np.isnan(values)]
    value = float(np.mean(known))
    if shares and value in (0.0, 1.0):
        return share(int(value) * len(known), len(known))
    if len(known) < 2:
        return Estimate(value, None, None)
    low, high = np.quantile(_resampled(known, seed), (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(value, float(low), float(high))


def paired_shares(ours: Sequence[bool], theirs: Sequence[bool]) -> Difference:
    """Compares two models that have answered the same Q questions once each.

    The p-value is McNemar's, exact; the interval is Bonett and Price's: Wald's with one pair added to either kind of
    discordant ones.
    """
    count = len(ours)
    gained = sum(our and not their for our, their in zip(ours, theirs, strict=True))
    lost = sum(their and not our for our, their in zip(ours, theirs, strict=True))
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    margin = _z(1 - LEVEL / 2) * math.sqrt((more + less - (more - less) ** 2) / (count + 2))
    value = (gained - lost) / count
    low, high = max(-1.0, more - less - margin), min(1.0, more - less + margin)
    return Difference(value, low, high, p_value, _needed_pairs(gained / count, lost / count))


def paired_means(ours: np.ndarray, theirs: np.ndarray, seed: int) -> Difference:
    """Compares two models by a number of each question, such as the share of its samples that is right.

    Interval and p-value are of the bootstrap over questions: the p-value is twice the part of the resampled means
    that lies on the other side of 0, ends included, with one added to either count so that it is never 0.

    Args:
        ours, theirs: float64[Q], Q at least 2.
    """
    differences = ours - theirs
    value = float(np.mean(differences))
    if not np.any(differences):
        return Difference(0.0, 0.0, 0.0, 1.0, None)
    resampled = _resampled(differences, seed)
    low, high = np.quantile(resampled, (LEVEL / 2, 1 - LEVEL / 2))
    other = min(int(np.sum(resampled <= 0)), int(np.sum(resampled >= 0)))
    p_value = min(1.0, 2 * (other + 1) / (len(resampled) + 1))
    needed = None
    if value != 0:
        z = _z(1 - LEVEL / 2) + _z(POWER)
        needed = max(2, math.ceil(z**2 * float(np.var(differences, ddof=1)) / value**2))
    return Difference(value, float(low), float(high), p_value, needed)


def _needed_pairs(gained: float, lost: float) -> int | None:
    """Returns the questions that McNemar's test needs, by Connor's formula.

    Args:
        gained, lost: shares of the questions that only we, that only the baseline has right.
    """
    difference, discordant = gained - lost, gained + lost
    if difference == 0:
        return None
    root = _z(1 - LEVEL / 2) * math.sqrt(discordant) + _z(POWER) * math.sqrt(discordant - difference**2)
    return math.ceil((root / difference) ** 2)


def _resampled(values: np.ndarray, seed: int) -> np.ndarray:
    """Returns float64[RESAMPLES]: means of Q values drawn with replacement from float64[Q]."""
    count = len(values)
    size = max(1, _NUMBERS_AT_ONCE // count)
    chunks = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    return np.concatenate([_counts(seed, chunk, count, place) @ values for place, chunk in enumerate(chunks)]) / count


@functools.lru_cache(maxsize=16)  # many numbers of the same questions are resampled
def _counts(seed: int, rows: int, count: int, place: int) -> np.ndarray:
    """Returns float32[rows, Q]: how often each question is drawn in each resample."""
    drawn = seeds.generator("bootstrap", seed, place).integers(0, count, (rows, count))
    flat = drawn + np.arange(rows)[:, None] * count
    return np.bincount(flat.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float32)


def _z(quantile: float) -> float:
    return float(stats.norm.ppf(quantile))

"""Whether one of two is better on the questions that both have answered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from tunix_grpo.record.report.intervals import CONFIDENCE


class Difference(NamedTuple):
    """How much larger a share is than another one of the same questions.

    Attributes:
        value: the difference.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p_value: two-sided, of there being no difference, in [0, 1].
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `no difference shown`."""
        if self.p_value >= 1 - CONFIDENCE or self.value == 0:
            return "no difference shown"
        return "better" if self.value > 0 else "worse"


def paired_shares(ours: Sequence[bool], theirs: Sequence[bool]) -> Difference:
    """Compares two that have answered the same questions once each.

    The p-value is McNemar's (1947), exact: that of a fair coin for the questions that only one of the two has right.
    The interval is that of D. G. Bonett and R. M. Price, Journal of Educational and Behavioral Statistics 37 (2012):
    Wald's with one question added to either kind of these.

    Args:
        ours: whether each answer is right, one or more.
        theirs: the same of the other one, in the same order.
    """
    count = len(ours)
    gained = sum(our and not their for our, their in zip(ours, theirs, strict=True))
    lost = sum(their and not our for our, their in zip(ours, theirs, strict=True))
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    margin = z * math.sqrt((more + less - (more - less) ** 2) / (count + 2))
    low, high = max(-1.0, more - less - margin), min(1.0, more - less + margin)
    return Difference((gained - lost) / count, low, high, _fair(gained, gained + lost))


def _fair(heads: int, tosses: int) -> float:
    """Returns how probable it is that a fair coin gives a count at least as far from half of the tosses."""
    tail = sum(math.comb(tosses, count) for count in range(min(heads, tosses - heads) + 1))
    return min(1.0, 2 * tail / 2**tosses)

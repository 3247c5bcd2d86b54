"""What a share that was counted says of the true one."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95
_ROUNDING = 1e-6  # of a share that was logged, far below one question in a hundred thousand


class Share(NamedTuple):
    """A share of questions.

    Attributes:
        value: in [0, 1].
        right: how many it counts; None where it is not known of how many.
        total: of how many.
        low: the lower end of the interval; None where there is none.
        high: the upper end.
    """

    value: float
    right: int | None = None
    total: int | None = None
    low: float | None = None
    high: float | None = None


def wilson(right: int, total: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share, in [0, 1].

    E. B. Wilson, Journal of the American Statistical Association 22 (1927): the shares from which the one that was
    counted lies no further than 1.96 of their own standard deviations. `scipy.stats` has it too, and takes a second to
    load, which no run waits for; a test compares.

    Args:
        right: from 0 to total.
        total: 1 or more.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, scale = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    reach = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (0.0 if right == 0 else middle - reach), (1.0 if right == total else middle + reach)


def share_of(value: float, total: int | None) -> Share:
    """Returns a share with its interval, where it is known over how many questions it was counted."""
    if not total:
        return Share(value)
    right = round(value * total)
    if abs(value - right / total) > _ROUNDING or not 0 <= right <= total:
        return Share(value)
    return Share(value, right, total, *wilson(right, total))

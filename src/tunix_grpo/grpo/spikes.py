"""What is far outside the updates before it: a loss or a gradient that is better left out than learned from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

WINDOW = 128  # updates that one is compared with
FEWEST = 32  # of them, before which nothing is called a spike
_DEVIATION = 1.4826  # of a normal distribution, in units of its median absolute deviation
# Smallest standard deviations that are reckoned with. A loss may be 0 but for rounding, step by step: advantages are of
# size 1, and so is a loss that counts. Norms are compared with their own median.
_LEAST_OF_LOSS, _LEAST_OF_NORM = 0.05, 0.1

Policy = Literal["off", "report", "skip"]


class Limits(NamedTuple):
    """What an update must not exceed; infinity where nothing bounds it.

    Attributes:
        loss: largest loss.
        norm: largest norm of the gradient, before clipping.
    """

    loss: float = math.inf
    norm: float = math.inf


class Spikes:
    """Knows the losses and the gradient norms of the last 128 updates.

    A value is a spike where it lies more than `threshold` robust standard deviations (1.4826 x the median absolute
    deviation, Rousseeuw and Croux 1993, doi 10.1080/01621459.1993.10476408; at least 0.05 for a loss, a tenth of the
    median for a norm) above the median of those before it. A gradient of 0, of groups that are all equal, is not one of
    them: it says nothing of the size of the others.
    """

    def __init__(self, policy: Policy, threshold: float, window: Iterable[Sequence[float]] = ()):
        """
        Args:
            threshold: robust standard deviations, above 0.
            window: as `window` gives it.
        """
        self._policy, self._threshold = policy, threshold
        self.window = [[float(loss), float(norm)] for loss, norm in window]

    def limits_of_updates(self) -> Limits:
        """Returns what the updates of a step must not exceed to be made at all."""
        return self._limits() if self._policy == "skip" else Limits()

    def note(self, updates: Iterable[tuple[float, float]]) -> list[str]:
        """Adds the loss and the norm of a step's updates; returns a few words on each that is a spike."""
        limits, spikes = self._limits(), []
        for loss, norm in updates:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                continue
            spikes += [
                f"{name} {value:.4g} is a spike, above {limit:.4g}"
                for name, value, limit in (("a loss of", loss, limits.loss), ("a gradient norm of", norm, limits.norm))
                if value > limit
            ]
            if norm > 0 and self._policy != "off":
                self.window = [*self.window[1 - WINDOW :], [loss, norm]]
        return spikes

    def _limits(self) -> Limits:
        if self._policy == "off" or len(self.window) < FEWEST:
            return Limits()
        values = np.asarray(self.window, np.float64)
        median = np.median(values, axis=0)
        deviation = _DEVIATION * np.median(np.abs(values - median), axis=0)
        deviation = np.maximum(deviation, [_LEAST_OF_LOSS, _LEAST_OF_NORM * median[1]])
        return Limits(*(median + self._threshold * deviation).tolist())

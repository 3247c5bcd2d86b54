"""In which order questions are asked, by what the ledger knows of them.

Each function takes the candidates int[n] in a random order, which decides between equals, and returns them ranked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tunix_grpo.text.ledger import Ledger

UNSOLVED = 16
"""Tries without a success after which a question waits for the end of its pass."""
UNTRIED_SHARE, UNTRIED_SHARE_IF_FEW = 2, 4
"""One prompt in so many is an untried question, as long as there are any. The second holds while less than half of
those tried lie in the band: then an untried one is worth less than one of these."""
RETEST_SHARE = 8
"""One prompt in so many is a question outside of the band: it may have come back, since the model has changed."""


def seldom_first(ledger: Ledger, candidates: np.ndarray) -> np.ndarray:
    """Ranks what was asked least often first: passes, each in a random order."""
    return candidates[np.argsort(ledger.asked[candidates], kind="stable")]


def hard_first(ledger: Ledger, candidates: np.ndarray) -> np.ndarray:
    """Ranks by pass, and in a pass by the estimated success rate, the lowest first.

    What has been asked less often is first: so every question is asked once in a pass, and what is never solved takes
    no more than one place in it, after UNSOLVED tries the last. A rate changes only when its question is asked, so the
    rates of a pass are those known when it began.
    """
    unsolved = (ledger.successes == 0) & (ledger.tries >= UNSOLVED)
    keys = ledger.rates(), unsolved, ledger.asked  # the last counts most
    return candidates[np.lexsort([key[candidates] for key in keys])]


def band(
    ledger: Ledger, candidates: np.ndarray, bounds: Sequence[float], step: int, rounds: int, prompts_per_round: int
) -> np.ndarray:
    """Ranks for `rounds` batches of prompts: questions whose estimated success rate lies in the band.

    One prompt in UNTRIED_SHARE is untried, one in RETEST_SHARE has left the band; what was not asked for longest is
    first among those in the band, and among those outside. Where too few lie in the band, untried ones take the
    places, then those nearest to it.

    Args:
        bounds: lowest and highest rate, in [0, 1].
        step: from 1; decides where shares that are no whole prompts fall.

    Returns:
        int[at most rounds * prompts_per_round].
    """
    low, high = bounds
    rates, last = ledger.rates()[candidates], ledger.last_step[candidates]
    untried = ledger.asked[candidates] == 0
    inside = ~untried & (rates >= low) & (rates <= high)
    outside = ~untried & ~inside
    distance = np.maximum(low - rates, rates - high)
    by_age = np.argsort(last, kind="stable")
    enough = 2 * rounds * prompts_per_round  # of each kind: what is picked by age is met again by distance
    nearest = np.flatnonzero(outside)[np.argsort(distance[outside], kind="stable")]
    kinds = by_age[inside[by_age]], np.flatnonzero(untried), by_age[outside[by_age]], nearest
    queues = _Queues(*(iter(places[:enough].tolist()) for places in kinds))
    new_one_in = UNTRIED_SHARE if inside.sum() >= outside.sum() else UNTRIED_SHARE_IF_FEW
    picked: list[int] = []
    for block in range(step - 1, step - 1 + rounds):
        retests = _share(block, prompts_per_round, RETEST_SHARE)
        fresh = min(_share(block, prompts_per_round, new_one_in), prompts_per_round - retests)
        picked += queues.take(prompts_per_round, fresh, retests)
    return candidates[picked]


def _share(block: int, size: int, one_in: int) -> int:
    """Returns how many of the places [block * size, (block + 1) * size) are every so many-th."""
    return (block + 1) * size // one_in - block * size // one_in


class _Queues:
    """Places of candidates that wait to be picked, each once."""

    def __init__(self, inside: Iterator[int], untried: Iterator[int], oldest: Iterator[int], nearest: Iterator[int]):
        """
        Args:
            inside: those in the band.
            oldest: those outside, by age.
            nearest: the same, by their distance to the band.
        """
        self._inside, self._untried, self._oldest, self._nearest = inside, untried, oldest, nearest
        self._picked: set[int] = set()

    def take(self, count: int, fresh: int, retests: int) -> list[int]:
        """Picks up to `count` places: some from outside, some untried, then from inside, and what fills up."""
        picked = self._pick(self._oldest, retests) + self._pick(self._untried, fresh)
        for queue in (self._inside, self._untried, self._nearest):
            picked += self._pick(queue, count - len(picked))
        return picked

    def _pick(self, queue: Iterator[int], wanted: int) -> list[int]:
        new = (place for place in queue if place not in self._picked)
        picked = list(itertools.islice(new, wanted))
        self._picked.update(picked)
        return picked

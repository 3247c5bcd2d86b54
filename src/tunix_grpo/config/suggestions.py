"""Guesses what a misspelt word was meant to be."""

from collections.abc import Iterable
from difflib import SequenceMatcher

ALIKE = 0.75


def likeness(word: str, other: str) -> float:
    """Returns how alike two words are, in [0, 1]."""
    return SequenceMatcher(None, word, other).ratio()


def closest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word most like the given one, or None if none is.

    Dotted keys are compared whole and by their last part, so `learning_rate` finds
    `optimizer.learning_rate` and `train.seed` finds `training.seed`.
    """
    last = word.rpartition(".")[2]

    def score(candidate: str) -> tuple[float, float]:
        whole = likeness(word, candidate)
        return max(whole, likeness(last, candidate.rpartition(".")[2])), whole

    best = max(known, key=score, default=None)
    return best if best is not None and score(best)[0] >= ALIKE else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns the end of a sentence that offers a known word, or nothing if none is alike."""
    guess = closest(word, known)
    return f"; did you mean {guess}?" if guess else ""

"""What a single value may be: the rules that the schema's fields carry as metadata."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from typing import Any

RULE = "rule"
ADVICE = "advice"
IS_PATH = "is_path"
BUNDLED = "bundled:"

Rule = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Advice:
    """The range in which a number is usually chosen; outside it the user is warned.

    Attributes:
        low: smallest usual value.
        high: largest usual value.
    """

    low: int
    high: int

    def __call__(self, value: int) -> str | None:
        """Returns a warning that names the range, or None inside it."""
        if self.low <= value <= self.high:
            return None
        return f"outside the usual range {self.low} to {self.high}; going on with it"


def number(
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    hint: str = "",
    advice: Advice | None = None,
) -> Any:
    """Declares a number between bounds; `above` and `below` exclude the bound itself."""
    parts = [
        f"{word} {bound}"
        for word, bound in (
            ("at least", minimum),
            ("above", above),
            ("at most", maximum),
            ("below", below),
        )
        if bound is not None
    ]
    text = f"must be {' and '.join(parts)}" if parts else "must be a finite number"

    def rule(value: float) -> str | None:
        inside = (
            math.isfinite(value)
            and (minimum is None or value >= minimum)
            and (above is None or value > above)
            and (maximum is None or value <= maximum)
            and (below is None or value < below)
        )
        return None if inside else f"{text}; {hint}" if hint else text

    return field(metadata={RULE: rule, ADVICE: advice})


def choice(*words: str) -> Any:
    """Declares a word out of a list."""

    def rule(value: str) -> str | None:
        return None if value in words else f"must be one of {', '.join(words)}"

    return field(metadata={RULE: rule})


def text(*, hint: str) -> Any:
    """Declares a text that may not be empty."""

    def rule(value: str) -> str | None:
        return None if value.strip() else f"must not be empty; {hint}"

    return field(metadata={RULE: rule})


def path(*, hint: str) -> Any:
    """Declares a file or folder; loading makes `~` and relative paths absolute."""

    def rule(value: str) -> str | None:
        return None if value.strip() else f"must not be empty; {hint}"

    return field(metadata={RULE: rule, IS_PATH: True})


def words_or_pattern(*words: str) -> Any:
    """Declares one of the given words or a regular expression."""

    def rule(value: str) -> str | None:
        if value in words:
            return None
        try:
            re.compile(value)
        except re.error as error:
            return f"is neither one of {', '.join(words)} nor a regular expression ({error})"
        return None if value else f"must be one of {', '.join(words)} or a regular expression"

    return field(metadata={RULE: rule})


def words_or_count(*words: str) -> Any:
    """Declares one of the given words or a number from 0 on, as text."""

    def rule(value: str) -> str | None:
        good = value in words or (value.isascii() and value.isdigit())
        return None if good else f"must be one of {', '.join(words)} or a number"

    return field(metadata={RULE: rule})


def absolute(value: str) -> str:
    """Returns a path as an absolute one: `~` expanded, relative to the current directory.

    A name in the package, such as `bundled:tiny`, stays as it is.
    """
    if value.startswith(BUNDLED):
        return value
    return os.path.abspath(os.path.expanduser(value))


def rule_of(declared: Field) -> Rule | None:
    """Returns the rule that a dataclass field carries."""
    return declared.metadata.get(RULE)


def advice_of(declared: Field) -> Rule | None:
    """Returns the advice that a dataclass field carries."""
    return declared.metadata.get(ADVICE)


def is_path(declared: Field) -> bool:
    """Says whether a dataclass field holds a path."""
    return declared.metadata.get(IS_PATH, False)

"""What a reward function returned, checked: a number, None or a number with extras for each completion."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tunix_grpo.config.plugins import describe_error
from tunix_grpo.errors import shortened
from tunix_grpo.rewards.base import Failure, Scored

SHOWN_CHARS = 300
# Of a reward: trackers hold sums and deviations of rewards as float32, which ends at 3.4e38.
LARGEST = 1e30
# What `rewards/<name>/...` has of every reward; an extra of such a name would stand in its place.
_OF_EVERY_REWARD = ("mean", "std", "errors", "timeouts")
_LONGEST_NAME = 64


def failure_of(error: BaseException) -> Failure:
    """Returns what a function raised as its failure."""
    of_text = isinstance(error, TypeError) and "string indices must be integers" in str(error)
    way_out = "; for lists of messages instead of texts, as TRL gives them, there is {settings}.messages=true"
    return Failure("error", f"raised {describe_error(error)}", way_out=way_out if of_text else "", cause=error)


def as_list(result: object) -> list[object] | None:
    """Returns what a function gave for several completions as a list; None where it is no row of values."""
    if isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping, Scored, Failure)):
        return list(result)
    return None


def checked(result: object, count: int) -> list[Scored | Failure]:
    """Returns the values of `count` completions as finite floats, or what is wrong with them.

    Args:
        result: of a reward function.
    """
    values = as_list(result)
    if values is None:
        wrong = f"returned {shown(result)}; it must return a list of numbers, one for each completion"
        return [Failure("error", wrong, about="nothing")] * count
    if len(values) != count:
        wrong = f"returned {len(values)} values for {count} completions; it must return one number for each"
        return [Failure("error", wrong, about="nothing")] * count
    return [checked_value(value) for value in values]


def checked_value(value: object) -> Scored | Failure:
    """Returns the value of one completion with finite floats, or what is wrong with it."""
    if isinstance(value, Failure):
        return value
    value, extras = with_extras(value)
    numbers: dict[str, float] = {}
    for name, each in extras.items():
        number = _finite(each, f" as {name}")
        if isinstance(number, Failure):
            return number
        numbers[extra_name(name)] = number
    number = None if value is None else _finite(value)
    return number if isinstance(number, Failure) else Scored(number, numbers)


def with_extras(value: object) -> tuple[object, Mapping[str, object]]:
    """Splits a value, which may be a pair of a number and extras by name."""
    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], Mapping):
        return value[0], value[1]
    return value, {}


def extra_name(name: object) -> str:
    """Returns the name under which an extra is logged: of letters, digits, `_`, `.` and `-`, and no other metric's."""
    word = re.sub(r"[^\w.-]+", "_", str(name))[:_LONGEST_NAME] or "_"
    return f"own_{word}" if word in _OF_EVERY_REWARD else word


def as_number(value: Any) -> float | None:
    """Returns a number of any kind, array scalars included, as a float; None for anything else."""
    if value is None or isinstance(value, (str, bytes)) or np.ndim(value) != 0:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def shown(value: object) -> str:
    """Returns a value as a message shows it."""
    return shortened(repr(value), SHOWN_CHARS)


def to_json(values: Sequence[Scored | Failure]) -> list[Any]:
    """Returns checked values as JSON holds them; `from_json` reads them."""
    return [["failure", *value] if isinstance(value, Failure) else [*value] for value in values]


def from_json(values: Sequence[Any]) -> list[Scored | Failure]:
    """Returns what `to_json` was given."""
    return [Failure(*value[1:]) if value[0] == "failure" else Scored(*value) for value in values]


def _finite(value: object, what: str = "") -> float | Failure:
    number = as_number(value)
    if number is None or not math.isfinite(number):
        return Failure("error", f"returned {shown(value)}{what}, not a finite number,")
    if abs(number) > LARGEST:
        too_large = f"returned {number:.3g}{what}, more than {LARGEST:.3g} in size,"
        return Failure("error", too_large, way_out="; divide it, or bound it")
    return number

"""What a single value may be: the types that the schema's fields are made of, and the bounds and hints beside them.

A value may be written in any way that means it: 1e3 and "1000" are whole numbers too, 12 may be a name.
"""

import datetime
import errno
import math
import os
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict

BUNDLED = "bundled:"
MAX_SEED = 2**32 - 1

# How a group of settings is declared: a key that it does not have is an error, and so is NaN.
GROUP = ConfigDict(extra="forbid", allow_inf_nan=False)


def as_float(value: object) -> object:
    """Returns a number as a float, also one that is written as text; no truth value is a number."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return float(value) if isinstance(value, int | str) else value
    except ValueError:
        return value
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def as_whole(value: object) -> object:
    """Returns a number as an int where it is whole, also one that is written as text."""
    number = as_float(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def as_flag(value: object) -> object:
    """Returns true and false, written in any case, as truth values."""
    return {"true": True, "false": False}.get(str(value).lower(), value)


def as_text(value: object) -> object:
    """Returns a number or truth value as text."""
    return str(value) if isinstance(value, int | float) else value


def absolute(value: str) -> str:
    """Returns a path as an absolute one: `~` expanded, relative to the current directory.

    A name in the package, such as `bundled:tiny`, stays as it is.
    """
    if value.startswith(BUNDLED):
        return value
    return os.path.abspath(os.path.expanduser(value))


def of_this_machine(value: str) -> str:
    """Returns a path as it is.

    Raises:
        ValueError: it names a place in the network, such as gs://bucket/run, which would become folders called `gs:`.
    """
    scheme, separator, _ = value.partition("://")
    if separator and scheme.isalnum():
        raise ValueError(
            f"is no folder or file of this machine; give one: what {scheme}:// names can be copied, or mounted here"
        )
    return value


def address(value: str) -> str:
    """Returns an address such as gs://bucket/run as it is, and a path as an absolute one.

    Raises:
        ValueError: it names no place.
    """
    scheme, separator, place = value.partition("://")
    if not separator:
        return of_a_file(absolute(value))
    if not (scheme and place.strip("/")):
        raise ValueError("names no place; give gs://BUCKET/FOLDER, s3://BUCKET/FOLDER or a folder")
    return value


def of_a_file(path: str) -> str:
    """Returns a path; what else may be wrong with it is said by whoever opens it.

    Raises:
        ValueError: the system has no such names.
    """
    try:
        os.lstat(path)
    except ValueError:
        raise ValueError("holds a NUL, as no name of a file does; give another") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError("is too long for the name of a file; give another") from None
    return path


Whole = Annotated[int, BeforeValidator(as_whole)]
Number = Annotated[float, BeforeValidator(as_float)]
Flag = Annotated[bool, Strict(), BeforeValidator(as_flag)]
Text = Annotated[str, BeforeValidator(as_text)]
Name = Annotated[Text, Field(pattern=r"\S")]  # not empty
Path = Annotated[  # a file or folder
    Name, AfterValidator(of_this_machine), AfterValidator(absolute), AfterValidator(of_a_file)
]
Address = Annotated[Name, AfterValidator(address)]  # a folder of this machine, or a place in the network
Values = dict[str, Any]  # names and values of a library, which checks them itself


def reference(value: str) -> str:
    """Returns FILE.py:NAME with an absolute path."""
    file, _, name = value.rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise ValueError("must be FILE.py:NAME")
    return f"{absolute(file)}:{name}"


Reference = Annotated[Text, AfterValidator(reference)]
NameOrReference = Annotated[Name, AfterValidator(lambda text: reference(text) if ".py:" in text else text)]


def named_or_reference(*names: str) -> AfterValidator:
    """Accepts one of some names, or FILE.py:NAME of a function of the user's."""

    def check(value: str) -> str:
        if value in names:
            return value
        try:
            return reference(value)
        except ValueError:
            raise ValueError(f"must be one of {', '.join(names)}, or FILE.py:NAME") from None

    return AfterValidator(check)


def iso_date(value: str) -> str:
    """Checks a day of the form YYYY-MM-DD."""
    try:
        right = datetime.date.fromisoformat(value).isoformat() == value
    except ValueError:
        right = False
    if not right:
        raise ValueError("must be a day, written YYYY-MM-DD")
    return value


def band(value: object) -> list[float]:
    """Returns the ends of a range in [0, 1], each written in any way that means a number."""
    ends = [as_float(end) for end in value] if isinstance(value, list | tuple) else []
    numbers = [end for end in ends if isinstance(end, float)]
    if len(ends) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] <= 1:
        raise ValueError("must be two numbers from 0 to 1, the lower one first; usual is [0.05, 0.95]")
    return numbers


Band = Annotated[list[float], BeforeValidator(band)]
Date = Annotated[Text, AfterValidator(iso_date)]

# YAML reads a bare off as false.
Look = Annotated[Literal["warn", "stop", "off"], BeforeValidator(lambda value: "off" if value is False else value)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
Device = Literal["cuda", "cpu", "tpu", "auto"]


def number(
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    hint: str = "",
    usual: tuple[int, int] | None = None,
) -> Any:
    """Declares a number between bounds; `above` and `below` exclude the bound itself.

    Args:
        hint: the way out, said after what is wrong.
        usual: outside this range, ends included, the user is warned.
    """
    extra = {"hint": hint, "usual": usual}
    return Field(ge=minimum, gt=above, le=maximum, lt=below, json_schema_extra=extra)


def hint(text: str) -> Any:
    """Declares the way out, said after what is wrong with a value."""
    return Field(json_schema_extra={"hint": text})


def hidden() -> Any:
    """Declares a value that no message shows: somebody may have given a secret in its place."""
    return Field(json_schema_extra={"hidden": True})


def words_or(matches: Callable[[str], object], kind: str, *words: str) -> AfterValidator:
    """Accepts one of the given words, or a text for which `matches` is true and does not raise.

    Args:
        kind: what such a text is, with its article.
    """

    def check(value: str) -> str:
        try:
            if value in words or matches(value):
                return value
        except re.error as error:
            raise ValueError(f"is neither one of {', '.join(words)} nor {kind} ({error})") from error
        raise ValueError(f"must be one of {', '.join(words)} or {kind}")

    return AfterValidator(check)


Modules = Annotated[
    Text, words_or(lambda text: text and re.compile(text), "a regular expression", "all", "attention", "mlp")
]
EvaluationMetric = Annotated[
    Text,
    words_or(
        lambda text: re.fullmatch(r"eval/[^\W\d]\w*/(accuracy|reward)", text),
        "eval/NAME/accuracy, eval/NAME/reward of a task of evaluation.tasks",
        "eval/accuracy",
        "eval/reward",
    ),
]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


Step = Annotated[Text, words_or(_is_number, "a number", "latest", "best")]
Steps = Annotated[Text, words_or(_is_number, "a number", "latest", "best", "all")]

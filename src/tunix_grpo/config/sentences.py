"""What is wrong with a setting, in a sentence with the key, the value and the way out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tunix_grpo.config.rules import Values
from tunix_grpo.config.suggestions import did_you_mean

PACKAGE_HINT = "; an experiment's file begins with the line # @package _global_"
# What pydantic calls a key that is not there, and one that there is not.
MISSING, UNKNOWN = "missing", "unexpected_keyword_argument"
_TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Values: "names and values, as in {name: value}",
}
_BOUND_WORDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")


class Entry(NamedTuple):
    """One field of the schema: a single value, or a section of them.

    Attributes:
        field: its bounds and hints.
        type: the type of the value, or the section's dataclass.
        optional: whether it may be null.
    """

    field: FieldInfo
    type: type
    optional: bool

    def extra(self, name: str) -> Any:
        """Returns `hint`, `usual` or `hidden` of the field, as `rules` declares it."""
        extra = self.field.json_schema_extra
        return extra.get(name) if isinstance(extra, dict) else None

    def wanted(self) -> str:
        """Returns what a value must be, in words."""
        word = "a group of settings" if is_dataclass(self.type) else _TYPE_WORDS.get(self.type, "of another kind")
        return f"{word} or null" if self.optional else word

    def bounds(self) -> str:
        """Returns the bounds of a number in words, such as `above 0 and below 1`; empty without any."""
        rules = self.field.metadata
        found = [(word, getattr(rule, name, None)) for rule in rules for name, word in _BOUND_WORDS.items()]
        return " and ".join(f"{word} {bound}" for word, bound in found if bound is not None)


def field_names(section: type) -> set[str]:
    """Returns the names of a section's own keys."""
    return set(section.__pydantic_fields__)


def schema_entries(section: type, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Yields the dotted key and the entry of every section and value of the schema."""
    hints = get_type_hints(section)
    for name, field in section.__pydantic_fields__.items():
        key, hint = prefix + name, hints[name]
        members = [member for member in get_args(hint) if member is not NoneType]
        optional = NoneType in get_args(hint)
        inner = members[0] if optional and len(members) == 1 else hint
        inner = type(get_args(inner)[0]) if get_origin(inner) is Literal else inner
        yield key, Entry(field, inner, optional)
        if isinstance(inner, type) and is_dataclass(inner):
            yield from schema_entries(inner, f"{key}.")


def readable(values: Mapping[str, object], entries: Mapping[str, Entry]) -> Iterator[tuple[str, object]]:
    """Yields the values that the schema takes, in the types that it declares: the number 1 as a name is "1"."""
    for key, value in values.items():
        entry = entries.get(key)
        if entry is None or value is None or (entry.type in _TYPE_WORDS and type(value) is entry.type):
            yield key, value
            continue
        declared: Any = entry.field.annotation
        for rule in entry.field.metadata:
            declared = Annotated[declared, rule]
        with suppress(ValidationError):  # a part of something that has a sentence already
            yield key, TypeAdapter(declared).validate_python(value)


def value_keys(schema: type) -> list[str]:
    """Returns the dotted key of every setting that holds a value."""
    return [key for key, entry in schema_entries(schema) if not is_dataclass(entry.type)]


def show(value: object) -> str:
    """Returns a value as it is written on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def sentence(key: str, error: ErrorDetails, entry: Entry | None, known: Sequence[str]) -> str:
    """Returns what is wrong with a setting.

    Args:
        key: its dotted key.
        error: what pydantic says of it.
        entry: None where there is no such setting.
        known: the settings that there are.
    """
    if entry is None:
        return f"{key}: unknown setting{PACKAGE_HINT if key == 'experiment' else did_you_mean(key, known)}"
    given = f"{key}={'***' if entry.extra('hidden') else show(error['input'])}"
    kind, context = error["type"], error.get("ctx", {})
    hint = f"; {entry.extra('hint')}" if entry.extra("hint") else ""
    if kind == MISSING:
        return f"{key}: has no value; give {key}=VALUE, {entry.wanted()}"
    if is_dataclass(entry.type):
        return f"{given}: is a group of settings; give {key}.NAME=VALUE"
    if kind == "value_error":
        return f"{given}: {context['error']}"
    if kind == "literal_error":
        return f"{given}: must be one of {context['expected'].replace(' or ', ', ').replace(chr(39), '')}"
    if kind == "string_pattern_mismatch":
        return f"{given}: must not be empty{hint}"
    if kind in _BOUNDS:
        wanted = entry.bounds()
        if kind == "finite_number":
            wanted = f"a finite number, {wanted}" if wanted else "a finite number"
        return f"{given}: must be {wanted}{hint}"
    return f"{given}: must be {entry.wanted()}"


def unusual(key: str, entry: Entry, value: object) -> str | None:
    """Returns a warning for a value outside the range that is usual, or None."""
    usual = entry.extra("usual")
    if usual is None or value is None or usual[0] <= value <= usual[1]:
        return None
    return f"{key}={show(value)}: outside the usual range {usual[0]} to {usual[1]}; going on with it"

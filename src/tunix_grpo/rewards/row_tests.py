"""The tests of a row, in the forms that data sets have them."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tunix_grpo.errors import shortened
from tunix_grpo.tasks.base import Question

TESTS = ("test_list", "tests", "test_cases", "input_output", "test", "reward_model.ground_truth", "ground_truth")
SETUPS = ("test_setup_code", "test_imports", "setup_code")
FUNCTIONS = ("entry_point", "fn_name", "function_name")
_SHOWN_CHARS = 60


class BadTestsError(ValueError):
    """Says why a row has no tests."""


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests of a row, of one of two kinds.

    Attributes:
        inputs: texts that a program reads from standard input; None for the other kind.
        outputs: what it is to print on each.
        calls: what the judge of a module takes, see `sandbox/judge.py`; empty for the first kind.
        count: tests, 1 or more.
    """

    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...]
    calls: dict[str, Any]
    count: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Where rows keep tests, what comes before them, and the tested function's name; None looks at the usual names."""

    tests: str | None
    setup: str | None
    function: str | None


def read_tests(question: Question, columns: Columns, most: int | None) -> Tests:
    """Returns the tests of a row.

    They are assert statements in a list or a text, functions named test_... or check(candidate), or pairs of inputs and
    outputs: `{"inputs": [...], "outputs": [...]}`, with `fn_name` for calls instead of programs, or `[{"input": ...,
    "output": ...}, ...]`; as values, or as JSON in a text.

    Args:
        most: tests that count, the first ones; None is all.

    Raises:
        BadTestsError: there are none, or none of these.
    """
    extra = question.extra or {}
    value = _first(extra, (columns.tests,) if columns.tests is not None else TESTS)
    if value is None and columns.tests is None and question.answer.strip():
        value = question.answer
    if value is None:
        raise BadTestsError(f"has no tests; there are the columns {', '.join(extra) or 'question and answer'}")
    setup = _first(extra, (columns.setup,) if columns.setup is not None else SETUPS)
    function = _first(extra, (columns.function,) if columns.function is not None else FUNCTIONS)
    if not isinstance(function, str | None):
        raise BadTestsError(f"names its function by {_shown(function)}, not by a text")
    return _read(_parsed(value), _lines(setup), function, most)


def _read(value: object, setup: str, function: str | None, most: int | None) -> Tests:
    if isinstance(value, Mapping):
        inputs, outputs = value.get("inputs", value.get("input")), value.get("outputs", value.get("output"))
        return _pairs(inputs, outputs, value.get("fn_name") or function, most)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(each, Mapping) for each in value):
            pairs = [(each.get("input"), each.get("output")) for each in value]
            named = function if any(each.get("testtype") == "functional" for each in value) else None
            return _pairs([pair[0] for pair in pairs], [pair[1] for pair in pairs], named, most)
        if all(isinstance(each, str) for each in value):
            return _texts(setup, [_checked(each) for each in value], function, most)
    if isinstance(value, str) and value.strip():
        return _texts(setup, _cut(value, function), function, most)
    raise BadTestsError(f"has {_shown(value)} as its tests")


def _texts(setup: str, tests: list[str], function: str | None, most: int | None) -> Tests:
    tests = tests[:most]
    _checked(setup)
    return Tests(None, (), {"setup": setup, "tests": tests, "function": function}, len(tests))


def _pairs(inputs: Any, outputs: Any, function: str | None, most: int | None) -> Tests:
    both = isinstance(inputs, Sequence) and isinstance(outputs, Sequence)
    if not both or isinstance(inputs, str) or isinstance(outputs, str) or len(inputs) != len(outputs) or not inputs:
        raise BadTestsError(f"has {_shown(inputs)} as its inputs and {_shown(outputs)} as its outputs")
    inputs, outputs = list(inputs)[:most], list(outputs)[:most]
    if function is None:
        return Tests(tuple(map(_lines, inputs)), tuple(map(_lines, outputs)), {}, len(inputs))
    calls = {
        "function": function,
        "inputs": [_arguments(each) for each in inputs],
        "outputs": [_expected(*pair) for pair in zip(inputs, outputs, strict=True)],
    }
    return Tests(None, (), calls, len(inputs))


def _arguments(given: object) -> list[Any]:
    """Returns the arguments of a call: a list of them, or JSON in a text, a line for each."""
    if isinstance(given, str):
        return [_parsed(line, also_plain=True) for line in given.splitlines()]
    return _plain(given) if isinstance(given, list | tuple) else [_plain(given)]


def _expected(given: object, value: object) -> Any:
    return _parsed(value, also_plain=True) if isinstance(given, str) and isinstance(value, str) else _plain(value)


def _cut(text: str, function: str | None) -> list[str]:
    """Returns the tests of a text: each assert with what stands before it, then each call of a test function."""
    statements = ast.parse(_checked(text)).body
    lines = text.splitlines()
    tests: list[str] = []
    last = 0
    for statement in statements:
        if isinstance(statement, ast.Assert):
            tests.append("\n".join(lines[last : statement.end_lineno]))
            last = statement.end_lineno or last
    defined = [each.name for each in statements if isinstance(each, ast.FunctionDef)]
    calls = [f"{name}()" for name in defined if name.startswith("test")]
    if "check" in defined and function is not None:
        calls.append(f"check({function})")
    rest = "\n".join(lines[last:])
    if calls:
        tests += [f"{rest}\n{calls[0]}", *calls[1:]]
    if not tests:
        raise BadTestsError(f"has tests without an assert, a function test_... or check(candidate): {_shown(text)}")
    return tests


def _checked(text: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise BadTestsError(f"has tests that are no Python: {_shown(text)}") from None
    return text


def _first(extra: Mapping[str, object], names: Sequence[str]) -> Any:
    """Returns the first of some columns that is there and says something; dots lead inside a column."""
    found = (_look_up(extra, name) for name in names)
    return next((value for value in found if value is not None and value != ""), None)


def _look_up(extra: Mapping[str, object], name: str) -> Any:
    value: Any = extra
    for key in [name] if name in extra else name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _parsed(value: object, *, also_plain: bool = False) -> Any:
    """Returns what a text is as JSON, the text itself where it is none; of a number or a word only if wanted."""
    if not isinstance(value, str) or not (also_plain or value.lstrip()[:1] in ("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _plain(value: object) -> Any:
    """Returns a value of JSON, as data files hold it, without the decimals that they are read with."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _lines(value: object) -> str:
    """Returns a text, or a list of lines, as a text."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "\n".join(map(_lines, value))
    return value if isinstance(value, str) else str(value)


def _shown(value: object) -> str:
    return shortened(repr(value), _SHOWN_CHARS)

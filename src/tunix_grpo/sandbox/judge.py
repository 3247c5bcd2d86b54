"""Judges a program by its tests, in a process of its own that the program cannot look into.

The tests' text, with what it expects, is never in the program's process. What a test calls by the names that the
program defines is asked of the program, and what it answers arrives as a copy made of Python's own types. Builtins and
the standard library are the judge's own, whatever the program calls so.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import json
import math
import os
import sys

from tunix_grpo.sandbox.asked import Ended, Program
from tunix_grpo.sandbox.values import Line

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    from collections.abc import Callable
    from typing import IO, Any

PASSED, FAILED, ERROR = "passed", "failed", "error"
TOLERANCE = 1e-6  # relative and absolute, of a float beside the expected number


def judge(tests: dict[str, Any], line: Line, results: IO[bytes]) -> None:
    """Judges the program by each test and writes a line of JSON about each; does not return.

    Args:
        tests: `{"setup": text, "tests": [text, ...], "function": name or None}`, or
            `{"function": name, "inputs": [[argument, ...], ...], "outputs": [value, ...]}`; and `"until_failure"`,
            whether to stop at one.
        line: the connection to the program.
        results: open file to write to.
    """
    sys.stdin = open(os.devnull)  # noqa: SIM115
    try:
        program = Program(line)
        for index, test in enumerate(_calls(tests, program) if "inputs" in tests else _texts(tests, program)):
            end = _verdict(test, program)
            results.write(json.dumps({"test": index, "end": end}).encode() + b"\n")
            results.flush()
            if end != PASSED and tests["until_failure"]:
                break
    except Ended:
        pass  # the tests without a result have failed
    finally:
        os._exit(0)


def _verdict(test: Callable[[], bool], program: Program) -> str:
    if program.problem is not None:
        return ERROR
    try:
        return PASSED if test() else FAILED
    except AssertionError:
        return FAILED
    except Exception:
        return ERROR


def _calls(tests: dict[str, Any], program: Program) -> list[Callable[[], bool]]:
    """Returns a function for each call, which says whether the value is the expected one."""

    def test_of(arguments: list[Any], expected: Any) -> Callable[[], bool]:
        def test() -> bool:
            return _same(_json_value(program.function(tests["function"])(*arguments)), expected)

        return test

    return [test_of(*pair) for pair in zip(tests["inputs"], tests["outputs"], strict=True)]


def _texts(tests: dict[str, Any], program: Program) -> list[Callable[[], bool]]:
    """Returns a function for each text, which runs it; the texts share what the setup defines."""
    text = "\n".join([tests["setup"], *tests["tests"]])
    space: dict[str, Any] = {"__name__": "tests"}
    ready: list[bool] = []

    def set_up() -> None:
        sys.modules["solution"] = program.as_module("solution")
        for name in _asked_names(ast.parse(text), tests["function"], program.names):
            space[name] = program.function(name)
        exec(compile(tests["setup"], "tests.py", "exec"), space)

    def test_of(text: str) -> Callable[[], bool]:
        def test() -> bool:
            if not ready:
                set_up()
                ready.append(True)
            exec(compile(text, "tests.py", "exec"), space)
            return True

        return test

    return [test_of(text) for text in tests["tests"]]


def _asked_names(tree: ast.Module, function: str | None, defined: list[str]) -> list[str]:
    """Returns the names in tests that mean something of the program.

    A builtin or a module of the standard library means itself, unless the tests call nothing else by name.
    """
    nodes = list(ast.walk(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    stored |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    imports = [alias for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names]
    stored |= {(alias.asname or alias.name).split(".")[0] for alias in imports}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - stored
    tested = set() if function is None else {function}
    modules = {name for name in used if name in sys.stdlib_module_names} - called - tested
    for name in modules:
        _import_for_tests(name)
    own = {name for name in used - modules if name in defined and not hasattr(builtins, name)} | tested & used
    return sorted(own or called & set(defined) - stored)


def _import_for_tests(name: str) -> None:
    """Lets tests use a module of the standard library that they forgot to import, as the data sets do."""
    setattr(builtins, name, importlib.import_module(name))


def _json_value(value: Any) -> Any:
    """Returns what a value is after a way through JSON; tuples become lists and keys texts."""
    return json.loads(json.dumps(value))


def _same(value: Any, expected: Any) -> bool:
    """Says whether a value is the expected one; some data sets put the expected one into a list."""
    if isinstance(expected, list) and len(expected) == 1 and _equal(value, expected[0]):
        return True
    return _equal(value, expected)


def _equal(value: Any, expected: Any) -> bool:
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(_equal(*pair) for pair in zip(value, expected, strict=True))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_equal(value[key], expected[key]) for key in expected)
    if (
        isinstance(value, (int, float))
        and isinstance(expected, (int, float))
        and float in (type(value), type(expected))
    ):
        return math.isclose(value, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return value == expected

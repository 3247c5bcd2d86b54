"""A compiled program, read from its text: what it runs, how often, and inside of how many loops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_OPENS = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r" = (.*?) ([\w\-]+)\(")
# Whose computations are run as they stand; those of a fusion or a reduction are part of one kernel.
_CALLS = re.compile(r"(call|conditional|async)(-start)?")


class Instruction(NamedTuple):
    """An operation of a compiled program.

    Attributes:
        line: all of its text.
        result: type, sizes and layout of what it gives; in brackets if these are several.
        operation: its name in HLO.
        operands: results of what it is given.
        times: how often it runs; a loop whose number of rounds is not known counts once.
        loops: how many loops it is inside of.
    """

    line: str
    result: str
    operation: str
    operands: tuple[str, ...]
    times: int
    loops: int


def instructions(text: str) -> Iterator[Instruction]:
    """Yields all that an optimised HLO module runs, from its entry on; loops, calls and branches by what is in them."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if opened := _OPENS.match(line):
            name = opened[2]
            computations[name] = []
            entry = name if opened[1] else entry
        elif name:
            computations[name].append(line)
    if entry:
        yield from _inside(computations, entry, 1, 0)


def _inside(computations: dict[str, list[str]], name: str, times: int, loops: int) -> Iterator[Instruction]:
    results: dict[str, str] = {}
    for line in computations[name]:
        found = _INSTRUCTION.search(line)
        if not found:
            continue
        results[line[: found.start()].split()[-1]] = found[1]
        named = re.findall(r"%[\w.\-]+", line[found.end() :].partition(")")[0])
        operands = tuple(results.get(each, "") for each in named)
        yield Instruction(line, found[1], found[2], operands, times, loops)
        if found[2] == "while":
            rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for inner in re.findall(r"(?:body|condition)=%?([\w.\-]+)", line):
                yield from _inside(computations, inner, times * (int(rounds[1]) if rounds else 1), loops + 1)
        elif _CALLS.fullmatch(found[2]):
            for inner in _called(line):
                yield from _inside(computations, inner, times, loops)


def _called(line: str) -> list[str]:
    branches = re.search(r"branch_computations=\{(.*?)\}", line)
    single = re.findall(r"(?:to_apply|calls|(?:true|false)_computation)=%?([\w.\-]+)", line)
    return single + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])

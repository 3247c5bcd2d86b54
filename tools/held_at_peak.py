"""What a program that was compiled for a GPU holds where it needs the most memory, read from what XLA dumps.

For `tools/compiled_memory.py --held`: of an `--xla_dump_to=DIR`, the places and live ranges of all arrays.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

_VALUE = re.compile(r" value: <\d+ ([\w.\-]+)(\{[\d,]*\})?( \(phi\))? @\d+> \(size=(\d+),offset=(\d+)\): (.*)")
_RANGE = re.compile(r"\s+([\w.\-]+)(\{[\d,]*\}):(\d+)-(\d+)$")


class Held(NamedTuple):
    """Arrays of one shape that the same operation made, or that are arguments.

    Attributes:
        count: how many of them are held at once.
        num_bytes: of all of them.
        shape: as HLO writes it, its layout left out.
        origin: where in the traced program they stand; the name of an argument.
    """

    count: int
    num_bytes: int
    shape: str
    origin: str


class _Value(NamedTuple):
    """An array: where it lies, and what it is."""

    allocation: int
    offset: int
    num_bytes: int
    shape: str
    is_argument: bool


def held_at_peak(folder: Path) -> list[Held]:
    """Returns the arrays that are held at the moment when most bytes are, the largest first.

    Args:
        folder: the dump of a program, and of small ones that were compiled for its constants.
    """
    assignments = folder.glob("*after_optimizations-buffer-assignment.txt")
    assignment = max(assignments, key=lambda file: file.stat().st_size)
    values = _values(assignment.read_text())
    ranges = _ranges(Path(f"{assignment}".replace("buffer-assignment", "live-range")).read_text())
    origins = _origins(Path(f"{assignment}".replace("-buffer-assignment", "")).read_text())
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for (_, _, num_bytes), name in _at_peak(values, ranges).items():
        origin = origins.get(name.partition("{")[0], name)
        found[values[name].shape, ("argument " if values[name].is_argument else "") + origin].append(num_bytes)
    held = [Held(len(sizes), sum(sizes), *key) for key, sizes in found.items()]
    return sorted(held, key=lambda each: -each.num_bytes)


def _at_peak(values: dict[str, _Value], ranges: dict[str, tuple[int, int]]) -> dict[tuple[int, int, int], str]:
    """Returns the pieces of memory that are in use at the peak, each with one array that lies there."""
    changes: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for name in values.keys() & ranges.keys():
        begin, end = ranges[name]
        changes[begin].append((1, name))
        changes[end + 1].append((-1, name))
    live: dict[tuple[int, int], list[str]] = defaultdict(list)
    most, at_most = 0, []
    for moment in sorted(changes):
        for sign, name in changes[moment]:
            there = live[values[name][:2]]
            there.append(name) if sign > 0 else there.remove(name)
        largest = [max(there, key=lambda name: values[name].num_bytes) for there in live.values() if there]
        if (total := sum(values[name].num_bytes for name in largest)) > most:
            most, at_most = total, largest
    return {values[name][:3]: name for name in at_most}


def _values(text: str) -> dict[str, _Value]:
    values, allocation, about = {}, 0, ""
    for line in text.splitlines():
        if opened := re.match(r"allocation (\d+): (.*)", line):
            allocation, about = int(opened[1]), opened[2]
        elif (found := _VALUE.match(line)) and "thread-local" not in about:
            shape = re.sub(r"(?<=\])\{[^}]*\}", "", found[6])
            where = allocation, int(found[5]), int(found[4])
            values[found[1] + (found[2] or "{}")] = _Value(*where, shape, "parameter" in about)
    return values


def _ranges(text: str) -> dict[str, tuple[int, int]]:
    found = filter(None, map(_RANGE.match, text.partition("BufferLiveRange:")[2].splitlines()))
    return {each[1] + each[2]: (int(each[3]), int(each[4])) for each in found}


def _origins(text: str) -> dict[str, str]:
    """Returns the name that the traced program has for each instruction that has one."""
    found = re.findall(r'^\s+(?:ROOT )?%([\w.\-]+) = .*?op_name="(.*?)"', text, re.MULTILINE)
    return {name: origin.replace("\\'", "'") for name, origin in found}

"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


class Collective(NamedTuple):
    """One operation that several devices take part in.

    Attributes:
        shapes: what a device has from it, (type, sizes) each.
        times: how often it runs; a loop whose number of rounds is not known counts once.
        loops: how many loops it is inside of.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    times: int
    loops: int

    @property
    def num_bytes(self) -> int:
        """What a device has from it each time."""
        return sum(_BYTES[dtype] * math.prod(sizes) for dtype, sizes in self.shapes)


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of an optimised HLO module."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        if opened := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = opened[2]
            computations[name] = []
            entry = name if opened[1] else entry
        elif name:
            computations[name].append(line)
    return list(_inside(computations, entry, 1, 0))


def traffic(found: list[Collective]) -> int:
    """Returns the bytes that a device has from all of them."""
    return sum(each.times * each.num_bytes for each in found)


def _inside(computations: dict[str, list[str]], name: str, times: int, loops: int) -> Iterator[Collective]:
    for line in computations[name]:
        operation = re.search(rf" = (.*?) {_KINDS}(-start)?\(", line)
        if operation:
            shapes = [
                (dtype, tuple(int(size) for size in sizes.split(",") if size))
                for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", operation[1]))
            ]
            if operation[3] and operation[2] in ("all-gather", "collective-permute"):  # inputs first, then outputs
                shapes = shapes[len(shapes) // 2 :]
            yield Collective(operation[2], tuple(shapes), times, loops)
        elif " while(" in line:
            rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for inner in re.findall(r"(?:body|condition)=%?([\w.\-]+)", line):
                yield from _inside(computations, inner, times * (int(rounds[1]) if rounds else 1), loops + 1)
        elif re.search(r" (call|conditional|async-start)\(", line):
            for inner in re.findall(r"(?:to_apply|calls|\w+_computation)=%?([\w.\-]+)", line):
                yield from _inside(computations, inner, times, loops)

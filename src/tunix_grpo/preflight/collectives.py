"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from tunix_grpo.preflight.compiled_text import Instruction, instructions

_KINDS = re.compile(r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?")
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
    found = ((each, _KINDS.fullmatch(each.operation)) for each in instructions(text))
    return [_collective(each, kind) for each, kind in found if kind]


def traffic(found: list[Collective]) -> int:
    """Returns the bytes that a device has from all of them."""
    return sum(each.times * each.num_bytes for each in found)


def _collective(each: Instruction, kind: re.Match[str]) -> Collective:
    shapes = [
        (dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"/\*.*?\*/", "", each.result))
    ]
    if kind[2] and kind[1] in ("all-gather", "collective-permute"):  # inputs first, then outputs
        shapes = shapes[len(shapes) // 2 :]
    return Collective(kind[1], tuple(shapes), each.times, each.loops)

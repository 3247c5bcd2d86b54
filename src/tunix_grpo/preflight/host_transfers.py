"""What a compiled program sends to the host or has from it, read from its text."""

from __future__ import annotations

import re

from tunix_grpo.preflight.compiled_text import Instruction, instructions

# How XLA writes the host's memory, of all that a layout can lie in.
_HOST_MEMORY = "S(5)"
# These name arrays and move none; what ends a transfer was counted where it began.
_MOVES_NOTHING = re.compile(
    r"parameter|tuple|get-tuple-element|bitcast|opt-barrier|while|(call|conditional|async)(-start)?|.*-done|.*-update"
)
_FEEDS = ("infeed", "outfeed")


def host_transfers_in_loops(text: str) -> list[str]:
    """Returns the operations inside of loops by which a device and its host wait for each other.

    Those are calls of Python, feeds, what is sent to the host or received from it, and what reads or writes arrays in
    the host's memory.

    Args:
        text: an optimised HLO module.

    Returns:
        The operation of each, and where in the traced program it stands, if that is known.
    """
    return [_named(each) for each in instructions(text) if each.loops and _is_transfer(each)]


def _is_transfer(each: Instruction) -> bool:
    if _MOVES_NOTHING.fullmatch(each.operation) or _target(each) == "AllocateBuffer":
        return False
    if each.operation in _FEEDS or "callback" in _target(each).lower():
        return True
    if each.operation in ("send", "recv"):
        return "is_host_transfer=true" in each.line
    return any(_HOST_MEMORY in array for array in (each.result, *each.operands))


def _target(each: Instruction) -> str:
    """Returns what a custom call calls."""
    found = re.search(r'custom_call_target="(.*?)"', each.line)
    return found[1] if found else ""


def _named(each: Instruction) -> str:
    place = re.search(r'op_name="(.*?)"', each.line)
    return f"{_target(each) or each.operation}{f' at {place[1]}' if place else ''}"

"""Completions of alike length run together: most are shorter than they may be, and what is behind an end costs as much.

The rows of a micro batch are sorted by length and cut into a few pieces, each with room for its longest row, in one of
a few widths. The prompts run once, and every row of a piece sees its own. So the result is that of the padded rows, up
to rounding, and the programs of a run are at most `MOST_WIDTHS` for each way to use the rows.

On an accelerator a program takes its time whatever its rows: a micro batch has to be large before it is cut there.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np

from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.decoder.platform import platform
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.grpo.limits import all_parameters

_log = logging.getLogger(__name__)

MOST_WIDTHS = 8
_NARROWEST = 32  # tokens
_MOST_PIECES = 4
# Pieces run the prompts forward once more than whole micro batches do: of three passes over tokens, one.
_PROMPTS_AGAIN = 1 / 3
# Several programs in the place of one must save so much of the tokens.
_WORTH = 0.9
# What an accelerator could do while a program's kernels of one layer run, however few the rows: parameters x tokens. On
# an H200 they take 2 ms of an update, in which 4B's larger products reach 360 TFLOP/s at six operations each.
_EMPTY_LAYER = 1.2e11


class Piece(NamedTuple):
    """Completions that run together.

    Attributes:
        rows: int[r], which rows of the micro batch; those of each device side by side.
        prompt: int32[r], which of its device's prompts each row has; None where all rows are there, in their order.
        width: tokens that there is room for.
    """

    rows: np.ndarray
    prompt: np.ndarray | None
    width: int


def widths(max_tokens: int) -> list[int]:
    """Returns the tokens that rows are padded to: evenly apart, the last is `max_tokens`."""
    apart = max(_NARROWEST, 8 * math.ceil(max_tokens / MOST_WIDTHS / 8))
    return [*range(apart, max_tokens, apart), max_tokens]


def program_tokens(spec: DecoderSpec) -> float:
    """Returns how many tokens' time a program takes beside that of its tokens."""
    return 0.0 if platform() == "cpu" else _EMPTY_LAYER * spec.num_layers / all_parameters(spec)


def most_pieces(rows: int) -> int:
    """Returns into how many pieces of one size the rows of a device are cut."""
    return next(parts for parts in range(_MOST_PIECES, 0, -1) if rows % parts == 0)


def cut_by_length(
    lengths: np.ndarray, prompt_width: int, sampling: Sampling, devices: int, per_program: float
) -> list[Piece]:
    """Returns the pieces of a micro batch, the longest rows last; or one, of all rows, where that costs less.

    Args:
        lengths: int[b], tokens of each completion; the rows of each device are side by side.
        prompt_width: tokens of a prompt, padded.
        sampling: how many completions a prompt has, and tokens a completion at the most.
        devices: that share the rows evenly.
        per_program: what a program costs on each device, in tokens; see `program_tokens`.
    """
    count, group = len(lengths), sampling.num_generations
    choices = widths(sampling.max_tokens)

    def width_of(rows: np.ndarray) -> int:
        return next(width for width in choices if width >= lengths[rows].max())

    whole = Piece(np.arange(count), None, width_of(np.arange(count)))
    of_device = count // devices
    parts = most_pieces(of_device)
    by_length = np.argsort(lengths.reshape(devices, of_device), axis=1, kind="stable")
    pieces = []
    for chosen in np.split(by_length, parts, axis=1):
        rows = (np.arange(devices)[:, None] * of_device + chosen).reshape(-1)
        pieces.append(Piece(rows, (chosen // group).reshape(-1).astype(np.int32), width_of(rows)))
    prompts = count // group * prompt_width
    cost = prompts * (1 + _PROMPTS_AGAIN) + sum(len(piece.rows) * piece.width for piece in pieces)
    # The prompts have a program of their own, and one more for their gradient.
    cost += (parts + 1) * per_program * devices
    return pieces if cost <= _WORTH * (prompts + count * whole.width) else [whole]


def say_new(pieces: list[Piece], known: set[tuple[int, int]]) -> None:
    """Says which sizes of pieces need new programs in the middle of a run, and adds them to those that are known."""
    sizes = {(len(piece.rows), piece.width) for piece in pieces}
    for rows, width in sorted(sizes - known if known else ()):
        _log.info("compiles the passes over %d completions of up to %d tokens", rows, width)
    known |= sizes

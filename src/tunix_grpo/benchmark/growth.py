"""What the points of a sweep say together: how cost grows from one to the next, which micro batch is the fastest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

PARTS = ("rollout", "reference", "update", "step")
_GROWING = (*(f"{part}_s" for part in PARTS), *(f"{part}_limit_s" for part in PARTS), "peak_bytes")
Row = dict[str, Any]  # the figures of a point, or why there are none


def size_of(sweep: str, figures: Mapping[str, Any]) -> int:
    """Returns the size that a sweep varies: completions, tokens of one, weights, or prompts of a micro batch."""
    if sweep == "rows":
        return figures["prompts"] * figures["generations"]
    return figures[{"tokens": "completion_tokens", "model": "weights", "micro_batch_size": "micro_batch_size"}[sweep]]


def with_growth(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with exponents: time grows by size to the power of `step_growth` since the row before.

    An exponent is log(cost / cost before) / log(size / size before): 1 where twice the size costs twice as much, 0
    where it costs the same; null in the first row, and between rows of one size.
    """
    found, before = [], None
    for row in rows:
        grown = {}
        if row["fits"]:
            for name in _GROWING:
                if name in row:
                    grown[f"{name.rpartition('_')[0]}_growth"] = (
                        None if before is None else _exponent(name, before, row)
                    )
            before = row
        found.append(row | grown)
    return found


def fastest(rows: Sequence[Row], configured: int) -> Row | None:
    """Returns the micro batch with the most samples/s among those that fit; None where none does.

    Args:
        configured: prompts of a micro batch that the settings say.

    Returns:
        Its size, the words that set it, its samples/s, those of the configured size (null where that was not timed, or
        does not fit), and the sizes whose steps' range overlaps with its own: they cannot be told apart from it.
    """
    timed = {row["value"]: row for row in rows if row["fits"]}
    if not timed:
        return None
    size = max(timed, key=lambda each: timed[each]["samples_per_s"])
    best = timed[size]
    alike = [
        other
        for other, row in timed.items()
        if other != size and row["step_s_min"] <= best["step_s_max"] and best["step_s_min"] <= row["step_s_max"]
    ]
    return {
        "micro_batch_size": size,
        "words": " ".join(f"{key}={value}" for key, value in best["settings"].items()),
        "samples_per_s": best["samples_per_s"],
        "configured_samples_per_s": timed[configured]["samples_per_s"] if configured in timed else None,
        "not_told_apart": alike,
    }


def _exponent(name: str, before: Row, row: Row) -> float | None:
    if before["size"] == row["size"] or not before[name] or not row[name]:
        return None
    return math.log(row[name] / before[name]) / math.log(row["size"] / before["size"])

"""What the evaluations of a run have shown: which step is the best, and for how long none has been better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from tunix_grpo.files import Json, read_json_lines

Row: TypeAlias = dict[str, float]  # of one evaluation: `step`, and its metrics by name, those of all tasks


def evaluation_row(step: int, metrics: Mapping[str, float]) -> Row:
    """Returns what is kept of an evaluation: how long it took is not."""
    return {"step": step} | {name: value for name, value in metrics.items() if name.startswith("eval/")}


def values_of(rows: Iterable[Row], metric: str) -> dict[int, float]:
    """Returns step -> the value of a metric, of the evaluations that have it, in their order."""
    return {int(row["step"]): row[metric] for row in rows if metric in row}


def best_first(values: Mapping[int, float]) -> list[int]:
    """Returns the steps from the highest value to the lowest, of equal ones the latest first."""
    return sorted(values, key=lambda step: (values[step], step), reverse=True)


def not_better(values: Mapping[int, float]) -> int:
    """Returns how many evaluations in a row, up to the last one, were not better than all before the row.

    Args:
        values: by step, in the order of the steps.
    """
    found = list(values.values())
    return len(found) - 1 - found.index(max(found)) if found else 0


def early_end(rows: Iterable[Row], metric: str, patience: int | None) -> str | None:
    """Returns in words why a run ends early, or None.

    Args:
        rows: all evaluations of the run.
        patience: so many evaluations in a row without a better value end it; None: it never ends early.
    """
    values = values_of(rows, metric)
    row = not_better(values)
    if patience is None or row < patience:
        return None
    best = max(values, key=lambda step: (values[step], -step))
    since = "the evaluation since" if row == 1 else f"all {row} evaluations since"
    return f"{metric} was {values[best]:.4g} at step {best}, and not better in {since}"


def logged_evaluations(history: Path, last_step: int) -> list[Row]:
    """Returns the evaluations up to a step that a file of JSON lines knows; none where there is no file."""
    rows = read_json_lines(history) if history.is_file() else []
    found = [evaluation_row(int(step), _numbers(row)) for row in rows if isinstance(step := row.get("step"), int)]
    return [row for row in found if len(row) > 1 and row["step"] <= last_step]


def _numbers(row: Mapping[str, Json]) -> Row:
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}

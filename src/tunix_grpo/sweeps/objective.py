"""The number that a training is judged by."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo.files import read_json_lines


def last_value(history: Path, metric: str) -> float | None:
    """Returns the last value of a metric in a file of JSON lines; None where there is none."""
    rows = read_json_lines(history) if history.is_file() else []
    values = [value for row in rows if isinstance(value := row.get(metric), int | float)]
    return float(values[-1]) if values else None

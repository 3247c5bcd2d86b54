"""The numbers that runs have logged, for those who read them and need no jax."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo.files import read_json_lines


def read_metrics(*files: Path) -> dict[int, dict[str, float]]:
    """Reads files of JSON lines, as far as they exist, as step -> metrics; what a later one says of a step wins.

    Raises:
        UserError: a line before the last is no JSON object.
    """
    metrics: dict[int, dict[str, float]] = {}
    for file in files:
        for row in read_json_lines(file) if file.is_file() else []:
            numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
            metrics.setdefault(int(numbers.pop("step")), {}).update(numbers)
    return metrics

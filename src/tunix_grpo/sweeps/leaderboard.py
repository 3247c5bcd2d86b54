"""What each job of a sweep came to: a file in its folder, and for all of them a table and `leaderboard.csv`.

Jobs may run in other processes, or on other machines, whose exit codes and results do not come back: their files do.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tunix_grpo import console
from tunix_grpo.files import read_json, whole_file
from tunix_grpo.run.places import LEADERBOARD

RESULT = "result.json"
_SHOWN = 20  # rows of the table; the file has all


class JobResult(NamedTuple):
    """What a job came to.

    Attributes:
        folder: of its record.
        overrides: that the job was given, `key=value` each.
        metric: name of what the sweep is about, such as eval/accuracy.
        objective: its value after the last step; None where there is none.
        exit_code: 0, or why it failed.
    """

    folder: Path
    overrides: tuple[str, ...]
    metric: str
    objective: float | None
    exit_code: int

    def given(self) -> dict[str, str]:
        """Returns key -> value of the overrides, in the words of the command line."""
        return dict(word.lstrip("+").split("=", 1) for word in self.overrides if "=" in word)


def write_result(result: JobResult) -> None:
    """Writes the file of one job into its folder."""
    with whole_file(result.folder / RESULT) as file:
        file.write_text(json.dumps({**result._asdict(), "folder": None}, indent=2) + "\n")


def read_results(sweep: Path) -> list[JobResult]:
    """Reads the files of a sweep's jobs, in the order of their folders."""
    results = []
    for file in sorted(sweep.rglob(RESULT), key=_by_number):
        read = read_json(file)
        objective, code, overrides = read.get("objective"), read.get("exit_code"), read.get("overrides")
        results.append(
            JobResult(
                file.parent,
                tuple(str(word) for word in overrides) if isinstance(overrides, list) else (),
                str(read.get("metric")),
                float(objective) if isinstance(objective, int | float) else None,
                code if isinstance(code, int) else 1,
            )
        )
    return results


def _by_number(file: Path) -> tuple[int, str]:
    name = file.parent.name
    return (int(name) if name.isdigit() else 0, str(file))


def ranked(results: Sequence[JobResult], direction: str = "maximize") -> list[JobResult]:
    """Returns the results from the best to the worst, those without a number last."""

    def place(result: JobResult) -> tuple[bool, float]:
        value = result.objective
        if value is None or not math.isfinite(value):
            return True, 0.0
        return False, -value if direction == "maximize" else value

    return sorted(results, key=place)


def swept_keys(results: Sequence[JobResult]) -> list[str]:
    """Returns the keys that the jobs were given different values of."""
    given = [result.given() for result in results]
    keys = dict.fromkeys(key for each in given for key in each)
    return [key for key in keys if len({each.get(key) for each in given}) > 1]


def write_leaderboard(sweep: Path, program: Sequence[str], direction: str = "maximize") -> list[JobResult]:
    """Writes `leaderboard.csv` into a sweep's folder, shows it as a table, and says how the best job runs alone.

    Args:
        sweep: the folder of the sweep.
        program: the command without settings, such as python run_training.py.
        direction: maximize or minimize.

    Returns:
        The results, from the best to the worst.
    """
    results = ranked(read_results(sweep), direction)
    if not results:
        return results
    keys, metric = swept_keys(results), results[0].metric
    rows = [_row(number, result, keys, sweep) for number, result in enumerate(results, 1)]
    header = ["rank", metric, *keys, "exit_code", "folder"]
    with whole_file(sweep / LEADERBOARD) as file, file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    console.table(header, rows[:_SHOWN], f"Sweep of {len(results)} jobs, by {metric}")
    best = results[0]
    console.print_lines(
        [f"all of them: {sweep / LEADERBOARD}", f"side by side: python scripts/compare.py {shlex.quote(str(sweep))}"]
    )
    if best.objective is not None:
        console.print_lines([f"the best alone: {shlex.join([*program, *_alone(best.overrides)])}"])
    return results


def _alone(overrides: Sequence[str]) -> list[str]:
    """Returns a job's settings without what made it a job of a search."""
    return [word for word in overrides if not word.lstrip("+").startswith("hparams_search=")]


def _row(rank: int, result: JobResult, keys: Sequence[str], sweep: Path) -> list[str]:
    given = result.given()
    value = "" if result.objective is None else f"{result.objective:.6g}"
    folder = str(result.folder.relative_to(sweep))
    return [str(rank), value, *(given.get(key, "") for key in keys), str(result.exit_code), folder]

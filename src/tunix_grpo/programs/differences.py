"""Where two trainings that should be equal differ first: a metric, a completion, or a number that was saved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tunix_grpo.files import Json, read_json_lines
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.step_files import SavedFiles

_OF_CLOCKS = ("timing/", "perf/", "step_time")  # what the machine decides
_OF_A_START = ("wandb_run_id",)
_SHOWN_CHARS = 60


class Difference(NamedTuple):
    """A place where two trainings differ, and what each has there."""

    step: int
    place: str
    one: str
    other: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.place}: {self.one} | {self.other}"


class Compared(NamedTuple):
    """What two trainings have in common.

    Attributes:
        first: where they differ first, None where they are equal.
        metrics, completions, arrays: how many were compared.
    """

    first: Difference | None
    metrics: int
    completions: int
    arrays: int


def compare(one: Path, other: Path) -> Compared:
    """Compares two run folders that have their checkpoints inside, in `checkpoints`.

    Of the metrics what a clock or the machine decides is left out. Saved steps are compared at the last one of each.
    """
    files = [SavedFiles(folder / "checkpoints") for folder in (one, other)]
    metrics = [_untimed(each.folder / HISTORY) for each in files]
    completions = [read_json_lines(folder / "completions.jsonl") for folder in (one, other)]
    found = [_of_rows("completion", *completions), _of_rows("metric", *metrics)]
    steps = [each.steps()[-1] for each in files]
    step = min(steps)
    if steps[0] != steps[1]:
        found.append(Difference(step, "the last saved step", *map(str, steps)))
    found.append(_of_values(step, "what the run knows: ", *(_known(each, step) for each in files)))
    arrays = 0
    for (name, first), (other_name, second) in zip(*(_saved_arrays(each, step) for each in files), strict=False):
        arrays += 1
        difference = _of_arrays(step, name, first, second)
        if name != other_name:
            difference = Difference(step, "saved array", name, other_name)
        if difference is not None:
            found.append(difference)
            break
    differences = sorted((each for each in found if each is not None), key=lambda each: each.step)
    return Compared(next(iter(differences), None), sum(map(len, metrics[0])), len(completions[0]), arrays)


def _known(files: SavedFiles, step: int) -> dict[str, Json]:
    """Returns what a saved step holds beside arrays, settings and what belongs to a start."""
    saved = files.run_of(step)
    known = saved["state"] | {"ledger": saved.get("ledger")}
    return {key: value for key, value in known.items() if key not in _OF_A_START}


def _untimed(file: Path) -> list[dict[str, Json]]:
    rows = read_json_lines(file)
    return [{name: value for name, value in row.items() if not name.startswith(_OF_CLOCKS)} for row in rows]


def _of_rows(kind: str, one: list[dict[str, Json]], other: list[dict[str, Json]]) -> Difference | None:
    """Returns the first difference of two lists of rows that each have a step."""
    for number, (first, second) in enumerate(zip(one, other, strict=False), 1):
        place = f"{kind} " if kind == "metric" else f"{kind} {number}: "
        if (difference := _of_values(_step(first), place, first, second)) is not None:
            return difference
    if len(one) != len(other):
        first = max(one, other, key=len)[min(len(one), len(other))]
        return Difference(_step(first), f"number of rows ({kind})", str(len(one)), str(len(other)))
    return None


def _step(row: dict[str, Json]) -> int:
    step = row["step"]
    assert isinstance(step, int)  # we have written it
    return step


def _of_values(step: int, place: str, one: dict[str, Json], other: dict[str, Json]) -> Difference | None:
    for name in sorted(one.keys() | other.keys()):
        first, second = (json.dumps(each[name]) if name in each else "nothing" for each in (one, other))
        if first != second:
            return Difference(step, f"{place}{name}", *_around_the_difference(first, second))
    return None


def _around_the_difference(one: str, other: str) -> tuple[str, str]:
    """Returns two texts, where they are long the part in which they differ first."""
    if max(len(one), len(other)) <= _SHOWN_CHARS:
        return one, other
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    begin = max(0, same - _SHOWN_CHARS // 3)
    cut = slice(begin, begin + _SHOWN_CHARS)
    return f"...{one[cut]}...", f"...{other[cut]}..."


def _saved_arrays(files: SavedFiles, step: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of a saved step by name, those of one part in memory at a time; no device is asked for."""
    folder = files.root / str(step)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for part in ("params", "optimizer"):
            tree = checkpointer.metadata(folder / part).item_metadata.tree
            how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            read = checkpointer.restore(folder / part, args=ocp.args.PyTreeRestore(restore_args=how))
            for name in sorted(read):  # run/checkpoints.py saves a flat dictionary
                yield f"{part} {name}", np.asarray(read[name])


def _of_arrays(step: int, name: str, one: np.ndarray, other: np.ndarray) -> Difference | None:
    if one.shape != other.shape or one.dtype != other.dtype:
        return Difference(step, name, f"{one.dtype}{list(one.shape)}", f"{other.dtype}{list(other.shape)}")
    if one.tobytes() == other.tobytes():
        return None
    rows = [np.frombuffer(each.tobytes(), np.uint8).reshape(each.size, -1) for each in (one, other)]
    differ = np.flatnonzero((rows[0] != rows[1]).any(axis=1))
    at = [int(index) for index in np.unravel_index(differ[0], one.shape)]
    values = (f"{each.ravel()[differ[0]].item()!r}" for each in (one, other))
    return Difference(step, f"{name}{at or ''} ({len(differ):,} of {one.size:,} numbers differ)", *values)

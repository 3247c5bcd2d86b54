"""Runs side by side: what a page and a terminal show of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.record.report.answers import greedy_answers
from tunix_grpo.record.report.curves import charts_over, evaluated
from tunix_grpo.record.report.differing import differing
from tunix_grpo.record.report.paired import Difference, paired_shares
from tunix_grpo.record.report.reading import RunRecord, read_record
from tunix_grpo.run.places import LEADERBOARD

_LAST = 10  # logged steps whose mean reward is shown


class Found(NamedTuple):
    """The runs that are compared.

    Attributes:
        runs: each with its label.
        left_out: runs of sweeps that are not taken.
    """

    runs: list[tuple[str, RunRecord]]
    left_out: int


class Pair(NamedTuple):
    """Two runs on the questions of a task that both have answered.

    Attributes:
        task: its name.
        run: label of the one.
        other: label of the one that it is compared with.
        questions: that both have answered.
        right: how many the one has right.
        other_right: how many the other one has right.
        difference: of the shares.
    """

    task: str
    run: str
    other: str
    questions: int
    right: int
    other_right: int
    difference: Difference


def find_runs(folders: Sequence[Path], most: int) -> Found:
    """Reads the runs; in the place of a sweep's folder those of its jobs, the best first.

    Args:
        most: runs of a sweep that are taken.

    Raises:
        UserError: a folder holds neither, or there are fewer than two runs.
    """
    found, left_out = [], 0
    for folder in folders:
        jobs = _jobs(folder) if (folder / LEADERBOARD).is_file() else [folder]
        found += jobs[:most]
        left_out += len(jobs[most:])
    found = list(dict.fromkeys(path.resolve() for path in found))
    if len(found) < 2:
        raise UserError(f"there is one run alone, {found[0] if found else folders[0]}; give a second one")
    return Found(
        list(zip(_labels(found), (read_record(folder, key="runs") for folder in found), strict=True)), left_out
    )


def _jobs(sweep: Path) -> list[Path]:
    """Returns the folders of a sweep's jobs that have left a record."""
    file = sweep / LEADERBOARD
    with file.open(encoding="utf-8", newline="") as lines:
        named = [row.get("folder") for row in csv.DictReader(lines)]
    if not all(named):
        raise UserError(f"{file}: it has no column folder, which names the runs; give the folders of the runs")
    folders = [sweep / str(name) for name in named]
    return [folder for folder in folders if (folder / "config.yaml").is_file()]


def _labels(folders: Sequence[Path]) -> list[str]:
    """Returns the end of each path that tells it from the others."""
    longest = max(len(folder.parts) for folder in folders)
    for parts in range(2, longest):
        labels = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [str(folder) for folder in folders]


def pairs_of(runs: Sequence[tuple[str, RunRecord]]) -> list[Pair]:
    """Compares every run with the first one, and with the one before it, on the questions that both have answered."""
    answers = {label: greedy_answers(run.folder) for label, run in runs}
    labels = [label for label, _ in runs]
    wanted = dict.fromkeys([*((label, labels[0]) for label in labels[1:]), *((b, a) for a, b in pairwise(labels))])
    pairs = []
    for label, other in wanted:
        for task in answers[label].keys() & answers[other].keys():
            ours, theirs = answers[label][task], answers[other][task]
            common = sorted(ours.keys() & theirs.keys())
            if common:
                right, other_right = [ours[key] for key in common], [theirs[key] for key in common]
                difference = paired_shares(right, other_right)
                pairs.append(Pair(task, label, other, len(common), sum(right), sum(other_right), difference))
    return sorted(pairs, key=lambda pair: (pair.task, labels.index(pair.run), labels.index(pair.other)))


def last_reward(run: RunRecord) -> float | None:
    """Returns the mean reward over the last logged steps; None where none was logged."""
    _, values = run.values("reward")
    return float(np.mean(values[-_LAST:])) if len(values) else None


def head_of(found: Found, pairs: Sequence[Pair]) -> dict[str, object]:
    """Returns all that a page of a comparison shows."""
    rows: list[dict[str, Json]] = []
    for label, run in found.runs:
        shares = {
            name: {"before": {"step": first, **one._asdict()}, "after": {"step": last, **other._asdict()}}
            for name, ((first, one), (last, other)) in evaluated(run).items()
        }
        row: dict[str, Json] = {"label": label, "folder": str(run.folder), "state": run.state()}
        rows.append(row | {"reward": last_reward(run), "evaluated": shares})
    return {
        "title": f"{len(found.runs)} runs side by side",
        "left_out": found.left_out,
        "runs": rows,
        "settings": differing([run.settings for _, run in found.runs]),
        "pairs": [pair._asdict() | {"difference": _difference(pair.difference)} for pair in pairs],
        "charts": charts_over(found.runs),
    }


def _difference(difference: Difference) -> dict[str, Json]:
    return {**difference._asdict(), "verdict": difference.verdict}

"""What the charts of a page show: numbers against the step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tunix_grpo.files import Json
from tunix_grpo.record.curve import MIN_POINTS_TO_SMOOTH, moving_average
from tunix_grpo.record.metrics import meaning_of
from tunix_grpo.record.report.intervals import Share
from tunix_grpo.record.report.reading import RunRecord

MOST_POINTS = 1500
"""Points of a line; where more were logged, each is the mean of several."""
ACCURACY = re.compile(r"eval/(?:[^/]+/)?accuracy")
"""Metrics that are shares of held-out questions."""
PERCENT = re.compile(
    rf"{ACCURACY.pattern}|.*(?:ratio|truncated|frac_reward_zero_std|mean_token_accuracy)|clip_ratio/.*"
)


class Points(NamedTuple):
    """A line.

    Attributes:
        label: what the legend calls it.
        steps: int64, ascending.
        values: as many, float64.
        look: line; faint, behind its moving average; dots, with a line between; low and high, the edges of a band.
        color: number of its colour; lines that belong together have one.
    """

    label: str
    steps: np.ndarray
    values: np.ndarray
    look: str = "line"
    color: int = 0


def charts_of(run: RunRecord) -> list[dict[str, Json]]:
    """Returns the charts of one run: those that are looked at first, then one for every other metric."""
    first = {
        "reward": _reward(run),
        "eval/accuracy": _accuracy(run),
        "kl": ("KL from the reference model", _smoothed(run, "kl", "KL per token", 2)),
        "completions/mean_length": ("Completion length in tokens", _length(run)),
    }
    charts = [chart(title, name, lines) for name, (title, lines) in first.items() if lines]
    shown = {*first, "eval/reward", "completions/min_length", "completions/max_length"}
    others = [name for name in run.names() if name not in shown and not ACCURACY.fullmatch(name)]
    return charts + [chart(name, name, _smoothed(run, name, name), more=True) for name in sorted(others)]


def charts_over(runs: Sequence[tuple[str, RunRecord]]) -> list[dict[str, Json]]:
    """Returns the charts of several runs over one another, each with its label."""
    names = dict.fromkeys(name for _, run in runs for name in run.names())
    first = [name for name in ("reward", "eval/accuracy", "kl", "completions/mean_length") if name in names]
    rest = sorted(name for name in names if name not in first)
    return [chart(name, name, _of_runs(runs, name), more=name in rest) for name in (*first, *rest)]


def chart(title: str, metric: str, lines: Iterable[Points], *, more: bool = False) -> dict[str, Json]:
    """Returns a chart as a page takes it: the steps of all its lines, and each line's values there.

    Args:
        metric: the name of what it shows first, which says what it means.
        more: it is shown when it is asked for.
    """
    whole = list(lines)
    lines = [_thinned(line) for line in whole]
    steps = np.unique(np.concatenate([line.steps for line in lines]))
    series: list[Json] = []
    for line in lines:
        values: list[Json] = [None] * len(steps)
        for place, value in zip(np.searchsorted(steps, line.steps).tolist(), line.values.tolist(), strict=True):
            values[place] = value
        series.append({"label": line.label, "look": line.look, "color": line.color, "values": values})
    return {
        "title": title,
        "about": meaning_of(metric),
        "percent": PERCENT.fullmatch(metric) is not None,
        "more": more,
        "logged": max(len(line.steps) for line in whole),
        "steps": steps.tolist(),
        "series": series,
    }


def _reward(run: RunRecord) -> tuple[str, list[Points]]:
    lines = _smoothed(run, "reward", "training, sampled")
    steps, values = run.values("eval/reward")
    return "Mean reward", lines + ([Points("held-out, greedy", steps, values, "dots", 1)] if len(steps) else [])


def _accuracy(run: RunRecord) -> tuple[str, list[Points]]:
    lines: list[Points] = []
    for color, name in enumerate([name for name in run.names() if ACCURACY.fullmatch(name)], 1):
        shares = run.shares(name)
        steps = np.array([step for step, _ in shares], np.int64)
        lines.append(Points(name, steps, np.array([share.value for _, share in shares]), "dots", color))
        lines += _interval(steps, [share for _, share in shares], color)
    return "Held-out accuracy, greedy", lines


def _interval(steps: np.ndarray, shares: Sequence[Share], color: int) -> list[Points]:
    ends = [(share.low, share.high) for share in shares if share.low is not None and share.high is not None]
    if len(ends) < len(shares) or len(ends) < 2:  # a band needs two points
        return []
    low, high = np.array(ends).T
    return [Points("95 % from", steps, low, "low", color), Points("95 % to", steps, high, "high", color)]


def _length(run: RunRecord) -> list[Points]:
    lines = _smoothed(run, "completions/mean_length", "mean", 3)
    low, high = run.values("completions/min_length"), run.values("completions/max_length")
    if len(low[0]) > 1 and np.array_equal(low[0], high[0]):
        lines += [Points("shortest", *low, "low", 3), Points("longest", *high, "high", 3)]
    return lines


def _smoothed(run: RunRecord, name: str, label: str, color: int = 0) -> list[Points]:
    steps, values = run.values(name)
    if not len(steps):
        return []
    if len(steps) < MIN_POINTS_TO_SMOOTH:
        return [Points(label, steps, values, "line", color)]
    average = moving_average(values)
    return [Points(f"{label}, mean", steps, average, "line", color), Points(label, steps, values, "faint", color)]


def _of_runs(runs: Sequence[tuple[str, RunRecord]], name: str) -> list[Points]:
    lines = []
    for color, (label, run) in enumerate(runs):
        steps, values = run.values(name)
        if len(steps) >= MIN_POINTS_TO_SMOOTH:
            values = moving_average(values)
        if len(steps):
            lines.append(Points(label, steps, values, "dots" if name.startswith("eval/") else "line", color))
    return lines


def _thinned(line: Points) -> Points:
    """Returns a line of at most MOST_POINTS points: means of neighbours; edges of bands keep what is furthest out."""
    count = len(line.steps)
    if count <= MOST_POINTS:
        return line
    starts = np.unique(np.linspace(0, count, MOST_POINTS, endpoint=False).astype(np.int64))
    sizes = np.diff([*starts, count])
    if line.look in ("low", "high"):
        values = (np.minimum if line.look == "low" else np.maximum).reduceat(line.values, starts)
    else:
        values = np.add.reduceat(line.values, starts) / sizes
    return line._replace(steps=line.steps[starts + sizes // 2], values=values)


def evaluated(run: RunRecord) -> Mapping[str, tuple[tuple[int, Share], tuple[int, Share]]]:
    """Returns the first and the last evaluation of a run, (step, share) each, by the metric's name."""
    found = {name: run.shares(name) for name in run.names() if ACCURACY.fullmatch(name)}
    return {name: (shares[0], shares[-1]) for name, shares in found.items() if shares}

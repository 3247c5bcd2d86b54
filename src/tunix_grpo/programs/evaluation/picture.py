"""The picture of an evaluation: accuracies with their intervals, pass@k and maj@k, or the course over the steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunix_grpo.errors import one_line
from tunix_grpo.files import whole_file
from tunix_grpo.programs.evaluation.report import Found
from tunix_grpo.programs.evaluation.results import GREEDY, SAMPLED, Result

if TYPE_CHECKING:  # matplotlib takes half a second to load, and only a drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _THEIRS, _INK, _GRID = "#2563a8", "#c96a1b", "#333333", "#dddddd"
_log = logging.getLogger(__name__)


def write_picture(found: Sequence[Found], file: Path) -> None:
    """Draws a PNG, whole or not at all; one that cannot be drawn is a warning."""
    try:
        with whole_file(file) as written:
            draw(found).savefig(written, format="png", metadata={"Software": None})
    except Exception as error:  # those of matplotlib and of the disk have no common base
        _log.warning("%s could not be written (%s)", file, one_line(error))


def draw(found: Sequence[Found]) -> Figure:
    """Draws a row of two panels for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(each.result.task for each in found))
    figure = Figure(figsize=(11, 4.2 * len(tasks)), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for row, task in enumerate(tasks):
        of_task = [each for each in found if each.result.task == task]
        columns = 2 if of_task[-1].result.samples else 1
        left = figure.add_subplot(len(tasks), columns, columns * row + 1)
        if len(of_task) == 1:
            _draw_accuracies(left, of_task[0])
        else:
            _draw_course(left, of_task)
        if columns == 2:
            _draw_samples(figure.add_subplot(len(tasks), 2, 2 * row + 2), of_task[-1])
    return figure


def _draw_accuracies(axes: Axes, found: Found) -> None:
    """Draws every share of the result, beside the baseline's."""
    names = [
        (kind, name)
        for kind in (GREEDY, SAMPLED)
        for name in found.result.metrics.get(kind, {})
        if "accuracy" in name or name.split("@")[0] in ("mean", "strict_mean", "maj", "pass") or name == "truncated"
    ][::-1]
    for place, (kind, name) in enumerate(names):
        _draw_bar(axes, place + 0.13, found.result.metrics[kind][name], _OURS)
        other = None if found.baseline is None else found.baseline.metrics.get(kind, {}).get(name)
        if other is not None:
            _draw_bar(axes, place - 0.13, other, _THEIRS)
    axes.set_yticks(range(len(names)), [f"{kind} {name}" for kind, name in names], fontsize=9)
    axes.set_xlim(-0.02, 1.02)
    _decorate(axes, f"{found.result.model} on {found.result.task}, {len(found.result.questions):,} questions")
    _name_the_sides(axes, found)


def _draw_bar(axes: Axes, place: float, estimate: Mapping[str, float | None], colour: str) -> None:
    low, high = estimate["low"], estimate["high"]
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(_number(estimate["value"]), place, "o", color=colour, markersize=5)


def _draw_course(axes: Axes, found: Sequence[Found]) -> None:
    """Draws the greedy accuracy of each step, strict and lenient."""
    from matplotlib.ticker import MaxNLocator

    results = [each.result for each in found]
    steps = [result.step or 0 for result in results]
    for name, style in (("accuracy", "-o"), ("strict_accuracy", "--o")):
        if any(name not in result.metrics[GREEDY] for result in results):
            continue
        estimates = [result.metrics[GREEDY][name] for result in results]
        values = [_number(each["value"]) for each in estimates]
        axes.plot(steps, values, style, color=_OURS, markersize=4, label=name.replace("_", " "))
        if name == "accuracy":
            low, high = ([_number(each[end]) for each in estimates] for end in ("low", "high"))
            axes.fill_between(steps, low, high, color=_OURS, alpha=0.15, linewidth=0)
    baseline = found[0].baseline
    if baseline is not None:
        level = _number(baseline.metrics[GREEDY]["accuracy"]["value"])
        axes.axhline(level, color=_THEIRS, linewidth=1.5, label=baseline.model)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("step", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    _decorate(axes, f"{results[0].task}, {len(results[0].questions):,} questions")


def _draw_samples(axes: Axes, found: Found) -> None:
    """Draws pass@k and maj@k over k, beside the greedy accuracy."""
    sides = [(found.result, _OURS)] + ([] if found.baseline is None else [(found.baseline, _THEIRS)])
    for result, colour in sides:
        for word, style in (("pass", "-o"), ("maj", "--s")):
            curve = _curve(result, word)
            if not curve:
                continue
            values = [_number(each["value"]) for each in curve.values()]
            label = f"{word}@k of {result.model}"
            axes.plot(list(curve), values, style, color=colour, markersize=4, label=label)
            low, high = ([_number(each[end]) for each in curve.values()] for end in ("low", "high"))
            axes.fill_between(list(curve), low, high, color=colour, alpha=0.12, linewidth=0)
        level = _number(result.metrics[GREEDY]["accuracy"]["value"])
        axes.axhline(level, color=colour, linewidth=1, linestyle=":", label=f"greedy accuracy of {result.model}")
    axes.set_xscale("log", base=2)
    ticks = sorted({k for result, _ in sides for k in _curve(result, "pass")})
    axes.set_xticks(ticks, [str(k) for k in ticks])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("k samples", color=_INK)
    axes.legend(frameon=False, fontsize=9)
    _decorate(axes, f"{found.result.model} on {found.result.task}: samples")


def _curve(result: Result, word: str) -> dict[int, dict[str, float | None]]:
    metrics = result.metrics.get(SAMPLED, {})
    return {int(name.split("@")[1]): each for name, each in metrics.items() if name.startswith(f"{word}@")}


def _name_the_sides(axes: Axes, found: Found) -> None:
    if found.baseline is None:
        return
    axes.plot([], [], "o", color=_OURS, label=found.result.model)
    axes.plot([], [], "o", color=_THEIRS, label=found.baseline.model)
    axes.legend(frameon=False, fontsize=9)


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value

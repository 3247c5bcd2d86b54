"""The learning curve: reward, held-out accuracy, KL and completion length against the step."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunix_grpo.errors import one_line
from tunix_grpo.files import read_json_lines, whole_file
from tunix_grpo.record.tracker import CompletionRecord

if TYPE_CHECKING:  # matplotlib takes half a second to load, and only a drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _GREEN, _ORANGE, _PURPLE = "#2563a8", "#2e8b57", "#c96a1b", "#7b4fa3"
_INK, _GRID = "#333333", "#dddddd"
MIN_POINTS_TO_SMOOTH = 20
"""Values from which on their moving average is drawn."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one metric at the steps that logged it."""

    steps: np.ndarray
    values: np.ndarray


class CurveTracker:
    """Draws the learning curve anew after an evaluation and at the end, from what the run has logged by then.

    A picture that cannot be drawn or written is a warning, and the next one is tried again.
    """

    def __init__(self, history: Path, output_dir: Path, *, every_s: float) -> None:
        """
        Args:
            history: what the run has logged over all its starts.
            output_dir: the run folder; the picture is its learning_curve.png.
            every_s: seconds between two pictures, and before the first one; an evaluation within them is drawn later.
        """
        self._history, self._picture = history, output_dir / "learning_curve.png"
        self._every_s, self._drawn_at, self._behind = every_s, time.monotonic(), False

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Draws, if these are the metrics of an evaluation and the last picture is old enough."""
        del step
        self._behind |= "eval/accuracy" in metrics
        if time.monotonic() - self._drawn_at >= self._every_s:
            self._draw()

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Does nothing: the curve shows no completions."""

    def close(self, *, failed: bool = False) -> None:
        """Draws what is not drawn yet."""
        del failed
        self._draw()

    def _draw(self) -> None:
        if not self._behind:
            return
        try:
            write_learning_curve(self._history, self._picture)
        except Exception as error:  # those of matplotlib and of the disk have no common base
            _log.warning("%s could not be written (%s); training goes on", self._picture, one_line(error))
        self._drawn_at, self._behind = time.monotonic(), False


def write_learning_curve(metrics_file: Path, output: Path) -> None:
    """Draws the learning curve of a run as a PNG.

    Args:
        metrics_file: JSON lines; metrics they do not have yet leave a panel empty.
        output: the picture's path, which appears whole or not at all; its folder names the run.
    """
    figure = draw_learning_curve(read_json_lines(metrics_file), _run_name(output))
    with whole_file(output) as written:
        figure.savefig(written, format="png", metadata={"Software": None})


def draw_learning_curve(lines: list[dict], run_name: str) -> Figure:
    """Draws the four panels: reward, held-out accuracy, KL, completion length.

    Args:
        lines: the objects that were logged, `step` and metrics each.
        run_name: what the title calls the run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7.5), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Learning curve of {run_name}", fontsize=13, color=_INK)
    (reward, accuracy), (kl, length) = figure.subplots(2, 2, sharex=True)
    _draw_reward(reward, lines)
    _draw_accuracy(accuracy, lines)
    _draw_kl(kl, lines)
    _draw_length(length, lines)
    first, last = _step_range(lines)
    margin = 0.02 * (last - first)
    kl.set_xlim(first - margin, last + margin)
    kl.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    for axes in (kl, length):
        axes.set_xlabel("step", color=_INK)
    return figure


def _draw_reward(axes: Axes, lines: list[dict]) -> None:
    sampled, heldout = _series(lines, "reward"), _series(lines, "eval/reward")
    _decorate(axes, "Reward", "mean total reward", sampled, heldout)
    if len(sampled.steps):
        _draw_smoothed(axes, sampled, _BLUE, "training, sampled")
    if len(heldout.steps):
        style = {"color": _GREEN, "marker": "o", "markersize": 4, "linewidth": 1.2}
        axes.plot(heldout.steps, heldout.values, label="held-out, greedy", zorder=3, **style)
    if len(sampled.steps) or len(heldout.steps):
        axes.legend(frameon=False, fontsize=9)


def _draw_accuracy(axes: Axes, lines: list[dict]) -> None:
    from matplotlib.ticker import PercentFormatter

    series = _series(lines, "eval/accuracy")
    _decorate(axes, "Held-out accuracy", "questions answered right, greedy", series)
    axes.set_ylim(-0.06, 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.plot(series.steps, series.values, color=_GREEN, marker="o", markersize=4, linewidth=1.6)
    if not len(series.steps):
        return
    first, last = series.values[0], series.values[-1]
    # A label stands below its point where the line rises above the point, and above it elsewhere.
    places = {0: (7, -12 if series.values.max() > first else 7)}
    if len(series.steps) > 1:
        places[-1] = (0, -15 if series.values.max() > last else 7)
    for index, offset in places.items():
        axes.annotate(
            f"{series.values[index]:.1%}",
            (series.steps[index], series.values[index]),
            xytext=offset,
            textcoords="offset points",
            ha="left" if index == 0 else "right",
            fontsize=9,
            color=_INK,
        )


def _draw_kl(axes: Axes, lines: list[dict]) -> None:
    series = _series(lines, "kl")
    _decorate(axes, "KL from the reference model", "KL per token", series)
    _draw_smoothed(axes, series, _ORANGE, "")


def _draw_length(axes: Axes, lines: list[dict]) -> None:
    series = _series(lines, "completions/mean_length")
    _decorate(axes, "Completion length", "tokens", series)
    _draw_smoothed(axes, series, _PURPLE, "mean")
    low = _series(lines, "completions/min_length")
    high = _series(lines, "completions/max_length")
    if len(low.steps) and np.array_equal(low.steps, high.steps):
        band = {"color": _PURPLE, "alpha": 0.1, "linewidth": 0, "label": "shortest to longest"}
        axes.fill_between(low.steps, low.values, high.values, **band)
        axes.legend(frameon=False, fontsize=9)


def _draw_smoothed(axes: Axes, series: Series, color: str, label: str) -> None:
    """Draws the values; where there are many, faintly, and their moving average over them."""
    if len(series.steps) < MIN_POINTS_TO_SMOOTH:
        marker = "o" if len(series.steps) == 1 else ""
        axes.plot(series.steps, series.values, color=color, marker=marker, label=label)
        return
    axes.plot(series.steps, series.values, color=color, alpha=0.25, linewidth=1)
    average = moving_average(series.values)
    axes.plot(series.steps, average, color=color, linewidth=1.8, label=label)


def moving_average(values: np.ndarray) -> np.ndarray:
    """Averages each value with a tenth of them on both sides, fewer at the ends."""
    reach = len(values) // 10
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reaches = np.minimum(reach, np.minimum(places, places[::-1]))
    return (sums[places + reaches + 1] - sums[places - reaches]) / (2 * reaches + 1)


def _decorate(axes: Axes, title: str, ylabel: str, *series: Series) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, fontweight="bold")
    axes.set_ylabel(ylabel, color=_INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelbottom=True)
    if not any(len(one.steps) for one in series):
        axes.set_yticks([])
        place = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "no data yet", color="#999999", **place)


def _series(lines: list[dict], name: str) -> Series:
    points = [(line["step"], line[name]) for line in lines if name in line]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return Series(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))


def _step_range(lines: list[dict]) -> tuple[int, int]:
    steps = [line["step"] for line in lines] or [0]
    return min(steps), max(max(steps), min(steps) + 1)


def _run_name(picture: Path) -> str:
    return "/".join(picture.resolve().parent.parts[-2:])

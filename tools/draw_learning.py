"""Draws how fast several trainings learned: reward and held-out accuracy, against completions or minutes too.

    python tools/draw_learning.py PICTURE.png NAME=FOLDER ... [--minutes]

A folder is that of a run, or of `tools/learn_trl.py`, with metrics of every step. Folders of the same name, such as the
seeds of one recipe, have the same colour. Minutes are those of the steps, without evaluations and compiling.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tunix_grpo.record.curve import moving_average
from tunix_grpo.run.logged import read_metrics

COLOURS = ("#2563a8", "#c96a1b", "#2e8b57", "#7b4fa3", "#b3344d", "#555555")


def curves(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, of each step from 0 on, minutes until its end, reward and held-out accuracy; NaN where there is none.

    The first step compiles, which is no learning: it counts as the median of the others.
    """
    metrics = read_metrics(folder / "metrics.jsonl")
    steps = range(max(metrics) + 1)
    seconds = [metrics.get(step, {}).get("step_time", 0.0) for step in steps]
    seconds[1] = statistics.median(seconds[2:])
    minutes = np.cumsum(seconds) / 60
    reward, accuracy = (
        np.array([metrics.get(step, {}).get(name, np.nan) for step in steps]) for name in ("reward", "eval/accuracy")
    )
    return minutes, reward, accuracy


def draw(folders: list[tuple[str, Path]], completions: int, *, minutes: bool) -> Figure:
    """Returns a row of charts against completions, and one against minutes where they are wanted.

    Args:
        folders: name and folder of each.
        completions: of a step.
    """
    units = ("completions drawn", "minutes of steps")[: 1 + minutes]
    figure = Figure(figsize=(11, 3.8 * len(units)), layout="constrained")
    rows = figure.subplots(len(units), 2, squeeze=False)
    names, first = list(dict.fromkeys(name for name, _ in folders)), dict(reversed(folders))
    for name, folder in folders:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        label = name if first[name] == folder else None  # once for all of a name
        spent, reward, accuracy = curves(folder)
        reach = (len(reward) - 1) // 10  # of a moving average on both sides; at the ends there is less to average
        whole = slice(reach, len(reward) - 1 - reach)
        has = ~np.isnan(accuracy)
        for (left, right), x in zip(rows, (np.arange(len(spent)) * completions, spent), strict=False):
            left.plot(x[1:][whole], moving_average(reward[1:])[whole], color=colour, linewidth=1.4)
            right.plot(x[has], 100 * accuracy[has], color=colour, marker="o", markersize=4, label=label)
    for (left, right), unit in zip(rows, units, strict=True):
        _decorate(left, "reward of the samples, moving average", unit)
        _decorate(right, "held-out accuracy in %, greedy", unit)
    rows[0][1].legend(frameon=False)
    return figure


def _decorate(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(unit)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--minutes", action="store_true", help="draws both against minutes, too")
    parser.add_argument("--completions", type=int, default=64, help="of a step")
    given = parser.parse_args()
    folders = [(name, Path(folder)) for name, _, folder in (each.partition("=") for each in given.folders)]
    draw(folders, given.completions, minutes=given.minutes).savefig(given.picture, dpi=110)


if __name__ == "__main__":
    main()

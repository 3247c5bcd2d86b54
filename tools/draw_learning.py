"""Draws how fast several trainings learned: reward and held-out accuracy, against completions and against minutes.

    python tools/draw_learning.py PICTURE.png NAME=FOLDER ...

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


def draw(folders: list[tuple[str, Path]], completions: int) -> Figure:
    """Returns two rows of two charts.

    Args:
        folders: name and folder of each.
        completions: of a step.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    rows = figure.subplots(2, 2, sharex="col", sharey="row")
    names = list(dict.fromkeys(name for name, _ in folders))
    for name, folder in folders:
        colour = COLOURS[names.index(name) % len(COLOURS)]
        minutes, reward, accuracy = curves(folder)
        has = ~np.isnan(accuracy)
        for column, x in enumerate((np.arange(len(minutes)) * completions, minutes)):
            rows[0][column].plot(x[1:], moving_average(reward[1:]), color=colour, linewidth=1.4)
            label = name if name not in [line.get_label() for line in rows[1][column].lines] else None
            rows[1][column].plot(x[has], 100 * accuracy[has], color=colour, marker="o", markersize=4, label=label)
    for column, unit in enumerate(("completions drawn", "minutes of steps")):
        _decorate(rows[0][column], "reward of the samples, moving average", "")
        _decorate(rows[1][column], "held-out accuracy in %, greedy", unit)
    rows[1][0].legend(frameon=False)
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
    parser.add_argument("--completions", type=int, default=64, help="of a step")
    given = parser.parse_args()
    folders = [(name, Path(folder)) for name, _, folder in (each.partition("=") for each in given.folders)]
    draw(folders, given.completions).savefig(given.picture, dpi=110)


if __name__ == "__main__":
    main()

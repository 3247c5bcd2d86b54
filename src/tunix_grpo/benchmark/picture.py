"""The picture of a sweep: seconds of a step with their limits, completion tokens per second, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunix_grpo.benchmark.growth import PARTS, Row
from tunix_grpo.console import format_count
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file

if TYPE_CHECKING:  # matplotlib takes half a second to load, and only a drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"rollout": "#2563a8", "reference": "#3a8f4d", "update": "#c96a1b", "step": "#333333"}
_INK, _GRID = "#333333", "#dddddd"
_SIZES = {
    "rows": "completions of a step",
    "tokens": "tokens of a completion",
    "model": "weights",
    "micro_batch_size": "prompts of a micro batch",
}


def write_picture(result: Mapping[str, Any], file: Path) -> None:
    """Draws what `sweep` has found, as the ending of the file says; whole or not at all.

    Raises:
        UserError: the disk refuses it.
    """
    figure = draw(result)
    try:
        with whole_file(file) as written:
            figure.savefig(written, format=file.suffix[1:])
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"plot={file}: cannot be written ({reason}); give another file") from error


def draw(result: Mapping[str, Any]) -> Figure:
    """Draws three panels over the size that the sweep varies; points that do not fit are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    sweep, timed = result["sweep"], [row for row in result["points"] if row["fits"]]
    figure = Figure(figsize=(14, 4.4), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    times, tokens, memory = figure.subplots(1, 3)
    for part in PARTS:
        if f"{part}_s" in timed[0]:
            _line(times, timed, f"{part}_s", _COLOURS[part], part)
            _line(times, timed, f"{part}_limit_s", _COLOURS[part], "_", limit=True)
    _line(tokens, timed, "completion_tokens_per_s", _COLOURS["step"], "measured")
    _line(tokens, timed, "completion_tokens_limit_per_s", _COLOURS["step"], "_", limit=True)
    _line(memory, timed, "peak_bytes", _COLOURS["rollout"], "at most", factor=1e-9)
    if result["memory_bytes"] < 4 * max(row["peak_bytes"] for row in timed):
        memory.axhline(result["memory_bytes"] / 1e9, color=_COLOURS["update"], linestyle=":", label="what there is")
    for axes, title in ((times, "seconds"), (tokens, "completion tokens/s")):
        axes.plot([], [], color=_INK, linestyle="--", linewidth=1.0, label="limit")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        _decorate(axes, title, _SIZES[sweep], sorted({row["size"] for row in timed}))
    memory.set_ylim(0, 1.1 * memory.get_ylim()[1])
    _decorate(memory, "memory, GB", _SIZES[sweep], sorted({row["size"] for row in timed}))
    models = "random weights" if sweep == "model" else timed[0]["model"]
    figure.suptitle(f"{models}, {timed[0]['dtype']}, on {timed[0]['device']}", fontsize=11, color=_INK)
    return figure


def _line(
    axes: Axes, timed: Sequence[Row], name: str, colour: str, label: str, limit: bool = False, factor: float = 1.0
) -> None:
    rows = sorted(timed, key=lambda row: row["size"])
    style = {"linestyle": "--", "linewidth": 1.0} if limit else {"marker": "o", "markersize": 4, "linewidth": 1.6}
    axes.plot([row["size"] for row in rows], [factor * row[name] for row in rows], color=colour, label=label, **style)


def _decorate(axes: Axes, title: str, size: str, sizes: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [format_count(each) for each in sizes])
    axes.minorticks_off()
    axes.set_title(title, fontsize=11, color=_INK)
    axes.set_xlabel(size, color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

"""Steps of several sizes, one after another, each in a process of its own: memory has a peak of its own there."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tunix_grpo.benchmark.growth import Row, fastest, size_of, with_growth
from tunix_grpo.benchmark.job import About
from tunix_grpo.benchmark.picture import write_picture
from tunix_grpo.benchmark.points import Point, config_of
from tunix_grpo.benchmark.report import figures, print_json, shown_seconds
from tunix_grpo.benchmark.sweep_report import named, print_sweep
from tunix_grpo.benchmark.turns import take_turns, worker
from tunix_grpo.config.benchmark import BenchmarkConfig, to_values
from tunix_grpo.console import format_bytes
from tunix_grpo.errors import NoRoomError, UserError

_log = logging.getLogger(__name__)


def sweep(config: BenchmarkConfig) -> None:
    """Times the points of a sweep, and prints and draws how they compare.

    Raises:
        NoRoomError: no point fits.
        UserError: something else that the user can mend.
    """
    plot = None if config.plot is None else Path(config.plot)
    if plot is not None and not plot.parent.is_dir():
        raise UserError(f"plot={plot}: there is no folder {plot.parent}; make it, or give another file")
    with worker("plan", "the benchmark") as planner:
        _log.info("measuring what the machine can do")
        plan = planner.ask(**to_values(config))
    rows = list(_rows(config, [Point(**each) for each in plan["points"]], plan["ceilings"]))
    result: dict[str, Any] = {"sweep": config.sweep, "memory_bytes": plan["memory_bytes"]}
    if config.sweep == "micro_batch_size":
        result |= {"points": rows, "best": fastest(rows, config.training.micro_batch_size)}
    else:
        result["points"] = with_growth(rows)
    if config.json:
        print_json(result)
    else:
        print_sweep(result)
    if not any(row["fits"] for row in rows):
        raise NoRoomError(f"sweep={config.sweep}: no point fits; {rows[0]['reason']}")
    if plot is not None:
        write_picture(result, plot)


def _rows(config: BenchmarkConfig, points: list[Point], ceilings: Mapping[str, float]) -> Iterator[Row]:
    """Yields the figures of each point; from the first on that does not fit, there are none."""
    fits: bool | None = True
    for number, point in enumerate(points, 1):
        row: Row = {"value": point.value, "settings": point.settings}
        if not fits:
            fits = None  # nobody knows
            yield row | {"fits": None, "reason": "not timed, since a smaller one does not fit"}
            continue
        label = named(config.sweep, point.value)
        _log.info("point %d of %d: %s", number, len(points), label)
        try:
            found = _timed(config, point, ceilings)
        except NoRoomError as error:
            _log.info("%s: does not fit", label)
            fits = False
            yield row | {"fits": False, "reason": str(error)}
            continue
        shown = shown_seconds(found["step_s"]), found["samples_per_s"], format_bytes(found["peak_bytes"])
        _log.info("%s: a step takes %s, %.3g samples/s, %s", label, *shown)
        yield row | {"fits": True, "size": size_of(str(config.sweep), found)} | found


def _timed(config: BenchmarkConfig, point: Point, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Returns the figures of a point.

    Raises:
        NoRoomError: it does not run as it was asked for: memory runs out.
    """
    name = f"the step of {named(config.sweep, point.value)}"
    with config_of(config, point) as alone, worker("own", name) as own:
        about = cast(About, own.ask(**to_values(alone), ceilings=dict(ceilings)))  # JSON that `own.serve` has written
        measured = take_turns(
            [own], about["total_steps"], functools.partial(_note, 1 + config.warmup, about["total_steps"])
        )
    return figures(about, alone, *measured) | {"weights": about["weights"]}


def _note(untimed: int, total: int, step: int, measurements: list[dict[str, Any]]) -> None:
    """Raises NoRoomError where a step went on with less at once than was asked for."""
    [measured] = measurements
    if measured["no_room"]:
        raise NoRoomError(measured["no_room"][0])
    _log.info("  step %d of %d%s: %.2f s", step, total, "" if step > untimed else " (not counted)", measured["step_s"])

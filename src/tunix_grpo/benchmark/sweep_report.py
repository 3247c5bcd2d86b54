"""The table of a sweep, for a person."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tunix_grpo.benchmark.growth import PARTS, Row
from tunix_grpo.benchmark.report import aligned, rates, shown_seconds, what_is_timed
from tunix_grpo.console import format_bytes, format_count

_UNITS = {"rows": "completions", "tokens": "tokens", "model": "layers", "micro_batch_size": "prompts at once"}
_ONE = {"rows": "completion", "tokens": "token", "model": "layer", "micro_batch_size": "prompt at once"}
_GROWTH = "growth       exponent since the point above: 1 is twice the time for twice the {}, 0 the same time"


def named(sweep: str | None, value: int | str) -> str:
    """Returns a point in words."""
    if isinstance(value, str):
        return value
    return f"{value:,} {(_ONE if value == 1 else _UNITS)[str(sweep)]}"


def print_sweep(result: Mapping[str, Any]) -> None:
    """Prints what `sweep` has found."""
    rows: Sequence[Row] = result["points"]
    timed = [row for row in rows if row["fits"]]
    lines = [*_heading(result["sweep"], timed[-1], result["memory_bytes"]), ""] if timed else []
    if timed:
        lines += [
            *aligned([_header(result["sweep"], timed), *(_line(result["sweep"], row, timed) for row in timed)]),
            "",
        ]
    lines += [f"{named(result['sweep'], row['value'])}: {_reason(row)}" for row in rows if not row["fits"]]
    if timed and result["sweep"] != "micro_batch_size":
        lines.append(_GROWTH.format("weights" if result["sweep"] == "model" else _UNITS[result["sweep"]]))
    if result.get("best"):
        lines += _best(result["best"])
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


def _reason(row: Row) -> str:
    return row["reason"] if row["fits"] is None else f"does not fit: {row['reason']}"


def _heading(sweep: str, largest: Row, memory: int) -> list[str]:
    prompts, generations = largest["prompts"], largest["generations"]
    of_prompts, tokens = f"{prompts} prompts x {generations} completions", f"{largest['completion_tokens']} tokens"
    if sweep == "rows":
        of_prompts = f"{generations} completions of a prompt,"
    elif sweep == "tokens":
        tokens = "tokens as below"
    real = ", of recorded lengths up to that" if largest["lengths"] == "real" else ""
    named_models = "random weights" if sweep == "model" else None
    return [
        what_is_timed(largest, named_models),
        f"{of_prompts} of {largest['prompt_tokens']} + {tokens}{real}, medians of {largest['steps']} steps, "
        "a process for each line",
        f"{rates(largest)}, {format_bytes(memory)} of memory",
    ]


def _header(sweep: str, timed: Sequence[Row]) -> list[str]:
    first = {"model": ["model", "weights"], "micro_batch_size": ["micro batch", "accumulation"]}
    parts = [part for part in PARTS if f"{part}_s" in timed[0]]
    grown = ["growth", "limit", "growth"] if sweep != "micro_batch_size" else ["limit"]
    remat = ["remat"] if _differs(timed) else []
    return [*first.get(sweep, [_UNITS[sweep]]), *parts, *grown, "samples/s", "completion tokens/s", "memory", *remat]


def _line(sweep: str, row: Row, timed: Sequence[Row]) -> list[str]:
    first = [f"{row['value']:,}" if isinstance(row["value"], int) else row["value"]]
    if sweep == "model":
        first = [named(sweep, row["value"]), format_count(row["weights"])]
    elif sweep == "micro_batch_size":
        first.append(str(row["settings"]["training.gradient_accumulation_steps"]))
    parts = [shown_seconds(row[f"{part}_s"]) for part in PARTS if f"{part}_s" in row]
    grown = [shown_seconds(row["step_limit_s"])]
    if sweep != "micro_batch_size":
        grown = [_exponent(row["step_growth"]), *grown, _exponent(row["step_limit_growth"])]
    rates_of_it = [f"{row['samples_per_s']:.3g}", f"{row['completion_tokens_per_s']:,.0f}"]
    remat = [row["remat"]] if _differs(timed) else []
    return [*first, *parts, *grown, *rates_of_it, format_bytes(row["peak_bytes"]), *remat]


def _differs(timed: Sequence[Row]) -> bool:
    """Says whether `training.remat=auto` has chosen differently for some of the points."""
    return len({row["remat"] for row in timed}) > 1


def _exponent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _best(best: Mapping[str, Any]) -> list[str]:
    lines = [f"fastest      {best['words']}"]
    configured = best["configured_samples_per_s"]
    if configured is not None and configured < best["samples_per_s"]:
        lines[0] += f": {best['samples_per_s'] / configured:.2f} times the samples/s of what is set"
    if best["not_told_apart"]:
        others = ", ".join(map(str, best["not_told_apart"]))
        lines.append(
            f"as fast      {others} at once cannot be told apart from it by these steps; more of them: steps=N"
        )
    return lines

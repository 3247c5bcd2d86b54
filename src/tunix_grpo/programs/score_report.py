"""What is said of scored completions: distributions, disagreements, slow rows, failures, examples."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tunix_grpo import console
from tunix_grpo.errors import shortened
from tunix_grpo.files import Json
from tunix_grpo.programs.scored_rows import Scores
from tunix_grpo.rewards.base import Failure, Scored

MOST_SLOW = 5
MOST_LEVELS = 6
_SHOWN_CHARS = 70
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Disagreement(NamedTuple):
    """How two parts go together.

    Attributes:
        correlation: Pearson's, in [-1, 1]; None where a part does not vary.
        first_only: rows with the first at its largest and the second at its smallest value.
        second_only: the other way round.
    """

    first: str
    second: str
    correlation: float | None
    first_only: list[int]
    second_only: list[int]


class Slow(NamedTuple):
    """A call that took long: of a reward, from a row on."""

    reward: str
    row: int
    seconds: float


def numbers(part: Sequence[Scored | Failure]) -> list[float | None]:
    """Returns the values of a part; None where there is none."""
    return [value.value if isinstance(value, Scored) else None for value in part]


def spread_of(values: Sequence[float | None]) -> dict[str, Json]:
    """Returns how many values there are, their mean, deviation and quartiles, and how often each is there if few."""
    there = [value for value in values if value is not None]
    if not there:
        return {"rows": 0}
    counts = Counter(there)
    quantiles = np.quantile(there, _QUANTILES).tolist()
    return {
        "rows": len(there),
        "mean": float(np.mean(there)),
        "std": float(np.std(there, ddof=1)) if len(there) > 1 else 0.0,
        **dict(zip(("min", "p25", "median", "p75", "max"), quantiles, strict=True)),
        "counts": {f"{value:g}": counts[value] for value in sorted(counts)} if len(counts) <= MOST_LEVELS else None,
    }


def disagreements(scores: Scores) -> list[Disagreement]:
    """Compares every two parts on the rows that have both."""
    found = []
    for first, second in itertools.combinations(scores.parts, 2):
        a, b = numbers(scores.parts[first]), numbers(scores.parts[second])
        both = [(row, x, y) for row, (x, y) in enumerate(zip(a, b, strict=True)) if x is not None and y is not None]
        left, right = np.array([x for _, x, _ in both]), np.array([y for _, _, y in both])
        if len(both) < 2 or left.std() == 0 or right.std() == 0:
            found.append(Disagreement(first, second, None, [], []))
            continue
        low, high = (left.min(), right.min()), (left.max(), right.max())
        found.append(
            Disagreement(
                first,
                second,
                float(np.corrcoef(left, right)[0, 1]),
                [row for row, x, y in both if x == high[0] and y == low[1]],
                [row for row, x, y in both if x == low[0] and y == high[1]],
            )
        )
    return found


def slowest(scores: Scores) -> list[Slow]:
    """Returns the calls that took longest, each at its first row."""
    calls = []
    for name, seconds in scores.seconds.items():
        firsts = [row for row in range(len(seconds)) if row == 0 or seconds[row] != seconds[row - 1]]
        calls += [Slow(name, row, seconds[row]) for row in firsts]
    return sorted(calls, key=lambda call: -call.seconds)[:MOST_SLOW]


def failures(scores: Scores) -> list[tuple[str, str, list[int]]]:
    """Returns each reward and reason with the rows that failed so."""
    found: dict[tuple[str, str], list[int]] = {}
    for name, part in scores.parts.items():
        for row, value in enumerate(part):
            if isinstance(value, Failure):
                found.setdefault((name, value.reason.rstrip(",")), []).append(row)
    return [(name, reason, rows) for (name, reason), rows in found.items()]


def to_json(scores: Scores) -> dict[str, Any]:
    """Returns all of it as JSON holds it; `rows` has the values of every row."""
    totals = scores.totals()
    return {
        "parts": {
            name: spread_of(numbers(part))
            | {kind: sum(isinstance(each, Failure) and f"{each.kind}s" == kind for each in part) for kind in _KINDS}
            | {"seconds": _whole_seconds(scores.seconds[name])}
            for name, part in scores.parts.items()
        },
        "total": spread_of(totals),
        "disagreements": [each._asdict() for each in disagreements(scores)],
        "slowest": [each._asdict() for each in slowest(scores)],
        "failures": [{"reward": name, "reason": reason, "rows": rows} for name, reason, rows in failures(scores)],
        "rows": [
            {
                "place": scores.places[row],
                "rewards": {name: numbers(part)[row] for name, part in _columns(scores)},
                "extras": {name: dict(_extras(part[row])) for name, part in scores.parts.items() if _extras(part[row])},
                "reward": totals[row],
            }
            for row in range(len(totals))
        ],
    }


_KINDS = ("errors", "timeouts")


def show_report(scores: Scores, title: str, examples: int) -> None:
    """Prints it.

    Args:
        examples: completions that are shown of each score.
    """
    _show_parts(scores, title)
    pairs = [each for each in disagreements(scores) if each.first_only or each.second_only]
    rows = []
    for each in pairs:
        for high, low, found in (
            (each.first, each.second, each.first_only),
            (each.second, each.first, each.second_only),
        ):
            if found:
                rows.append((f"{high} high, {low} low", f"{len(found):,}", _shown(scores, found[0])))
    if rows:
        console.table(("disagreement", "rows", "such as"), rows, "where parts disagree")
    failed = failures(scores)
    if failed:
        lines = [(name, shortened(why, 160), f"{len(rows):,}", _shown(scores, rows[0])) for name, why, rows in failed]
        console.table(("reward", "failure", "rows", "such as"), lines, "what failed")
    lines = [(f"{1000 * each.seconds:,.1f} ms", each.reward, _shown(scores, each.row)) for each in slowest(scores)]
    console.table(("call", "reward", "from the row"), lines, "what took longest")
    if examples:
        _show_examples(scores, examples)


def _show_parts(scores: Scores, title: str) -> None:
    lines = []
    weights = {reward.name: f"{reward.weight:g}" for reward in scores.rewards}
    columns = [(name, numbers(part), part) for name, part in scores.parts.items()]
    for name, values, part in [*columns, ("total", scores.totals(), [])]:
        spread: dict[str, Any] = spread_of(values)
        failed = sum(isinstance(each, Failure) for each in part)
        seconds = f"{_whole_seconds(scores.seconds[name]):.2f}" if part else ""
        lines.append(
            (
                name,
                weights.get(name, ""),
                f"{spread['rows']:,}",
                f"{failed:,}",
                *(f"{spread[key]:.3g}" if key in spread else "-" for key in ("mean", "std", "min", "median", "max")),
                _levels(spread),
                seconds,
            )
        )
    header = ("part", "weight", "rows", "failed", "mean", "std", "min", "median", "max", "value: rows", "seconds")
    console.table(header, lines, title)


def _levels(spread: dict[str, Any]) -> str:
    counts = spread.get("counts")
    if counts is None:
        return f"p25 {spread['p25']:.3g}, p75 {spread['p75']:.3g}" if "p25" in spread else "-"
    return ", ".join(f"{value}: {count:,}" for value, count in counts.items())


def _show_examples(scores: Scores, examples: int) -> None:
    totals = scores.totals()
    levels = sorted({total for total in totals if total is not None}, reverse=True)
    if len(levels) > MOST_LEVELS:  # evenly over the range, both ends included
        levels = [levels[place * (len(levels) - 1) // (MOST_LEVELS - 1)] for place in range(MOST_LEVELS)]
    lines = [
        (f"{level:.4g}", scores.places[row], _short(scores.samples.completions[row]))
        for level in levels
        for row in [row for row, total in enumerate(totals) if total == level][:examples]
    ]
    console.table(("total", "row", "completion"), lines, "examples")


def _whole_seconds(seconds: Sequence[float]) -> float:
    """Returns the time of all calls; rows of one call have its time each."""
    return float(sum(value for value, _ in itertools.groupby(seconds)))


def _columns(scores: Scores) -> list[tuple[str, list[Scored | Failure]]]:
    return list(scores.parts.items())


def _extras(value: Scored | Failure) -> dict[str, float]:
    return dict(value.extras) if isinstance(value, Scored) else {}


def _shown(scores: Scores, row: int) -> str:
    return f"{scores.places[row]}: {_short(scores.samples.completions[row])}"


def _short(text: str) -> str:
    return repr(shortened(" ".join(text.split()), _SHOWN_CHARS))

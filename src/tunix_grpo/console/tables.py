"""The tables at the start and at the end of a run."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunix_grpo.console.output import on_terminal, print_lines, to_log_files, visible
from tunix_grpo.console.units import format_duration, format_percent


def start_table(rows: list[tuple[str, str]], title: str) -> None:
    """Prints a table of names and values under a title; log files get it as plain lines."""
    lines = [title, *_aligned(rows)]
    if on_terminal():
        table = Table(
            title=Text(title, style="bold"),
            title_justify="left",
            box=box.HORIZONTALS,
            show_header=False,
        )
        table.add_column(style="cyan", overflow="fold")
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text(name), Text(visible(value)))
        Console(file=sys.stdout).print(table)
    else:
        print_lines(lines)
    to_log_files(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """Prints a table with a header under a title."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    if on_terminal():
        drawn = Table(title=Text(title, style="bold"), title_justify="left", box=box.HORIZONTALS)
        for name in header:
            drawn.add_column(name, overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(visible(cell)) for cell in row))
        Console(file=sys.stdout).print(drawn)
        return
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    print_lines([title, *(f"  {line.rstrip()}" for line in lines)])


def closing_summary(
    *,
    title: str,
    accuracy_before: float | None,
    accuracy_after: float | None,
    num_steps: int,
    seconds: float,
    paths: Iterable[tuple[str, str | Path]],
    evaluations: Iterable[tuple[str, str]] = (),
) -> None:
    """Prints the table that ends a run: accuracy before and after, the time, where everything was written.

    Args:
        title: headline, such as `Training finished`.
        accuracy_before: held-out accuracy before the first step, in [0, 1]; None when unknown.
        accuracy_after: held-out accuracy at the end, in [0, 1]; None when unknown.
        num_steps: steps that this process ran.
        seconds: time that this process took.
        paths: what was written, and where.
        evaluations: what else they have shown, by what it is called.
    """
    rows = [("held-out accuracy", _accuracy_change(accuracy_before, accuracy_after)), *evaluations]
    rows.append(("steps", f"{num_steps:,} in {format_duration(seconds)}, loading and evaluations included"))
    rows += [(name, str(path)) for name, path in paths]
    start_table(rows, title)


def _accuracy_change(before: float | None, after: float | None) -> str:
    if before is None:
        return "not measured" if after is None else f"{format_percent(after)} after"
    if after is None:
        return f"{format_percent(before)} before"
    points = 100 * (after - before)
    return f"{format_percent(before)} before, {format_percent(after)} after ({points:+.1f} points)"


def _aligned(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:<{width}}  {value}" for name, value in rows]

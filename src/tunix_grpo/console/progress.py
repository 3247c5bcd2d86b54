"""How far training is: a live bar on a terminal, plain lines elsewhere."""

import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from tunix_grpo.console.groups import ShownGroup
from tunix_grpo.console.output import log_handlers, on_terminal, print_lines, to_log_files
from tunix_grpo.console.units import format_clock, format_duration, format_percent

# Metric name -> what a progress line calls it, and how it shows the value.
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "reward": ("reward", lambda value: f"{value:.3f}"),
    "eval/accuracy": ("accuracy", format_percent),
    "kl": ("kl", lambda value: f"{value:.4f}"),
    "loss": ("loss", lambda value: f"{value:.4f}"),
}
_FURTHER = re.compile(r"eval/([^/]+)/accuracy")  # on a further task, which a line calls by its name
_ON_BAR = ("reward", "eval/accuracy", "kl")
_OF_A_STEP = {"reward", "loss", "step_time"}  # one of them is in what a step logs, none in what an evaluation does


class Progress:
    """Shows how far training is while a `with` block runs.

    On a terminal a bar, updated at every call; log lines appear above it. Elsewhere one line for
    each call that has metrics.
    """

    def __init__(self, total_steps: int, first_step: int = 1, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares for steps `first_step` to `total_steps`; a resumed run starts above 1."""
        self._total_steps = total_steps
        self._step = first_step - 1
        self._clock = clock
        self._shown: dict[str, float] = {}
        # (step, time) where the measurement of the pace begins, and (step, time) of the latest step.
        self._since = self._latest = (self._step, 0.0)
        self._num_measured = 0
        self._bar: Bar | None = None
        self._redirected: list[tuple[logging.StreamHandler, object]] = []
        self._open = False

    def __enter__(self) -> Self:
        self._open = True
        self._since = self._latest = (self._step, self._clock())
        if on_terminal():
            self._start_bar()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = False
        if self._bar is not None:
            self._stop_bar(self._bar)
            self._bar = None

    def update(self, step: int, metrics: Mapping[str, float] | None = None) -> None:
        """Notes that a step is done.

        Args:
            step: the step's number.
            metrics: what was logged for it, training or evaluation; None when nothing was, so
                that the bar keeps its values.
        """
        if not self._open:
            return
        if step != self._step:
            self._note_time(step)
        names = [*_SHOWN, *(name for name in metrics or () if _FURTHER.fullmatch(name))]
        new = {name: metrics[name] for name in names if name in metrics} if metrics else {}
        self._shown |= new
        if self._bar is not None:
            self._refresh(self._bar)
        if new:
            line = self._line(new)
            to_log_files([line])
            if self._bar is None:
                print_lines([line])

    def show(self, groups: Iterable[ShownGroup]) -> None:
        """Shows completions above the bar, or as lines where there is none."""
        for group in groups if self._open else ():
            lines = group.lines()
            to_log_files(lines)
            if self._bar is None:
                print_lines(lines)
            else:
                self._bar.console.print(group.drawn())

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows metrics, as a tracker keeps them."""
        self.update(step, metrics)

    def _line(self, new: Mapping[str, float]) -> str:
        """Returns one plain line; after an evaluation the line shows the metrics of the evaluation only."""
        width = len(str(self._total_steps))
        described = _described(self._shown, _SHOWN) if _OF_A_STEP & new.keys() else _described(new, new)
        parts = [f"step {self._step:>{width}}/{self._total_steps}", *described]
        pace = self._seconds_per_step()
        if pace is not None and _OF_A_STEP & new.keys():
            parts += [f"{format_duration(pace)}/step", f"left {self._time_left()}"]
        return "  ".join(parts)

    def _note_time(self, step: int) -> None:
        """Records when a step ended. The pace counts from the end of the first step, because that one compiles."""
        if self._num_measured == 1:
            self._since = self._latest
        self._num_measured += 1
        self._step = step
        self._latest = (step, self._clock())

    def _seconds_per_step(self) -> float | None:
        num_steps = self._latest[0] - self._since[0]
        return (self._latest[1] - self._since[1]) / num_steps if num_steps else None

    def _time_left(self) -> str:
        pace = self._seconds_per_step()
        return "?" if pace is None else format_clock(pace * (self._total_steps - self._step))

    def _start_bar(self) -> None:
        """Starts the bar, and has log lines printed above it instead of into it."""
        console = Console(file=sys.stdout)
        self._bar = Bar(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=None if console.width >= 90 else 10),
            _ValuesColumn(),
            TextColumn("left {task.fields[left]}", style="cyan"),
            console=console,
            refresh_per_second=4,
            expand=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._bar.add_task("", total=self._total_steps, completed=self._step, values="", left="?")
        before = (sys.stdout, sys.stderr)
        self._bar.start()
        for handler in log_handlers():
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                self._redirected.append((handler, handler.stream))
                # While the bar lives, rich stands in for both streams under their usual names.
                handler.setStream((sys.stdout, sys.stderr)[before.index(handler.stream)])

    def _refresh(self, bar: Bar) -> None:
        bar.update(
            bar.task_ids[0],
            completed=self._step,
            values="  ".join(_described(self._shown, _ON_BAR)),
            left=self._time_left(),
        )

    def _stop_bar(self, bar: Bar) -> None:
        for handler, stream in self._redirected:
            handler.setStream(stream)
        self._redirected.clear()
        bar.stop()


class _ValuesColumn(ProgressColumn):
    """Shows the metrics on the bar; a narrow terminal cuts them and leaves the rest whole."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["values"], no_wrap=True, overflow="ellipsis")


def _described(values: Mapping[str, float], metrics: Iterable[str]) -> list[str]:
    """Returns `name value` for each of the metrics that has a value."""
    known = [(*_shown_as(metric), values[metric]) for metric in metrics if metric in values]
    return [f"{name} {show(value)}" for name, show, value in known]


def _shown_as(metric: str) -> tuple[str, Callable[[float], str]]:
    further = _FURTHER.fullmatch(metric)
    return _SHOWN[metric] if further is None else (further[1], format_percent)

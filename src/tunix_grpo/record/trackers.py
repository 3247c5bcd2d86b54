"""The record of a run: JSON lines and the learning curve always, and copies of it.

Copies go to TensorBoard, to Weights & Biases, to trackio and to a tracker of the user's own.
"""

import logging
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tunix_grpo.config import Config, RunConfig
from tunix_grpo.record.curve import CurveTracker
from tunix_grpo.record.custom import CustomTracker
from tunix_grpo.record.earlier import make_room
from tunix_grpo.record.jsonl import HistoryTracker, JsonlTracker, disk_errors
from tunix_grpo.record.metrics import is_metric
from tunix_grpo.record.report.tracker import ReportTracker
from tunix_grpo.record.tracker import CompletionRecord, Resumable, Tracker, TrackerError
from tunix_grpo.run.places import HISTORY

_PICTURE_EVERY_S = 10.0  # a picture takes about half a second
_log = logging.getLogger(__name__)


class TrackerGroup:
    """Passes the numbers on to every tracker, between `with` and its end; an exception marks the run as failed.

    It refuses unknown names and numbers that are not finite: both are mistakes of this program. A tracker that raises
    `TrackerError` is reported once and left out from then on.
    """

    def __init__(
        self, trackers: list[Tracker], *, wandb_run_id: str | None = None, trackio_run: str | None = None
    ) -> None:
        """Takes the trackers, the local record first, and for the checkpoint what their runs are called."""
        self._trackers = list(trackers)
        self._left_out: list[Tracker] = []
        self.wandb_run_id, self.trackio_run = wandb_run_id, trackio_run

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Logs one set of numbers for a step.

        Raises:
            ValueError: a name is not listed in `METRICS`, or a number is NaN or infinite.
        """
        numbers: dict[str, float] = {}
        for name, value in metrics.items():
            if not is_metric(name):
                raise ValueError(f"metric {name!r} is not listed in METRICS")
            numbers[name] = value if isinstance(value, int) else float(value)
            if not math.isfinite(numbers[name]):
                raise ValueError(f"metric {name!r} is {value} at step {step}")
        self._to_all(lambda tracker: tracker.log_metrics(step, numbers))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Logs the completions of a step."""
        self._to_all(lambda tracker: tracker.log_completions(step, records))

    def close(self, *, failed: bool = False) -> None:
        """Closes every tracker, the local record last; calling it again does nothing."""
        while self._left_out:
            with suppress(TrackerError):  # this tracker's failure has been reported
                self._left_out.pop().close(failed=True)
        while self._trackers:
            try:
                self._trackers.pop().close(failed=failed)
            except TrackerError as error:
                _log.warning("%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(failed=error_type is not None)

    def _to_all(self, log: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                log(tracker)
            except TrackerError as error:
                _log.warning("%s; training goes on, metrics.jsonl has everything", error)
                self._trackers.remove(tracker)
                self._left_out.append(tracker)


def build_trackers(
    config: RunConfig, *, resume_step: int, wandb_run_id: str | None = None, trackio_run: str | None = None
) -> TrackerGroup:
    """Opens the trackers that the config selects, in `config.output_dir`; another run's record there is moved aside.

    Args:
        config: the whole config; W&B gets it with secrets masked.
        resume_step: last step of the checkpoint that the run continues from, 0 for a new run. What the folder already
            says about later steps is dropped.
        wandb_run_id: id of the W&B run to continue, from the checkpoint.
        trackio_run: name of the trackio run to continue, likewise.

    Raises:
        UserError: the user's own tracker cannot be made.
    """
    custom = config.tracker.custom
    own = [] if custom is None else [CustomTracker(custom, config)]
    output_dir, history = Path(config.output_dir), Path(config.checkpoint_dir) / HISTORY
    with disk_errors(output_dir):
        make_room(output_dir, history, resume_step)
    over_all_starts = HistoryTracker(history, output_dir, resume_step=resume_step)
    samples = isinstance(config, Config)
    local = JsonlTracker(output_dir, resume_step=resume_step, completions=samples)
    copies: dict[str, Tracker] = {}
    run_ids = {"wandb": wandb_run_id, "trackio": trackio_run}
    for name, build in TRACKERS.items():
        if getattr(config.tracker, name):
            try:
                copies[name] = build(config, resume_step, run_ids.get(name))
            except TrackerError as error:
                _log.warning("%s", error)
    run_ids |= {name: copy.run_id for name, copy in copies.items() if isinstance(copy, Resumable)}
    curve = CurveTracker(history, output_dir, every_s=_PICTURE_EVERY_S)
    ours: list[Tracker] = [over_all_starts, local, curve]
    if config.tracker.report:
        ours.append(ReportTracker(output_dir, Path(config.checkpoint_dir)))
    trackers = [*ours, *copies.values(), *own]
    return TrackerGroup(trackers, wandb_run_id=run_ids["wandb"], trackio_run=run_ids["trackio"])


# The libraries are loaded where they are used; wandb, which takes half a second, on a thread beside the run.


def _tensorboard(config: RunConfig, resume_step: int, run_id: str | None) -> Tracker:
    from tunix_grpo.record.tensorboard import TensorBoardTracker

    return TensorBoardTracker(
        Path(config.output_dir), num_completions=config.tracker.num_completions, resume_step=resume_step
    )


def _wandb(config: RunConfig, resume_step: int, run_id: str | None) -> Tracker:
    from tunix_grpo.record.wandb import WandbTracker

    return WandbTracker(config, run_id=run_id)


def _trackio(config: RunConfig, resume_step: int, run_id: str | None) -> Tracker:
    from tunix_grpo.record.trackio import TrackioTracker

    return TrackioTracker(config, run_id=run_id)


TRACKERS: dict[str, Callable[[RunConfig, int, str | None], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""The copies by name, which is also the setting of `tracker` that switches one on.

A builder gets the config, the step that the run continues from and the id of its own run to continue.
"""

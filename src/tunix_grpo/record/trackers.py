"""The record of a run: JSON lines always, TensorBoard and Weights & Biases as copies of them."""

import logging
import math
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunix_grpo.config import Config
from tunix_grpo.record.jsonl import JsonlTracker
from tunix_grpo.record.metrics import is_metric
from tunix_grpo.record.run_config import public_config
from tunix_grpo.record.tracker import CompletionRecord, Tracker, TrackerError

if TYPE_CHECKING:
    from tunix_grpo.record.tensorboard import TensorBoardTracker
    from tunix_grpo.record.wandb import WandbTracker

logger = logging.getLogger(__name__)


class TrackerGroup:
    """Passes the numbers on to every tracker.

    It refuses unknown names and numbers that are not finite: both are mistakes of this program. A
    tracker that raises `TrackerError` is reported once and left out from then on.
    """

    def __init__(self, trackers: list[Tracker], *, wandb_run_id: str | None = None) -> None:
        self._trackers = list(trackers)
        self._failed: list[Tracker] = []
        self._wandb_run_id = wandb_run_id

    @property
    def wandb_run_id(self) -> str | None:
        """Id of the W&B run, for the checkpoint: a resumed run continues under it."""
        return self._wandb_run_id

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
        for tracker in list(self._trackers):
            try:
                tracker.log_metrics(step, numbers)
            except TrackerError as error:
                self._leave_out(tracker, error)

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Logs the completions of a step."""
        for tracker in list(self._trackers):
            try:
                tracker.log_completions(step, records)
            except TrackerError as error:
                self._leave_out(tracker, error)

    def close(self, *, failed: bool = False) -> None:
        """Closes every tracker, the local record last; calling it again does nothing."""
        while self._failed:
            with suppress(TrackerError):  # this tracker's failure has been reported
                self._failed.pop().close(failed=True)
        while self._trackers:
            try:
                self._trackers.pop().close(failed=failed)
            except TrackerError as error:
                logger.warning("%s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(failed=error_type is not None)

    def _leave_out(self, tracker: Tracker, error: TrackerError) -> None:
        logger.warning("%s; training goes on, metrics.jsonl has everything", error)
        self._trackers.remove(tracker)
        self._failed.append(tracker)


def build_trackers(config: Config, *, resume_step: int, wandb_run_id: str | None = None) -> TrackerGroup:
    """Opens the trackers that the config selects, in `config.output_dir`.

    Args:
        config: the whole config; W&B gets it with secrets masked.
        resume_step: last step of the checkpoint that the run continues from, 0 for a new run. What
            the folder already says about later steps is dropped.
        wandb_run_id: id of the W&B run to continue, from the checkpoint.
    """
    trackers: list[Tracker] = [JsonlTracker(Path(config.output_dir), resume_step=resume_step)]
    if config.tracker.tensorboard:
        try:
            trackers.append(_build_tensorboard(config, resume_step))
        except TrackerError as error:
            logger.warning("%s", error)
    if config.tracker.wandb:
        try:
            tracker = _build_wandb(config, wandb_run_id)
        except TrackerError as error:
            logger.warning("%s", error)
        else:
            trackers.append(tracker)
            wandb_run_id = tracker.run_id
    return TrackerGroup(trackers, wandb_run_id=wandb_run_id)


# Both import late: tensorboardX brings torch in where that is installed, wandb takes half a second.


def _build_tensorboard(config: Config, resume_step: int) -> "TensorBoardTracker":
    from tunix_grpo.record.tensorboard import TensorBoardTracker

    return TensorBoardTracker(
        Path(config.output_dir),
        num_completions=config.tracker.num_completions,
        resume_step=resume_step,
    )


def _build_wandb(config: Config, run_id: str | None) -> "WandbTracker":
    from tunix_grpo.record.wandb import WandbTracker

    return WandbTracker(
        public_config(config),
        Path(config.output_dir),
        project=config.tracker.project,
        entity=config.tracker.entity,
        run_name=config.tracker.run_name,
        num_completions=config.tracker.num_completions,
        run_id=run_id,
    )

"""A tracker of the user's own, from a Python file."""

from pathlib import Path

from tunix_grpo.config import RunConfig
from tunix_grpo.config.plugins import Reporting, resolve
from tunix_grpo.errors import UserError
from tunix_grpo.record.tracker import CompletionRecord, TrackerError

_METHODS = ("log_metrics", "log_completions", "close")


class CustomTracker:
    """Passes the record on to the user's tracker; whatever the user's tracker raises ends this copy, not the run."""

    def __init__(self, reference: str, config: RunConfig) -> None:
        """Makes the user's tracker from the run's folder and settings.

        Args:
            reference: FILE.py:NAME; NAME(output_dir, config) returns the user's tracker.

        Raises:
            UserError: that fails, or what it gives cannot be called as a tracker.
        """
        build = resolve(reference, "tracker.custom")
        with Reporting(lambda what: UserError(f"tracker.custom cannot be started: {what}")):
            self._tracker = build(Path(config.output_dir), config)
        missing = [name for name in _METHODS if not callable(getattr(self._tracker, name, None))]
        if missing:
            raise UserError(
                f"tracker.custom gives a {type(self._tracker).__name__} without {', '.join(missing)}; "
                f"a tracker has {', '.join(_METHODS)}"
            )
        self._reporting = Reporting(lambda what: TrackerError(f"tracker.custom failed: {what}"))

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Passes on one set of numbers for a step."""
        with self._reporting:
            self._tracker.log_metrics(step, metrics)

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Passes on the completions of a logged step."""
        with self._reporting:
            self._tracker.log_completions(step, records)

    def close(self, *, failed: bool = False) -> None:
        """Closes the user's tracker."""
        with self._reporting:
            self._tracker.close(failed=failed)

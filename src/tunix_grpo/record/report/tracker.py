"""The report that a run writes of itself when it ends."""

from __future__ import annotations

import logging
from pathlib import Path

from tunix_grpo.errors import one_line
from tunix_grpo.record.report.writing import REPORT, write_report
from tunix_grpo.record.tracker import CompletionRecord

MOST_COMPLETIONS = 10_000
"""Completions in it, so that it takes less than a second; `scripts/report.py` writes one with more."""
_log = logging.getLogger(__name__)


class ReportTracker:
    """Writes `report.html` into the run folder when the run ends, in whatever way; a failure is a warning."""

    def __init__(self, output_dir: Path, checkpoint_dir: Path) -> None:
        """Takes the run's folder and that of its checkpoints."""
        self._output_dir, self._checkpoint_dir = output_dir, checkpoint_dir

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Does nothing: the report reads what the run folder holds at the end."""

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Does nothing, as above."""

    def close(self, *, failed: bool = False) -> None:
        """Writes the report."""
        del failed
        file = self._output_dir / REPORT
        try:
            write_report(self._output_dir, file, most=MOST_COMPLETIONS, checkpoint_dir=str(self._checkpoint_dir))
        except Exception as error:  # whatever it is, the run has trained
            _log.warning("%s could not be written (%s); the run is complete without it", file, one_line(error))

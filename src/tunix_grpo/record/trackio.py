"""The trackio copy: metrics and completions in a database on this machine, which `trackio show` opens in a browser.

trackio writes from a thread of its own and only warns where it cannot. A run that is resumed goes on under its name.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from pathlib import Path
from typing import Any

from tunix_grpo.config import RunConfig
from tunix_grpo.errors import one_line
from tunix_grpo.record.run_config import public_config
from tunix_grpo.record.tracker import Cell, CompletionRecord, TrackerError, as_row, spread

_log = logging.getLogger(__name__)


class TrackioTracker:
    """Logs metrics, and completions as a table, to one trackio run."""

    def __init__(self, config: RunConfig, *, run_id: str | None) -> None:
        """Starts a run, or goes on with the one that is called `run_id`.

        A new run without a name is called after its folder, `2026-01-31/12-30-00`. The variables of trackio, such as
        TRACKIO_DIR, hold.

        Raises:
            TrackerError: trackio cannot be loaded or cannot start.
        """
        self._num_completions = config.tracker.num_completions
        name = run_id or config.tracker.run_name or "/".join(Path(config.output_dir).resolve().parts[-2:])
        project = config.tracker.project
        try:
            self._trackio: Any = importlib.import_module("trackio")
            with _unheard():
                self._run = self._trackio.init(
                    project=project,
                    name=name,
                    config=public_config(config),
                    resume="never" if run_id is None else "allow",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        except Exception as error:  # its errors have no common base, and a damaged installation raises anything
            raise TrackerError(f"trackio cannot start: {one_line(error)}") from error
        self.run_id: str = self._run.name
        folder = self._trackio.utils.TRACKIO_DIR
        _log.info("trackio: logging to %s as %s; trackio show --project %s opens it", folder, self.run_id, project)

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Queues one set of numbers."""
        self._call(self._run.log, dict(metrics), step)

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Queues sample completions, a table for each logged step."""
        rows = [as_row(record) for record in spread(records, self._num_completions)]
        if rows:
            data = [{name: _encodable(cell) for name, cell in row.items()} for row in rows]
            self._call(self._run.log, {"completions": self._trackio.Table(data=data)}, step)

    def close(self, *, failed: bool = False) -> None:
        """Writes out what is queued, within the half minute that trackio gives itself."""
        del failed
        with _unheard():
            self._call(self._trackio.finish)

    def _call(self, function: Any, *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:
            raise TrackerError(f"trackio stopped working: {one_line(error)}") from error


def _encodable(cell: Cell) -> Cell:
    """Returns a cell without half a pair of surrogates, for which trackio would leave out the table."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _unheard() -> contextlib.AbstractContextManager[object]:
    """Mutes what trackio prints at the start and the end of a run: it is said in one line of ours."""
    return contextlib.redirect_stdout(io.StringIO())

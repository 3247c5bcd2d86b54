"""W&B tables of sample completions."""

import logging
import os
from concurrent.futures import Future
from pathlib import Path

import wandb

from tunix_grpo.errors import one_line
from tunix_grpo.record.tracker import Cell, CompletionRecord, as_row
from tunix_grpo.record.worker import Worker

INCREMENTS_PER_TABLE = 50
"""How often a table is added to: W&B shows the last 100 increments of a table."""
_STAGING = "WANDB_DATA_DIR"  # the variable that tells wandb where the files that wait for upload go
_log = logging.getLogger(__name__)


class CompletionTables:
    """The completion tables of a run, in which all logged steps stay visible.

    A table is named after its first step, `completions/from_step_000010`; a new one begins every INCREMENTS_PER_TABLE
    increments and at a resume. wandb asks the server before it takes a table, so that sending has a thread of its own:
    rows gather meanwhile and go together, and rows that were refused go with the next ones.
    """

    def __init__(self, run: wandb.Run, staging_dir: Path) -> None:
        """Begins without a table; `staging_dir` gets the files that wait for upload, unless the user chose where."""
        self._run = run
        self._worker = Worker("wandb tables")
        self._rows: list[dict[str, Cell]] = []  # not sent yet
        self._table: wandb.Table | None = None
        self._name, self._num_increments = "", 0
        self._has_warned = False
        self._sets_staging = _STAGING not in os.environ
        if self._sets_staging:
            os.environ[_STAGING] = str(staging_dir)

    def add(self, records: list[CompletionRecord]) -> Future:
        """Queues rows; the future is done when they have been sent or kept for later."""
        self._rows.extend([as_row(record) for record in records])
        return self._worker.submit(self._send)

    def close(self, timeout_s: float) -> None:
        """Waits for the last rows, no longer than the given time."""
        try:
            self.add([]).result(timeout_s)
        except TimeoutError:
            _log.warning("W&B: the last completions did not arrive, completions.jsonl has them")
        except Exception as error:  # wandb's errors have no common base
            _log.warning("W&B did not take the last completions, completions.jsonl has them: %s", one_line(error))
        if self._sets_staging:
            os.environ.pop(_STAGING, None)

    def _send(self) -> None:
        rows = self._rows[:]  # more may come while these are sent
        if not rows:
            return
        if self._table is None or self._num_increments == INCREMENTS_PER_TABLE:
            self._table = wandb.Table(columns=list(rows[0]), log_mode="INCREMENTAL")
            self._name, self._num_increments = f"completions/from_step_{rows[0]['step']:06d}", 0
        for row in rows:
            self._table.add_data(*row.values())
        try:
            self._run.log({"step": rows[-1]["step"], self._name: self._table})
        except Exception as error:  # wandb's errors have no common base
            if not self._has_warned:
                _log.warning("W&B did not take a completions table, its rows go with the next: %s", one_line(error))
            self._has_warned, self._table = True, None
            return
        del self._rows[: len(rows)]
        self._num_increments += 1

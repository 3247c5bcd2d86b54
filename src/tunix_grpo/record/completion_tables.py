"""W&B tables of sample completions, and the errors that wandb raises."""

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import wandb
from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

from tunix_grpo.record.tracker import CompletionRecord
from tunix_grpo.record.worker import Worker

logger = logging.getLogger(__name__)

INCREMENTS_PER_TABLE = 50
"""How often a table is added to: W&B shows the last 100 increments of a table."""
RETRY_S = 300.0
"""How long to wait before a table that could not be sent is tried again."""

# What wandb raises for refusals, for the disk and time limits (OSError), for settings that it does
# not accept (ValueError), and for its side process, whose errors have no common base.
WANDB_ERRORS = (
    wandb.Error,
    OSError,
    ValueError,
    HandleAbandonedError,
    MailboxClosedError,
    ServerResponseError,
    WandbServiceConnectionError,
)


def one_line(error: BaseException) -> str:
    """Shortens an error's text to what fits in a log line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


class CompletionTables:
    """The completion tables of a run, in which all logged steps stay visible.

    A table is named after its first step, `completions/from_step_000010`; a new one begins every
    `INCREMENTS_PER_TABLE` increments and at a resume. wandb asks the server before it takes a
    table, so this happens on a thread of its own: rows gather meanwhile and go together, and rows
    that cannot be sent are kept for later.
    """

    def __init__(self, run: wandb.Run, staging_dir: Path) -> None:
        """Begins without a table; `staging_dir` gets the files that wait for upload."""
        self._run = run
        self._staging_dir = staging_dir
        self._worker = Worker("wandb tables")
        self._new: SimpleQueue[CompletionRecord] = SimpleQueue()
        self._unsent: list[CompletionRecord] = []
        self._retry_at_s = 0.0
        self._table: wandb.Table | None = None
        self._name = ""
        self._num_increments = 0
        self._given_up = False

    def add(self, records: list[CompletionRecord]) -> Future[None]:
        """Queues rows; the future is done when they have been sent or kept for later."""
        for record in records:
            self._new.put(record)
        return self._worker.submit(self._send)

    def give_up(self) -> None:
        """Lets a call that hangs fail in silence later: its rows have been reported as missing."""
        self._given_up = True

    def _send(self) -> None:
        while not self._new.empty():
            self._unsent.append(self._new.get())
        if not self._unsent or time.monotonic() < self._retry_at_s:
            return
        if self._table is None or self._num_increments == INCREMENTS_PER_TABLE:
            first = self._unsent[0]
            self._table = wandb.Table(columns=_columns(first), log_mode="INCREMENTAL")
            self._name = f"completions/from_step_{first.step:06d}"
            self._num_increments = 0
        for record in self._unsent:
            self._table.add_data(*_row(record))
        try:
            with _staging_in(self._staging_dir):
                self._run.log({"step": self._unsent[-1].step, self._name: self._table})
        except WANDB_ERRORS as error:
            if not self._given_up:
                logger.warning("W&B did not take a completions table: %s", one_line(error))
            self._table = None
            self._retry_at_s = time.monotonic() + RETRY_S
            return
        self._unsent.clear()
        self._num_increments += 1


@contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Keeps the table files that wait for upload in the run folder, unless the user chose where."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _columns(record: CompletionRecord) -> list[str]:
    parts = [f"rewards/{name}" for name in record.rewards]
    tail = ["reward", "advantage", "length", "truncated"]
    return ["step", "prompt", "completion", "answer", *parts, *tail]


def _row(record: CompletionRecord) -> list[Any]:
    return [
        record.step,
        record.prompt,
        record.completion,
        record.answer,
        *(float(value) for value in record.rewards.values()),
        float(record.reward),
        float(record.advantage),
        record.length,
        record.truncated,
    ]

"""The Weights & Biases copy: online with a key, offline without one, never in the way of training.

All calls into wandb, its import too, run in order on a thread of their own, because they take a second or wait for the
server; only the end of a run waits for that thread, and only so long. Whatever wandb raises (its errors have no common
base, and those of its side process change with its versions) ends this copy, not the run. A run that is resumed goes on
under the same id.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunix_grpo.config import RunConfig
from tunix_grpo.config.wandb_variables import switched_off_by
from tunix_grpo.errors import one_line
from tunix_grpo.record.tracker import CompletionRecord, TrackerError, spread
from tunix_grpo.record.worker import Result, Worker

if TYPE_CHECKING:
    import wandb

    from tunix_grpo.record.completion_tables import CompletionTables

INIT_TIMEOUT_S = 20.0
"""How long the start of a run may wait for the W&B server; then it goes on offline."""
FINISH_TIMEOUT_S = 30.0
"""How long the end of a run may wait for uploads; what is left stays on disk for `wandb sync`."""
TABLES_TIMEOUT_S = 15.0
"""How long the end of a run may wait for the last completions table."""
GRACE_S = 5.0
"""How much longer than its own time limit a wandb call may take before it is given up."""


class Started(NamedTuple):
    """What a start leaves."""

    run: wandb.Run
    tables: CompletionTables


class WandbTracker:
    """Logs metrics and completion tables to one W&B run."""

    def __init__(self, config: RunConfig, *, run_id: str | None) -> None:
        """Begins to start the run, or to go on with `run_id`.

        Files go to `<output_dir>/wandb`, or where WANDB_DIR says. A new run without a name is called after its folder,
        `2026-01-31/12-30-00`. Whatever a variable of wandb's own says, such as WANDB_CONSOLE or WANDB_RUN_ID, holds;
        `tracker.wandb=true` on the command line wins over one that switches it off.

        Raises:
            TrackerError: a variable of wandb's own switches it off. Any other trouble with the start is raised by the
                next call.
        """
        if off := switched_off_by():
            raise TrackerError(f"W&B is switched off by its own settings ({off}); tracker.wandb=true wins over them")
        self._num_completions = config.tracker.num_completions
        self._worker = Worker("wandb")
        self._logged: Future | None = None
        self.run_id = run_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        output_dir = Path(config.output_dir)
        name = config.tracker.run_name
        if name is None and run_id is None:
            name = "/".join(output_dir.resolve().parts[-2:])
        self._place = Path(os.environ.get("WANDB_DIR") or output_dir)
        self._started = self._worker.submit(functools.partial(self._start, config, name))

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Queues one set of numbers; raises TrackerError where the start or an earlier set has failed."""
        self._check()
        self._logged = self._worker.submit(lambda: self._started.result().run.log({"step": step, **metrics}))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Queues sample completions."""
        samples = spread(records, self._num_completions)
        self._worker.submit(lambda: self._started.result().tables.add(samples))

    def close(self, *, failed: bool = False) -> None:
        """Finishes the run, waiting for its start and for uploads no longer than the limits above."""
        try:
            run, tables = self._started.result(INIT_TIMEOUT_S + 2 * GRACE_S)
        except Exception as error:
            raise TrackerError(f"W&B cannot start: {one_line(error)}") from error
        try:
            self._call(functools.partial(tables.close, TABLES_TIMEOUT_S), TABLES_TIMEOUT_S + GRACE_S)
            self._call(functools.partial(run.finish, exit_code=int(failed)), FINISH_TIMEOUT_S + GRACE_S)
        except Exception as error:
            # Otherwise wandb tries again at exit, and prints a traceback when that fails too.
            from tunix_grpo.record.wandb_run import end_side_process

            with suppress(TimeoutError):
                self._call(end_side_process, GRACE_S)
            raise TrackerError(
                f"W&B did not finish cleanly ({one_line(error)}); upload what is missing with "
                f"`wandb sync {Path(run.dir).parent}`"
            ) from error
        self._check()

    def _start(self, config: RunConfig, name: str | None) -> Started:
        from tunix_grpo.record.completion_tables import CompletionTables
        from tunix_grpo.record.wandb_run import start_run

        limits = {"init_timeout_s": INIT_TIMEOUT_S, "finish_timeout_s": FINISH_TIMEOUT_S}
        run = start_run(config, self._place, self.run_id, name, **limits)
        return Started(run, CompletionTables(run, self._place / "wandb" / "data"))

    def _call(self, function: Callable[[], Result], timeout_s: float) -> Result:
        return self._worker.submit(function).result(timeout_s)

    def _check(self) -> None:
        for what, call in (("cannot start", self._started), ("stopped working", self._logged)):
            error = call.exception() if call is not None and call.done() else None
            if error is not None:
                raise TrackerError(f"W&B {what}: {one_line(error)}") from error

"""The Weights & Biases copy: online with a key, offline without one, never in the way of training.

Calls into wandb run on threads of their own, because some of them wait for the server. Only the
start and the end of a run wait for those threads, and only so long. What wandb raises ends this
copy, not the run. A run that is resumed goes on under the same id.
"""

import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb

from tunix_grpo.record.completion_tables import WANDB_ERRORS, CompletionTables, one_line
from tunix_grpo.record.tracker import CompletionRecord, TrackerError, spread
from tunix_grpo.record.worker import Worker

logger = logging.getLogger(__name__)

INIT_TIMEOUT_S = 20.0
"""How long the start of a run may wait for the W&B server."""
FINISH_TIMEOUT_S = 30.0
"""How long the end of a run may wait for uploads; what is left stays on disk for `wandb sync`."""
TABLES_TIMEOUT_S = 15.0
"""How long the end of a run may wait for the last completions table."""
GRACE_S = 5.0
"""How much longer than its own time limit a wandb call may take before it is given up."""


class WandbTracker:
    """Logs metrics and completion tables to one W&B run."""

    def __init__(
        self,
        config: dict[str, Any],
        output_dir: Path,
        *,
        project: str,
        entity: str | None,
        run_name: str | None,
        num_completions: int,
        run_id: str | None,
    ) -> None:
        """Starts the run, or goes on with `run_id`; files go to `<output_dir>/wandb`.

        A new run without a name is called after its folder, `2026-01-31/12-30-00`.

        Raises:
            TrackerError: wandb is switched off in its own settings, or cannot even log offline.
        """
        if run_name is None and run_id is None:
            run_name = os.environ.get("WANDB_NAME", "/".join(output_dir.resolve().parts[-2:]))
        self.run_id = run_id or secrets.token_hex(4)
        self._num_completions = num_completions
        self._worker = Worker("wandb")
        self._pending: list[Future[None]] = []

        def init(mode: str) -> wandb.Run:
            return wandb.init(
                project=project,
                entity=entity,
                name=run_name,
                id=self.run_id,
                resume="allow",
                reinit="create_new",
                dir=output_dir,
                config=config,
                mode=mode,
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=INIT_TIMEOUT_S,
                    finish_timeout=FINISH_TIMEOUT_S,
                    finish_timeout_raises=True,
                ),
            )

        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            self._run = self._start(init)
            # `step`, an ordinary value, is the x axis: W&B's own steps cannot go back at a resume.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except WANDB_ERRORS as error:
            raise TrackerError(f"W&B cannot start: {one_line(error)}") from error
        self._tables = CompletionTables(self._run, output_dir / "wandb" / "data")

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Queues one set of numbers.

        Raises:
            TrackerError: something that was queued earlier has failed.
        """
        self._check_pending()
        values = {"step": step, **metrics}
        self._pending.append(self._worker.submit(lambda: self._run.log(values)))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Queues sample completions.

        Raises:
            TrackerError: something that was queued earlier has failed.
        """
        self._check_pending()
        self._pending.append(self._tables.add(spread(records, self._num_completions)))

    def close(self, *, failed: bool = False) -> None:
        """Finishes the run, waiting for uploads no longer than the limits above."""
        try:
            self._tables.add([]).result(TABLES_TIMEOUT_S)
        except TimeoutError:
            self._tables.give_up()
            logger.warning("W&B: the last completions did not arrive, completions.jsonl has them")
        finish = self._worker.submit(lambda: self._run.finish(exit_code=int(failed)))
        try:
            finish.result(FINISH_TIMEOUT_S + GRACE_S)
        except WANDB_ERRORS as error:
            # Otherwise wandb tries again at exit, and prints a traceback when that fails too.
            with suppress(TimeoutError):
                self._worker.submit(_end_side_process).result(GRACE_S)
            raise TrackerError(
                f"W&B did not finish cleanly ({one_line(error)}); upload what is missing with "
                f"`wandb sync {self._run_folder}`"
            ) from error
        self._check_pending()

    @property
    def _run_folder(self) -> Path:
        return Path(self._run.dir).parent

    def _start(self, init: Callable[[str], wandb.Run]) -> wandb.Run:
        """Starts where the settings and the network allow, and says in one line where that is."""
        try:
            reason = self._worker.submit(_reason_to_stay_offline).result(GRACE_S)
            if reason is None:
                run = self._worker.submit(lambda: init("online")).result(INIT_TIMEOUT_S + GRACE_S)
                logger.info("W&B: logging to %s", run.url)
                return run
        except WANDB_ERRORS as error:
            reason = one_line(error)
            # The failed start keeps the run's id taken until the side process ends.
            self._worker.submit(_end_side_process).result(GRACE_S)
        run = self._worker.submit(lambda: init("offline")).result(INIT_TIMEOUT_S + GRACE_S)
        logger.info(
            "W&B: %s; logging offline, upload later with `wandb sync %s`",
            reason,
            Path(run.dir).parent,
        )
        return run

    def _check_pending(self) -> None:
        done: list[Future[None]] = []
        waiting: list[Future[None]] = []
        for future in self._pending:
            (done if future.done() else waiting).append(future)
        self._pending = waiting
        for future in done:
            try:
                future.result()
            except WANDB_ERRORS as error:
                raise TrackerError(f"W&B stopped working: {one_line(error)}") from error


def _end_side_process() -> None:
    """Ends wandb's process; a later start makes a new one. It may be dead already, in any way."""
    with suppress(SystemExit, *WANDB_ERRORS):
        wandb.teardown()


def _reason_to_stay_offline() -> str | None:
    """Looks at wandb's own settings and for a key, without asking anybody."""
    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if settings.mode == "disabled":
        raise TrackerError("W&B is switched off by its own settings (WANDB_MODE=disabled)")
    if settings.mode in ("offline", "dryrun"):
        return "set to offline by its own settings"
    if not wandb.login(prompt=False, verify=False):
        return "no API key found"
    return None

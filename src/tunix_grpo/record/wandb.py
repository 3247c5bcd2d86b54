"""The Weights & Biases copy: online with a key, offline without one, never in the way of training.

Calls into wandb run on threads of their own, because some of them wait for the server. Only the start and the end of a
run wait for those threads, and only so long. Whatever wandb raises (its errors have no common base, and those of its
side process change with its versions) ends this copy, not the run. A run that is resumed goes on under the same id.
"""

import functools
import logging
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb

from tunix_grpo.config import RunConfig
from tunix_grpo.config.given import given_keys
from tunix_grpo.errors import one_line
from tunix_grpo.record.completion_tables import CompletionTables
from tunix_grpo.record.run_config import public_config
from tunix_grpo.record.tracker import CompletionRecord, TrackerError, spread
from tunix_grpo.record.worker import Result, Worker

INIT_TIMEOUT_S = 20.0
"""How long the start of a run may wait for the W&B server."""
FINISH_TIMEOUT_S = 30.0
"""How long the end of a run may wait for uploads; what is left stays on disk for `wandb sync`."""
TABLES_TIMEOUT_S = 15.0
"""How long the end of a run may wait for the last completions table."""
GRACE_S = 5.0
"""How much longer than its own time limit a wandb call may take before it is given up."""
_SWITCHING_OFF = {"WANDB_DISABLED": ("1", "true", "yes", "on"), "WANDB_MODE": ("disabled",)}
_log = logging.getLogger(__name__)


class WandbTracker:
    """Logs metrics and completion tables to one W&B run."""

    def __init__(self, config: RunConfig, *, run_id: str | None) -> None:
        """Starts the run, or goes on with `run_id`; files go to `<output_dir>/wandb`, or where WANDB_DIR says.

        A new run without a name is called after its folder, `2026-01-31/12-30-00`. Whatever a variable of wandb's own
        says, such as WANDB_CONSOLE or WANDB_RUN_ID, holds; `tracker.wandb=true` on the command line wins over one that
        switches it off.

        Raises:
            TrackerError: wandb is switched off in its own settings, or cannot even log offline.
        """
        self._num_completions = config.tracker.num_completions
        self._worker = Worker("wandb")
        self._logged: Future | None = None
        self.run_id = run_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        output_dir = Path(config.output_dir)
        name = config.tracker.run_name
        if name is None and run_id is None:
            name = "/".join(output_dir.resolve().parts[-2:])
        _send_no_telemetry()
        place = Path(os.environ.get("WANDB_DIR") or output_dir)
        limits = {"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S, "finish_timeout_raises": True}
        run = {"id": self.run_id, "name": name, "project": config.tracker.project, "entity": config.tracker.entity}
        try:
            place.mkdir(parents=True, exist_ok=True)
            quiet: dict[str, Any] = {"silent": True, "console": "off"}
            quiet = {key: value for key, value in quiet.items() if f"WANDB_{key.upper()}" not in os.environ}
            settings = wandb.Settings(**quiet, **limits)
            resume = os.environ.get("WANDB_RESUME") or "allow"
            how = {"resume": resume, "reinit": "create_new", "dir": place, "settings": settings}
            self._run = self._start(config=public_config(config), **run, **how)
            # `step`, an ordinary value, is the x axis: W&B's own steps cannot go back at a resume.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except TrackerError:
            raise
        except Exception as error:
            raise TrackerError(f"W&B cannot start: {one_line(error)}") from error
        self._tables = CompletionTables(self._run, place / "wandb" / "data")

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Queues one set of numbers; raises TrackerError where an earlier one could not be logged."""
        self._check()
        self._logged = self._worker.submit(functools.partial(self._run.log, {"step": step, **metrics}))

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Queues sample completions."""
        self._tables.add(spread(records, self._num_completions))

    def close(self, *, failed: bool = False) -> None:
        """Finishes the run, waiting for uploads no longer than the limits above."""
        self._tables.close(TABLES_TIMEOUT_S)
        try:
            self._call(functools.partial(self._run.finish, exit_code=int(failed)), FINISH_TIMEOUT_S + GRACE_S)
        except Exception as error:
            # Otherwise wandb tries again at exit, and prints a traceback when that fails too.
            with suppress(TimeoutError):
                self._call(_end_side_process, GRACE_S)
            raise TrackerError(
                f"W&B did not finish cleanly ({one_line(error)}); upload what is missing with "
                f"`wandb sync {Path(self._run.dir).parent}`"
            ) from error
        self._check()

    def _start(self, **run: object) -> wandb.Run:
        """Starts where the settings and the network allow, and says in one line where that is."""
        online, offline = (functools.partial(wandb.init, mode=mode, **run) for mode in ("online", "offline"))
        try:
            reason = self._call(_reason_to_stay_offline, GRACE_S)
            if reason is None:
                started = self._call(online, INIT_TIMEOUT_S + GRACE_S)
                _log.info("W&B: logging to %s", started.url)
                return started
        except TrackerError:
            raise
        except Exception as error:
            reason = one_line(error)
            # The failed start keeps the run's id taken until the side process ends.
            self._call(_end_side_process, GRACE_S)
        started = self._call(offline, INIT_TIMEOUT_S + GRACE_S)
        _log.info("W&B: %s; logging offline, upload later with `wandb sync %s`", reason, Path(started.dir).parent)
        return started

    def _call(self, function: Callable[[], Result], timeout_s: float) -> Result:
        return self._worker.submit(function).result(timeout_s)

    def _check(self) -> None:
        error = self._logged.exception() if self._logged is not None and self._logged.done() else None
        if error is not None:
            raise TrackerError(f"W&B stopped working: {one_line(error)}") from error


def _send_no_telemetry() -> None:
    """Ends wandb's reports on itself: a server that is silent holds the end of the process up for them, for 20 s."""
    with suppress(ImportError, AttributeError):  # a private module, which other versions lack
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()


def _end_side_process() -> None:
    """Ends wandb's process; a later start makes a new one. It may be dead already, in any way."""
    with suppress(SystemExit, Exception):
        wandb.teardown()


def _reason_to_stay_offline() -> str | None:
    """Looks at wandb's own settings and for a key, without asking anybody."""
    values = {name: os.environ.get(name, "") for name in _SWITCHING_OFF}
    off = [f"{name}={value}" for name, value in values.items() if value.lower() in _SWITCHING_OFF[name]]
    if off and "tracker.wandb" not in given_keys():
        raise TrackerError(f"W&B is switched off by its own settings ({off[0]}); tracker.wandb=true wins over them")
    mode: dict[str, Any] = {"mode": "online"} if values["WANDB_MODE"].lower() == "disabled" else {}
    settings = wandb.setup(wandb.Settings(silent=True, **mode)).settings
    if settings.mode == "disabled":
        raise TrackerError("W&B is switched off by its own settings (WANDB_MODE=disabled)")
    if settings.mode in ("offline", "dryrun"):
        return "set to offline by its own settings"
    return None if wandb.login(prompt=False, verify=False) else "no API key found"

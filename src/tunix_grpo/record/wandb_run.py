"""A run of Weights & Biases: started where its settings and the network allow, ended within a time.

This module loads wandb, which takes half a second, and its calls wait for a server: `record/wandb.py` loads and calls
it on a thread.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb

from tunix_grpo.config import RunConfig
from tunix_grpo.errors import one_line
from tunix_grpo.record.run_config import public_config
from tunix_grpo.record.tracker import TrackerError

_log = logging.getLogger(__name__)


def start_run(
    config: RunConfig, place: Path, run_id: str, name: str | None, *, init_timeout_s: float, finish_timeout_s: float
) -> wandb.Run:
    """Starts the run `run_id`, or goes on with it: online with a key, offline without one or where that fails.

    Says in one line where it logs. Whatever a variable of wandb's own says holds, but for those of the arguments.

    Args:
        config: what is shown of the run, with secrets masked, its project and entity.
        place: a folder for wandb's files.
        run_id: under which W&B keeps the run.
        name: what it is called there, None for a name of W&B's own.
        init_timeout_s: how long the start may wait for the server, in seconds.
        finish_timeout_s: how long the run's end may wait for uploads, likewise.

    Raises:
        TrackerError: wandb is switched off in its own settings.
        Exception: it cannot even log offline; wandb's errors have no common base.
    """
    _send_no_telemetry()
    place.mkdir(parents=True, exist_ok=True)
    limits = {"init_timeout": init_timeout_s, "finish_timeout": finish_timeout_s, "finish_timeout_raises": True}
    quiet: dict[str, Any] = {"silent": True, "console": "off"}
    quiet = {key: value for key, value in quiet.items() if f"WANDB_{key.upper()}" not in os.environ}
    how: dict[str, Any] = {
        "id": run_id,
        "name": name,
        "project": config.tracker.project,
        "entity": config.tracker.entity,
        "config": public_config(config),
        "resume": os.environ.get("WANDB_RESUME") or "allow",
        "reinit": "create_new",
        "dir": place,
        "settings": wandb.Settings(**quiet, **limits),
    }
    try:
        run = _online_or_offline(how)
        # `step`, an ordinary value, is the x axis: W&B's own steps cannot go back at a resume.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
    except Exception:
        end_side_process()  # which would otherwise try again at exit, and print a traceback
        raise
    return run


def end_side_process() -> None:
    """Ends wandb's process; a later start makes a new one. It may be dead already, in any way."""
    with suppress(SystemExit, Exception):
        wandb.teardown()


def _online_or_offline(how: dict[str, Any]) -> wandb.Run:
    try:
        reason = _reason_to_stay_offline()
        if reason is None:
            run = wandb.init(mode="online", **how)
            _log.info("W&B: logging to %s", run.url)
            return run
    except TrackerError:
        raise
    except Exception as error:
        reason = one_line(error)
        end_side_process()  # the failed start keeps the run's id taken until then
    run = wandb.init(mode="offline", **how)
    _log.info("W&B: %s; logging offline, upload later with `wandb sync %s`", reason, Path(run.dir).parent)
    return run


def _reason_to_stay_offline() -> str | None:
    """Looks at wandb's own settings and for a key, without asking anybody."""
    off = os.environ.get("WANDB_MODE", "").lower() == "disabled"  # and it is to start all the same
    mode: dict[str, Any] = {"mode": "online"} if off else {}
    settings = wandb.setup(wandb.Settings(silent=True, **mode)).settings
    if settings.mode == "disabled":
        raise TrackerError("it is switched off in a settings file of its own")
    if settings.mode in ("offline", "dryrun"):
        return "set to offline by its own settings"
    return None if wandb.login(prompt=False, verify=False) else "no API key found"


def _send_no_telemetry() -> None:
    """Ends wandb's reports on itself: a server that is silent holds the end of the process up for them, for 20 s."""
    with suppress(ImportError, AttributeError):  # a private module, which other versions lack
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()

"""One run at a time writes to a checkpoint folder; the system frees the lock when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from pathlib import Path

from tunix_grpo.errors import UserError
from tunix_grpo.run.places import LOCK

_log = logging.getLogger(__name__)


def remove_empty(folders: list[Path]) -> None:
    """Removes folders, the innermost first, as far as they are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def lock_folder(root: Path, asked: str | Path, missing: list[Path]) -> int:
    """Makes the folder, `missing` parents too, and returns the open file that locks it.

    Leaves nothing behind where that fails.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
        descriptor = os.open(root.parent / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        remove_empty(missing)
        raise UserError(
            f"checkpoint_dir={asked}: cannot be written to ({error.strerror or error}); "
            "give another folder with checkpoint_dir=DIR"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"checkpoint_dir={asked}: another run is writing to {root}; end it, "
            "or give another folder with checkpoint_dir=DIR"
        ) from error
    except OSError as error:  # some network file systems
        _log.warning("%s cannot be locked (%s): do not start another run on it", root, error.strerror)
    return descriptor

"""Makes questions of reasoning_gym, in a process of its own."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tunix_grpo import seeds
from tunix_grpo.tasks.base import TaskError

Entry: TypeAlias = dict[str, Any]  # as reasoning_gym declares it: each data set has columns of its own
ENTRIES_PROGRAM = Path(__file__).with_name("make_entries.py")
logger = logging.getLogger(__name__)


def make_entries(name: str, *, seed: int, size: int, settings: Sequence[dict[str, Any]] = ({},)) -> list[list[Entry]]:
    """Returns a data set's entries, the same ones in every process; see `make_entries.py`.

    Args:
        size: entries in each list.
        settings: of the data set, for a list each.
    """
    logger.info("making %d questions of %s (task.num_questions)", size * len(settings), name)
    # Entry i is made from seed + i: neighbouring seeds would share nearly all entries.
    start = seeds.python_random("reasoning_gym", seed).getrandbits(31)
    with tempfile.TemporaryDirectory() as folder:
        output, given = Path(folder) / "entries", Path(folder) / "settings"
        given.write_bytes(pickle.dumps(settings))
        # -P keeps the modules beside the program from hiding others of the same name.
        command = [sys.executable, "-P", ENTRIES_PROGRAM, name, str(start), str(size), given, output]
        last_line = ""
        with subprocess.Popen(
            command,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None  # it is a pipe
            for line in process.stderr:
                last_line = line.strip() or last_line
                if last_line.endswith("questions made"):
                    logger.info("%s", last_line)
        if process.returncode != 0:
            raise TaskError(
                f"task.dataset={name} could not be made by reasoning_gym: {last_line}; "
                "take other task.settings or another task.dataset"
            )
        return pickle.loads(output.read_bytes())

"""Where and with what a run was made, as a file: `environment.json`, of its last start."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from tunix_grpo.files import Json, whole_file
from tunix_grpo.record.jsonl import disk_errors
from tunix_grpo.run.agreement import versions
from tunix_grpo.run.devices import Devices

ENVIRONMENT = "environment.json"


def write_environment(
    output_dir: Path, devices: Devices, *, total_steps: int, first_step: int, questions: Mapping[str, int]
) -> None:
    """Writes the file, whole.

    Args:
        total_steps: of the whole run.
        first_step: of this start.
        questions: how many questions a share was counted over, by the name of its metric.

    Raises:
        UserError: the disk refuses it.
    """
    content: dict[str, Json] = {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "first_step": first_step,
        "total_steps": total_steps,
        "questions": dict(questions),
        "device": devices.kind,
        "devices": devices.mesh.size,
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
    }
    file = output_dir / ENVIRONMENT
    with disk_errors(file), whole_file(file) as written:
        written.write_text(json.dumps(content, indent=2) + "\n", "utf-8")

"""Reads the config.yaml that a run has written into its folder."""

import os
from pathlib import Path
from typing import Any

import yaml

from tunix_grpo.errors import UserError

# Without one of these it is not the config of a run.
_GROUPS = ("model", "training", "generation", "task", "tracker")


def read_run_file(folder: Path, key: str = "run") -> dict[str, Any]:
    """Returns the content of a run's config.yaml.

    Args:
        key: the setting that names the folder, for errors.

    Raises:
        UserError: the folder is not that of a run.
    """
    file = folder / "config.yaml"
    if not os.path.isdir(folder):  # of a name that is too long it says no, as Path.is_dir does not
        raise UserError(
            f"{key}={folder}: no such folder; give the folder of a run, such as outputs/tunix-grpo/DATE/TIME"
        )
    if not file.is_file():
        raise UserError(f"{key}={folder}: it holds no config.yaml; give the folder of a run")
    try:
        content = yaml.safe_load(file.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in _GROUPS):
        raise UserError(f"{file}: it is not the config of a run; give the folder of a run")
    return content

"""The resolved config of a run as plain data and as `config.yaml`, without secrets."""

import dataclasses
from pathlib import Path

from omegaconf import OmegaConf

from tunix_grpo.config import RunConfig
from tunix_grpo.config.secrets import without_secrets
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file


def public_config(config: RunConfig) -> dict[str, object]:
    """Returns the config as nested dicts, with anything that looks like a secret masked."""
    return without_secrets(dataclasses.asdict(config))


def write_config(config: RunConfig, output_dir: str | Path) -> Path:
    """Writes the resolved config to `<output_dir>/config.yaml` and returns its path.

    Raises:
        UserError: the disk refuses it.
    """
    path = Path(output_dir) / "config.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as written:
            written.write_text(OmegaConf.to_yaml(OmegaConf.create(public_config(config))), "utf-8")
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise UserError(f"{path}: cannot be written ({reason}); make room, or choose another folder") from error
    return path

"""The resolved config of a run as plain data and as `config.yaml`, without secrets."""

import dataclasses
from pathlib import Path

from omegaconf import OmegaConf

from tunix_grpo.config import RunConfig
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file

_MASK = "***"
_SECRET_WORDS = frozenset({"key", "apikey", "token", "secret", "password", "passwd", "passphrase", "credential"})


def _is_secret(key: str) -> bool:
    """Says whether a key names a secret: by whole words, so that `tokenizer` and `num_tokens` stay readable."""
    return not _SECRET_WORDS.isdisjoint(key.lower().replace("-", "_").split("_"))


def without_secrets(values: dict[str, object]) -> dict[str, object]:
    """Copies nested dicts and lists, with the values of secret-looking keys masked."""
    return {key: _MASK if _is_secret(str(key)) and item is not None else _copy_of(item) for key, item in values.items()}


def _copy_of(value: object) -> object:
    if isinstance(value, dict):
        return without_secrets(value)
    return [_copy_of(item) for item in value] if isinstance(value, list | tuple) else value


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

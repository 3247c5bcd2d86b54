"""The resolved config of a run as plain data and as `config.yaml`, without secrets."""

import dataclasses
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tunix_grpo.config import Config
from tunix_grpo.files import whole_file

_MASK = "***"
_SECRET_WORDS = frozenset({"key", "apikey", "token", "secret", "password", "passwd", "passphrase", "credential"})


def _is_secret(key: str) -> bool:
    """Says whether a key names a secret: by whole words, so that `tokenizer` and `num_tokens` stay readable."""
    return not _SECRET_WORDS.isdisjoint(key.lower().replace("-", "_").split("_"))


def without_secrets(value: Any) -> Any:
    """Copies nested dicts and lists, with the values of secret-looking keys masked."""
    if isinstance(value, dict):
        return {
            key: _MASK if _is_secret(str(key)) and item is not None else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def public_config(config: Config) -> dict[str, Any]:
    """Returns the config as nested dicts, with anything that looks like a secret masked."""
    return without_secrets(dataclasses.asdict(config))


def write_config(config: Config, output_dir: str | Path) -> Path:
    """Writes the resolved config to `<output_dir>/config.yaml` and returns its path."""
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as written:
        written.write_text(OmegaConf.to_yaml(OmegaConf.create(public_config(config))), "utf-8")
    return path

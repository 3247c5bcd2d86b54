"""What is a secret, by the name of a setting or of a variable, and how it is left out of what is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from tunix_grpo.files import whole_file

MASK = "***"
_WORDS = frozenset({"key", "apikey", "token", "secret", "password", "passwd", "passphrase", "credential"})
_SHORTEST = 16  # letters of a variable's value that is looked for: a shorter one may be an ordinary word
_PATHS = ("/", "~", ".")  # a variable such as SSH_KEY names a file, which is no secret


def is_secret(key: str) -> bool:
    """Says whether a key names a secret: by whole words, so that `tokenizer` and `num_tokens` stay readable.

    What ends in `env` names a variable, not its content.
    """
    words = key.lower().replace("-", "_").split("_")
    return words[-1] != "env" and not _WORDS.isdisjoint(words)


def without_secrets(values: dict[str, object]) -> dict[str, object]:
    """Copies nested dicts and lists, with the values of secret-looking keys masked, and what such variables hold."""
    hidden = _values_of_variables()
    return {key: _of_key(str(key), item, hidden) for key, item in values.items()}


def masked_word(word: str) -> str:
    """Returns a word of a command line without the secret that it gives, if it gives one."""
    key, equals, value = word.partition("=")
    if equals and value and value != "null" and is_secret(key.rpartition(".")[2]):
        return f"{key}={MASK}"
    return _masked(word, _values_of_variables())


def mask_files(folder: Path, words: Sequence[str]) -> None:
    """Takes secrets out of the YAML files in the folder that Hydra writes at the start of a run.

    Args:
        words: of the command line, which Hydra repeats in other forms.
    """
    given = {_value(word) for word in words if masked_word(word) != word}
    hidden = sorted({*_values_of_variables(), *given} - {""}, key=len, reverse=True)
    for file in folder.glob("*.yaml"):
        text = file.read_text("utf-8")
        content = yaml.safe_load(text)
        clean = _copied(content, hidden)
        if clean != content:
            with whole_file(file) as written:
                written.write_text(yaml.safe_dump(clean, sort_keys=False, allow_unicode=True), "utf-8")


def _value(word: str) -> str:
    return word.partition("=")[2].strip("'\"")


def _values_of_variables() -> list[str]:
    secrets = [value for name, value in os.environ.items() if is_secret(name) and not value.startswith(_PATHS)]
    return [value for value in secrets if len(value) >= _SHORTEST]


def _of_key(key: str, item: object, hidden: Sequence[str]) -> object:
    return MASK if is_secret(key) and item is not None else _copied(item, hidden)


def _copied(value: object, hidden: Sequence[str]) -> object:
    if isinstance(value, dict):
        return {key: _of_key(str(key), item, hidden) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item, hidden) for item in value]
    return _masked(value, hidden) if isinstance(value, str) else value


def _masked(text: str, hidden: Sequence[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, MASK)
    return text

"""Words of a command line as they are shown and typed: `key=value`, quoted where Hydra or a shell wants it."""

import re
import shlex
from collections.abc import Sequence

from tunix_grpo.config.loading import ALIASES
from tunix_grpo.config.secrets import masked_word
from tunix_grpo.config.sentences import show

QUOTED = re.compile(r"""(['"])(?:(?!\1)[^\\]|\\.)*\1""", re.DOTALL)
PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)  # what Hydra's grammar reads as it stands


def quoted(value: str) -> str:
    """Returns a text so that Hydra reads it as it stands; null and what is in quotes already stay."""
    if value == "null" or QUOTED.fullmatch(value):
        return value
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # what OmegaConf would look up
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", escaped)  # Hydra counts backslashes only in front of a quote
    escaped = re.sub(r"(\\+)\Z", r"\1\1", escaped)
    return f"'{escaped}'"


def assignment(key: str, value: object) -> str:
    """Returns the command line word that gives a setting a value, which may be any text."""
    text = show(value)
    return f"{key}={text if PLAIN.fullmatch(text) else quoted(text)}"


def command_with(command: Sequence[str], words: Sequence[str]) -> str:
    """Returns a command for a shell with other settings: `words` take the place of what it says of their keys.

    It is shown and logged, so that secrets in it are masked.

    Args:
        command: the program and its arguments.
        words: `key=value` each.
    """
    keys = {key_of(word) for word in words}
    return shlex.join([*(masked_word(word) for word in command if key_of(word) not in keys), *words])


def key_of(word: str) -> str:
    """Returns the key of the setting that a word of the command line gives a value."""
    key = word.partition("=")[0].lstrip("+")
    return f"training.{key}" if key in ALIASES else key

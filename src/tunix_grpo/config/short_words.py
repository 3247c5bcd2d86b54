"""Command lines that are shorter than Hydra's: names that may be left out, and words for another program."""

import itertools
import re
from collections.abc import Collection, Sequence

from tunix_grpo.config.hydra_options import hydra_options
from tunix_grpo.config.overrides import assignment, key_of, quoted
from tunix_grpo.errors import ConfigError


def named(words: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Returns the words of a command line in which the first ones may leave out the names of their settings.

    Args:
        keys: of those settings, in their order: with folder and action `DIR verify` is `folder=DIR action=verify`.
    """
    bare = list(itertools.takewhile(lambda word: "=" not in word and not word.startswith("-"), words))[: len(keys)]
    return [*(assignment(key, word) for key, word in zip(keys, bare, strict=False)), *words[len(bare) :]]


def gathered(words: Sequence[str], key: str, own: Collection[str]) -> list[str]:
    """Returns the words of a command line with those that are another program's in one setting, a list.

    Args:
        key: of that setting.
        own: the settings of this program; hydra's, and options such as --help, are its own too.
    """
    try:
        settings = hydra_options(words).words
    except ConfigError:  # who checks the command line says so
        return list(words)
    others = [word for word in settings if not word.startswith(("-", "hydra.")) and key_of(word) not in own]
    rest = [word for word in words if word not in others]
    return [*rest, f"{key}=[{','.join(map(quoted, others))}]"] if others else rest


def as_typed(words: Sequence[str]) -> list[str]:
    """Returns gathered words as they were typed: OmegaConf leaves what `quoted` escapes in the items of a list."""
    return [re.sub(r"(\\*)\\\$\{", lambda found: f"{found[1][: len(found[1]) // 2]}${{", word) for word in words]

"""Hydra's own options on a command line, as its documentation lists them; the other words are settings.

Hydra parses them itself later. They are read here because the settings are checked before Hydra makes a folder.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_FLAGS = (("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",), ("--run", "-r"), ("--multirun", "-m"))
_VALUES = (("--cfg", "-c"), ("--package", "-p"), ("--config-path", "-cp"), ("--experimental-rerun",))
# Before these Hydra shows something of itself, whatever the settings are.
_OWN_AFFAIRS = ("hydra_help", "version", "shell_completion", "info", "experimental_rerun")


class HydraOptions(NamedTuple):
    """What a command line asks of Hydra.

    Attributes:
        words: the settings; and options that Hydra does not know.
        multirun: whether many jobs are asked for, by --multirun or by hydra.mode=MULTIRUN.
        only_shown: whether settings are shown and nothing is run.
        of_hydra: whether Hydra answers by itself: its help, its version, shell completion.
        config_path: a folder in place of the program's own.
        config_dir: a further folder with groups.
        config_name: of the main config.
        searchpath: further folders or packages with groups, as hydra.searchpath lists them.
    """

    words: list[str]
    multirun: bool
    only_shown: bool
    of_hydra: bool
    config_path: str | None
    config_dir: str | None
    config_name: str | None
    searchpath: list[str]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for names in _FLAGS:
        parser.add_argument(*names, action="store_true")
    for names in (*_VALUES, ("--config-name", "-cn"), ("--config-dir", "-cd")):
        parser.add_argument(*names)
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--info", "-i", const="all", nargs="?", choices=_INFO)
    parser.add_argument("words", nargs="*")
    return parser


_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def hydra_options(arguments: Sequence[str]) -> HydraOptions:
    """Reads the options of a command line; what cannot be read is left to Hydra, which says so."""
    found, unknown = _parser().parse_known_intermixed_args(list(arguments))
    words = [*unknown, *found.words]
    mode, searchpath = None, []
    for word in words:
        if word.startswith(("hydra.mode=", "hydra.searchpath=")):
            value = _value(word)
            if word.startswith("hydra.mode="):
                mode = value
            elif isinstance(value, list):
                searchpath = [str(place) for place in value]
    return HydraOptions(
        words=words,
        multirun=found.multirun or str(mode).rpartition(".")[2] == "MULTIRUN",
        only_shown=found.help or found.cfg is not None,
        of_hydra=any(getattr(found, name) for name in _OWN_AFFAIRS),
        config_path=found.config_path,
        config_dir=found.config_dir,
        config_name=found.config_name,
        searchpath=searchpath,
    )


def _value(word: str) -> object:
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException:
        return None

"""Hydra's own options on a command line, as its documentation lists them; the other words are settings.

Hydra parses them itself later. They are read here because the settings are checked before Hydra makes a folder.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from tunix_grpo.errors import ConfigError

_FLAGS = (("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",), ("--run", "-r"), ("--multirun", "-m"))
_VALUES = (("--cfg", "-c"), ("--package", "-p"), ("--config-path", "-cp"), ("--experimental-rerun",))
_ACTIONS = ("run", "multirun", "cfg", "shell_completion", "info")
# Before these Hydra shows something of itself, whatever the settings are.
_OWN_AFFAIRS = ("hydra_help", "version", "shell_completion", "info", "experimental_rerun")


class HydraOptions(NamedTuple):
    """What a command line asks of Hydra.

    Attributes:
        arguments: all of it, as Hydra can parse it: the settings in one piece, in front of the options.
        words: the settings; and options that Hydra does not know.
        problem: options that do not go together, as a sentence; empty where they do.
        multirun: whether many jobs are asked for, by --multirun or by hydra.mode=MULTIRUN.
        only_shown: whether settings are shown and nothing is run.
        of_hydra: whether Hydra answers by itself: its help, its version, shell completion.
        config_path: a folder in place of the program's own.
        config_dir: a further folder with groups.
        config_name: of the main config.
        searchpath: further folders or packages with groups, as hydra.searchpath lists them.
    """

    arguments: list[str]
    words: list[str]
    problem: str
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
    """Reads the options of a command line; those that Hydra does not know are left to it, which says so.

    Raises:
        ConfigError: an option lacks its value, or has another than Hydra takes.
    """
    try:
        found, unknown = _parser().parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise ConfigError([str(error)]) from error
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
        arguments=_settings_first(arguments, found.words),
        words=words,
        problem=_problem(found),
        multirun=found.multirun or str(mode).rpartition(".")[2] == "MULTIRUN",
        only_shown=found.help or found.cfg is not None,
        of_hydra=any(getattr(found, name) for name in _OWN_AFFAIRS),
        config_path=found.config_path,
        config_dir=found.config_dir,
        config_name=found.config_name,
        searchpath=searchpath,
    )


def _settings_first(arguments: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Returns the arguments with the settings in front: between options Hydra 1.3 takes only those of one place."""
    waiting, options = list(settings), []
    for argument in arguments:
        if waiting and argument == waiting[0]:
            waiting.pop(0)
        else:
            options.append(argument)
    return [*settings, *options]


def _problem(found: argparse.Namespace) -> str:
    if found.help or found.hydra_help or found.version:
        return ""
    if found.resolve and found.cfg is None:
        return "--resolve: it says how settings are shown; add --cfg job"
    actions = [f"--{name.replace('_', '-')}" for name in _ACTIONS if getattr(found, name) not in (None, False)]
    return (
        f"{' and '.join(actions)}: Hydra does one of them at a time; leave out the others" if len(actions) > 1 else ""
    )


def _value(word: str) -> object:
    try:
        return OverridesParser.create().parse_override(word).value()
    except (HydraException, ValueError):  # which is said where words are checked
        return None

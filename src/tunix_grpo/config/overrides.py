"""Checks the `key=value` words of a command line before Hydra composes them, all at once."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType
from hydra.errors import HydraException

from tunix_grpo.config.loading import Loader, load
from tunix_grpo.config.open_groups import FURTHER_TASKS
from tunix_grpo.config.parts import OutsideReward
from tunix_grpo.config.sentences import field_names, show, value_keys
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.config.words import quoted
from tunix_grpo.errors import one_line

ALIAS_WORD = re.compile(r"(\+\+)?(\w+)=.*", re.DOTALL)
TILDE_WORD = re.compile(r"([^=\s]+=)(~.*)", re.DOTALL)
TASK_WORD = re.compile(r"\+*(task\.\w+)(\.[\w.]+)?=.*", re.DOTALL)
# Settings that are names and values of a library, of which a word may give one, as in task.settings.min_terms=2.
OPEN_SETTINGS = ("task.template_variables", "task.settings", "task.mixture")
OUTSIDE_TASK = re.compile(r"task\.name=.*\.py:")
# Groups of which the main config chooses no option: one is added with a plus.
OPTIONAL_GROUPS = {"experiment": "an experiment", "hparams_search": "a search"}
TASK_PLACE = re.compile(rf"{re.escape(FURTHER_TASKS)}\.[A-Za-z_]\w*")
_SHOWN = 40  # characters of a word that is far longer
_OF_THE_USER = ("notes", "reward.functions", FURTHER_TASKS)  # whose keys are the user's own
BASE = "base"  # what the options of a group inherit is none itself
TASK_IN_A_FILE = "custom"  # the option of the group `task` that has no keys of its own


class CheckedWords(NamedTuple):
    """What the words of a command line come to.

    Attributes:
        problems: a sentence for every word that cannot be right.
        usable: the other words.
        groups_known: whether every choice of a group's option is among them.
    """

    problems: list[str]
    usable: list[str]
    groups_known: bool


def normalise(words: Sequence[str], loader: Loader = load) -> list[str]:
    """Returns command line words as Hydra needs them.

    A root alias becomes the setting that it stands for, so that both show the same value, and a `~`
    at the start of a value, which Hydra's grammar refuses, becomes the home directory. The text of a
    verbatim setting is quoted, so that it may hold any character. A key of the task's own is added
    where the group does not have it, and a task in a file comes without the keys of another one.
    """
    fixed = value_keys(loader.schema)
    normal = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in loader.verbatim:
            normal.append(f"{key}={quoted(value)}")
            continue
        tilde = TILDE_WORD.fullmatch(word)
        if tilde:
            word = tilde[1] + os.path.expanduser(tilde[2])
        alias = ALIAS_WORD.fullmatch(word)
        if alias and alias[2] in loader.aliases:
            prefix = alias[1] or ""
            word = f"{prefix}training.{word.removeprefix(prefix)}"
        own = TASK_WORD.fullmatch(word)
        if own and _is_added(own[1], own[2], fixed, loader):
            word = f"++{own[0].lstrip('+')}"
        if any(group in fixed and word.lstrip("+").startswith(f"{group}.") for group in _OF_THE_USER):
            word = f"++{word.lstrip('+')}"
        normal.append(word)
    outside = "task" in loader.open_groups and any(map(OUTSIDE_TASK.match, normal))
    if outside and not any(word.startswith("task=") for word in normal):
        normal.insert(0, f"task={TASK_IN_A_FILE}")
    return normal


def _is_added(key: str, below: str | None, fixed: Sequence[str], loader: Loader) -> bool:
    """Says whether a word about the task may name what the composed group does not have."""
    if below is not None:
        return key in OPEN_SETTINGS and ("task" in loader.open_groups or key in fixed)
    return "task" in loader.open_groups and key not in fixed


def check_words(words: Sequence[str], config_dirs: Sequence[Path], loader: Loader = load) -> CheckedWords:
    """Checks every word of a command line.

    Args:
        words: command line words without the options that begin with a dash.
        config_dirs: folders that hold the groups.
        loader: of the program's settings.
    """
    groups = list_groups(config_dirs)
    keys = loader.settings()
    if "reward" in loader.open_groups:
        options = groups.get("reward", ())
        keys += [f"reward.{option}.{key}" for option in options for key in field_names(OutsideReward)]
        unselected = {f"reward.{option}" for option in options}  # by =null, as one that an algorithm's file selects
        keys += [key for key in unselected if f"{key}=null" in words]
    problems: list[str] = []
    usable: list[str] = []
    groups_known = True
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            problems.append(not_an_override(word))
            continue
        except ValueError as error:  # Python reads no number of thousands of digits
            problems.append(f"{word[:_SHOWN]}...: cannot be read ({one_line(error)}); give a smaller number")
            continue
        if override.is_sweep_override():
            try:
                swept_values(override, groups.get(override.key_or_group, ()))
            except ValueError as error:
                problems.append(f"{word}: such a sweep has no values ({one_line(error)}); give others")
                continue
        own_task_key = "task" in loader.open_groups and override.key_or_group.startswith("task.")
        inside = any(override.key_or_group.startswith(f"{key}.") for key in OPEN_SETTINGS if key in keys)
        if (own_task_key or inside) and override.type == OverrideType.FORCE_ADD:
            usable.append(word)  # the task's builder decides
            continue
        if any(group in keys and override.key_or_group.startswith(f"{group}.") for group in _OF_THE_USER):
            usable.append(word)
            continue
        found = list(check_override(override, word, groups, keys))
        problems += found
        if not found:
            usable.append(word)
        groups_known = groups_known and not (found and override.key_or_group in groups)
    return CheckedWords(problems, usable, groups_known)


def not_an_override(word: str) -> str:
    """Returns what is wrong with a word that Hydra cannot parse."""
    if word.startswith("-") and "=" in word:
        return f"{word}: settings are written without dashes: {word.lstrip('-')}"
    if word.startswith("-"):
        return f"{word}: unknown option; --help lists what there is"
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word or repr(word)}: not of the form key=value"
    quoted = value.replace("'", "\\'")
    return f"{word}: the value cannot be read; put it in two kinds of quotes: \"{key}='{quoted}'\""


def without_sweeps(words: Sequence[str]) -> list[str]:
    """Returns the words that give a setting one value."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]


def is_interval(word: str) -> bool:
    """Says whether a word spans an interval, from which only a search can choose."""
    return isinstance(OverridesParser.create().parse_override(word).value(), IntervalSweep)


def jobs_of(words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Returns command lines without sweeps in which every value of a sweep occurs at least once.

    Of what spans an interval, both ends occur.
    """
    parser = OverridesParser.create()
    choices = []
    for word, override in zip(words, parser.parse_overrides(list(words)), strict=True):
        swept = override.is_sweep_override() and not override.key_or_group.startswith("hydra")
        key = override.get_key_element()
        values = swept_values(override, groups.get(override.key_or_group, ())) if swept else []
        choices.append([f"{key}={value}" for value in values] or [word])
    longest = max((len(choice) for choice in choices), default=1)
    return [[choice[job % len(choice)] for choice in choices] for job in range(longest)]


def swept_values(override: Override, options: Sequence[str]) -> list[str]:
    """Returns the values of a sweep in the words of the command line; of an interval its ends.

    Args:
        options: of the group, if it is one: what glob() chooses from.
    """
    span = override.value()
    if isinstance(span, IntervalSweep):
        return [str(span.start), str(span.end)]
    if isinstance(span, Glob):
        return list(span.filter(list(options)))
    return list(override.sweep_string_iterator())


def list_groups(config_dirs: Sequence[Path]) -> dict[str, list[str]]:
    """Returns the options of every group: the folders and the names of the files in them."""
    groups: dict[str, list[str]] = {}
    for config_dir in config_dirs:
        for file in sorted(config_dir.glob("*/**/*.yaml")):
            group, _, option = file.relative_to(config_dir).with_suffix("").as_posix().partition("/")
            if option != BASE:
                groups.setdefault(group, []).append(option)
    return groups


def check_override(override: Override, word: str, groups: dict[str, list[str]], keys: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with one word."""
    key = override.key_or_group
    if key.startswith("hydra.") or key.startswith("hydra/") or key == "hydra":
        return
    if key in groups:
        problem = None if override.package is None else _misplaced(override, word, keys)
        if problem is not None:
            yield problem
            return
        chosen_already = override.package is None and any(setting.startswith(f"{key}.") for setting in keys)
        yield from check_group(override, word, groups[key], chosen_already)
    elif key not in keys:
        yield f"{word}: unknown setting{did_you_mean(key, [*keys, *groups])}"
    elif override.is_delete():
        yield f"{word}: a setting cannot be left out; give it a value: {key}=VALUE"
    elif override.type == OverrideType.ADD:
        yield f"{word}: the setting exists; leave out the plus: {word.lstrip('+')}"
    elif isinstance(span := override.value(), IntervalSweep) and not _is_ascending(span):
        yield f"{word}: the second end must be above the first, and the first above 0 for tag(log,...)"


def _misplaced(override: Override, word: str, keys: Sequence[str]) -> str | None:
    """Returns what is wrong with the place that an option is given, as in +task@evaluation.tasks.NAME=OPTION."""
    if FURTHER_TASKS not in keys:
        return f"{word}: an option has no place but its group's; leave out @{override.package}"
    if override.key_or_group != "task" or not TASK_PLACE.fullmatch(override.package or ""):
        wanted = f"+task@{FURTHER_TASKS}.NAME=OPTION"
        return f"{word}: an option stands for another group only as {wanted}, NAME being of letters, digits and _"
    if override.type != OverrideType.ADD:
        return f"{word}: a task of {FURTHER_TASKS} is added with a plus: +{word.lstrip('+~')}"
    return None


def _is_ascending(span: IntervalSweep) -> bool:
    low, high = float(span.start or 0), float(span.end or 0)
    return low < high and (low > 0 or "log" not in span.tags)


def check_group(override: Override, word: str, options: list[str], chosen_already: bool) -> Iterator[str]:
    """Yields what is wrong with the choice of a group's option.

    Args:
        chosen_already: whether the main config chooses an option of the group.
    """
    group = override.key_or_group
    if override.type == OverrideType.CHANGE and group in OPTIONAL_GROUPS:
        yield f"{word}: {OPTIONAL_GROUPS[group]} is added with a plus: +{word}"
    if override.type == OverrideType.ADD and chosen_already:
        yield f"{word}: the group has an option already; leave out the plus: {word.lstrip('+')}"
    if override.is_delete():
        yield f"{word}: a group cannot be left out; choose an option of {', '.join(options)}"
        return
    chosen = swept_values(override, options) if override.is_sweep_override() else [override.value()]
    if not chosen:
        yield f"{word}: none of {', '.join(options)} is meant"
    for choice in chosen:
        for option in choice if isinstance(choice, list) else [choice]:
            name = show(option)
            if name not in options:
                yield (
                    f"{word}: there is no {group} {name}{did_you_mean(name, options)} (there are {', '.join(options)})"
                )

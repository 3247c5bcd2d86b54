"""Turns Hydra's composed config into a checked `Config`, or into the list of all that is wrong."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from types import NoneType
from typing import Any, NamedTuple, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from tunix_grpo.config import relations, rules
from tunix_grpo.config.relations import show
from tunix_grpo.config.schema import Config
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import ConfigError

logger = logging.getLogger(__name__)

PACKAGE_HINT = "; an experiment's file begins with the line # @package _global_"
ALIASES = ("seed", "device", "checkpoint_dir")
TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Entry(NamedTuple):
    """One field of the schema: a single value, or a section of them.

    Attributes:
        declared: the dataclass field, with its rule.
        type: the type of the value, or the section's dataclass.
        optional: whether it may be null.
    """

    declared: Field
    type: type
    optional: bool


class Examined(NamedTuple):
    """What a composed config comes to. `config` is None when there are problems."""

    config: Config | None
    problems: list[str]
    warnings: list[str]


def load(cfg: DictConfig) -> Config:
    """Returns the typed config, with every path absolute, and logs warnings on unusual values.

    Args:
        cfg: the config as Hydra composed it.

    Raises:
        ConfigError: lists everything that is wrong.
    """
    examined = examine(cfg)
    if examined.config is None:
        raise ConfigError(examined.problems)
    for warning in examined.warnings:
        logger.warning(warning)
    return examined.config


def examine(cfg: DictConfig) -> Examined:
    """Checks a composed config in full, without raising."""
    entries = dict(schema_entries())
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    read(cfg, entries, values, problems)
    find_missing(entries, values, problems)
    for alias in ALIASES:
        if f"training.{alias}" in problems:
            problems.pop(alias, None)
    complaints = [
        *problems.values(),
        *broken_rules(entries, values),
        *relations.check_relations(relations.ERRORS, values),
        *relations.check_task(values),
        *relations.check_rewards(values),
    ]
    if complaints:
        return Examined(None, complaints, [])
    warnings = [
        *unusual_values(entries, values),
        *relations.check_relations(relations.WARNINGS, values),
    ]
    for alias in ALIASES:
        values[f"training.{alias}"] = values[alias]
    return Examined(build(Config, values), [], warnings)


def schema_entries(section: type = Config, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Yields the dotted key and the entry of every section and value of the schema."""
    hints = get_type_hints(section)
    for declared in fields(section):
        key = prefix + declared.name
        members = get_args(hints[declared.name]) or (hints[declared.name],)
        inner = next(member for member in members if member is not NoneType)
        yield key, Entry(declared, inner, NoneType in members)
        if is_dataclass(inner):
            yield from schema_entries(inner, f"{key}.")


def value_keys() -> list[str]:
    """Returns the dotted key of every setting that holds a value."""
    return [key for key, entry in schema_entries() if not is_dataclass(entry.type)]


def read(
    cfg: DictConfig,
    entries: Mapping[str, Entry],
    values: dict[str, Any],
    problems: dict[str, str],
    prefix: str = "",
) -> None:
    """Fills `values` with the typed value of every setting, and `problems` with the other keys."""
    for name in cfg:
        key = f"{prefix}{name}"
        try:
            value = cfg[name]
        except MissingMandatoryValue:
            continue
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            problems[key] = f"{key}: {reason}; name a setting that exists, or give a value"
            continue
        entry = entries.get(key)
        if entry is None:
            hint = PACKAGE_HINT if key == "experiment" else did_you_mean(key, value_keys())
            problems[key] = f"{key}: unknown setting{hint}"
        elif value is None and entry.optional:
            values[key] = None
        elif not is_dataclass(entry.type):
            typed = convert(value, entry)
            if typed is None:
                wanted = TYPE_WORDS[entry.type] + (" or null" if entry.optional else "")
                problems[key] = f"{key}={show(value)}: must be {wanted}"
            else:
                values[key] = typed
        elif isinstance(value, DictConfig):
            read(value, entries, values, problems, f"{key}.")
        else:
            problems[key] = f"{key}={show(value)}: is a group of settings; give {key}.NAME=VALUE"


def convert(value: object, entry: Entry) -> int | float | bool | str | None:
    """Returns a value as the entry's type, paths absolute, or None if it is not of that type."""
    if value is None or isinstance(value, DictConfig | ListConfig):
        return None
    if entry.type is str:
        return rules.absolute(str(value)) if value and rules.is_path(entry.declared) else str(value)
    if entry.type is bool:
        return {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool):
        return None
    try:
        number = float(str(value))
    except ValueError:
        return None
    if entry.type is float:
        return number
    return int(number) if number.is_integer() else None


def find_missing(entries: Mapping[str, Entry], values: Mapping[str, Any], problems: dict[str, str]) -> None:
    """Adds a problem for every setting without a value, those of unselected sections aside."""
    for key, entry in entries.items():
        section = key.rpartition(".")[0]
        unselected = section in values and values[section] is None
        if is_dataclass(entry.type) or unselected or key in values or key in problems:
            continue
        if section not in problems:
            problems[key] = f"{key}: has no value; give {key}=VALUE, {TYPE_WORDS[entry.type]}"


def rules_in_effect(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> Iterator[tuple[str, Entry, Any]]:
    """Yields the given values with their entries; of an alias and its twin only what counts."""
    twins = set()
    for alias in ALIASES:
        same = values.get(alias) == values.get(f"training.{alias}")
        twins.add(alias if same else f"training.{alias}")
    for key, value in values.items():
        if value is not None and key not in twins:
            yield key, entries[key], value


def broken_rules(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for every value that makes no sense."""
    for key, entry, value in rules_in_effect(entries, values):
        rule = rules.rule_of(entry.declared)
        problem = rule(value) if rule else None
        if problem:
            yield f"{key}={show(value)}: {problem}"


def unusual_values(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence for every value outside the range that is usual."""
    for key, entry, value in rules_in_effect(entries, values):
        advice = rules.advice_of(entry.declared)
        remark = advice(value) if advice else None
        if remark:
            yield f"{key}={show(value)}: {remark}"


def build(section: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns the dataclass of a section, filled with the values under its dotted prefix."""
    arguments = {}
    for declared in fields(section):
        key = prefix + declared.name
        if key in values:
            arguments[declared.name] = values[key]
        else:
            inner = dict(schema_entries(section))[declared.name].type
            arguments[declared.name] = build(inner, values, f"{key}.")
    return section(**arguments)

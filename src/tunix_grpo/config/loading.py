"""Turns Hydra's composed config into a program's checked one, or into the list of all that is wrong."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import partial
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
Check = Callable[[Mapping[str, Any]], Iterable[str]]
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

    config: Any | None
    problems: list[str]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Turns the composed config of one program into its typed one.

    Attributes:
        schema: dataclass of the program's settings.
        checks: values by dotted key -> a sentence for everything that cannot work.
        remarks: the same for what is probably not meant.
        aliases: root settings that are short for `training.NAME`.
        verbatim: settings whose text on the command line is taken as it stands.
        complete: puts in what is written down elsewhere, as in the folder of a run.
        strict: False where the files of shared groups hold settings that the program does not read.
    """

    schema: type
    checks: tuple[Check, ...]
    remarks: tuple[Check, ...] = ()
    aliases: tuple[str, ...] = ()
    verbatim: tuple[str, ...] = ()
    complete: Callable[[DictConfig], DictConfig] = lambda cfg: cfg
    strict: bool = True

    def __call__(self, cfg: DictConfig) -> Any:
        """Returns the typed config, with every path absolute, and logs warnings on unusual values.

        Args:
            cfg: the config as Hydra composed it.

        Raises:
            ConfigError: lists everything that is wrong.
        """
        examined = self.examine(cfg)
        if examined.config is None:
            raise ConfigError(examined.problems)
        for warning in examined.warnings:
            logger.warning(warning)
        return examined.config

    def examine(self, cfg: DictConfig) -> Examined:
        """Checks a composed config in full, without raising."""
        try:
            cfg = self.complete(cfg)
        except ConfigError as error:
            return Examined(None, error.problems, [])
        entries = dict(schema_entries(self.schema))
        values: dict[str, Any] = {}
        problems: dict[str, str] = {}
        read(cfg, entries, values, problems, strict=self.strict)
        find_missing(entries, values, problems)
        for alias in self.aliases:
            if f"training.{alias}" in problems:
                problems.pop(alias, None)
        complaints = [*problems.values(), *broken_rules(entries, values, self.aliases)]
        complaints += [complaint for check in self.checks for complaint in check(values)]
        if complaints:
            return Examined(None, complaints, [])
        warnings = [*unusual_values(entries, values, self.aliases)]
        warnings += [remark for check in self.remarks for remark in check(values)]
        for alias in self.aliases:
            values[f"training.{alias}"] = values[alias]
        return Examined(build(self.schema, values), [], warnings)

    def settings(self) -> list[str]:
        """Returns the dotted key of every setting that holds a value."""
        return value_keys(self.schema)


def schema_entries(section: type, prefix: str = "") -> Iterator[tuple[str, Entry]]:
    """Yields the dotted key and the entry of every section and value of the schema."""
    hints = get_type_hints(section)
    for declared in fields(section):
        key = prefix + declared.name
        members = get_args(hints[declared.name]) or (hints[declared.name],)
        inner = next(member for member in members if member is not NoneType)
        yield key, Entry(declared, inner, NoneType in members)
        if is_dataclass(inner):
            yield from schema_entries(inner, f"{key}.")


def value_keys(schema: type = Config) -> list[str]:
    """Returns the dotted key of every setting that holds a value."""
    return [key for key, entry in schema_entries(schema) if not is_dataclass(entry.type)]


def read(
    cfg: DictConfig,
    entries: Mapping[str, Entry],
    values: dict[str, Any],
    problems: dict[str, str],
    prefix: str = "",
    *,
    strict: bool = True,
) -> None:
    """Fills `values` with the typed value of every setting, and `problems` with the other keys.

    Args:
        strict: whether a key that the schema does not have is a problem.
    """
    for name in cfg:
        key = f"{prefix}{name}"
        if key not in entries and not strict:
            continue
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
            read(value, entries, values, problems, f"{key}.", strict=strict)
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


def rules_in_effect(
    entries: Mapping[str, Entry], values: Mapping[str, Any], aliases: Iterable[str]
) -> Iterator[tuple[str, Entry, Any]]:
    """Yields the given values with their entries; of an alias and its twin only what counts."""
    twins = set()
    for alias in aliases:
        same = values.get(alias) == values.get(f"training.{alias}")
        twins.add(alias if same else f"training.{alias}")
    for key, value in values.items():
        if value is not None and key not in twins:
            yield key, entries[key], value


def broken_rules(entries: Mapping[str, Entry], values: Mapping[str, Any], aliases: Iterable[str]) -> Iterator[str]:
    """Yields a sentence for every value that makes no sense."""
    for key, entry, value in rules_in_effect(entries, values, aliases):
        rule = rules.rule_of(entry.declared)
        problem = rule(value) if rule else None
        if problem:
            yield f"{key}={show(value)}: {problem}"


def unusual_values(entries: Mapping[str, Entry], values: Mapping[str, Any], aliases: Iterable[str]) -> Iterator[str]:
    """Yields a sentence for every value outside the range that is usual."""
    for key, entry, value in rules_in_effect(entries, values, aliases):
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


load = Loader(
    schema=Config,
    checks=(
        partial(relations.check_relations, relations.ERRORS),
        relations.check_task,
        relations.check_rewards,
    ),
    remarks=(partial(relations.check_relations, relations.WARNINGS),),
    aliases=ALIASES,
)

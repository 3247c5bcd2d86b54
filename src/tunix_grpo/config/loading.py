"""Turns Hydra's composed config into a program's checked one, or into the list of all that is wrong."""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from tunix_grpo.config import open_groups, relations
from tunix_grpo.config.algorithm import with_epsilon_as_given
from tunix_grpo.config.further_tasks import with_common_keys
from tunix_grpo.config.open_groups import OpenGroup, extended
from tunix_grpo.config.origins import with_origin
from tunix_grpo.config.resolvers import register_defaults
from tunix_grpo.config.schema import Config
from tunix_grpo.config.sentences import Entry, readable, schema_entries, sentence, unusual, value_keys
from tunix_grpo.config.wandb_variables import with_wandb_variables
from tunix_grpo.errors import ConfigError, UserError

logger = logging.getLogger(__name__)
register_defaults()  # whoever reads a composed config looks its values up

# Texts of rewards that are no values of YAML.
VERBATIM = ("reward.format.reasoning", "reward.format.answer", "reward.regex.pattern", "reward.judge.score_pattern")
# What others define, and may name as we do.
_WHOLE = ("reward.json_schema.schema", "reward.judge.body")
ALIASES = ("seed", "device", "checkpoint_dir")
Check: TypeAlias = Callable[[Mapping[str, object]], Iterable[str]]
Schema = TypeVar("Schema")


class Examined(NamedTuple, Generic[Schema]):
    """What a composed config comes to. `config` is None when there are problems."""

    config: Schema | None
    problems: list[str]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Loader(Generic[Schema]):
    """Turns the composed config of one program into its typed one.

    Attributes:
        schema: dataclass of the program's settings.
        checks: values by dotted key -> a sentence for everything that cannot work.
        remarks: values by dotted key -> a sentence for everything that is probably not meant.
        open_groups: the groups whose keys depend on what is chosen.
        aliases: root settings that are short for `training.NAME`.
        verbatim: settings whose text on the command line is taken as it stands.
        complete: adds settings that are written elsewhere, such as in the folder of a run.
        strict: False where the files of shared groups hold settings that the program does not read.
    """

    schema: type[Schema]
    checks: tuple[Check, ...] = ()
    remarks: tuple[Check, ...] = ()
    open_groups: Mapping[str, OpenGroup] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    verbatim: tuple[str, ...] = ()
    complete: Callable[[DictConfig], DictConfig] = lambda cfg: cfg
    strict: bool = True

    def __call__(self, cfg: DictConfig) -> Schema:
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

    def examine(self, cfg: DictConfig) -> Examined[Schema]:
        """Checks a composed config in full, without raising."""
        try:
            cfg = self.complete(cfg)
        except ConfigError as error:
            return Examined(None, error.problems, [])
        problems: dict[str, str] = {}
        known = None if self.strict else self._read()
        content = plain(cfg, problems, known)
        schema = self._closed(content, problems)
        entries = dict(schema_entries(schema))
        try:
            config: Any = TypeAdapter(schema).validate_python(content)  # its class is made here
        except ValidationError as error:
            config = None
            self._add_sentences(problems, error, content, entries)
        for alias in self.aliases:
            if f"training.{alias}" in problems:
                problems.pop(alias, None)
        values = {key: value for key, value in leaves(config or content) if key not in problems}
        if config is None:  # what is right beside what is wrong, as the checks know it
            values = dict(readable(values, entries))
        complaints = [*problems.values(), *(complaint for check in self.checks for complaint in check(values))]
        if config is None or complaints:
            return Examined(None, complaints, [])
        for alias in self.aliases:
            values[f"training.{alias}"] = getattr(config, alias)
            setattr(config.training, alias, getattr(config, alias))
        remarks = [unusual(key, entry, values[key]) for key, entry in entries.items() if key in values]
        remarks += [remark for check in self.remarks for remark in check(values)]
        return Examined(config, [], [remark for remark in remarks if remark])

    def settings(self) -> list[str]:
        """Returns the dotted key of every setting that holds a value."""
        inside = [f"{group}.{key}" for group, opened in self.open_groups.items() for key in opened.known()]
        return [*value_keys(self.schema), *inside]

    def _read(self) -> set[str]:
        """Returns the keys that the program reads; of an open group the group itself."""
        keys = (key for key, _ in schema_entries(self.schema))
        return {key for key in keys if "." not in key or key.partition(".")[0] not in self.open_groups}

    def _closed(self, content: dict[str, object], problems: dict[str, str]) -> type:
        """Returns the schema with the keys that the open groups have for this content."""
        sections = {}
        for group, opened in self.open_groups.items():
            inside = content.get(group)
            if isinstance(inside, dict):
                try:
                    sections[group] = opened.section(inside)
                except UserError as error:
                    problems[group] = str(error)
                    del content[group]
        return _with_sections(self.schema, tuple(sections.items()))

    def _add_sentences(
        self, problems: dict[str, str], error: ValidationError, content: Mapping[str, object], entries: dict[str, Entry]
    ) -> None:
        """Adds a sentence for every mistake, unless it has one already or is a part of something that has."""
        settings = self.settings()
        for each in error.errors():
            key = ".".join(place for place in each["loc"] if isinstance(place, str))  # without places in a list
            if any(key == other or key.startswith(f"{other}.") for other in problems):
                continue
            group, _, name = key.partition(".")
            own = None
            inside = content.get(group)
            if name and group in self.open_groups and isinstance(inside, dict):
                own = self.open_groups[group].complaint(inside, name, each, entries.get(key))
            problems[key] = own or sentence(key, each, entries.get(key), settings)


@functools.cache
def _with_sections(schema: type, sections: tuple[tuple[str, type], ...]) -> type:
    return extended(schema, dict(sections), {}) if sections else schema


def plain(
    cfg: DictConfig, problems: dict[str, str], known: Collection[str] | None, prefix: str = ""
) -> dict[str, object]:
    """Returns a composed config as plain values, without those that are missing.

    Args:
        problems: gets a sentence for every value that cannot be looked up.
        known: the keys that are taken; None takes all.
    """
    content: dict[str, object] = {}
    for name in cfg:
        key = f"{prefix}{name}"
        if known is not None and key not in known:
            continue
        try:
            value = cfg[name]
        except MissingMandatoryValue:
            continue
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            problems[key] = f"{key}: {reason}; name a setting that exists, or give a value"
            continue
        if isinstance(value, DictConfig):
            # A setting that is names and values itself has none below it that the schema knows.
            is_group = known is not None and any(other.startswith(f"{key}.") for other in known)
            value = plain(value, problems, known if is_group else None, f"{key}.")
        content[str(name)] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return content


def leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Yields dotted keys and values of a config, or of the plain content that was to become one."""
    if key in _WHOLE:
        yield key, value
        return
    if isinstance(value, dict):
        inside = value
    elif is_dataclass(value):
        inside = {each.name: getattr(value, each.name) for each in fields(value)}
    else:
        yield key, value
        return
    for name, part in inside.items():
        yield from leaves(part, f"{key}.{name}" if key else name)


load = Loader(
    schema=Config,
    complete=lambda cfg: with_common_keys(with_epsilon_as_given(with_origin(with_wandb_variables(cfg)))),
    checks=(
        partial(relations.check_relations, relations.ERRORS),
        relations.check_rewards,
        relations.check_functions,
        relations.check_references,
        relations.check_metric,
        relations.check_trackio,
    ),
    remarks=(partial(relations.check_relations, relations.WARNINGS),),
    open_groups={"task": open_groups.TASK, "reward": open_groups.REWARD, "evaluation": open_groups.EVALUATION},
    aliases=ALIASES,
    verbatim=VERBATIM,
)

"""Groups of settings whose keys depend on what is chosen: a task's own keys, the selected rewards."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from tunix_grpo.config import plugins
from tunix_grpo.config.parts import (
    AskedTask,
    FurtherTasks,
    NamedFunction,
    NamedFunctions,
    OutsideReward,
    RewardsConfig,
    TaskConfig,
    UserReward,
    WeightedReward,
)
from tunix_grpo.config.rewards import REWARD_SETTINGS
from tunix_grpo.config.rules import GROUP, Flag, Number, Text, Whole
from tunix_grpo.config.schema import EvaluationConfig
from tunix_grpo.config.sentences import MISSING, UNKNOWN, Entry, field_names, show
from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import UserError

FURTHER_TASKS = "evaluation.tasks"
# What the plain types of a builder's keys accept.
_ACCEPTED = {int: Whole, float: Number, bool: Flag, str: Text}


class OpenGroup(NamedTuple):
    """A group whose keys depend on what is in it.

    Attributes:
        section: the group's content -> the dataclass that it is to become. It takes out of the content what is null
            and read by another choice only.
        known: returns the keys in the group that the package knows.
        complaint: (content, key, what pydantic says, the key's entry) -> a sentence of the group's own, or None for the
            usual one.
    """

    section: Callable[[dict[str, object]], type]
    known: Callable[[], list[str]]
    complaint: Callable[[Mapping[str, object], str, ErrorDetails, Entry | None], str | None]


def builder_keys(reference: str) -> dict[str, inspect.Parameter]:
    """Returns the keys that a task's builder takes, the seed aside, each with its type and default.

    Raises:
        UserError: the builder cannot be found, or does not take its settings as keywords.
    """
    return _keys_of(plugins.resolve(reference, "task.name"), reference)


def _keys_of(builder: Callable[..., object], reference: str) -> dict[str, inspect.Parameter]:
    with plugins.Reporting(lambda what: UserError(f"task.name={reference}: its arguments cannot be read: {what}")):
        parameters = dict(inspect.signature(builder, eval_str=True).parameters)
    by_name = all(each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters.values())
    if not by_name or parameters.keys() & field_names(TaskConfig):
        raise UserError(
            f"task.name={reference}: {reference.rpartition(':')[2]} must take settings of its own by name; "
            "give it keyword arguments with types, such as (*, num_questions: int, seed: int)"
        )
    parameters.pop("seed", None)
    return {name: each.replace(annotation=_accepted(each.annotation)) for name, each in parameters.items()}


def extended(base: type, types: Mapping[str, object], defaults: Mapping[str, object]) -> type:
    """Returns a section with the fields of another one and more, or with other types.

    Two calls give two classes, whose values are never equal: callers keep what they get.
    """
    members = {"__annotations__": dict(types), "__doc__": base.__doc__, "__module__": base.__module__, **defaults}
    return dataclass(kw_only=True, slots=True, config=GROUP)(type(base.__name__, (base,), members))


def _task_section(content: dict[str, object], group: str = "task", base: type = TaskConfig) -> type:
    """Returns the section of a task.

    Args:
        group: where it stands.
        base: has what it has beside the keys of its builder.
    """
    if "name" not in content:
        raise UserError(f"{group}.name: has no value; give {group}.name=FILE.py:FUNCTION, or the name of a task")
    name = str(content["name"])
    if name not in plugins.TASKS and not plugins.is_outside(name):
        raise UserError(f"{group}.name={name}: must be one of {', '.join(plugins.TASKS)}, or FILE.py:FUNCTION")
    reference = plugins.task_reference(name)
    section = _task_class(plugins.resolve(reference, f"{group}.name"), reference, base)
    for key in [key for key, value in content.items() if value is None and key not in field_names(section)]:
        if _readers(key):
            del content[key]
    return section


@functools.cache
def _task_class(builder: Callable[..., object], reference: str, base: type) -> type:
    keys = _keys_of(builder, reference)
    defaults = {key: each.default for key, each in keys.items() if each.default is not each.empty}
    with plugins.Reporting(lambda what: UserError(f"task.name={reference}: its arguments cannot be read: {what}")):
        return extended(base, {key: each.annotation for key, each in keys.items()}, defaults)


def _readers(key: str) -> list[str]:
    """Returns the tasks of the package that read a key."""
    return [name for name, reference in plugins.TASKS.items() if key in builder_keys(reference)]


def _task_keys() -> list[str]:
    return list(dict.fromkeys(key for reference in plugins.TASKS.values() for key in builder_keys(reference)))


def _task_complaint(
    content: Mapping[str, object], key: str, error: ErrorDetails, entry: Entry | None, group: str = "task"
) -> str | None:
    owner, given = f"{group}.name={content.get('name')}", f"{group}.{key}={show(error['input'])}"
    if error["type"] == UNKNOWN:
        if others := _readers(key):
            choice = "task" if group == "task" else f"+task@{group}"
            return f"{given}: {owner} does not read it; set {group}.{key}=null, or take {choice}={' or '.join(others)}"
        own = [f"{group}.{name}" for name in builder_keys(plugins.task_reference(str(content["name"])))]
        return f"{given}: {owner} does not read it{did_you_mean(f'{group}.{key}', own)}"
    if entry is not None and key not in field_names(TaskConfig):
        hint = (entry.extra("hint") or "").replace("task.", f"{group}.")
        way_out = hint or f"give {group}.{key}=VALUE, {entry.wanted()}"
        if error["type"] == MISSING:
            return f"{group}.{key}: has no value, and {owner} needs it; {way_out}"
        if error["input"] is None:
            return f"{given}: {owner} needs it; {way_out}"
    return None


def _evaluation_section(content: dict[str, object]) -> type:
    tasks = content.get("tasks")
    if not isinstance(tasks, dict) or not tasks:
        return EvaluationConfig
    sections = []
    for name, inside in tasks.items():
        group = f"{FURTHER_TASKS}.{name}"
        if not str(name).isidentifier():
            raise UserError(f"{group}: a name is of letters, digits and _; give another")
        if not isinstance(inside, dict):
            raise UserError(f"{group}={show(inside)}: is a task's settings; add one with +task@{group}=OPTION")
        sections.append((name, _task_section(inside, group, AskedTask)))
    return _evaluation_class(tuple(sections))


@functools.cache
def _evaluation_class(tasks: tuple[tuple[str, type], ...]) -> type:
    return extended(EvaluationConfig, {"tasks": extended(FurtherTasks, dict(tasks), {})}, {})


def _evaluation_complaint(
    content: Mapping[str, object], key: str, error: ErrorDetails, entry: Entry | None
) -> str | None:
    _, name, inside = [*key.split(".", 2), "", ""][:3]
    tasks = content.get("tasks")
    if not inside or not isinstance(tasks, dict):
        return None
    return _task_complaint(tasks[name], inside, error, entry, f"{FURTHER_TASKS}.{name}")


def _reward_section(content: dict[str, object]) -> type:
    named = {name: value for name, value in content.items() if isinstance(value, dict) and "function" in value}
    outside = tuple(name for name in named if name not in field_names(RewardsConfig))
    custom, functions = content.get("custom"), content.get("functions")
    common = custom if isinstance(custom, dict) else {}
    common = {key: value for key, value in common.items() if key in field_names(UserReward) and key != "weight"}
    content |= {name: common | named[name] for name in outside}
    if not isinstance(functions, dict):
        return _reward_class(outside, ())
    for name in functions:
        _require_free_name(name, outside)
    filled = {name: common | value if isinstance(value, dict) else value for name, value in functions.items()}
    content["functions"] = filled
    return _reward_class(outside, tuple(filled))


def _require_free_name(name: str, outside: Sequence[str]) -> None:
    taken = [*plugins.REWARDS, *outside, "custom"]
    if name in taken:
        raise UserError(f"reward.functions.{name}: there is a reward of that name ({', '.join(taken)}); give another")
    if not name.isidentifier():
        raise UserError(f"reward.functions.{name}: a name is of letters, digits and _; give another")


@functools.cache
def _reward_class(outside: tuple[str, ...], functions: tuple[str, ...]) -> type:
    named = extended(NamedFunctions, dict.fromkeys(functions, NamedFunction), {})
    own = {name: reward_settings(name) | None for name in plugins.REWARDS}
    types = dict.fromkeys(outside, OutsideReward) | own | {"functions": named}
    return extended(RewardsConfig, types, dict.fromkeys(plugins.REWARDS))


def _reward_keys() -> list[str]:
    return [f"{name}.{key}" for name in plugins.REWARDS for key in field_names(reward_settings(name))]


def reward_settings(name: str) -> type[WeightedReward]:
    """Returns the section of a reward of the package."""
    return REWARD_SETTINGS.get(name, WeightedReward)


def as_written(base: type) -> OpenGroup:
    """Returns a group that takes all keys as they are: for a run that is only read, whose files may be gone."""

    def section(content: dict[str, object]) -> type:
        return extended(base, {key: Any for key in content if key not in field_names(base)}, {})

    return OpenGroup(section, list, _nothing_to_add)


def _nothing_to_add(*_: object) -> None:
    return None


def _accepted(annotation: Any) -> Any:
    """Returns the type of the settings for a plain Python type; any other stays as it is."""
    if annotation is inspect.Parameter.empty:
        return Any
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(_accepted(member) for member in get_args(annotation))]  # noqa: UP007
    return annotation if annotation is NoneType else _ACCEPTED.get(annotation, annotation)


EVALUATION = OpenGroup(_evaluation_section, list, _evaluation_complaint)
TASK = OpenGroup(_task_section, _task_keys, _task_complaint)
REWARD = OpenGroup(_reward_section, _reward_keys, _nothing_to_add)

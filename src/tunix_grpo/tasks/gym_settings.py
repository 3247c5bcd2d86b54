"""What a data set of reasoning_gym is made with: its own settings, a level of its curriculum, its share of a mixture.

The data set's own config class checks the values; what it says becomes one sentence.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tunix_grpo.config.suggestions import did_you_mean
from tunix_grpo.errors import one_line
from tunix_grpo.tasks.base import TaskError

logger = logging.getLogger(__name__)

# Mixtures of other data sets, which `task.mixture` makes with a scorer for each.
UNSUPPORTED = frozenset({"composite"})
_OF_THE_TASK = ("seed", "size")  # which come from the run's seed and from task.num_questions
# What the attributes of a curriculum call the settings that they stand for.
_FIELDS_OF_ATTRIBUTES = ("field_name", "lower_field_name", "upper_field_name")
_PART_KEYS = ("weight", "dataset", "level", "settings")


class Part(NamedTuple):
    """A data set with what it is made with.

    Attributes:
        name: what the part is called: the data set, or the user's name for it in a mixture.
        dataset: one of reasoning_gym's.
        settings: of the data set's config class, checked.
        weight: share of the questions, relative to the other parts'.
    """

    name: str
    dataset: str
    settings: dict[str, Any]
    weight: float = 1.0


def make_part(dataset: str, level: int | None, settings: Mapping[str, object] | None, place: str = "task") -> Part:
    """Returns a data set with its checked settings.

    Args:
        level: of the data set's curriculum, from 0; None is the data set's own defaults.
        settings: of the data set, which win over those of the level.
        place: the setting that holds these three, for errors.

    Raises:
        TaskError: there is no such data set, level or setting, or its config class refuses a value.
    """
    _require_known(dataset, place)
    values = _level_values(dataset, level, place) | _typed(dataset, settings or {}, f"{place}.settings")
    _require_accepted(dataset, values, _shown(place, level, settings))
    return Part(dataset, dataset, values)


def parts_by_level(
    dataset: str, level: int | None, highest: int, settings: Mapping[str, object] | None
) -> tuple[int, dict[int, Part]]:
    """Returns the level that training starts at, and the data set at each level from 0 to the highest.

    Levels that its config class refuses are left out, which is said: the curricula of some data sets lead there.

    Args:
        level: the first, None is 0.

    Raises:
        TaskError: there is no such level, or the data set does not accept the one that training starts at.
    """
    start = level or 0
    if not 0 <= start <= highest:
        raise TaskError(
            f"task.level={level} and task.highest_level={highest}: training starts at the first and goes no higher "
            f"than the second; give task.highest_level={start} or more"
        )
    _require_known(dataset, "task")
    _require_level(dataset, highest, "task.highest_level")
    levels = {start: make_part(dataset, start, settings)}
    for other in range(highest + 1):
        values = _level_values(dataset, other, "task.level") | _typed(dataset, settings or {}, "task.settings")
        refusal = _refusal(dataset, values)
        if refusal is None:
            levels[other] = Part(dataset, dataset, values)
        else:
            logger.warning("level %d of %s is left out: %s", other, dataset, refusal)
    return start, dict(sorted(levels.items()))


def mixture_parts(mixture: Mapping[str, Any]) -> list[Part]:
    """Returns the parts of `task.mixture`: name -> weight, or name -> {weight, dataset, level, settings}.

    Raises:
        TaskError: a part is not of this form, or as `make_part` says.
    """
    parts = []
    for name, value in mixture.items():
        place = f"task.mixture.{name}"
        given = dict(value) if isinstance(value, Mapping) else {"weight": value}
        if unknown := [key for key in given if key not in _PART_KEYS]:
            hint = did_you_mean(unknown[0], _PART_KEYS) or f"; there are {', '.join(_PART_KEYS)}"
            raise TaskError(
                f"{place}.{unknown[0]}: there is no such key{hint}; settings of the data set go into settings"
            )
        weight = given.get("weight", 1)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise TaskError(f"{place}={weight}: the weight must be a number above 0")
        level, settings = given.get("level"), given.get("settings")
        if settings is not None and not isinstance(settings, Mapping):
            raise TaskError(f"{place}.settings={settings}: must be names and values, such as {{min_terms: 2}}")
        part = make_part(str(given.get("dataset", name)), level, settings, place)
        parts.append(part._replace(name=str(name), weight=float(weight)))
    return parts


def part_sizes(parts: list[Part], num_questions: int) -> list[int]:
    """Returns how many questions each part has: by weight, at least 2 each, num_questions in all.

    Raises:
        TaskError: there are too few questions.
    """
    if num_questions < 2 * len(parts):
        raise TaskError(
            f"task.num_questions={num_questions} is too few for the {len(parts)} parts of task.mixture; "
            f"give {2 * len(parts)} or more"
        )
    spare = num_questions - 2 * len(parts)
    total = sum(part.weight for part in parts)
    # Ends of intervals are rounded, not their lengths, so that the sizes add up.
    ends = [round(spare * sum(part.weight for part in parts[: count + 1]) / total) for count in range(len(parts))]
    return [2 + end - start for start, end in zip([0, *ends], ends, strict=False)]


def _level_values(dataset: str, level: int | None, place: str) -> dict[str, Any]:
    """Returns the settings that a level of the data set's curriculum stands for."""
    from reasoning_gym.factory import create_curriculum

    if level is None:
        return {}
    _require_level(dataset, level, f"{place}.level")
    curriculum = create_curriculum(dataset)
    curriculum.set_global_level(level)
    config: Any = curriculum.generate_configuration()
    fields = [vars(attribute) for attribute in curriculum.attributes.values()]
    names = [fields_of[key] for fields_of in fields for key in _FIELDS_OF_ATTRIBUTES if key in fields_of]
    return {name: getattr(config, name) for name in names}


def _require_known(dataset: str, place: str) -> None:
    """Raises TaskError where reasoning_gym has no such data set."""
    from reasoning_gym.factory import DATASETS

    known = sorted(set(DATASETS) - UNSUPPORTED)
    if dataset not in known:
        raise TaskError(
            f"{place}.dataset={dataset} is not a data set of reasoning_gym"
            f"{did_you_mean(dataset, known)}; there are {', '.join(known)}"
        )


def _require_level(dataset: str, level: object, setting: str) -> None:
    """Raises TaskError where a data set has no such level."""
    from reasoning_gym.factory import create_curriculum, has_curriculum

    if not has_curriculum(dataset):
        place = setting.rpartition(".")[0]
        raise TaskError(f"{setting}={level}: {dataset} has no curriculum; give {place}.settings instead")
    curriculum = create_curriculum(dataset)
    highest = max((len(attribute.levels) for attribute in curriculum.attributes.values()), default=1) - 1
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= highest:
        raise TaskError(f"{setting}={level}: the curriculum of {dataset} has the levels 0 to {highest}")


def _typed(dataset: str, settings: Mapping[str, object], place: str) -> dict[str, Any]:
    """Returns settings in the types of the data set's config class."""
    from reasoning_gym.factory import DATASETS

    config_class = DATASETS[dataset][1]
    fields = [field.name for field in dataclasses.fields(config_class) if field.init]
    known = [name for name in fields if name not in _OF_THE_TASK]
    for name, value in settings.items():
        if name in _OF_THE_TASK:
            raise TaskError(f"{place}.{name}={value}: task.num_questions and the run's seed decide it; leave it out")
        if name not in known:
            raise TaskError(
                f"{place}.{name}: {dataset} has no such setting{did_you_mean(name, known)}; "
                f"there are {', '.join(known) or 'none'}"
            )
    hints, defaults = get_type_hints(config_class), config_class()
    return {
        name: _converted(value, hints[name], getattr(defaults, name), f"{place}.{name}")
        for name, value in settings.items()
    }


def _converted(value: Any, hint: Any, default: Any, setting: str) -> Any:
    """Returns a value as the type of its field has it: a list as the tuple that the default is, "2" as a number.

    What is in a list is left alone: some fields are annotated as one item long, and mean many.
    """
    if isinstance(value, list) and isinstance(default, list | tuple):
        return type(default)(value)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise TaskError(f"{setting}={value}: {one_line(ValueError(error.errors()[0]['msg']))}") from error


def _require_accepted(dataset: str, values: dict[str, object], shown: str) -> None:
    """Raises TaskError for values that the data set's config class does not accept together."""
    refusal = _refusal(dataset, values)
    if refusal is not None:
        raise TaskError(f"{shown}: {dataset} does not accept it ({refusal}); give other settings")


def _refusal(dataset: str, values: dict[str, object]) -> str | None:
    """Returns why the data set's config class does not accept values together, or None."""
    from reasoning_gym.factory import DATASETS

    try:
        config = DATASETS[dataset][1](**values)
        if hasattr(config, "validate"):  # a few classes have nothing to check
            config.validate()
    except Exception as error:  # a failed assertion, a comparison with None
        return one_line(error)
    return None


def _shown(place: str, level: int | None, settings: Mapping[str, object] | None) -> str:
    """Returns level and settings as they are written on the command line."""
    values = ", ".join(f"{name}: {value}" for name, value in (settings or {}).items())
    given = [f"{place}.level={level}"] * (level is not None) + [f"{place}.settings={{{values}}}"] * (
        settings is not None
    )
    return " and ".join(given) or place

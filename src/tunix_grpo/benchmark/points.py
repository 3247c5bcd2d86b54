"""The points of a sweep: steps of several sizes, or one step in micro batches of several sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tunix_grpo.config.benchmark import BenchmarkConfig, TimedConfig
from tunix_grpo.config.benchmark_points import halvings
from tunix_grpo.config.changing import changed
from tunix_grpo.decoder.spec import DecoderSpec, stacks
from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.model.config_json import read_config, read_spec
from tunix_grpo.model.sources import config_directory

_TIMES = (0.25, 0.5, 1.0, 2.0)  # what is set
_DEPTHS = (0.25, 0.5, 1.0)
_LAYERS, _KINDS = "num_hidden_layers", "layer_types"  # of a config.json


@dataclasses.dataclass(frozen=True)
class Point:
    """A step of a sweep.

    Attributes:
        value: its completions, the tokens of one, the prompts of a micro batch, the model's layers, or its name.
        settings: by dotted key, in what it differs from the settings of the benchmark.
    """

    value: int | str
    settings: dict[str, object]


def points_of(
    config: BenchmarkConfig, timed: TimedConfig, data_parallel: int, spec: DecoderSpec | None = None
) -> list[Point]:
    """Returns the points, the smallest first; models by name as they were given.

    Args:
        timed: the same on the device.
        data_parallel: devices that share the prompts of a step.
        spec: of the model, where layers are counted.

    Raises:
        UserError: a point is no step that these devices can share.
    """
    given = None if config.points is None else sorted({each for each in config.points if isinstance(each, int)})
    if config.sweep == "tokens":
        values = given or _times(timed.generation.max_generation_steps)
        return [Point(value, {"generation.max_generation_steps": value}) for value in values]
    batch = config.training
    prompts = batch.micro_batch_size * batch.gradient_accumulation_steps
    if config.sweep == "micro_batch_size":
        return [Point(size, _batches(size, prompts // size)) for size in given or halvings(prompts)]
    if config.sweep == "rows":
        unit = timed.completions_per_step(data_parallel) // prompts
        return [_rows(value, unit, config) for value in given or [unit * count for count in _times(prompts)]]
    named = [each for each in config.points or () if isinstance(each, str)]
    layers = given if given is not None else _depths(spec) if spec is not None else []
    return [Point(value, {"model.random_weights": True}) for value in layers] + [_named(name) for name in named]


@contextlib.contextmanager
def config_of(config: BenchmarkConfig, point: Point) -> Iterator[BenchmarkConfig]:
    """Gives the settings of a point alone.

    Of a model with other layers, that is a folder with a config.json, which lasts as long as the block.

    Raises:
        UserError: the family takes the number of its layers from elsewhere.
    """
    alone = dataclasses.replace(changed(config, point.settings), sweep=None, points=None, plot=None)
    if config.sweep != "model" or isinstance(point.value, str):
        yield alone
        return
    with tempfile.TemporaryDirectory() as folder:
        content = with_layers(read_config(config_directory(config.model)), point.value)
        (Path(folder) / "config.json").write_text(json.dumps(content))
        if read_spec(Path(folder), config.model.family).num_layers != point.value:
            raise UserError(
                f"sweep=model: {config.model.name} does not have its layers from {_LAYERS} of config.json; "
                "give folders with a config.json each, as in points=[DIR,DIR]"
            )
        yield changed(alone, {"model.path": folder})


def with_layers(config: dict[str, Json], count: int) -> dict[str, Json]:
    """Returns the content of a config.json with other layers: the first of them, or its kinds of layers again."""
    text = config.get("text_config")
    if isinstance(text, dict):
        return {**config, "text_config": with_layers(text, count)}
    made, kinds = {**config, _LAYERS: count}, config.get(_KINDS)
    if isinstance(kinds, list) and kinds:
        made[_KINDS] = (kinds * math.ceil(count / len(kinds)))[:count]
    return made


def _times(count: int) -> list[int]:
    return sorted({math.ceil(count * factor) for factor in _TIMES})


def _depths(spec: DecoderSpec) -> list[int]:
    """Returns numbers of layers; where kinds of layers alternate, whole periods of them, so that their shares stay."""
    period = sum(len(stack.layers[0]) for stack in stacks(spec)[0])
    unit = period if period <= spec.num_layers // 2 else 1
    parts = {max(1, round(factor * spec.num_layers / unit)) * unit for factor in _DEPTHS[:-1]}
    return sorted({*parts, spec.num_layers})


def _batches(size: int, count: int) -> dict[str, object]:
    return {"training.micro_batch_size": size, "training.gradient_accumulation_steps": count}


def _rows(value: int, unit: int, config: BenchmarkConfig) -> Point:
    """Returns a step of so many completions; its micro batches are as large as the set ones, or the largest below.

    Args:
        unit: completions of a prompt in each minibatch of each device.
    """
    if value % unit:
        raise UserError(
            f"points={config.points} and sweep=rows: {value} completions are not a multiple of {unit}, what the "
            f"devices share; give points=[{unit},{2 * unit},{4 * unit}]"
        )
    prompts = value // unit
    most = min(config.training.micro_batch_size, prompts)
    size = next(size for size in range(most, 0, -1) if prompts % size == 0)
    return Point(value, _batches(size, prompts // size))


def _named(name: str) -> Point:
    """Returns a model: a folder, or else a hub id."""
    folder = Path(name).expanduser()
    path, hub_id = (str(folder.absolute()), None) if folder.is_dir() else (None, name)
    where: dict[str, object] = {"model.path": path, "model.hub_id": hub_id, "model.kaggle_id": None}
    return Point(name, {"model.name": name, "model.random_weights": True, **where})

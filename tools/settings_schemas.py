"""The JSON schemas of the settings, and what the sources say of each: `write_settings.py` writes both down."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from tunix_grpo.config import (
    benchmark,
    checkpoints,
    compare,
    evaluate,
    export,
    generate,
    loading,
    open_groups,
    plugins,
    report,
    score,
    sft,
    verify_resume,
)
from tunix_grpo.config.parts import NamedFunction, OutsideReward, TaskConfig
from tunix_grpo.config.sentences import schema_entries

SCHEMAS = Path("docs/schema")
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_LOOKED_UP = {"type": "string", "pattern": r"^(\$\{.*\}|\?\?\?)$"}


class Program(NamedTuple):
    """A program: the door, its main config, its settings, and what its part of the page begins with."""

    door: str
    config_name: str
    loader: loading.Loader
    about: str


PROGRAMS = (
    Program("run_training.py", "config", loading.load, "Training."),
    Program("scripts/sft.py", "sft", sft.load, "Demonstrations; see [sft.md](sft.md)."),
    Program("scripts/generate.py", "generate", generate.load, "Answers; see [generate.md](generate.md)."),
    Program("scripts/evaluate.py", "evaluate", evaluate.load, "Verdicts; see [evaluation.md](evaluation.md)."),
    Program("scripts/export.py", "export", export.load, "Trained models as files; see [export.md](export.md)."),
    Program("scripts/score.py", "score", score.load, "Rewards on completions; see [rewards.md](rewards.md)."),
    Program("scripts/report.py", "report", report.load, "A run as a page; see [report.md](report.md)."),
    Program("scripts/compare.py", "compare", compare.load, "Runs side by side; see [report.md](report.md)."),
    Program(
        "scripts/benchmark.py",
        "benchmark",
        benchmark.load,
        "Steps against the clock; see [benchmark.md](benchmark.md).",
    ),
    Program("scripts/checkpoints.py", "checkpoints", checkpoints.load, "Saved steps; see [resume.md](resume.md)."),
    Program(
        "scripts/verify_resume.py",
        "verify_resume",
        verify_resume.load,
        "The proof that stopping changes nothing; see [reliability.md](reliability.md).",
    ),
)


def descriptions(section: type) -> dict[str, str]:
    """Returns field -> the text below it in the source, base classes included."""
    texts: dict[str, str] = {}
    for part in reversed(section.__mro__[:-1]):
        (declaration,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(declaration, ast.ClassDef)
        for field, below in zip(declaration.body, declaration.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(below.value))
    return {name: " ".join(text.split()) for name, text in texts.items()}


def builder_descriptions(builder: Callable[..., Any]) -> dict[str, str]:
    """Returns key -> what the builder's docstring says of it."""
    arguments = inspect.cleandoc(builder.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def schemas() -> dict[Path, dict[str, Any]]:
    """Returns the JSON schemas: of every group, and of the main config of every program."""
    shared = groups_of(PROGRAMS[0])
    made = shared | {program.config_name: main_schema(program, shared) for program in PROGRAMS}
    draft = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return {SCHEMAS / f"{name}.json": draft | schema for name, schema in made.items()}


def main_schema(program: Program, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the schema of a program's main config, and of a file with the line `# @package _global_`.

    Args:
        shared: group -> its schema in training, which has a file.
    """
    whole = object_schema(program.loader.schema)
    for group, schema in groups_of(program).items():
        whole["properties"][group] = {"$ref": f"{group}.json"} if schema == shared.get(group) else schema
    whole["properties"]["hydra"] = {"type": "object"}
    return whole


def groups_of(program: Program) -> dict[str, dict[str, Any]]:
    """Returns group -> its schema."""
    entries = {key: entry.type for key, entry in schema_entries(program.loader.schema) if "." not in key}
    made = {key: object_schema(kind) for key, kind in entries.items() if hasattr(kind, "__pydantic_fields__")}
    if "reward" in made and "reward" in program.loader.open_groups:
        made["reward"] = object_schema(open_groups.REWARD.section({}))
        made["reward"]["additionalProperties"] = object_schema(OutsideReward)
        made["reward"]["properties"]["functions"] = {
            "type": "object",
            "additionalProperties": object_schema(NamedFunction),
            "description": made["reward"]["properties"]["functions"]["description"],
        }
    if "task" in made and "task" in program.loader.open_groups:
        made["task"] = task_schema()
        tasks = made["evaluation"]["properties"]["tasks"]
        made["evaluation"]["properties"]["tasks"] = {
            "type": "object",
            "additionalProperties": {"$ref": "task.json"},
            "description": tasks["description"],
        }
    elif "task" in made:
        made["task"]["additionalProperties"] = True  # the options of the group are training's
    return made


def task_schema() -> dict[str, Any]:
    """Returns the schema of the group `task`: all keys are offered, and those that the named task takes are checked."""
    whole = object_schema(TaskConfig)
    common, cases = dict(whole["properties"]), []
    for name, reference in plugins.TASKS.items():
        own = object_schema(open_groups.TASK.section({"name": name}))
        texts = builder_descriptions(plugins.resolve(reference, "task.name"))
        for key in own["properties"].keys() - common.keys():
            schema = own["properties"][key]
            schema["description"] = texts[key]
            if {"type": "null"} not in schema["anyOf"]:
                schema["anyOf"].append({"type": "null"})  # a file may leave it to the command line
            whole["properties"].setdefault(key, {"description": texts[key]})
        named = {"properties": {"name": {"const": name}}, "required": ["name"]}
        cases.append({"if": named, "then": own})
    return {**whole, "additionalProperties": True, "allOf": cases}


def object_schema(section: type) -> dict[str, Any]:
    """Returns the schema of a section, of which a file may say any part."""
    raw = TypeAdapter(section).json_schema()
    made = inlined(raw, raw.get("$defs", {}))
    texts = descriptions(section)
    for name, schema in made["properties"].items():
        if name in texts:
            schema["description"] = texts[name]
    made = looked_up(made)
    return {**made, "properties": made["properties"] | {"defaults": {"type": "array"}}}


def looked_up(section: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of a section in which any value may be looked up elsewhere, as ${training.seed} is."""
    properties = {}
    for name, schema in section["properties"].items():
        text = {"description": schema["description"]} if "description" in schema else {}
        plain = {key: value for key, value in schema.items() if key != "description"}
        if schema.get("type") == "object":
            properties[name] = looked_up(schema) if "properties" in schema else schema
        else:
            parts = [looked_up(part) if "properties" in part else part for part in plain.get("anyOf", [plain])]
            properties[name] = {"anyOf": [*parts, _LOOKED_UP], **text}
    return section | {"properties": properties}


def inlined(schema: Any, known: Mapping[str, Any]) -> Any:
    """Returns a schema of pydantic's with definitions put in place and only what an editor reads."""
    if isinstance(schema, list):
        return [inlined(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return inlined(known[schema["$ref"].rpartition("/")[2]], known)
    left_out = {"$defs", "title", "hint", "usual", "required", "default"}
    kept = {_BOUNDS.get(key, key): value for key, value in schema.items() if key not in left_out}
    if kept.get("type") == "string" and "enum" not in kept:
        kept["type"] = ["string", "number"]  # 12 may be a name
    properties = {name: inlined(each, known) for name, each in kept.pop("properties", {}).items()}
    made = {key: inlined(value, known) for key, value in kept.items()}
    return {**made, "properties": properties} if properties else made

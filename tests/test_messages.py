"""Every `KEY=` that a program says is a setting of that program: who follows an error's advice gets somewhere.

The source is read, not run: from the door of each program through everything that is reachable by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tunix_grpo.config import benchmark, compare, evaluate, export, generate, load, report, score, sft
from tunix_grpo.config.loading import Loader

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
Name = tuple[str, str]  # module, and what stands at its top level
TRAINING: Name = ("tunix_grpo.config.loading", "load")
DEMONSTRATIONS: Name = ("tunix_grpo.config.sft", "load")


class Program(NamedTuple):
    """A program: the main config, its settings, and where its source begins, beside the door that all share."""

    config_name: str
    loader: Loader
    starts: tuple[Name, ...]


DOOR: Name = ("tunix_grpo.cli", "run")
PROGRAMS = {
    "train": Program("config", load, (("tunix_grpo.train", "train"), TRAINING)),
    "sft": Program("sft", sft.load, (("tunix_grpo.sft", "train_on_demonstrations"), DEMONSTRATIONS)),
    "export": Program(
        "export", export.load, (("tunix_grpo.export.exporting", "export"), ("tunix_grpo.config.export", "load"))
    ),
    "generate": Program(
        "generate",
        generate.load,
        (("tunix_grpo.programs.generate", "generate"), ("tunix_grpo.config.generate", "load")),
    ),
    "evaluate": Program(
        "evaluate",
        evaluate.load,
        (("tunix_grpo.programs.evaluate", "evaluate"), ("tunix_grpo.config.evaluate", "load")),
    ),
    "score": Program(
        "score",
        score.load,
        (("tunix_grpo.programs.score", "score"), ("tunix_grpo.config.score", "load")),
    ),
    "report": Program(
        "report",
        report.load,
        (("tunix_grpo.record.report.program", "report"), ("tunix_grpo.config.report", "load")),
    ),
    "compare": Program(
        "compare",
        compare.load,
        (("tunix_grpo.record.report.side_by_side", "compare"), ("tunix_grpo.config.compare", "load")),
    ),
    "benchmark": Program(
        "benchmark",
        benchmark.load,
        (
            ("tunix_grpo.benchmark.program", "benchmark"),
            # Processes of their own, whose errors the program passes on.
            *((f"tunix_grpo.benchmark.{module}", "serve") for module in ("own", "planning", "peer_trl", "peer_tunix")),
            ("tunix_grpo.config.benchmark", "load"),
        ),
    ),
}
OPEN = re.compile(r"(?<=^notes)\.\w+$|(?<=^task\.template_variables)\.\w+$")  # below it the keys are a person's own
OPENS_RUNS = ("train", "sft", "evaluate", "export", "generate", "report", "score")
TRAINING_KEYS = set(load.settings())
# Beginnings of sentences that another program than training can reach by name, and why they lead nobody astray there.
HARMLESS = {
    "{}: the reward {} is not selected": "the other programs refuse a key of a reward before they compose it",
    "+hparams_search=optuna: ": "said of a sweep that a person has asked for with it",
    "an interval has no end of values": "only training has numbers that are searched",
    "hparams_search=": "of the leaderboard, which training alone has",
    "give keys and values of your own": "of `notes`, which training alone has",
    "task=": "put into a command line of training",
    "is no folder or file of this machine; give one, and training.mirror=": "of training.checkpoint_dir alone",
    # Said of the config.yaml that a run has left: the file is named, and it is what has to be changed.
    "quantized weights cannot be trained": "of a run's config.yaml",
    "a constant rate ends at its peak": "of a run's config.yaml",
    "no questions; give task.dataset=": "of a run's config.yaml",
    "no model to start from": "of a run's config.yaml",
    "steps belong to a run; give its folder as model.run=": "of a run's config.yaml",
    "model.path, model.kaggle_id and model.hub_id are all null": "refused with the sentence above",
    # Facts of a run, beside a way out that the program has.
    "format=adapter: {} trained all weights (model.lora_rank=null)": "format=full",
    "model.random_weights=true: the shapes of": "model.path=DIR",
    "share of groups whose rewards are all equal": "what a number of a run means, or of training alone",
    "no two of them were evaluated on the same questions": "shows a command of another program",
    # What cannot be: the reward of a benchmark has no time limit.
    "reward {}: {} calls that took too long": "no reward of a benchmark has a time limit",
    "; raise its time_limit": "no reward of a benchmark has a time limit",
    "task.template_variables.chat_template={}": "a run has chosen",
    # What cannot be: the run has trained with it, or the program asks for all devices.
    "model.lora_target_modules={} matches": "the run has an adapter",
    "{}: the weights are quantized{}": "the run has read them",
    "mesh.fsdp={} x mesh.tp={} does not use": "an export takes all devices",
}
# What is written like a setting and is none: keys of a model's config.json, what TensorStore says, `key=value`, HTML,
# XLA's compiled texts.
NO_SETTINGS = {"model_type", "num_attention_heads", "rope_theta", "os_error_code", "key", "type", "id"} | {
    "branch_computations",
    "custom_call_target",
    "is_host_transfer",
    "op_name",
}
# KEY=VALUE as a person writes it: not a piece of a longer word, a comparison, or a parameter of a function.
SETTING = re.compile(r"(?<![\w.$%{}/<>&?-])([a-z][a-z_]*(?:\.[a-z_]+)*)=(?=[^=\s)]|$)")


@cache
def tree(module: str) -> ast.Module | None:
    """Returns the parsed source of a module of ours."""
    path = SOURCE.joinpath(*module.split("."))
    file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
    return ast.parse(file.read_text()) if file and module.startswith("tunix_grpo") else None


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """Returns what a module defines at its top level, by name."""
    found: dict[str, ast.stmt] = {}
    for node in tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            for name in ast.walk(target) if isinstance(target, ast.AST) else ():
                if isinstance(name, ast.Name):
                    found[name.id] = node
    return found


@cache
def imports(module: str) -> dict[str, Name]:
    """Returns the names that a module imports from ours, anywhere in it; a module itself has the name ''."""
    found: dict[str, Name] = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module and tree(node.module):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found[alias.asname or alias.name] = (inside, "") if tree(inside) else (node.module, alias.name)
    return found


def used(module: str, node: ast.AST) -> Iterator[Name]:
    """Yields what a piece of source refers to."""
    known = imports(module)
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id in known:
            inside, name = known[part.value.id]
            yield (inside, part.attr) if not name else (inside, name)
        elif isinstance(part, ast.Name):
            yield known.get(part.id, (module, part.id))


@cache
def reachable(program: str) -> dict[Name, ast.stmt]:
    """Returns all functions, classes and constants of ours that a program can come to."""
    found: dict[Name, ast.stmt] = {}
    waiting = [DOOR, *PROGRAMS[program].starts]
    while waiting:
        module, name = waiting.pop()
        if tree(module) is None or (module, name) in found:
            continue
        if (module, name) in (TRAINING, DEMONSTRATIONS) and (module, name) not in PROGRAMS[program].starts:
            continue  # the door takes it where it is not given another; what a run has left is read with it
        if name in definitions(module):
            found[module, name] = node = definitions(module)[name]
            waiting += used(module, node)
        elif name in imports(module):
            waiting.append(imports(module)[name])
    return found


def sentences(node: ast.AST) -> Iterator[str]:
    """Yields the texts of a piece of source without docstrings; what is filled in becomes `{}`."""
    docstrings = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Expr)}
    inside = {id(piece) for part in ast.walk(node) if isinstance(part, ast.JoinedStr) for piece in part.values}
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            yield "".join(str(piece.value) if isinstance(piece, ast.Constant) else "{}" for piece in part.values)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and id(part) not in docstrings | inside:
            yield part.value


@cache
def said(program: str) -> dict[tuple[str, str], set[str]]:
    """Returns (module, key) -> the sentences of a program that name the key with an equals sign."""
    keys: dict[tuple[str, str], set[str]] = {}
    for (module, _), node in reachable(program).items():
        for text in sentences(node):
            for found in SETTING.finditer(text):
                # `KEY={}` in a program that opens a run says what the run's config.yaml holds, and advises nothing.
                told = program in OPENS_RUNS and text.startswith("{}", found.end()) and found[1] in TRAINING_KEYS
                if not told and not found[1].startswith("hydra."):
                    keys.setdefault((module.removeprefix("tunix_grpo."), found[1]), set()).add(text)
    return keys


def own_words(program: str) -> set[str]:
    """Returns what may stand before an equals sign on a program's command line."""
    name, loader, _ = PROGRAMS[program]
    defaults = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())["defaults"]
    groups = {group for entry in defaults if isinstance(entry, dict) for group in entry}
    if program == "train":
        groups |= {"experiment", "hparams_search"}  # added with a plus
    return {*loader.settings(), *loader.aliases, *groups}


def leading_nowhere(program: str) -> dict[tuple[str, str], set[str]]:
    """Returns (module, key) -> the sentences of a program that name a setting which it does not have."""
    known = own_words(program) | NO_SETTINGS
    return {place: texts for place, texts in said(program).items() if not {place[1], OPEN.sub("", place[1])} & known}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_message_names_is_a_setting_of_the_program(program):
    excused = tuple(HARMLESS) if program != "train" else ()
    lost = {place: {t for t in texts if not t.startswith(excused)} for place, texts in leading_nowhere(program).items()}
    assert {place: texts for place, texts in lost.items() if texts} == {}


def test_every_exception_is_needed():
    texts = {text for program in PROGRAMS for found in leading_nowhere(program).values() for text in found}
    assert [start for start in HARMLESS if not any(text.startswith(start) for text in texts)] == []


def test_messages_are_found_where_they_are():
    """In raised errors, in returned sentences, in constants, and in what other modules are called for."""
    train, asked = said("train"), said("generate")
    assert ("config.relations", "task.dataset") in train  # a relation's sentence, reached by way of a table
    assert ("model.sources", "model.path") in train  # a constant that errors share
    assert ("programs.generate", "file") in asked and ("programs.generate", "file") not in train
    assert ("run.locking", "checkpoint_dir") in train  # a function that a class calls
    assert SETTING.findall("a=1: b.c=2, not d == 3, f(e=4) or (g=5); see x/h=6") == ["a", "b.c", "e", "g"]

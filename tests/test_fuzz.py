"""Random settings and files with random mistakes: a sentence or something that works, never a traceback.

A case is a function of its number, which a failure names.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models import one_device_mesh
from helpers.mutations import changed_bytes, changed_file, changed_json, word
from tunix_grpo.commands import CONF
from tunix_grpo.config import load
from tunix_grpo.config.composing import checked_command_line
from tunix_grpo.config.overrides import list_groups
from tunix_grpo.errors import UserError
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.model import load_model
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.tokenizer import load_tokenizer

TINY = Path(__file__).resolve().parent.parent / "src" / "tunix_grpo" / "assets" / "tiny"
# The first part is short; 34 parts of words are 10,000 of them, 10 parts of files are 1,000 of each kind.
PARTS = [pytest.param(part, marks=[] if part == 0 else pytest.mark.slow) for part in range(34)]


def is_a_sentence_or_works(call: Callable[[], object], what: str) -> None:
    """Fails where a call raises anything but a user's error, which says something."""
    try:
        call()
    except UserError as error:
        assert str(error).strip(), what
    except BaseException as error:  # a panic of Rust's is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


# --- command lines: 300 words, and 10,000 in all ---


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS)
def test_random_words(part, tmp_path, monkeypatch):
    """Fifteen command lines each; nothing is made on the disk."""
    monkeypatch.chdir(tmp_path)
    keys = [
        *load.settings(),
        *list_groups([CONF]),
        *load.aliases,
        "hydra.run.dir",
        "hydra.mode",
        "notes.a",
        "task.settings.a",
    ]
    for number in range(15 * part, 15 * (part + 1)):
        numbers = random.Random(f"words {number}")
        words = [word(numbers, keys) for _ in range(numbers.choice([1, 2, 10, 27, 40, 40]))]
        # A small model and task, so that the other words decide.
        line = ["model=tiny", "task=arithmetic", *words]
        is_a_sentence_or_works(lambda line=line: checked_command_line(line, CONF, "config"), f"words {number}: {line}")
    assert list(tmp_path.iterdir()) == []


# --- files: a hundred of each kind, and 1,000 and more in all ---


@pytest.fixture
def model(tmp_path) -> Path:
    shutil.copytree(TINY, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS[:10])
def test_random_config_files(part, model, compose):
    """What is read of them is loaded where it fits the weights."""
    original, mesh = (TINY / "config.json").read_bytes(), one_device_mesh()
    settings = compose("model=tiny", "task=arithmetic", f"model.path={model}").model

    def read() -> None:
        read_spec(model)
        load_model(settings, model, mesh, 0)

    for number in range(100 * part, 100 * (part + 1)):
        content = changed_file(random.Random(f"config {number}"), original)
        (model / "config.json").write_bytes(content)
        is_a_sentence_or_works(read, f"config {number}: {content!r}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS[:10])
def test_random_tokenizer_files(part, model):
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    originals = {name: (TINY / name).read_bytes() for name in names}

    def read() -> None:
        tokenizer = load_tokenizer(model, 512, date="2026-01-31")
        ids = tokenizer.encode_prompt([{"role": "user", "content": "What is 12 + 30?"}])
        tokenizer.decode(ids)

    for number in range(100 * part, 100 * (part + 1)):
        numbers = random.Random(f"tokenizer {number}")
        name = numbers.choice(names)
        content = changed_file(numbers, originals[name])
        (model / name).write_bytes(content)
        is_a_sentence_or_works(read, f"tokenizer {number}: {name}: {content[:3000]!r}")
        (model / name).write_bytes(originals[name])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", PARTS[:10])
def test_random_data_files(part, tmp_path, compose):
    rows = [
        {"question": f"What is {n} + 1?", "answer": str(n + 1), "level": n, "tags": ["a", {"b": n}]} for n in range(12)
    ]
    config = compose("model=tiny", "task=jsonl", f"task.path={tmp_path}/data.jsonl")
    for number in range(100 * part, 100 * (part + 1)):
        numbers = random.Random(f"data {number}")
        lines = [json.dumps(changed_json(numbers, row) if numbers.random() < 0.3 else row) for row in rows]
        content = "".join(f"{line}\n" for line in lines).encode()
        content = changed_bytes(numbers, content) if numbers.random() < 0.5 else content
        (tmp_path / "data.jsonl").write_bytes(content)
        is_a_sentence_or_works(lambda: build_task(config.task, 0), f"data {number}: {content!r}")

"""Runs that an earlier version made are resumed, exported and asked, and give what that version gave.

`tests/golden/old_runs/VERSION_KIND.tar.xz` holds a run folder and its checkpoints, the .json beside it what the version
that made them came to when it went on, exported and answered.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import pytest
from safetensors.numpy import load_file

from helpers import golden
from tunix_grpo.config import export as export_settings
from tunix_grpo.config import generate as generate_settings
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.export.exporting import export
from tunix_grpo.programs.generate import generate
from tunix_grpo.train import train

CONF = golden.ROOT / "conf"
OLD_RUNS = golden.FOLDER / "old_runs"
NAMES = sorted(file.name.removesuffix(".tar.xz") for file in OLD_RUNS.glob("*.tar.xz"))
# This process compiles without optimisations (conftest.py), so float32 sums come in another order than then.
CLOSE = {"rel": 2e-4, "abs": 2e-6}


class OldRun(NamedTuple):
    """An old run in a folder of its own, and what its version came to."""

    folder: Path
    then: dict[str, Any]


@pytest.fixture(params=NAMES)
def old_run(request, tmp_path) -> OldRun:
    """Unpacks a run; its settings name the folder that it is in now, as if it had not moved."""
    folder = tmp_path / "old"
    with tarfile.open(OLD_RUNS / f"{request.param}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    text = (OLD_RUNS / f"{request.param}.json").read_text()
    was = json.loads(text)["folder"]
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace(was, str(folder)))
    return OldRun(folder, json.loads(text.replace(was, str(folder))))


@pytest.mark.long
def test_it_is_resumed(old_run, compose, tmp_path):
    config = compose(*old_run.then["settings"], f"checkpoint_dir={old_run.folder}/checkpoints")
    summary = train(config)
    assert summary.steps == 6
    rows = golden.lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in old_run.then["metrics"]]
    for mine, theirs in zip(rows, old_run.then["metrics"], strict=True):
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, **CLOSE)


def test_it_is_exported(old_run, tmp_path, jax_cache):
    to = tmp_path / "exported"
    asked = (f"run={old_run.folder}/run", f"to={to}", f"format={old_run.then['format']}", f"jax_cache={jax_cache}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        export(export_settings.load(hydra.compose("export", [*asked, "device=cpu"])))
    tensors = load_file(to / "model.safetensors")
    assert tensors.keys() == old_run.then["tensors"].keys()
    for name, (total, absolute) in old_run.then["tensors"].items():
        array = tensors[name].astype("float64")
        assert (array.sum(), abs(array).sum()) == pytest.approx((total, absolute), rel=1e-5, abs=1e-5)


def test_it_is_asked(old_run, tmp_path, jax_cache, capsys):
    questions = tmp_path / "questions.txt"
    questions.write_text("What is 27 + 48?\nWhat is 90 - 17?\nWhat is 5 + 66?\n")
    words = [f"run={old_run.folder}/run", f"file={questions}", f"jax_cache={jax_cache}", "device=cpu"]
    words = checked_command_line(
        [*words, "generation.temperature=0", "json=true"], CONF, "generate", generate_settings.load
    )
    generate(generate_settings.load(composed(words, [CONF], "generate")))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers == old_run.then["answers"]

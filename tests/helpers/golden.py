"""Golden runs: short trainings, started as users start them, whose numbers may only change on purpose."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "golden"
RECORDED = FOLDER / "recorded"
RUNS = ("plain", "cut", "lora", "resumed")
_OF_THE_CLOCK = ("timing/", "perf/", "step_time")
_RESUMED_FROM = 2


class Record(NamedTuple):
    """What a golden run left behind, without what a clock decides."""

    metrics: list[dict[str, Any]]
    completions: list[dict[str, Any]]


def machine() -> dict[str, Any]:
    """Returns what the last digits of a number depend on beside the program: processor, cores, compiler."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    described = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in described.items()}
    return {
        "machine": platform.machine(),
        "processor": [fields.get(key) for key in ("model name", "cpu family", "model")],
        "cores": os.cpu_count(),
        "jaxlib": metadata.version("jaxlib"),
    }


def run(tree: Path, into: Path, jax_cache: str) -> dict[str, Record]:
    """Runs every golden run with the program of a checkout, and returns their records by name.

    Args:
        tree: the checkout.
        into: an empty folder for what the runs leave behind.
    """
    settings = yaml.safe_load((FOLDER / "settings.yaml").read_text())
    records = {}
    for name, own in settings["runs"].items():
        values = settings["common"] | own
        _train(tree, values, into / name, into / name / "checkpoints", jax_cache)
        records[name] = _record(into / name)
    shutil.copytree(into / "plain" / "checkpoints", into / "cut_short")
    for step in (into / "cut_short" / "actor").iterdir():
        if step.name.isdigit() and int(step.name) > _RESUMED_FROM:
            shutil.rmtree(step)
    _train(tree, settings["common"], into / "resumed", into / "cut_short", jax_cache)
    records["resumed"] = _record(into / "resumed")
    return {name: records[name] for name in RUNS}


def _train(tree: Path, values: dict[str, Any], output: Path, checkpoints: Path, jax_cache: str) -> None:
    words = [f"{key}={value}" for key, value in values.items()]
    folders = [f"hydra.run.dir={output}", f"checkpoint_dir={checkpoints}", f"jax_cache={jax_cache}"]
    start(tree / "run_training.py", *words, *folders, cwd=output.parent)


def start(door: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a door of a checkout, with the package of that checkout; anything but success raises."""
    package = next(folder for folder in door.parents if (folder / "src").is_dir()) / "src"
    done = subprocess.run(
        [sys.executable, str(door), *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{door.name} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def _record(folder: Path) -> Record:
    return Record(*(lines(folder / f"{name}.jsonl") for name in Record._fields))


def lines(file: Path) -> list[dict[str, Any]]:
    """Reads a JSONL file of a run, without what a clock decides."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(_OF_THE_CLOCK)} for row in rows]


def save(records: dict[str, Record], commit: str) -> None:
    """Writes the records into tests/golden/recorded, with the commit and the machine that they are from."""
    for name, record in records.items():
        for part, rows in record._asdict().items():
            file = RECORDED / name / f"{part}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    origin = {"commit": commit, **machine()}
    (RECORDED / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")


def recorded() -> dict[str, Record]:
    """Returns the records as they were saved."""
    return {name: _record(RECORDED / name) for name in RUNS}


def origin() -> dict[str, Any]:
    """Returns the commit and the machine that the saved records are from."""
    return json.loads((RECORDED / "origin.json").read_text())


def checkout(commit: str, folder: Path) -> Path:
    """Writes the tree of a commit into a folder and returns it."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder

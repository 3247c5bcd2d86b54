"""Folders of runs, written without training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import hydra

from tunix_grpo.config import load
from tunix_grpo.record.run_config import write_config

CONF = Path(__file__).resolve().parent.parent.parent / "conf"


def write_run(
    folder: Path,
    *words: str,
    completions: Iterable[Mapping[str, object]] = (),
    metrics: Iterable[Mapping[str, object]] = (),
    notes: Iterable[Mapping[str, object]] = (),
    environment: Mapping[str, object] | None = None,
) -> Path:
    """Writes what a run of the bundled model leaves in its folder, and returns the folder.

    Args:
        words: settings as on the command line.
        environment: what environment.json says; None writes none, as earlier versions did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = [f"output_dir='{folder}'", f"training.checkpoint_dir='{folder / 'checkpoints'}'"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = load(hydra.compose("config", [*places, "model=tiny", "task=arithmetic", *words]))
    write_config(config, folder)
    for name, lines in {"completions": completions, "metrics": metrics, "health": notes}.items():
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    if environment is not None:
        (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def completion(step: int, question: int, place: int, **changes: object) -> dict[str, object]:
    """Returns a line of completions.jsonl: the answer of a place in a group, right where the place is even."""
    right = place % 2 == 0
    line: dict[str, object] = {
        "step": step,
        "prompt": f"<user>What is {question} + 1?<model>",
        "completion": f"<answer>{question + 1 if right else question}</answer>",
        "answer": str(question + 1),
        "rewards": {"format": 1.0, "correctness": float(right)},
        "reward": 1.5 if right else 0.5,
        "advantage": 1.0 if right else -1.0,
        "length": 8 + place,
        "truncated": False,
    }
    return line | changes

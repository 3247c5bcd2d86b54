"""Measures what the settings do that the reference page leaves open, one at a time, on small runs.

    python tools/sweep_defaults.py SMOLLM2 FOLDER [--minutes 60] [--known docs/hyperparameters]
    python tools/sweep_defaults.py --table docs/hyperparameters

SMOLLM2 is the directory of SmolLM2-135M-Instruct. A study is a model, a task and the settings of its base; each setting
that is tried is a sweep (`--multirun`) over other values and two seeds. What the jobs came to is written into
FOLDER/STUDY.csv when their sweep has ended. The program begins no sweep after so many minutes, and leaves out what
stands in files of FOLDER or of --known: the same command goes on another day. A sweep that was stopped goes on with
its first job that has not ended. --table prints what docs/hyperparameters.md has.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tunix_grpo.run.logged import read_metrics
from tunix_grpo.sweeps.leaderboard import read_results

ROOT = Path(__file__).resolve().parent.parent
SEEDS = "42,43"
LAST_STEPS = 5
QUIET = ("evaluation.before_training=false", "tracker.tensorboard=false", "tracker.report=false", "tracker.show=0")


class Study(NamedTuple):
    """A model on a task, with the settings that are tried on it.

    Attributes:
        base: words that every job has.
        tried: setting -> other values than the base's, as on the command line; of what is no single setting, the words
            themselves, joined by `+`.
    """

    base: tuple[str, ...]
    tried: dict[str, tuple[str, ...]]


_TRIED = {
    "base": ("",),
    "optimizer.learning_rate": ("3e-5", "3e-4"),
    "grpo.beta": ("0.02", "0.08"),
    "prompts x completions": (
        "training.micro_batch_size=16+grpo.num_generations=4",
        "training.micro_batch_size=4+grpo.num_generations=16",
    ),
    "schedule": ("scheduler=warmup_cosine",),
}
# What showed nothing on the tiny model is not tried on a large one; a clip range does nothing in a first pass.
_TRIED_ON_TINY = _TRIED | {
    "optimizer.learning_rate": ("3e-5", "1e-4", "1e-3"),
    "optimizer.max_grad_norm": ("0.1",),
    "optimizer.beta2": ("0.999",),
    "passes": ("grpo.num_iterations=2", "grpo.num_iterations=2+grpo.epsilon_high=0.28"),
}
_SMOLLM2 = (
    "training.num_batches=12",
    "training.save_interval_steps=12",
    "training.eval_interval_steps=12",
    *QUIET,
)
_TINY = (
    "+experiment=demo",
    "training.num_batches=20",
    "training.save_interval_steps=20",
    "training.eval_interval_steps=20",
    "training.log_interval_steps=1",
    "training.micro_batch_size=8",
    "grpo.beta=0.0",
    "scheduler=constant",
    "optimizer.max_grad_norm=1.0",
    *QUIET,
)
STUDIES = {
    "tiny_arithmetic_all_weights": Study(_TINY, _TRIED_ON_TINY),
    "tiny_arithmetic_adapter": Study(
        (*_TINY, "model.lora_rank=32", "optimizer.learning_rate=1e-3"),
        {"base": ("",), "optimizer.learning_rate": ("1e-4", "3e-4", "3e-3")},
    ),
    "smollm2_sums_adapter": Study(("+experiment=recipe/smollm2_sums", *_SMOLLM2), _TRIED),
    "smollm2_sums_all_weights": Study(
        ("+experiment=recipe/smollm2_sums", *_SMOLLM2, "model.lora_rank=null", "optimizer.learning_rate=1e-5"),
        {"base": ("",), "optimizer.learning_rate": ("3e-6", "3e-5")},
    ),
    "smollm2_chain_sum_adapter": Study(
        ("+experiment=recipe/smollm2_chain_sum", *_SMOLLM2),
        {"base": ("",), "optimizer.learning_rate": ("3e-5", "3e-4"), "grpo.beta": ("0.08",)},
    ),
}


class Found(NamedTuple):
    """What a job came to.

    Attributes:
        accuracy: of greedy answers to held-out questions, after its last step.
        reward: mean of what was drawn in its last steps.
    """

    setting: str
    value: str
    seed: str
    accuracy: float
    reward: float


def read_found(*folders: Path) -> dict[str, list[Found]]:
    """Returns study -> what its jobs came to."""
    found: dict[str, list[Found]] = {}
    for file in (folder / f"{name}.csv" for folder in folders for name in STUDIES):
        if file.is_file():
            with file.open(newline="") as stream:
                for row in csv.DictReader(stream):
                    numbers = float(row["accuracy"]), float(row["reward"])
                    found.setdefault(file.stem, []).append(Found(row["setting"], row["value"], row["seed"], *numbers))
    return found


def add_found(file: Path, rows: Sequence[Found]) -> None:
    """Writes rows behind those of a file."""
    is_new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([Found._fields] if is_new else [])
        writer.writerows(rows)


def sweeps_of(setting: str, values: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the words of a setting's sweeps, and the values that each of them tries."""
    if "." in setting:
        yield [f"{setting}={','.join(values)}"], [*values]
    else:
        for value in values:
            yield value.split("+") if value else [], [value]


def run_sweep(study: Study, setting: str, words: list[str], values: list[str], place: Path, model: Path) -> list[Found]:
    """Runs a sweep over values and seeds, in a folder of its own."""
    tried = {word.partition("=")[0] for word in words}
    base = [word for word in study.base if word.partition("=")[0] not in tried]
    model_words = [] if "+experiment=demo" in base else [f"model.path={model}"]
    # Without its own place, a job's checkpoints would be below a folder that is another one with each start.
    places = [f"hydra.sweep.dir={place}", f"training.checkpoint_dir={place}/checkpoints"]
    command = [sys.executable, str(ROOT / "run_training.py"), "--multirun", *base, *model_words, *words, *places]
    subprocess.run([*command, f"training.seed={SEEDS}"], check=True)
    found = []
    for result in read_results(place):
        given = result.given()
        assert result.objective is not None, result.folder
        # Hydra writes a number in its own words: 3e-05.
        value = next(word for word in values if setting not in given or float(word) == float(given[setting]))
        rewards = [row["reward"] for row in read_metrics(result.folder / "metrics.jsonl").values() if "reward" in row]
        reward = round(statistics.mean(rewards[-LAST_STEPS:]), 4)
        found.append(Found(setting, value, given["training.seed"], round(result.objective, 4), reward))
    return found


def table(found: dict[str, list[Found]]) -> str:
    """Returns the mean accuracy and reward of each value, and in brackets those of each seed."""
    lines = ["| study | setting | value | accuracy | reward |", "|---|---|---|---|---|"]
    for study, rows in found.items():
        for setting, value in dict.fromkeys((row.setting, row.value) for row in rows):
            each = [row for row in rows if (row.setting, row.value) == (setting, value)]
            accuracy = _mean_and_each([row.accuracy for row in each], ".1%")
            reward = _mean_and_each([row.reward for row in each], ".2f")
            words = " ".join(f"`{word}`" for word in value.split("+") if word)
            lines.append(f"| {study} | {setting} | {words} | {accuracy} | {reward} |")
    return "\n".join(lines)


def _mean_and_each(numbers: Sequence[float], form: str) -> str:
    return f"{statistics.mean(numbers):{form}} ({', '.join(f'{number:{form}}' for number in numbers)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--known", type=Path, default=ROOT / "docs" / "hyperparameters")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=[*STUDIES])
    given = parser.parse_args()
    if given.table is not None:
        print(table(read_found(given.table)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + 60 * given.minutes
    known = read_found(given.known, given.folder)
    for name in given.studies:
        for setting, values in STUDIES[name].tried.items():
            for words, tried in sweeps_of(setting, values):
                if {(setting, value) for value in tried} <= {(row.setting, row.value) for row in known.get(name, [])}:
                    continue
                if time.monotonic() > ends:
                    return
                words_of_place = [setting, *(tried if len(tried) == 1 else [])]
                place = given.folder / name / re.sub(r"[^A-Za-z0-9.-]+", "_", " ".join(words_of_place)).strip("_")
                rows = run_sweep(STUDIES[name], setting, words, tried, place.resolve(), given.model)
                add_found(given.folder / f"{name}.csv", rows)


if __name__ == "__main__":
    main()

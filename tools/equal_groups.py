"""Compares ways around groups that teach nothing, on a task where four of five groups are equal.

    python tools/equal_groups.py FOLDER [--seeds 3] [--target 0.9] [--max-steps 200]

The task is made of arithmetic: of 250 training questions 180 are sums of four digits, which the bundled model never
solves, the others additions and subtractions of two, of whose groups about 70 % differ. The held-out questions are of
the second kind. The ways are: plain GRPO; grpo.replace_equal_groups; data.order=band; both. A run ends when its greedy
accuracy on held-out questions reaches the target. Prints, of each way, the updates, the completions generated and the
seconds of its steps until then: medians over the seeds, and each seed's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tunix_grpo.files import read_json_lines
from tunix_grpo.tasks.arithmetic import question_at

ROOT = Path(__file__).resolve().parent.parent
QUESTIONS, HOPELESS, HELD_OUT = 250, 180, 128
PROMPTS, GROUP = 4, 8
WAYS = {
    "plain": (),
    "replace_equal_groups": ("grpo.replace_equal_groups=true",),
    "order=band": ("data.order=band",),
    "both": ("grpo.replace_equal_groups=true", "data.order=band"),
}
SETTINGS = (
    "model=tiny",
    "device=cpu",
    "task=jsonl",
    "reward=[correctness]",
    f"training.micro_batch_size={PROMPTS}",
    "training.log_interval_steps=1",
    "training.eval_interval_steps=4",
    "training.save_interval_steps=1000",
    f"grpo.num_generations={GROUP}",
    "grpo.beta=0",
    "optimizer.learning_rate=2e-5",
    "scheduler=constant",
    f"evaluation.num_questions={HELD_OUT}",
    f"evaluation.batch_size={HELD_OUT}",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
)


class Reached(NamedTuple):
    """What a run had spent when it reached the target: updates, completions, and seconds of its steps."""

    updates: int
    completions: int
    seconds: float


def write_task(folder: Path) -> None:
    """Writes train.jsonl and test.jsonl."""
    rng = np.random.default_rng(0)
    picked = rng.permutation(2 * 100**2)[: QUESTIONS - HOPELESS + HELD_OUT]
    usual = [question_at(int(index), 100) for index in picked]
    rows = [{"question": each.question, "answer": each.answer} for each in usual]
    hopeless = [
        {"question": f"What is {a} + {b}?", "answer": str(a + b)}
        for a, b in rng.integers(1000, 10_000, (HOPELESS, 2)).tolist()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("train", rows[HELD_OUT:] + hopeless), ("test", rows[:HELD_OUT])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


def run(folder: Path, data: Path, way: str, seed: int, target: float, max_steps: int) -> Reached | None:
    """Trains until the target is reached; None where it is not."""
    command = [
        sys.executable,
        str(ROOT / "run_training.py"),
        *SETTINGS,
        *WAYS[way],
        f"task.path={data}",
        f"seed={seed}",
        f"training.num_batches={max_steps}",
        f"hydra.run.dir={folder}",
        f"training.checkpoint_dir={folder}/checkpoints",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while (reached := reached_in(folder, target)) is None and process.poll() is None:
            time.sleep(1)
        process.terminate()
    return reached or reached_in(folder, target)


def reached_in(folder: Path, target: float) -> Reached | None:
    """Reads a run's metrics up to the step that reached the target."""
    file, spent = folder / "metrics.jsonl", Reached(0, 0, 0.0)
    for row in read_json_lines(file) if file.is_file() else []:
        if "reward" in row:
            rounds = 1 + int(row.get("groups/extra_rounds", 0))  # type: ignore[arg-type]
            seconds = spent.seconds + float(row["step_time"])  # type: ignore[arg-type]
            spent = Reached(spent.updates + 1, spent.completions + rounds * PROMPTS * GROUP, seconds)
        elif row.get("eval/accuracy", 0.0) >= target:  # type: ignore[operator]
            return spent
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the task and the runs; a run that is there already is read")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    given = parser.parse_args()
    write_task(given.folder / "data")
    print("| | updates | completions | seconds of steps | each seed's updates, completions |\n|---|---|---|---|---|")
    for way in given.ways:
        reached = []
        for seed in range(given.seeds):
            place = given.folder / f"{way}-{seed}".replace("=", "_")
            known = reached_in(place, given.target)
            found = known or run(place, given.folder / "data", way, seed, given.target, given.max_steps)
            print(f"{way}, seed {seed}: {found}", file=sys.stderr, flush=True)
            reached.append(found or Reached(given.max_steps, sys.maxsize, float("inf")))
        medians = [statistics.median(column) for column in zip(*reached, strict=True)]
        each = ", ".join(f"{one.updates} {one.completions:,}" for one in reached)
        print(f"| {way} | {medians[0]:.0f} | {medians[1]:,.0f} | {medians[2]:.0f} | {each} |", flush=True)


if __name__ == "__main__":
    main()

"""Two thousand steps: memory, open files, threads and compiled programs stay what they are."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

# A tracker of the user's own sees the process from inside, at every logged step.
LOOK = """
    import ctypes, gc, json, os, threading
    from tunix_grpo.run.devices import CompilationCounter

    class Look:
        def __init__(self, config, run_dir):
            self.compiled = CompilationCounter()

        def log_metrics(self, step, metrics):
            if "loss" not in metrics:
                return
            # What waits for the collector, or lies free in the allocator, is no leak.
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            pages = int(open("/proc/self/statm").read().split()[1])
            seen = {
                "step": step,
                "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                "files": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
                "tasks": len(os.listdir("/proc/self/task")),
                "compiled": self.compiled.count,
            }
            with open("seen.jsonl", "a") as file:
                file.write(json.dumps(seen) + "\\n")

        def log_completions(self, step, records): ...

        def close(self, *, failed=False): ...
"""


def columns(rows: list[dict]) -> dict[str, list]:
    """Returns the values of each name."""
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_two_thousand_steps_leave_everything_flat(run_training, two_layer_model, tmp_path):
    """With checkpoints of which three are kept, an evaluation in between, TensorBoard and the report of the run."""
    (tmp_path / "look.py").write_text(textwrap.dedent(LOOK))
    done = run_training(
        *("model=tiny", *two_layer_model, "task=arithmetic", "device=cpu", "tracker.custom=look.py:Look"),
        *("training.micro_batch_size=2", "training.num_batches=2000", "training.log_interval_steps=50"),
        *("training.save_interval_steps=500", "training.max_to_keep=3", "training.eval_interval_steps=1000"),
        *("grpo.num_generations=2", "generation.max_generation_steps=16", "evaluation.num_questions=4"),
        *("tracker.wandb=false", "checkpoint_dir=ckpts", "hydra.run.dir=run"),
        timeout_s=2300,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert seen[-1]["step"] == 2000 and len(seen) >= 40
    quarters = [[row for row in seen if 500 * n < row["step"] <= 500 * (n + 1)] for n in range(4)]
    figures = [{name: (min(column), max(column)) for name, column in columns(rows).items()} for rows in quarters]
    print(*figures, sep="\n")
    second, last = figures[1], figures[3]
    assert second["compiled"] == last["compiled"] == second["compiled"][::-1]
    for name in ("files", "threads", "tasks"):
        assert last[name][1] - second[name][1] <= 2, (name, figures)
    # A leak of 10 kB in each of the thousand steps between would be 10 MB; an evaluation leaves about one.
    assert last["megabytes"][0] - second["megabytes"][0] < 10, figures
    assert len(list(Path(tmp_path / "ckpts" / "actor").iterdir())) == 3

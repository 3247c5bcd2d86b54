"""Prints how close float32 logits are to the trained model's in float64: ours, and those of its exports.

python tools/export_table.py RUN MERGED ADAPTER

RUN is the folder of a run with LoRA, the others are its exports. transformers and PEFT read them, and the base model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tunix_grpo.run.saved_runs import choose_step, load_trained, open_run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.exports import export_distances  # noqa: E402
from helpers.models import one_device_mesh  # noqa: E402


def main(run_folder: str, merged: str, adapter: str) -> None:
    run = open_run(Path(run_folder), None)
    model = load_trained(run, choose_step(run, "latest"), one_device_mesh())
    tables = export_distances(model, Path(merged), Path(adapter))
    print("| |", " | ".join(tables), "|")
    print("|---" * (len(tables) + 1) + "|")
    for name in next(iter(tables.values())):
        print(f"| {name} |", " | ".join(f"{distances[name]:.1e}" for distances in tables.values()), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])

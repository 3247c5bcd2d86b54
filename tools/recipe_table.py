"""Prints the table of docs/recipes.md: what each recipe's evaluation before and after has shown.

    python tools/recipe_table.py docs/recipes/*.json

Each file is the evaluation.json of `scripts/evaluate.py run=RUN baseline=base`, called RECIPE.SEED.json, or
RECIPE_WHAT_DIFFERS.SEED.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tunix_grpo.files import read_json

HEAD = "| recipe | seed | questions | before | after | difference, 95 % interval | p |\n|---|---|---|---|---|---|---|"


def row(file: Path) -> str:
    """Returns the line of an evaluation: of its last step, on its own task, by greedy accuracy."""
    content: Any = read_json(file)
    comparison = content["results"][-1]["comparison"]
    difference = comparison["differences"]["greedy"]
    points = [100 * difference[key] for key in ("value", "low", "high")]
    recipe, seed = file.stem.rsplit(".", 1)
    return (
        f"| {recipe} | {seed} | {comparison['questions']} | {comparison['theirs']:.1%} | {comparison['ours']:.1%} | "
        f"{points[0]:+.1f} points, {points[1]:+.1f} to {points[2]:+.1f} | {difference['p_value']:.1g} |"
    )


def table(files: list[Path]) -> str:
    """Returns the table of several evaluations."""
    return "\n".join([HEAD, *map(row, files)])


if __name__ == "__main__":
    print(table([Path(file) for file in sys.argv[1:]]))

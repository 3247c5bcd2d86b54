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

FORM_HEAD = (
    "| recipe | seed | in the form, before | after | right and in the form, before | after | right, before | after |\n"
    "|---|---|---|---|---|---|---|---|"
)
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


def form_row(file: Path) -> str | None:
    """Returns the line that tells form and task apart, by greedy answers; None where no form is asked for."""
    content: Any = read_json(file)
    before, after = (content[key][-1]["metrics"]["greedy"] for key in ("baselines", "results"))
    if "strict_accuracy" not in after:
        return None
    recipe, seed = file.stem.rsplit(".", 1)
    names = ("rewards/format", "strict_accuracy", "accuracy")
    figures = [f"{each[name]['value']:.1%}" for name in names for each in (before, after)]
    return f"| {' | '.join([recipe, seed, *figures])} |"


def table(files: list[Path]) -> str:
    """Returns the table of several evaluations, and that of those that ask for a form."""
    forms = [line for line in map(form_row, files) if line is not None]
    return "\n".join([HEAD, *map(row, files), *(["", FORM_HEAD, *forms] if forms else [])])


if __name__ == "__main__":
    print(table([Path(file) for file in sys.argv[1:]]))

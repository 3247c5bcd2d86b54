"""The figures of docs/recipes.md are those of the evaluations that lie beside it, and these are of the recipes."""

import json
import re
from pathlib import Path

import pytest
from recipe_table import form_row, row

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()
EVALUATIONS = sorted((ROOT / "docs" / "recipes").glob("*.json"))
RECIPES = sorted(file.stem for file in (ROOT / "conf" / "experiment" / "recipe").glob("*.yaml"))
OF_THE_DAY = {"task.date", "seed"}


def test_the_page_has_a_line_for_each_evaluation_and_no_other():
    lines = [line for line in PAGE.splitlines() if re.match(r"\| \w+ \| \d+ \| \d+ \| [\d.]+% ", line)]
    assert sorted(lines) == sorted(row(file) for file in EVALUATIONS)
    forms = [line for line in PAGE.splitlines() if re.match(r"\| \w+ \| \d+ \| [\d.]+% ", line)]
    assert sorted(forms) == sorted(filter(None, map(form_row, EVALUATIONS)))


@pytest.mark.parametrize("file", EVALUATIONS, ids=lambda file: file.stem)
def test_an_evaluation_is_of_its_recipe(file, compose):
    """Task and lengths are those of the recipe's file today: a recipe that is changed is to be run again."""
    (result,) = json.loads(file.read_text())["results"]
    name = file.stem.split(".")[0]
    recipe = max((recipe for recipe in RECIPES if name.startswith(recipe)), key=len)  # then comes what differs from it
    config = compose(f"+experiment=recipe/{recipe}", "model.path=SMOLLM2")
    groups = {"task": config.task, "generation": config.generation}
    settings = {name: value for name, value in result["settings"].items() if name.partition(".")[0] in groups}
    for setting in settings.keys() - OF_THE_DAY:
        group, _, key = setting.partition(".")
        assert getattr(groups[group], key) == settings[setting], setting
    assert result["comparison"]["questions"] >= 200
    if name.endswith("_alone"):  # what does not work, and is shown beside what does
        assert result["comparison"]["ours"] == result["comparison"]["theirs"] == 0
    else:
        assert result["comparison"]["differences"]["greedy"]["p_value"] < 0.01

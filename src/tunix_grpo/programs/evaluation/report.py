"""What is left and shown of an evaluation: evaluation.json, a line per question, tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

import tunix_grpo
from tunix_grpo import console
from tunix_grpo.files import whole_file
from tunix_grpo.programs.evaluation.answers import QUESTIONS, Line
from tunix_grpo.programs.evaluation.asked import Asked
from tunix_grpo.programs.evaluation.comparing import FORMAT, Comparison
from tunix_grpo.programs.evaluation.results import GREEDY, SAMPLED, Result

_RESULT = TypeAdapter(Result)
# Of the numbers of an answer, those that a line for each of many steps has room for.
_OF_A_STEP = ((GREEDY, "accuracy"), (GREEDY, "strict_accuracy"), (GREEDY, "truncated"), (GREEDY, "length"))


class Found(NamedTuple):
    """A result with what it is compared with.

    Attributes:
        result: of a model on a task.
        baseline: of the other model on the same task; None without one.
        comparison: of the two.
    """

    result: Result
    baseline: Result | None
    comparison: Comparison | None


class Detail(NamedTuple):
    """What a model answered to the questions of a task."""

    model: str
    step: int | None
    asked: Asked
    lines: Mapping[tuple[str, int | None], Line]
    samples: int


def to_json(found: Sequence[Found]) -> dict[str, Any]:
    """Returns the content of evaluation.json; the same answers give the same."""
    baselines = {id(each.baseline): each.baseline for each in found if each.baseline is not None}
    return {
        "format": FORMAT,
        "program": f"tunix-grpo {tunix_grpo.__version__}",
        "results": [_RESULT.dump_python(each.result) | {"comparison": _comparison(each.comparison)} for each in found],
        "baselines": [_RESULT.dump_python(each) for each in baselines.values()],
    }


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    if comparison is None:
        return None
    content = dataclasses.asdict(comparison)
    content["differences"] = {name: each._asdict() for name, each in comparison.differences.items()}
    return content | {"verdict": comparison.verdict, "sentence": comparison.sentence}


def write_json(content: Mapping[str, Any], file: Path) -> None:
    """Writes evaluation.json, whole or not at all."""
    with whole_file(file) as written:
        written.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", "utf-8")


def write_questions(details: Sequence[Detail], folder: Path) -> None:
    """Writes questions.jsonl: a line for each question and model."""
    with whole_file(folder / QUESTIONS) as written, written.open("w", encoding="utf-8") as stream:
        for model, step, asked, lines, samples in details:
            for place, name in enumerate(asked.ids):
                question, greedy = asked.prompts.questions[place], lines[name, None]
                sampled = [lines[name, sample] for sample in range(samples)]
                content = {
                    "model": model,
                    "step": step,
                    "task": asked.name,
                    "question_id": name,
                    "question": question.question,
                    "gold": question.answer,
                    "answer": greedy.answer,
                    "right": greedy.right,
                    "in_form": greedy.in_form,
                    "truncated": greedy.truncated,
                    "length": greedy.length,
                    "samples": samples,
                    "samples_right": sum(line.right for line in sampled),
                }
                stream.write(json.dumps(content, allow_nan=False) + "\n")


# --- tables ---


def show(found: Sequence[Found]) -> None:
    """Prints the numbers with their intervals, and the verdicts."""
    tasks = dict.fromkeys(each.result.task for each in found)
    for task in tasks:
        of_task = [each for each in found if each.result.task == task]
        if len(of_task) == 1:
            _show_one(of_task[0])
        else:
            _show_steps(of_task)
    for each in found:
        if each.comparison is not None:
            print(f"{_title(each.result)}: {each.comparison.sentence}")


def _title(result: Result) -> str:
    return f"{result.model} on {result.task}"


def _show_one(found: Found) -> None:
    result, baseline = found.result, found.baseline
    rows = []
    for kind in (GREEDY, SAMPLED):
        for name, estimate in result.metrics.get(kind, {}).items():
            row = [kind, name, *_cells(estimate)]
            if baseline is not None:
                row += _cells(baseline.metrics.get(kind, {}).get(name))
            rows.append(row)
    header = ["answers", "number", "value", "95 % interval"]
    header += [] if baseline is None else [baseline.model, "95 % interval"]
    samples = f", {result.samples} samples of each" if result.samples else ""
    console.table(header, rows, f"{_title(result)}: {len(result.questions):,} questions{samples}")
    if found.comparison is not None:
        lines = [
            (name.replace("_strict", ", in form"), f"{each.value:+.4g}", f"{each.low:+.4g} to {each.high:+.4g}")
            + (f"{each.p_value:.2g}", "-" if each.needed is None else f"{each.needed:,}")
            for name, each in found.comparison.differences.items()
        ]
        header = ("accuracy", "difference", "95 % interval", "p", "questions needed")
        console.table(header, lines, f"{result.model} against {found.comparison.baseline}")


def _show_steps(found: Sequence[Found]) -> None:
    first = found[0].result
    columns = [*_OF_A_STEP, *((SAMPLED, f"{word}@{first.samples}") for word in ("mean", "pass", "maj"))]
    columns = [(kind, name) for kind, name in columns if name in first.metrics.get(kind, {})]
    header = ["model", *(f"{kind} {name}" for kind, name in columns)]
    header += [] if first is None or found[0].comparison is None else ["verdict"]
    rows = []
    for result, _, comparison in found:
        cells = (_cells(result.metrics[kind].get(name)) for kind, name in columns)
        row = [result.model, *(f"{value} ({interval})" if interval else value for value, interval in cells)]
        rows.append(row + ([] if comparison is None else [comparison.verdict]))
    console.table(header, rows, f"{first.task}: {len(first.questions):,} questions")


def _cells(estimate: Mapping[str, float | None] | None) -> list[str]:
    if estimate is None:
        return ["-", ""]
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
    return [f"{value:.4g}", interval]

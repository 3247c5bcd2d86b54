"""The report of one run: everything that its folder tells, as `report.html`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tunix_grpo.files import Json
from tunix_grpo.record.report.completions import Packed, pack
from tunix_grpo.record.report.curves import charts_of, evaluated
from tunix_grpo.record.report.differing import default_settings, other_than_defaults
from tunix_grpo.record.report.packing import packed
from tunix_grpo.record.report.page import write_page
from tunix_grpo.record.report.reading import COMPLETIONS, RunRecord, read_record

REPORT = "report.html"
_TEXT_OF_SETTINGS = {"model": "model.name", "task": "task.name"}
_SHARED_FACTS = ("device", "devices", "cores", "system", "python")


class Written(NamedTuple):
    """A report that has been written.

    Attributes:
        file: the page.
        shown: completions in it.
        total: completions that the run has written.
    """

    file: Path
    shown: int
    total: int


def write_report(folder: Path, output: Path, *, most: int, checkpoint_dir: str | None = None) -> Written:
    """Writes the report of a run.

    Args:
        folder: of the run.
        output: the page.
        most: completions in it; of more, whole steps are left out.
        checkpoint_dir: where the run's checkpoints are now; None for where the run has put them.

    Raises:
        UserError: it is not the folder of a run, or a file in it is damaged.
        OSError: the disk refuses the page.
    """
    run = read_record(folder, checkpoint_dir)
    completions = pack(folder / COMPLETIONS, run.num_generations, most)
    shown = len(completions.columns.reward)
    chunks = {"texts": completions.texts.closed(), "questions": completions.questions.closed()}
    chunks["columns"] = [packed(completions.columns.filled())]
    write_page(output, "run", head_of(run, completions), chunks)
    return Written(output, shown, completions.total)


def head_of(run: RunRecord, completions: Packed) -> dict[str, object]:
    """Returns what a page shows before it reads a completion."""
    return {
        "title": run.name,
        "state": run.state(),
        "facts": facts_of(run),
        "settings": other_than_defaults(run.settings, default_settings(run.main)),
        "evaluated": evaluations_of(run),
        "notes": run.notes,
        "charts": charts_of(run),
        "completions": {
            "shown": len(completions.columns.reward),
            "total": completions.total,
            "unreadable": completions.unreadable,
            "texts": completions.texts.starts,
            "questions": completions.questions.starts,
        },
    }


def facts_of(run: RunRecord) -> list[tuple[str, str]]:
    """Returns what was run, on what and with which versions, as rows of names and values."""
    rows = [(name, str(run.settings.get(key, ""))) for name, key in _TEXT_OF_SETTINGS.items()]
    started = run.environment.get("started")
    rows += [("started", str(started))] if started is not None else []
    rows += [(name, str(run.environment[name])) for name in _SHARED_FACTS if name in run.environment]
    versions = run.environment.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    else:
        rows.append(("versions", "not written: an earlier version of tunix-grpo made this run"))
    return [*rows, ("folder", str(run.folder))]


def evaluations_of(run: RunRecord) -> list[dict[str, Json]]:
    """Returns each held-out accuracy before and after, with intervals."""
    return [
        {"name": name, "before": {"step": first, **one._asdict()}, "after": {"step": last, **other._asdict()}}
        for name, ((first, one), (last, other)) in evaluated(run).items()
    ]

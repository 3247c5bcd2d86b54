"""Shows, checks, thins out and copies the checkpoints of a run; a run may be writing to them meanwhile."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config.checkpoints import CheckpointsConfig
from tunix_grpo.config.history import read_run_config
from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json_lines, whole_folder
from tunix_grpo.run.evaluated import best_first
from tunix_grpo.run.places import ACTOR, HISTORY, SWEEPS
from tunix_grpo.run.step_files import SavedFiles, step_fault

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Kept:
    """The saved steps of a folder, and what was measured at them.

    Attributes:
        files: of the steps.
        metric: the evaluation by which the best is meant.
        scores: step -> its value, of all evaluated steps, saved or not.
    """

    files: SavedFiles
    metric: str
    scores: dict[int, float]
    _faults: dict[int, str | None] = dataclasses.field(default_factory=dict)

    def by_score(self) -> list[int]:
        """Returns the saved steps that were evaluated, the best first; of equals the later."""
        return best_first({step: self.scores[step] for step in self.files.steps() if step in self.scores})

    def first_valid(self, steps: Sequence[int]) -> int | None:
        """Returns the first of some steps whose files are whole; what is passed over is named once in the log."""
        for step in steps:
            if step not in self._faults:
                self._faults[step] = self.files.fault(step)
                if self._faults[step] is not None:
                    _log.warning("step %d is not usable: %s", step, self._faults[step])
            if self._faults[step] is None:
                return step
        return None


def checkpoints(config: CheckpointsConfig) -> None:
    """Does with the checkpoints what the config says.

    Raises:
        UserError: they cannot be found; a step is damaged or does not exist; a folder cannot be written.
    """
    kept = _opened(config)
    match config.action:
        case "list" | "verify":
            _show(kept, read=config.action == "verify", as_json=config.json)
        case "prune":
            assert config.keep is not None  # checked with the settings
            _prune(kept, config.keep)
        case "copy":
            assert config.to is not None  # checked with the settings
            _copy(kept, config.step, Path(config.to))


def _opened(config: CheckpointsConfig) -> Kept:
    """Finds the checkpoints of a folder: its own, or those that the run whose record it is has written."""
    asked, records = Path(config.folder), []
    folder = asked
    if not (asked / ACTOR).is_dir() and (asked / "config.yaml").is_file():
        folder, records = Path(str(read_run_config(asked).checkpoint_dir)), [asked / "metrics.jsonl"]
    files = SavedFiles(folder)
    if not files.steps():
        jobs = sorted(path.parent.name for path in folder.glob(f"{SWEEPS}/*/{ACTOR}"))
        inside = f"; the jobs of a sweep are below {folder / SWEEPS}: {', '.join(jobs)}" if jobs else ""
        raise UserError(f"folder={asked}: {files.root} holds no checkpoint{inside}; give a run's checkpoint folder")
    rows = [row for file in (*records, folder / HISTORY) if file.is_file() for row in read_json_lines(file)]
    scores = {
        step: float(value)
        for row in rows
        if isinstance(step := row.get("step"), int) and isinstance(value := row.get(config.metric), int | float)
    }
    return Kept(files, config.metric, scores)


# --- list, verify ---


def _show(kept: Kept, *, read: bool, as_json: bool) -> None:
    """Prints a row for every step; raises where `read` finds a damaged one."""
    steps = kept.files.steps()
    faults = {step: step_fault(kept.files.root / str(step), read=read) for step in steps}
    sizes = {step: kept.files.size(step) for step in steps}
    whole = [step for step in steps if faults[step] is None]
    best = next((step for step in kept.by_score() if step in whole), None)
    newest = whole[-1] if whole else None
    if as_json:
        rows = [
            {"step": step, "bytes": sizes[step], "fault": faults[step], kept.metric: kept.scores.get(step)}
            for step in steps
        ]
        found = {"folder": str(kept.files.folder), "read": read, "best": best, "newest": newest, "steps": rows}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        well = "valid" if read else "complete"
        marks = {step: [word for word, of in (("newest", newest), ("best", best)) if of == step] for step in steps}
        console.table(
            ("step", "size", kept.metric, "files", ""),
            [
                (
                    str(step),
                    console.format_bytes(sizes[step]),
                    f"{kept.scores[step]:.4g}" if step in kept.scores else "-",
                    faults[step] or well,
                    ", ".join(marks[step]),
                )
                for step in steps
            ],
            f"{kept.files.root}, {console.format_bytes(sum(sizes.values()))}",
        )
    damaged = [str(step) for step in steps if faults[step] is not None]
    if read and damaged:
        raise UserError(
            f"{kept.files.root}: not usable: {', '.join(damaged)}; a run goes on from the newest valid step, "
            "and prune deletes what is damaged"
        )


# --- prune ---


def _prune(kept: Kept, keep: int) -> None:
    """Deletes all steps but the newest valid ones and the best one."""
    steps = kept.files.steps()
    stay: list[int] = []
    for step in reversed(steps):
        if len(stay) < keep and kept.first_valid([step]) is not None:
            stay.append(step)
    if not stay:
        raise UserError(f"{kept.files.root}: no step is valid; nothing is deleted")
    best = kept.first_valid(kept.by_score())
    freed, gone = 0, [step for step in steps if step not in (*stay, best)]
    for step in gone:
        freed += kept.files.size(step)
        try:
            shutil.rmtree(kept.files.root / str(step))
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{kept.files.root / str(step)}: cannot be deleted ({reason})") from error
    rest = [f"{step} (best)" if step == best else str(step) for step in kept.files.steps()]
    console.print_lines(
        [
            f"deleted {console.format_bytes(freed)}: {', '.join(map(str, gone)) or 'no step'}",
            f"left in {kept.files.root}: {', '.join(rest)}",
        ]
    )


# --- copy ---


def _copy(kept: Kept, wanted: str, to: Path) -> None:
    """Makes a checkpoint folder with one step and what was logged up to it."""
    step = _chosen(kept, wanted)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={to}: there is something already; give a folder that does not exist yet")
    with whole_folder(to, "to") as folder:
        copied = folder / ACTOR / str(step)
        shutil.copytree(kept.files.root / str(step), copied)
        history = kept.files.folder / HISTORY
        if history.is_file():
            logged = [row for row in read_json_lines(history) if isinstance(at := row["step"], int) and at <= step]
            (folder / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in logged))
        if fault := step_fault(copied):
            raise UserError(f"to={to}: the copy of step {step} is not what was read ({fault}); try another disk")
    size = console.format_bytes(SavedFiles(to).size(step))
    console.print_lines(
        [f"copied step {step} ({size}) to {to}; the run's command goes on from it with checkpoint_dir={to}"]
    )


def _chosen(kept: Kept, wanted: str) -> int:
    """Returns the step that is meant, which is valid."""
    steps, root = kept.files.steps(), kept.files.root
    if wanted == "best" and not kept.by_score():
        raise UserError(
            f"step=best: no saved step in {root} has a recorded {kept.metric}; give step=latest or a number"
        )
    if wanted not in ("latest", "best") and int(wanted) not in steps:
        raise UserError(f"step={wanted} was not saved; {root} holds {', '.join(map(str, steps))}")
    candidates = {"latest": steps[::-1], "best": kept.by_score()}.get(wanted) or [int(wanted)]
    step = kept.first_valid(candidates)
    if step is None:
        raise UserError(f"step={wanted}: none of {', '.join(map(str, candidates))} in {root} is valid")
    return step

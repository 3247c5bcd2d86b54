"""A run folder that is used again: the record in it goes on, or is moved aside; it is never deleted."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

RECORD = (
    *("report.html", "metrics.jsonl", "completions.jsonl", "ledger.jsonl", "learning_curve.png", "tensorboard"),
    "config.yaml",
)
"""What a run leaves in its folder for people."""
FOR_REPORTS = ("health.jsonl", "environment.json")
"""What it leaves there beside it, for reports."""
EARLIER = "earlier"
_log = logging.getLogger(__name__)


def make_room(output_dir: Path, history: Path, resume_step: int) -> None:
    """Moves the records of other runs out of the way of the one that starts.

    The record in a run folder belongs to this run when its first line stands in the run's history: a line holds times
    to the last digit, so that no other run has it.

    Args:
        output_dir: the run folder. What it holds of another run goes to its `earlier/<number>/`.
        history: what this run's checkpoints say was logged so far. Where no checkpoint is left of it, it goes to
            `earlier/<number>/` beside it.
        resume_step: the step that the run goes on from, 0 for a new run.
    """
    first = _first_line(output_dir / "metrics.jsonl")
    if first is not None and not (resume_step > 0 and _is_of_this_run(first, output_dir, history)):
        _set_aside(output_dir, (*RECORD, *FOR_REPORTS))
    if resume_step == 0 and _first_line(history) is not None:
        _set_aside(history.parent, (history.name,))


def _is_of_this_run(line: bytes, output_dir: Path, history: Path) -> bool:
    if history.is_file():
        with history.open("rb") as lines:
            return line in lines
    # The checkpoints of versions up to 0.1 have no history; their runs say in config.yaml where they put them.
    try:
        config = yaml.safe_load((output_dir / "config.yaml").read_text("utf-8"))
        return Path(config["checkpoint_dir"]).resolve() == history.parent.resolve()
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return False


def _first_line(file: Path) -> bytes | None:
    """Returns the first line of a file that is whole, or None."""
    try:
        with file.open("rb") as lines:
            line = lines.readline()
    except OSError:
        return None
    return line if line.endswith(b"\n") else None


def _set_aside(folder: Path, names: tuple[str, ...]) -> None:
    place = folder / EARLIER
    taken = [int(path.name) for path in place.iterdir() if path.name.isdigit()] if place.is_dir() else []
    place /= str(max(taken, default=0) + 1)
    place.mkdir(parents=True)
    for name in names:
        if (folder / name).exists():
            (folder / name).rename(place / name)
    _log.warning("%s holds the record of another run, which is now in %s", folder, place)

"""Names in a checkpoint folder, apart from what reads and writes them: those who only log need not load Orbax."""

import itertools
from pathlib import Path

ACTOR = "actor"  # below it there is nothing but whole steps, so that a person may delete any of them by hand
HISTORY = "history.jsonl"  # what a run has logged over all its starts
LOCK = ".lock"
UNFINISHED = ".unfinished"  # where a step is written
BEFORE = "before"  # in it: a step while a newer one of its name takes its place
LEADERBOARD = "leaderboard.csv"  # in a sweep's folder: its jobs, from the best to the worst
SWEEPS = "sweeps"  # below it, a folder like this one for every job of a sweep


def job_folder(checkpoint_dir: str, name: str) -> str:
    """Returns the checkpoint folder of a job of a sweep."""
    return str(Path(checkpoint_dir, SWEEPS, name)) if name else checkpoint_dir


def job_mirror(address: str, name: str) -> str:
    """Returns where the copies of a job of a sweep are."""
    return f"{address.rstrip('/')}/{SWEEPS}/{name}" if name else address


def free_folder(folder: Path) -> Path:
    """Returns a checkpoint folder that does not exist yet, beside the given one; for a job of a sweep, beside all."""
    if folder.parent.name == SWEEPS:
        folder = folder.parent.parent
    numbered = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in numbered if not path.exists())

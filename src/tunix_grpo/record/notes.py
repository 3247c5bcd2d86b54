"""What was said of a run's health, as a file: `health.jsonl`, a line for every sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tunix_grpo.record.jsonl import append, disk_errors, drop_lines_after, to_line

HEALTH = "health.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """A sentence on a run.

    Attributes:
        step: after which it was said.
        where: the steps that it is about, in words.
        level: info or warning.
        name: what kind of sentence it is, in two or three words.
        sentence: what was counted, and the settings that bear on it.
    """

    step: int
    where: str
    level: str
    name: str
    sentence: str


class Notes:
    """Appends to `health.jsonl` in the run folder; without a note there is no file.

    Attributes:
        writes: whether this process keeps the record.
    """

    def __init__(self, output_dir: Path, *, resume_step: int, writes: bool = True) -> None:
        """Drops what the file says of steps after `resume_step` (0: all).

        Args:
            writes: False in a process that keeps no record: it touches no file.
        """
        self._file, self.writes = output_dir / HEALTH, writes
        if not writes:
            return
        with disk_errors(self._file):
            if resume_step == 0:
                self._file.unlink(missing_ok=True)
            elif self._file.exists():
                drop_lines_after(self._file, resume_step)

    def add(self, note: Note) -> None:
        """Writes a line, which is on disk when the call returns."""
        if not self.writes:
            return
        with disk_errors(self._file), self._file.open("ab", buffering=0) as file:
            append(file, to_line(dataclasses.asdict(note)))

"""What a tracker is, and the completion that it is given."""

from dataclasses import asdict, dataclass
from typing import Protocol, TypeAlias, runtime_checkable

Cell: TypeAlias = str | float | bool | None


@dataclass(slots=True)
class CompletionRecord:
    """One completion of a logged step, with everything that decided its advantage."""

    step: int
    prompt: str
    completion: str
    answer: str
    """The gold answer."""
    rewards: dict[str, float | None]
    """Each reward part by name, before its weight; None where it does not apply."""
    reward: float
    """Weighted sum of the parts."""
    advantage: float
    length: int
    """In tokens, end-of-turn token included."""
    truncated: bool
    """True when it ran into the generation limit."""


def as_row(record: CompletionRecord) -> dict[str, Cell]:
    """Returns a completion as columns and values, a column for each reward part."""
    row: dict[str, Cell] = {}
    for name, value in asdict(record).items():
        row |= {f"rewards/{part}": reward for part, reward in value.items()} if name == "rewards" else {name: value}
    return row


class Tracker(Protocol):
    """Keeps the numbers of a run somewhere."""

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one set of numbers for a step."""

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Writes the completions of a logged step."""

    def close(self, *, failed: bool = False) -> None:
        """Writes out what is pending; `failed` says that the run ended in an error."""


@runtime_checkable
class Resumable(Protocol):
    """A tracker whose run has an id of its own, under which a resumed run goes on."""

    run_id: str


class TrackerError(RuntimeError):
    """A copy of the record (TensorBoard, W&B, trackio) cannot be written any more."""


def spread(records: list[CompletionRecord], count: int) -> list[CompletionRecord]:
    """Picks up to `count` records, evenly spread, so that they show different prompts."""
    count = min(count, len(records))
    return [records[index * len(records) // count] for index in range(count)]

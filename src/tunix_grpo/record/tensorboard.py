"""The TensorBoard copy: scalars and sample completions in `<output_dir>/tensorboard/`."""

import os
import time
from pathlib import Path

from tunix_grpo.console.output import visible
from tunix_grpo.errors import one_line
from tunix_grpo.record.tracker import CompletionRecord, TrackerError, spread
from tunix_grpo.without_torch import torch_hidden

with torch_hidden():  # tensorboardX tries torch for a type hint
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue] (made at run time)
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import custom_scalars, scalar, text

# What the tab "Custom Scalars" shows, in this order: chart -> the tags in it, as regular expressions.
LAYOUT = {
    "reward": ["^reward$", "^eval/reward$"],
    "held-out accuracy": ["^eval/accuracy$", "^eval/[^/]+/accuracy$"],
    "completion length": ["^completions/(mean|min|max)_length$"],
    "KL": ["^kl$"],
}


class TensorBoardTracker:
    """Writes TensorBoard events, synchronously.

    It uses tensorboardX's `EventsWriter` rather than `SummaryWriter`: the latter hands events to a
    thread through a queue of ten, and once that thread dies (a full disk, say) the next write waits
    for ever. Here the error arrives where it can be reported, and every step is on disk at once.
    """

    def __init__(self, output_dir: Path, *, num_completions: int, resume_step: int) -> None:
        """Opens an event file; TensorBoard hides what older files say about later steps."""
        folder = output_dir / "tensorboard"
        self._num_completions = num_completions
        purge_step = resume_step + 1 if resume_step else 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(os.path.join(folder, "events"), filename_suffix=f".{resume_step:08d}")
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=purge_step, wall_time=time.time(), session_log=start))
            charts = {title: ["Multiline", tags] for title, tags in LAYOUT.items()}
            layout = custom_scalars({"tunix-grpo": charts})
            self._writer.write_event(Event(step=resume_step, wall_time=time.time(), summary=layout))
            self._writer.flush()
        except OSError as error:
            raise TrackerError(f"cannot write TensorBoard files to {folder}: {one_line(error)}") from error

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one scalar per metric."""
        self._write(step, [scalar(name, value) for name, value in metrics.items()])

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        """Writes sample completions as text; sample n has the tag `completions/n`, with a slider over the steps."""
        chosen = spread(records, self._num_completions)
        self._write(
            step,
            [text(f"completions/{place}", _to_markdown(r)) for place, r in enumerate(chosen, 1)],
        )

    def close(self, *, failed: bool = False) -> None:
        """Closes the event file."""
        try:
            self._writer.close()
        except OSError as error:
            raise TrackerError(f"cannot finish the TensorBoard file: {one_line(error)}") from error

    def _write(self, step: int, summaries: list[Summary]) -> None:
        now = time.time()
        try:
            for summary in summaries:
                self._writer.write_event(Event(step=step, wall_time=now, summary=summary))
            self._writer.flush()
        except OSError as error:
            raise TrackerError(f"cannot write to the TensorBoard file: {one_line(error)}") from error


def _to_markdown(record: CompletionRecord) -> str:
    """Shows a completion; indented blocks keep its own markup from being rendered."""
    parts = ", ".join(f"{name} {'-' if value is None else f'{value:g}'}" for name, value in record.rewards.items())
    end = ", truncated" if record.truncated else ""
    markdown = (
        f"**reward {record.reward:g}** ({parts}), advantage {record.advantage:.3g}, "
        f"{record.length} tokens{end}\n\n"
        f"Prompt\n\n{_indented(record.prompt)}\n\n"
        f"Completion\n\n{_indented(record.completion)}\n\n"
        f"Answer\n\n{_indented(record.answer)}\n"
    )
    return markdown.encode("utf-8", "replace").decode("utf-8")


def _indented(content: str) -> str:
    return "\n".join(f"    {line}" for line in visible(content).splitlines())

"""The program that writes the page of a run."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config.report import ReportConfig
from tunix_grpo.record.report.page import writing_to
from tunix_grpo.record.report.writing import REPORT, write_report


def report(config: ReportConfig) -> None:
    """Writes the report of a run and says where it is.

    Raises:
        UserError: the folder is not that of a run, or the page cannot be written.
    """
    folder = Path(config.run)
    output = Path(config.output) if config.output is not None else folder / REPORT
    with writing_to(output):
        written = write_report(folder, output, most=config.completions, checkpoint_dir=config.checkpoint_dir)
    size = console.format_bytes(output.stat().st_size)
    shown = f"{written.shown:,}" if written.shown == written.total else f"{written.shown:,} of {written.total:,}"
    console.print_lines([f"written: {output} ({shown} completions, {size})"])

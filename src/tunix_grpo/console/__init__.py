"""What a person sees of a run: the start table, the progress, the closing summary.

Standard output gets tables and a live bar on a terminal, plain ASCII lines elsewhere. The plain
form also goes to every log file that `logging` has open (train.log), so that the log is complete,
and not to its stream handlers, so that nothing shows twice.
"""

from tunix_grpo.console.groups import ShownCompletion, ShownGroup
from tunix_grpo.console.output import print_lines
from tunix_grpo.console.progress import Progress
from tunix_grpo.console.tables import closing_summary, start_table, table
from tunix_grpo.console.units import format_bytes, format_clock, format_count, format_duration, format_percent

__all__ = [
    "Progress",
    "ShownCompletion",
    "ShownGroup",
    "closing_summary",
    "format_bytes",
    "format_clock",
    "format_count",
    "format_duration",
    "format_percent",
    "print_lines",
    "start_table",
    "table",
]

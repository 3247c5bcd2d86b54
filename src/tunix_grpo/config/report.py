"""The settings of `scripts/report.py`; their values are in `conf/report.yaml`."""

from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.rules import GROUP, Whole


@dataclass(kw_only=True, slots=True, config=GROUP)
class ReportConfig:
    """A run, and the page that shows it."""

    run: rules.Path = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of the run."""
    output: rules.Path | None = rules.hint("give a file such as report.html, or null for the one in the run's folder")
    """The page that is written; null is report.html in the run's folder."""
    completions: Whole = rules.number(minimum=0)
    """Completions in the page, 0 or more; where the run has more, whole steps are left out, evenly over the run."""
    checkpoint_dir: rules.Path | None = rules.hint("give a folder, or null for the one that the run has written to")
    """Folder of the run's checkpoints, where they have moved; null is the one that the run has written to."""


load = Loader(schema=ReportConfig)

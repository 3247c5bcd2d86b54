"""The settings of `scripts/compare.py`; their values are in `conf/compare.yaml`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic.dataclasses import dataclass

from tunix_grpo.config import relations, rules
from tunix_grpo.config.hydra_options import hydra_options
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.overrides import quoted
from tunix_grpo.config.relations import Relation
from tunix_grpo.config.rules import GROUP, Count
from tunix_grpo.errors import ConfigError


@dataclass(kw_only=True, slots=True, config=GROUP)
class CompareConfig:
    """Runs, and the page that shows them side by side."""

    runs: list[rules.Path] = rules.hint("give folders, as in compare.py RUN RUN")
    """Folders of runs, or of sweeps, whose runs are taken in the order of their leaderboard."""
    most: Count
    """Runs of a sweep that are taken, the best first, 1 or more."""
    output: rules.Path = rules.hint("give a file, such as compare.html")
    """The page that is written."""


def with_runs(words: Sequence[str]) -> list[str]:
    """Returns a command line for Hydra: its bare words, `RUN RUN`, as the setting `runs`; a folder may hold a `=`."""
    try:
        given = hydra_options(words).words
    except ConfigError:  # the door reads them again, and says it
        return list(words)
    bare = [word for word in given if not word.startswith("-") and ("=" not in word or Path(word).is_dir())]
    if not bare:
        return list(words)
    return [*(word for word in words if word not in bare), f"runs=[{','.join(map(quoted, bare))}]"]


def _something(runs: Sequence[str]) -> str | None:
    return None if runs else "there is nothing to compare; give the folders of runs, as in compare.py RUN RUN"


load = Loader(
    schema=CompareConfig,
    checks=(partial(relations.check_relations, (Relation(("runs",), _something),)),),
)

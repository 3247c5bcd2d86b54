"""What Hydra calls when a sweep has ended; `hydra.callbacks.leaderboard` names it in the main config."""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tunix_grpo.sweeps.leaderboard import write_leaderboard


class Leaderboard(Callback):
    """Compares the jobs of a sweep, whatever launcher has run them.

    Attributes:
        worst_exit_code: the highest of all jobs; what a launcher runs elsewhere has no other way to tell.
    """

    worst_exit_code = 0

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Writes and shows the leaderboard."""
        direction = OmegaConf.select(config, "hydra.sweeper.direction", default="maximize")
        results = write_leaderboard(Path(config.hydra.sweep.dir), _program(), direction)
        Leaderboard.worst_exit_code = max((result.exit_code for result in results), default=0)


def _program() -> list[str]:
    """Returns the command that was typed, without its arguments."""
    given = list(sys.orig_argv)
    return given[: given.index(sys.argv[0]) + 1] if sys.argv[0] in given else given[:1]

"""Trains a language model with GRPO; `python run_training.py --help` says how."""

import sys
from pathlib import Path

from tunix_grpo.cli import Outcome, run
from tunix_grpo.config import Config, load
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.run.places import HISTORY
from tunix_grpo.sweeps.objective import last_value
from tunix_grpo.without_torch import load_libraries


def main(config: Config) -> Outcome:
    """Trains; jax is imported only here, after the settings are checked."""
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.train import train

    exit_code = train(config).exit_code
    if exit_code:  # stopped by a signal: the jobs of a --multirun that would follow are left out
        sys.exit(exit_code)
    return Outcome(config.evaluation.metric, last_value(Path(config.checkpoint_dir) / HISTORY, config.evaluation.metric))


# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(run(main, config_dir=Path(__file__).resolve().parent / "conf", load=load))

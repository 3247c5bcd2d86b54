"""The programs as a shell calls them: each checks its settings first, and loads what is heavy only then.

The scripts of a checkout and the commands of an installed package, such as `tunix-grpo`, both begin here.
"""

import sys
from pathlib import Path

from tunix_grpo.cli import Outcome, run
from tunix_grpo.config import Config, RunConfig, load
from tunix_grpo.config import benchmark as benchmark_settings
from tunix_grpo.config import export as export_settings
from tunix_grpo.config import generate as generate_settings
from tunix_grpo.config import score as score_settings
from tunix_grpo.config import sft as sft_settings
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.run.places import HISTORY
from tunix_grpo.sweeps.objective import last_value
from tunix_grpo.without_torch import load_libraries

CONF = Path(__file__).with_name("conf").resolve()  # in a checkout it is the folder `conf` beside `src`


def train() -> int:
    """Trains a language model with GRPO; returns the exit code."""
    return run(_train, config_dir=CONF, load=load)


def sft() -> int:
    """Trains a language model on demonstrations; returns the exit code."""
    return run(_sft, config_dir=CONF, config_name="sft", load=sft_settings.load)


def generate() -> int:
    """Asks a language model; returns the exit code."""
    return run(_generate, config_dir=CONF, config_name="generate", load=generate_settings.load)


def export() -> int:
    """Writes a trained model out for transformers or PEFT; returns the exit code."""
    return run(_export, config_dir=CONF, config_name="export", load=export_settings.load)


def benchmark() -> int:
    """Times GRPO steps against limits and other programs; returns the exit code."""
    return run(_benchmark, config_dir=CONF, config_name="benchmark", load=benchmark_settings.load)


def score() -> int:
    """Tries rewards on completions that there are; returns the exit code."""
    return run(_score, config_dir=CONF, config_name="score", load=score_settings.load)


def _score(config: score_settings.ScoreConfig) -> None:
    """Scores; jax is never loaded."""
    from tunix_grpo.programs.score import score

    score(config)


def _train(config: Config) -> Outcome:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.train import train

    return _outcome(config, train(config).exit_code)


def _sft(config: sft_settings.SftConfig) -> Outcome:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.sft import train_on_demonstrations

    return _outcome(config, train_on_demonstrations(config).exit_code)


def _outcome(config: RunConfig, exit_code: int) -> Outcome:
    if exit_code:  # stopped by a signal: the jobs of a --multirun that would follow are left out
        sys.exit(exit_code)
    metric = config.evaluation.metric
    return Outcome(metric, last_value(Path(config.checkpoint_dir) / HISTORY, metric))


def _generate(config: generate_settings.GenerateConfig) -> None:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.programs.generate import generate

    generate(config)


def _export(config: export_settings.ExportConfig) -> None:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.export.exporting import export

    export(config)


def _benchmark(config: benchmark_settings.BenchmarkConfig) -> None:
    """Measures; jax is loaded only in processes of their own."""
    from tunix_grpo.benchmark.program import benchmark

    benchmark(config)

"""The programs as a shell calls them: each checks its settings first, and loads what is heavy only then.

The scripts of a checkout and the commands of an installed package, such as `tunix-grpo`, both begin here.
"""

import os
import sys
from pathlib import Path

from tunix_grpo.cli import Outcome, run
from tunix_grpo.config import Config, RunConfig, load
from tunix_grpo.config import benchmark as benchmark_settings
from tunix_grpo.config import checkpoints as checkpoints_settings
from tunix_grpo.config import compare as compare_settings
from tunix_grpo.config import evaluate as evaluate_settings
from tunix_grpo.config import export as export_settings
from tunix_grpo.config import generate as generate_settings
from tunix_grpo.config import preflight as preflight_settings
from tunix_grpo.config import report as report_settings
from tunix_grpo.config import score as score_settings
from tunix_grpo.config import sft as sft_settings
from tunix_grpo.config import verify_resume as verify_settings
from tunix_grpo.config.composing import training_of
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.config.short_words import as_typed, gathered, named
from tunix_grpo.run.places import HISTORY
from tunix_grpo.sweeps.objective import last_value
from tunix_grpo.without_torch import load_libraries

CONF = Path(__file__).with_name("conf").resolve()  # in a checkout it is the folder `conf` beside `src`
# What compiles for a device that is not there asks nobody what there is, and shares libtpu with who else does.
_WITHOUT_DEVICE = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
}


def train() -> int:
    """Trains a language model with GRPO; returns the exit code."""
    return run(_train, config_dir=CONF, load=load)


def sft() -> int:
    """Trains a language model on demonstrations; returns the exit code."""
    return run(_sft, config_dir=CONF, config_name="sft", load=sft_settings.load)


def generate() -> int:
    """Asks a language model; returns the exit code."""
    return run(_generate, config_dir=CONF, config_name="generate", load=generate_settings.load)


def evaluate() -> int:
    """Says how good a model is, and how sure that is; returns the exit code."""
    return run(_evaluate, config_dir=CONF, config_name="evaluate", load=evaluate_settings.load)


def export() -> int:
    """Writes a trained model out for transformers or PEFT; returns the exit code."""
    return run(_export, config_dir=CONF, config_name="export", load=export_settings.load)


def benchmark() -> int:
    """Times GRPO steps against limits and other programs; returns the exit code."""
    return run(_benchmark, config_dir=CONF, config_name="benchmark", load=benchmark_settings.load)


def score() -> int:
    """Tries rewards on completions that there are; returns the exit code."""
    return run(_score, config_dir=CONF, config_name="score", load=score_settings.load)


def checkpoints() -> int:
    """Shows, checks, thins out and copies checkpoints; returns the exit code."""
    sys.argv[1:] = named(sys.argv[1:], ("folder", "action"))
    return run(_checkpoints, config_dir=CONF, config_name="checkpoints", load=checkpoints_settings.load)


def verify_resume() -> int:
    """Proves that stopping changes nothing, here and with one's own settings; returns the exit code."""
    sys.argv[1:] = gathered(sys.argv[1:], "train", verify_settings.load.settings())
    return run(_verify_resume, config_dir=CONF, config_name="verify_resume", load=verify_settings.load)


def preflight() -> int:
    """Says whether a training fits a device, and what it costs there; returns the exit code."""
    sys.argv[1:] = gathered(sys.argv[1:], "train", preflight_settings.load.settings())
    return run(_preflight, config_dir=CONF, config_name="preflight", load=preflight_settings.load)


def _preflight(config: preflight_settings.PreflightConfig) -> None:
    training = training_of(as_typed(config.train))
    if config.target != "this":
        os.environ |= _WITHOUT_DEVICE
    load_libraries(own_code=may_run_own_code(training))
    from tunix_grpo.preflight.program import preflight

    preflight(config, training)


def _verify_resume(config: verify_settings.VerifyResumeConfig) -> None:
    from tunix_grpo.programs.verify_resume import verify_resume

    verify_resume(config)


def _checkpoints(config: checkpoints_settings.CheckpointsConfig) -> None:
    """Looks at files; jax is never loaded."""
    from tunix_grpo.programs.checkpoints import checkpoints

    checkpoints(config)


def report() -> int:
    """Writes a run as a page for a browser; returns the exit code."""
    return run(_report, config_dir=CONF, config_name="report", load=report_settings.load)


def compare() -> int:
    """Puts runs side by side; returns the exit code."""
    sys.argv[1:] = compare_settings.with_runs(sys.argv[1:])
    return run(_compare, config_dir=CONF, config_name="compare", load=compare_settings.load)


def _report(config: report_settings.ReportConfig) -> None:
    """Reads a run's folder; jax is never loaded."""
    from tunix_grpo.record.report.program import report

    report(config)


def _compare(config: compare_settings.CompareConfig) -> None:
    """Reads runs' folders; jax is never loaded."""
    from tunix_grpo.record.report.side_by_side import compare

    compare(config)


def _score(config: score_settings.ScoreConfig) -> None:
    """Scores; jax is never loaded."""
    from tunix_grpo.programs.score import score

    score(config)


def _train(config: Config) -> Outcome:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.train import train

    if config.training.dry_run:
        _refuse_several("training.dry_run=true")
    return _outcome(config, train(config).exit_code)


def _sft(config: sft_settings.SftConfig) -> Outcome:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.sft import train_on_demonstrations

    _refuse_several("sft")
    return _outcome(config, train_on_demonstrations(config).exit_code)


def _refuse_several(program: str) -> None:
    from tunix_grpo.run.joining import refuse_several  # it loads jax

    refuse_several(program)


def _outcome(config: RunConfig, exit_code: int) -> Outcome:
    if exit_code:  # stopped by a signal: the jobs of a --multirun that would follow are left out
        sys.exit(exit_code)
    metric = config.evaluation.metric
    return Outcome(metric, last_value(Path(config.checkpoint_dir) / HISTORY, metric))


def _generate(config: generate_settings.GenerateConfig) -> None:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.programs.generate import generate

    _refuse_several("generate")
    generate(config)


def _evaluate(config: evaluate_settings.EvaluateConfig) -> None:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.programs.evaluate import evaluate

    _refuse_several("evaluate")
    evaluate(config)


def _export(config: export_settings.ExportConfig) -> None:
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.export.exporting import export

    _refuse_several("export")
    export(config)


def _benchmark(config: benchmark_settings.BenchmarkConfig) -> None:
    """Measures; jax is loaded only in processes of their own."""
    from tunix_grpo.benchmark.program import benchmark

    benchmark(config)

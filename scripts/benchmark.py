"""Times GRPO steps against limits and other programs; `python scripts/benchmark.py --help` says how."""

import sys
from pathlib import Path

from tunix_grpo.cli import run
from tunix_grpo.config.benchmark import BenchmarkConfig, load


def main(config: BenchmarkConfig) -> None:
    """Measures; jax is loaded only in processes of their own."""
    from tunix_grpo.benchmark.program import benchmark

    benchmark(config)


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "conf"
    sys.exit(run(main, config_dir=folder, config_name="benchmark", load=load))

"""Asks a language model; `python scripts/generate.py --help` says how."""

import sys
from pathlib import Path

from tunix_grpo.cli import run
from tunix_grpo.config.generate import GenerateConfig, load
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.without_torch import load_libraries


def main(config: GenerateConfig) -> None:
    """Answers; jax is imported only here, after the settings are checked."""
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.programs.generate import generate

    generate(config)


if __name__ == "__main__":
    sys.exit(run(main, config_dir=Path(__file__).resolve().parent.parent / "conf", config_name="generate", load=load))

"""Writes a trained model out for transformers or PEFT; `python scripts/export.py --help` says how."""

import sys
from pathlib import Path

from tunix_grpo.cli import run
from tunix_grpo.config.export import ExportConfig, load
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.without_torch import load_libraries


def main(config: ExportConfig) -> None:
    """Exports; jax is imported only here, after the settings are checked."""
    load_libraries(own_code=may_run_own_code(config))
    from tunix_grpo.export.exporting import export

    export(config)


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "conf"
    sys.exit(run(main, config_dir=folder, config_name="export", load=load))

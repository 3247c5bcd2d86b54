"""Writes a trained model out for transformers or PEFT; `python scripts/export.py --help` says how."""

import sys

from tunix_grpo.commands import export

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(export())

"""Puts runs side by side; `python scripts/compare.py --help` says how."""

import sys

from tunix_grpo.commands import compare

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(compare())

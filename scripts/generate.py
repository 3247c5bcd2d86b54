"""Asks a language model; `python scripts/generate.py --help` says how."""

import sys

from tunix_grpo.commands import generate

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(generate())

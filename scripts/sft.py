"""Trains a language model on demonstrations; `python scripts/sft.py --help` says how."""

import sys

from tunix_grpo.commands import sft

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(sft())

"""Trains a language model with GRPO; `python run_training.py --help` says how."""

import sys

from tunix_grpo.commands import train

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(train())

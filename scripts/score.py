"""Tries rewards on a file of completions; `python scripts/score.py --help` says how."""

import sys

from tunix_grpo.commands import score

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(score())

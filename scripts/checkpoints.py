"""Shows, checks, thins out and copies checkpoints; `python scripts/checkpoints.py --help` says how."""

import sys

from tunix_grpo.commands import checkpoints

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(checkpoints())

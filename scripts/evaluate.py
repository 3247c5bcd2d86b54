"""Says how good a model is, and how sure that is; `python scripts/evaluate.py --help` says how."""

import sys

from tunix_grpo.commands import evaluate

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(evaluate())

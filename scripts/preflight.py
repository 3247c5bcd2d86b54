"""Says whether a training fits a device; `python scripts/preflight.py --help` says how."""

import sys

from tunix_grpo.commands import preflight

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(preflight())

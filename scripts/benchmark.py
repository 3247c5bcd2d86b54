"""Times GRPO steps against limits and other programs; `python scripts/benchmark.py --help` says how."""

import sys

from tunix_grpo.commands import benchmark

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(benchmark())

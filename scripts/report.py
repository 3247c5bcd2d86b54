"""Writes a run as a page for a browser; `python scripts/report.py --help` says how."""

import sys

from tunix_grpo.commands import report

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(report())

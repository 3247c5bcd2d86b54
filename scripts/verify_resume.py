"""Proves that stopping a training changes nothing; `python scripts/verify_resume.py --help` says how."""

import sys

from tunix_grpo.commands import verify_resume

# Hydra's shell completion works for scripts in which it finds this: @hydra.main
if __name__ == "__main__":
    sys.exit(verify_resume())

"""Makes the bundled tiny model again, on a CPU in minutes: `python scripts/make_tiny_model.py [to=DIR]`."""

import logging
import os
import sys
from pathlib import Path

import tunix_grpo

BUNDLED = Path(tunix_grpo.__file__).parent / "assets" / "tiny"


def main(words: list[str]) -> int:
    """Trains the model, writes its directory and prints how well it calculates."""
    if len(words) > 1 or any(not word.startswith("to=") or word == "to=" for word in words):
        print(__doc__, file=sys.stderr)
        return 2
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tunix_grpo").setLevel(logging.INFO)
    from tunix_grpo.tiny.make import make_tiny_model
    from tunix_grpo.tiny.report import report

    directory = Path(words[0].removeprefix("to=")).expanduser() if words else BUNDLED
    make_tiny_model(directory)
    print(report(directory))
    print(f"written: {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Takes the time from the command to the line of step 1, with all programs already in the cache of compiled ones.

    python tools/start_time.py [KEY=VALUE ...] [--runs 5] [--imports]

Runs the bundled model in new folders, once to fill the cache, then so many times to be measured, and prints when each
of the lines of MARKS came, in seconds from the start of the process. --imports starts it once more with `-X importtime`
and prints what the packages took, each without what it shares with one before it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("model=tiny", "task=arithmetic", "device=cpu", "evaluation.num_questions=1", "training.num_batches=10")
MARKS = {"settings shown": r"tunix-grpo$", "before training": r"step +0/", "step 1": r"step +1/"}
_IMPORT = re.compile(r"import time: *(\d+) \| *\d+ \| +([\w.]+)")
_LEAST_S = 0.05


def timed(words: list[str], folder: Path, cache: Path, *python: str) -> tuple[dict[str, float], str]:
    """Runs a training in a new folder; returns the seconds until each mark and what stood in its stderr."""
    places = [f"hydra.run.dir={folder}", f"checkpoint_dir={folder}/checkpoints", f"jax_cache={cache}"]
    command = [sys.executable, *python, str(ROOT / "run_training.py"), *WORDS, "training.log_interval_steps=1", *words]
    found: dict[str, float] = {}
    with tempfile.TemporaryFile("w+") as errors:
        begun = time.monotonic()
        with subprocess.Popen([*command, *places], stdout=subprocess.PIPE, stderr=errors, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                for name, pattern in MARKS.items():
                    if name not in found and re.match(pattern, line.strip()):
                        found[name] = time.monotonic() - begun
        errors.seek(0)
        said = errors.read()
    if run.returncode != 0:
        raise SystemExit(f"the training ended with code {run.returncode}\n{said}")
    return found, said


def import_seconds(said: str) -> dict[str, float]:
    """Returns package -> seconds that its own modules took, from what `-X importtime` has written."""
    seconds: dict[str, float] = {}
    for microseconds, module in _IMPORT.findall(said):
        package = module.partition(".")[0].lstrip("_")
        seconds[package] = seconds.get(package, 0.0) + int(microseconds) / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place), Path(place) / "jax"
        timed(given.words, folder / "first", cache)
        runs = [timed(given.words, folder / str(number), cache)[0] for number in range(given.runs)]
        for name in MARKS:
            each = [run[name] for run in runs if name in run]
            if each:
                print(f"{name:16} {statistics.median(each):5.1f} s   ({min(each):.1f} to {max(each):.1f})")
        if given.imports:
            seconds = import_seconds(timed(given.words, folder / "imports", cache, "-X", "importtime")[1])
            print(f"{'imports':16} {sum(seconds.values()):5.1f} s")
            for package, own in seconds.items():
                if own >= _LEAST_S:
                    print(f"  {package:14} {own:5.2f} s")


if __name__ == "__main__":
    main()

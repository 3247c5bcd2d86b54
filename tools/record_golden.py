"""Records the golden runs anew, with the program of a commit.

python tools/record_golden.py [COMMIT]

Without a commit it is the last one; then nothing under src/ and conf/ may be uncommitted. CONTRIBUTING.md says when to
do this.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from helpers import golden  # noqa: E402


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    commit = _git("rev-parse", "--verify", f"{wanted}^{{commit}}")
    if wanted == "HEAD" and _git(
        "status", "--porcelain", "src", "conf", "run_training.py", "tests/golden/settings.yaml"
    ):
        sys.exit("there are changes that are not committed; commit them first, so that the numbers have an origin")
    with tempfile.TemporaryDirectory() as folder:
        tree = golden.checkout(commit, Path(folder) / "tree")
        runs = Path(folder) / "runs"
        runs.mkdir()
        golden.save(golden.run(tree, runs, jax_cache=f"{folder}/jax"), commit)
    print(f"recorded {', '.join(golden.RUNS)} of commit {commit} in {golden.RECORDED}")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()

"""Times an evaluation without a judge and with one that takes two seconds for each answer, in turns.

    python tools/slow_judge.py model=hf model.path=SMOLLM2 task=arithmetic evaluation.num_questions=48

All words are those of scripts/evaluate.py. Nothing is kept of the evaluations.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2.0
ROUNDS = 1
GRADE = json.dumps({"choices": [{"message": {"content": "Score: 7"}}]}).encode()


class Judge(BaseHTTPRequestHandler):
    """Gives every answer the same grade, late."""

    asked = 0

    def do_POST(self) -> None:
        """Is called for each request."""
        Judge.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(SECONDS)
        self.send_response(200)
        self.send_header("Content-Length", str(len(GRADE)))
        self.end_headers()
        self.wfile.write(GRADE)

    def log_message(self, *words: object) -> None:
        """Says nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1"
    ways = {
        "without a judge": ["reward=[correctness]"],
        "with one": [
            "reward=[correctness,judge]",
            f"reward.judge.base_url={address}",
            "reward.judge.model=slow",
            "reward.judge.cache_dir=null",
        ],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, words in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                command = [
                    sys.executable,
                    str(ROOT / "scripts" / "evaluate.py"),
                    *sys.argv[1:],
                    *words,
                    f"to={folder}/out",
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                seconds[way].append(time.perf_counter() - begun)
                print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
    without, judged = (statistics.median(each) for each in seconds.values())
    answers = Judge.asked // ROUNDS
    alone = answers * SECONDS
    print(f"{answers} answers: {without:.1f} s, with a judge {judged:.1f} s; asked one by one it takes {alone:.0f} s")


if __name__ == "__main__":
    main()

"""A worker that does what it is asked: sleeps, ends, raises, prints, reads, starts another, or says its process id."""

import os
import subprocess
import sys
import time
from typing import Any

from tunix_grpo.workers import serve


def answer(question: dict[str, Any]) -> Any:
    """Does one thing and returns the question."""
    match question:
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"exit": code}:
            os._exit(code)
        case {"raise": message}:
            raise ValueError(message)
        case {"print": text}:
            print(text)
        case {"read": _}:
            return sys.stdin.read() + subprocess.run(["cat"], stdout=subprocess.PIPE, text=True).stdout
        case {"pid": _}:
            return os.getpid()
        case {"child": seconds}:
            return subprocess.Popen(["sleep", str(seconds)]).pid
    return question


if __name__ == "__main__":
    serve(answer)

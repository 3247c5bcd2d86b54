"""A worker that does what it is asked: sleeps, ends, raises, prints, or says its process id."""

import os
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
        case {"pid": _}:
            return os.getpid()
    return question


if __name__ == "__main__":
    serve(answer)

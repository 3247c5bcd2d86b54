"""Judges answers in LaTeX mathematics with math-verify: a program of its own, run by `math_grader.py`.

math-verify (github.com/huggingface/Math-Verify) reads sets, intervals, roots, equations and expressions and compares
them by sympy, which may take very long or much memory on what a model wrote.
"""

import contextlib
import importlib
from typing import Any

MAX_MEMORY_BYTES = 8 << 30


def main() -> None:
    """Answers {"answer": ..., "gold": ...} with true or false."""
    from tunix_grpo import workers

    _limit_memory()
    # Its types leave out the None that switches its own limits off. They are signals; here the worker is the limit.
    math_verify: Any = importlib.import_module("math_verify")

    def parsed(text: str) -> list[Any]:
        return math_verify.parse(text, parsing_timeout=None, raise_on_error=False)

    def judge(question: dict[str, str]) -> bool:
        answer, gold = question["answer"], question["gold"]
        golds = parsed(gold) + parsed(f"${gold}$")
        answers = parsed(answer) + parsed(f"${answer}$")
        return bool(math_verify.verify(golds, answers, timeout_seconds=None, raise_on_error=False))

    judge({"answer": "1", "gold": "1"})  # the grammar is loaded before the clock runs
    workers.serve(judge)


def _limit_memory() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError):  # where the machine's own limit is lower or cannot be set
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


if __name__ == "__main__":
    main()

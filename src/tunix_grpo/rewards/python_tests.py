"""The reward for code: the share of the row's tests that it passes, run in the sandbox."""

import math
from collections.abc import Sequence

from tunix_grpo.rewards.base import Failure, RewardError, Samples, Scored, Value
from tunix_grpo.rewards.code_blocks import Where, find_code
from tunix_grpo.rewards.row_tests import BadTestsError, Columns, Tests, read_tests
from tunix_grpo.sandbox.probe import require_limits
from tunix_grpo.sandbox.running import PASSED, Job, Limits, Outcome, Sandbox
from tunix_grpo.tasks.base import Question, Task

TOLERANCE = 1e-6  # relative and absolute, of a decimal number beside the expected one
_LONGEST_NUMBER = 40
_LIMITS = ("memory", "disk", "output", "processes")
_NO_CODE = "no_code"
# extra -> the ends of tests that it counts
KINDS = {
    _NO_CODE: (_NO_CODE,),
    "no_python": ("no_python",),
    "error": ("error",),
    "crash": ("crash",),
    "timeout": ("timeout",),
    "limit": _LIMITS,
}


class PythonTests:
    """Scores completions by running their code against the tests of their rows."""

    limits_itself = True
    by_row = True

    def __init__(self, sandbox: Sandbox, columns: Columns, *, where: Where, partial: bool, most: int | None) -> None:
        """Takes the sandbox, and what the settings say of code, tests and the score."""
        self.sandbox = sandbox
        self._where: Where = where
        self._columns, self._partial, self._most = columns, partial, most

    def check(self, task: Task) -> None:
        """Checks that every row of a task has tests.

        Raises:
            RewardError: one has none.
        """
        for side in (task.train, task.heldout):
            for question in side:
                self._tests(question)

    def __call__(self, samples: Samples) -> list[Value]:
        """Returns for each completion the share of the tests that its code passes, in [0, 1], and how the rest ended.

        Raises:
            RewardError: a row has no tests.
        """
        codes = [find_code(completion, self._where) for completion in samples.completions]
        rows: dict[tuple[str, int], int] = {}
        for row, code in enumerate(codes):
            if code is not None:
                rows.setdefault((code, id(samples.questions[row])), row)
        tests = {row: self._tests(samples.questions[row]) for row in rows.values()}
        jobs = [self._job(codes[row] or "", each) for row, each in tests.items()]
        outcomes = dict(zip(rows, self.sandbox.run_all(jobs, samples.deadline), strict=True))
        return [
            self._value(None if code is None else outcomes[code, id(question)], code)
            for code, question in zip(codes, samples.questions, strict=True)
        ]

    def _job(self, code: str, tests: Tests) -> Job:
        return Job(
            code=code,
            inputs=tests.inputs,
            is_right=lambda place, output: same_output(output, tests.outputs[place]),
            tests=tests.calls,
            count=tests.count,
            until_failure=not self._partial,
        )

    def _value(self, outcome: Outcome | None, code: str | None) -> Value:
        if outcome is None and code is not None:
            return Failure("timeout", "had not run its tests in time")
        ends = [_NO_CODE] if outcome is None else outcome.ends
        share = ends.count(PASSED) / len(ends)
        extras = {"passed": float(share == 1)}
        extras |= {name: float(any(end in kinds for end in ends)) for name, kinds in KINDS.items()}
        return Scored(share if self._partial else float(share == 1), extras)

    def _tests(self, question: Question) -> Tests:
        try:
            return read_tests(question, self._columns, self._most)
        except BadTestsError as error:
            raise RewardError(
                f"reward.python_tests: the row of the question {question.question[:60]!r} {error}; "
                "give reward.python_tests.tests_column=COLUMN, or correct the data"
            ) from None


def build_python_tests_reward(
    *,
    where: Where,
    tests_column: str | None,
    setup_column: str | None,
    function_column: str | None,
    partial: bool,
    max_tests: int | None,
    timeout_s: float,
    memory_mb: int,
    disk_mb: int,
    output_kb: int,
    workers: int,
    allow_unlimited: Sequence[str],
) -> PythonTests:
    """Returns the reward; what the arguments mean is said at `config.python_tests.PythonTestsReward`.

    Raises:
        SandboxError: this system cannot limit what programs of the model do, and that is not allowed.
    """
    limits = Limits(
        timeout_s=timeout_s, memory_bytes=memory_mb << 20, disk_bytes=disk_mb << 20, output_bytes=output_kb << 10
    )
    sandbox = Sandbox(limits, workers=workers)
    require_limits(sandbox, allow_unlimited, "reward.python_tests.allow_unlimited")
    columns = Columns(tests_column, setup_column, function_column)
    return PythonTests(sandbox, columns, where=where, partial=partial, most=max_tests)


def same_output(printed: str, expected: str) -> bool:
    """Says whether a program printed what it was to print: the same words in the same lines.

    Space at the ends of lines, and empty lines at the end, do not count. Decimal numbers may differ by TOLERANCE.
    """
    lines, wanted = ([line.split() for line in text.rstrip().splitlines()] for text in (printed, expected))
    if len(lines) != len(wanted):
        return False
    pairs = zip(lines, wanted, strict=True)
    return all(len(line) == len(right) and all(map(_same_word, line, right)) for line, right in pairs)


def _same_word(word: str, expected: str) -> bool:
    if word == expected:
        return True
    if "." not in expected or max(len(word), len(expected)) > _LONGEST_NUMBER:
        return False
    try:
        number, right = float(word), float(expected)
    except ValueError:
        return False
    return math.isclose(number, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE)

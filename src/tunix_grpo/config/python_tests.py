"""The settings of the reward that runs code against tests."""

from typing import Annotated, Literal

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.parts import WeightedReward
from tunix_grpo.config.rules import GROUP, Count, Flag, Name, Number, Text, Whole

_MOST_MB, _MOST_KB = 1 << 20, 1 << 20


# What a system may be unable to forbid; `sandbox/probe.py` finds out.
UNLIMITED = ("files", "network", "processes")


def known(names: object) -> object:
    """Checks a list of names of UNLIMITED."""
    if not isinstance(names, list) or not all(name in UNLIMITED for name in names):
        raise ValueError(f"must be a list of some of {', '.join(UNLIMITED)}, or []")
    return names


Unlimited = Annotated[list[Text], BeforeValidator(known)]


@dataclass(kw_only=True, slots=True, config=GROUP)
class PythonTestsReward(WeightedReward):
    """The reward for Python code, run in processes that are isolated and limited."""

    where: Literal["completion", "answer"]
    """Where the code is: completion: its last fenced block of Python; answer: the last one in its answer tags, all that
    they hold if it has no fence. What is thought before does not count."""
    tests_column: Name | None = rules.hint("null looks at the usual names")
    """Column of the tests, dots lead inside a column; null is the first there of test_list, tests, test_cases,
    input_output, test and ground_truth, else the answer."""
    setup_column: Name | None = rules.hint("null looks at the usual names")
    """Column of code that is run before the tests; null is the first there of test_setup_code, test_imports and
    setup_code."""
    function_column: Name | None = rules.hint("null looks at the usual names")
    """Column of the tested function's name; null is the first there of entry_point, fn_name and function_name."""
    partial: Flag
    """Whether the reward is the share of the tests that pass; else it is 1 for all of them and 0 for fewer."""
    max_tests: Count | None
    """Tests of a row that are run, the first ones, 1 or more; null is all."""
    timeout_s: Number = rules.number(above=0)
    """Seconds for all tests of a completion together, above 0; those that are not run by then fail."""
    memory_mb: Whole = rules.number(minimum=64, maximum=_MOST_MB)
    """MiB of address space of a program, 64 or more; the judge of its tests may take as much."""
    disk_mb: Whole = rules.number(minimum=1, maximum=_MOST_MB)
    """MiB that a program may write in its temporary folder, 1 or more."""
    output_kb: Whole = rules.number(minimum=1, maximum=_MOST_KB)
    """KiB that a program may print on one input, 1 or more."""
    workers: Count
    """Completions whose code runs side by side, 1 or more."""
    allow_unlimited: Unlimited
    """What programs may do where the system cannot forbid it: files: read and change files of yours; network;
    processes: start some that stay, and end yours, of root all. Else the run is refused there."""

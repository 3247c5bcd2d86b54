"""Code is found in completions, tests in rows of all kinds, and what the code is worth comes from running both."""

import json
import time
from decimal import Decimal

import pytest

from helpers.samples import samples_of
from tunix_grpo.config.open_groups import REWARD
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Failure, RewardError
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.code_blocks import find_code
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.rewards.python_tests import build_python_tests_reward, same_output
from tunix_grpo.rewards.row_tests import BadTestsError, Columns, read_tests
from tunix_grpo.sandbox.probe import UNLIMITED
from tunix_grpo.tasks.base import ExactTask, Question

USUAL = Columns(None, None, None)
SETTINGS = {
    "where": "completion",
    "tests_column": None,
    "setup_column": None,
    "function_column": None,
    "partial": True,
    "max_tests": None,
    "timeout_s": 2.0,
    "memory_mb": 256,
    "disk_mb": 4,
    "output_kb": 64,
    "workers": 4,
    "allow_unlimited": list(UNLIMITED),  # only well-behaved code is run here
}


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize(
    ("completion", "where", "code"),
    [
        (f"So: {fenced('a')} done", "completion", None),  # a fence begins a line
        (f"So:\n{fenced('a')}\ndone", "completion", "a\n"),
        (f"{fenced('a')}\n{fenced('b')}", "completion", "b\n"),
        (f"{fenced('a')}\n{fenced('b', 'bash')}", "completion", "a\n"),
        (f"{fenced('a', '')}\n{fenced('b', 'text')}", "completion", "a\n"),
        (f"{fenced('a', '')}\n{fenced('b', 'py')}\n{fenced('c', '')}", "completion", "b\n"),
        (fenced("b", "Python3"), "completion", "b\n"),
        ("```python\na", "completion", "a"),  # cut off
        ("  ```python\n  a\n  ```", "completion", "  a\n"),
        ("````python\na\n````", "completion", "a\n"),
        (f"<think>{fenced('a')}", "completion", None),
        (f"<think>\n{fenced('a')}\n</think>\n{fenced('b')}", "completion", "b\n"),
        (f"{fenced('a')}\n</think>\nno", "completion", None),
        ("a", "completion", None),
        ("", "completion", None),
        (fenced(" "), "completion", None),
        (f"<answer>\n{fenced('a')}\n</answer>\n{fenced('b')}", "completion", "b\n"),
        (f"<answer>\n{fenced('a')}\n</answer>\n{fenced('b')}", "answer", "a\n"),
        ("<answer>a = 1</answer>", "answer", "a = 1"),
        ("<answer>no</answer><answer>a", "answer", "a"),
        (f"<answer>\n{fenced('a', 'bash')}\n</answer>", "answer", None),
        ("<answer> </answer>", "answer", None),
        (fenced("a"), "answer", None),
    ],
)
def test_the_code_of_a_completion(completion, where, code):
    assert find_code(completion, where) == code


@pytest.mark.parametrize("text", ["```python\n" * 100_000, "```\n" * 100_000, "<answer>" * 100_000, "`" * 10**6])
def test_hostile_completions_are_read_in_time(text):
    start = time.perf_counter()
    find_code(text, "completion")
    find_code(text, "answer")
    assert time.perf_counter() - start < 2  # it is linear: 0.1 s on a free machine


def question(**extra) -> Question:
    return Question("Write it.", "", extra)


def texts(tests, setup="", function=None):
    return {"setup": setup, "tests": tests, "function": function}


CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"
PAIRS = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}
CALLS = {"fn_name": "f", "inputs": [[1], [[1, 2]]], "outputs": [2, [3]]}
TWO_TESTS = "def test_a():\n  assert f(1)\ndef test_b():\n  pass"
ONE_PAIR = {"input": "1\n[2]", "output": "3", "testtype": "functional"}
DECIMALS = {"inputs": [[Decimal("0.5")]], "outputs": [{"a": Decimal(1)}]}
ROWS = [
    # MBPP
    (
        question(test_list=["assert f(1)", "assert f(2)"], test_setup_code="x = 1"),
        texts(["assert f(1)", "assert f(2)"], "x = 1"),
    ),
    (
        question(test_list=["assert f(1)"], test_imports=["import math", "import re"]),
        texts(["assert f(1)"], "import math\nimport re"),
    ),
    (question(tests='["assert f(1)"]'), texts(["assert f(1)"])),
    # text
    (question(tests="x = 1\nassert f(x)\n\nassert f(2)\n"), texts(["x = 1\nassert f(x)", "\nassert f(2)"])),
    (question(tests=TWO_TESTS), texts([f"{TWO_TESTS}\ntest_a()", "test_b()"])),
    # HumanEval
    (question(test=CHECK, entry_point="f"), texts([CHECK + "check(f)"], function="f")),
    # APPS, TACO and verl
    (question(input_output=json.dumps(CALLS)), {"function": "f", "inputs": [[1], [[1, 2]]], "outputs": [2, [3]]}),
    (question(tests=[ONE_PAIR], fn_name="f"), {"function": "f", "inputs": [[1, [2]]], "outputs": [3]}),
    (question(tests=DECIMALS, entry_point="f"), {"function": "f", "inputs": [[0.5]], "outputs": [{"a": 1.0}]}),
]
PROGRAMS = [
    question(input_output=PAIRS),
    question(input_output=json.dumps(PAIRS)),
    question(reward_model={"ground_truth": json.dumps(PAIRS), "style": "rule"}),
    question(test_cases=[{"input": "1\n", "output": "2\n"}, {"input": "2\n", "output": "4\n"}]),
    question(tests={"inputs": [["1", ""], ["2", ""]], "outputs": [["2", ""], ["4", ""]]}),
    Question("Write it.", json.dumps(PAIRS)),
]


@pytest.mark.parametrize(("row", "calls"), ROWS)
def test_tests_that_call_functions(row, calls):
    tests = read_tests(row, USUAL, None)
    assert (tests.calls, tests.inputs) == (calls, None)
    assert tests.count == len(calls.get("tests", calls.get("inputs")))


@pytest.mark.parametrize("row", PROGRAMS)
def test_pairs_of_input_and_output(row):
    tests = read_tests(row, USUAL, None)
    assert (tests.inputs, tests.outputs, tests.count) == (("1\n", "2\n"), ("2\n", "4\n"), 2)
    assert read_tests(row, USUAL, 1).inputs == ("1\n",)


def test_columns_can_be_named():
    row = question(mine={"inner": ["assert f(1)"]}, test_list=["assert f(2)"], first="y = 1", name="f")
    assert read_tests(row, Columns("mine.inner", "first", "name"), None).calls == texts(["assert f(1)"], "y = 1", "f")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (question(level=3), "has no tests; there are the columns level"),
        (question(tests=[]), r"has \[\] as its tests"),
        (question(tests=3), "has 3 as its tests"),
        (question(tests=["assert f("]), "has tests that are no Python: 'assert f\\('"),
        (question(tests="f(1)"), "has tests without an assert"),
        (question(tests={"inputs": ["1"], "outputs": []}), "has \\['1'\\] as its inputs and \\[\\] as its outputs"),
        (question(tests={"inputs": [], "outputs": []}), "as its inputs"),
        (question(tests="assert f(1)", test_setup_code="x ="), "no Python: 'x ='"),
        (question(tests=["assert f(1)"], entry_point=3), "names its function by 3"),
    ],
)
def test_rows_without_tests(row, says):
    with pytest.raises(BadTestsError, match=says):
        read_tests(row, USUAL, None)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1  2 \n3\n\n", "1 2\n3", True),
        ("1\n2", "1 2", False),
        ("1 2 3", "1 2", False),
        ("", "", True),
        ("", "1", False),
        ("0.3333333", "0.333333", True),
        ("1", "1.0", True),
        ("1.0", "1", False),  # whole numbers are exact
        ("0.334", "0.333", False),
        ("nan", "1.0", False),
        ("inf", "1.5", False),
        ("yes", "YES", False),
    ],
)
def test_what_a_program_prints(printed, expected, same):
    assert same_output(printed, expected) is same


# --- the reward ---


ASSERTS = question(test_list=["assert f(1) == 2", "assert f(2) == 4", "assert f(3) == 6", "assert f(0) == 0"])
STDIN = question(input_output={"inputs": ["1", "2"], "outputs": ["2", "4"]})
CASES = {
    "right": (ASSERTS, fenced("def f(x): return 2 * x"), 1.0, {"passed"}),
    "a part is right": (ASSERTS, fenced("def f(x): return 2"), 0.25, set()),
    "raises": (ASSERTS, fenced("def f(x): return {1: 2}[x]"), 0.25, {"error"}),
    "no code": (ASSERTS, "def f(x): return 2 * x", 0.0, {"no_code"}),
    "a right program": (STDIN, fenced("print(2 * int(input()))"), 1.0, {"passed"}),
    "a wrong program": (STDIN, fenced("print(2)"), 0.5, set()),
    "no Python": (STDIN, fenced("print("), 0.0, {"no_python"}),
    "takes too long": (STDIN, fenced("x = input()\nwhile x == '2': pass\nprint(2)"), 0.5, {"timeout"}),
    "prints too much": (STDIN, fenced("print('x' * 10**6)"), 0.0, {"limit"}),
    "half a character": (ASSERTS, fenced("def f(x): return 2 * x # \ud800"), 0.0, {"error"}),
    "half a character in a program": (STDIN, fenced("print(1) # \ud800"), 0.0, {"no_python"}),
    "aborts": (STDIN, fenced("import os\nos.abort()"), 0.0, {"crash"}),
}


@pytest.fixture(scope="module")
def reward():
    return build_python_tests_reward(**SETTINGS)


@pytest.fixture(scope="module")
def scored(reward):
    rows, completions = zip(*[case[:2] for case in CASES.values()], strict=True)
    return dict(zip(CASES, reward(samples_of(completions, rows)), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_the_share_of_tests_and_how_the_others_ended(scored, name):
    _, _, value, extras = CASES[name]
    assert scored[name].value == value
    assert {extra for extra, number in scored[name].extras.items() if number} == extras
    assert set(scored[name].extras) == {"passed", "no_code", "no_python", "error", "crash", "timeout", "limit"}


def test_all_or_nothing():
    reward = build_python_tests_reward(**SETTINGS | {"partial": False, "max_tests": 3})
    values = reward(
        samples_of([fenced("def f(x): return 2 if x == 1 else 4"), fenced("f = int(2).__mul__")], [ASSERTS] * 2)
    )
    assert [(value.value, value.extras["passed"]) for value in values] == [(0.0, 0.0), (1.0, 1.0)]


def test_the_same_code_for_the_same_row_is_run_once(reward, monkeypatch):
    ran = []
    run_all = reward.sandbox.run_all
    monkeypatch.setattr(reward.sandbox, "run_all", lambda jobs, deadline: ran.extend(jobs) or run_all(jobs, deadline))
    right, wrong = fenced("def f(x): return x * 2"), fenced("def f(x): return 1")
    values = reward(samples_of([right, right, wrong, right], [ASSERTS, ASSERTS, ASSERTS, STDIN]))
    assert [value.value for value in values] == [1.0, 1.0, 0.0, 0.0]
    assert len(ran) == 3


def test_what_is_not_done_at_the_deadline_has_failed_so(reward):
    values = reward(samples_of([fenced("def f(x): return x"), "no code"], [ASSERTS] * 2, deadline=0.0))
    assert isinstance(values[0], Failure) and values[0].kind == "timeout"
    assert values[1].value == 0.0


def selected(**changed):
    """Builds the reward by its settings."""
    own = {"path": None, "function": None, "per": "auto", "messages": False, "isolate": False}
    limits = {"time_limit": None, "on_error": "stop", "on_timeout": "stop"}
    content = {"python_tests": {"weight": 1.0, **SETTINGS, **limits, **changed}}
    section = REWARD.section(content)
    return build_rewards(
        section(
            **content,
            custom={"weight": 1.0, **own, **limits},
            limits=limits,
            workers=2,
            functions={},
            normalisation="sum",
        )
    )


def test_rows_are_checked_before_anything_is_loaded():
    (reward,) = selected()
    assert reward.limits_itself
    good, bad = ASSERTS, question(level=1)
    require_columns([reward], ExactTask("jsonl", [good], [good]))
    with pytest.raises(RewardError, match="row of the question 'Write it.' has no tests; .*tests_column=COLUMN"):
        require_columns([reward], ExactTask("jsonl", [good], [good, bad]))


def test_a_system_without_limits_is_refused_when_the_reward_is_built(monkeypatch):
    monkeypatch.setattr("tunix_grpo.sandbox.probe.find_unlimited", lambda sandbox: ["network"])
    with pytest.raises(UserError, match=r"reward.python_tests.allow_unlimited=\[files,network\]"):
        selected(allow_unlimited=["files"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("allow_unlimited=[disk]", r"allow_unlimited=\['disk'\]: must be a list of some of files, network, processes"),
        ("allow_unlimited=network", "allow_unlimited=network: must be a list of some of files, network, processes"),
        ("memory_mb=8", "memory_mb=8: must be at least 64"),
        ("where=tags", "where=tags: must be one of completion, answer"),
        ("timeout_s=0", "timeout_s=0.0: must be above 0"),
    ],
)
def test_wrong_settings(compose, setting, says):
    with pytest.raises(UserError, match=f"reward.python_tests.{says}"):
        compose("model=tiny", "task=arithmetic", "reward=[python_tests]", f"reward.python_tests.{setting}")

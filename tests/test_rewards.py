"""Rewards give what their rules say; failing reward code is reported with all that is needed to mend it."""

import json
import time
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from helpers.rewards import custom, reward_settings
from helpers.samples import samples_of
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward, RewardError, Samples, Scored
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.correctness import build_correctness_reward
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.rewards.format import build_format_reward, format_score
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.tasks.base import ExactTask, Question

QUESTIONS = [
    Question("What is 1 + 2?", "3", {"level": 1}),
    Question("What is 2 + 2?", "4", {"hint": "even"}),
]
TASK = ExactTask("arithmetic", QUESTIONS, QUESTIONS)
PROMPTS = ["<user>What is 1 + 2?", "<user>What is 2 + 2?"]
COMPLETIONS = [
    "<reasoning>1 and 2</reasoning><answer>3</answer>",
    "<reasoning>2 and 2</reasoning><answer>5</answer>",
]


def samples(completions=COMPLETIONS, **changed) -> Samples:
    """Returns completions of the first questions."""
    given = {"questions": QUESTIONS[: len(completions)], "task": TASK} | changed
    return samples_of(completions, **given)


GOOD = "<reasoning>r</reasoning><answer>a</answer>"
FORMATS = [
    # exact
    (GOOD, 1.0),
    ("<reasoning>\nr\n</reasoning>\n\n<answer>\na\n</answer>\n", 1.0),  # white space around
    ("<reasoning>1 < 2 > 0</reasoning><answer>x</answer>", 1.0),  # angle brackets are no tags
    # one answer block, but something is off around it
    ("<answer>a</answer>", 0.5),  # no reasoning
    (f"Sure! {GOOD}", 0.5),  # text before
    (f"{GOOD} Bye.", 0.5),  # text after
    ("<reasoning>r</reasoning> so <answer>a</answer>", 0.5),  # text between
    ("<answer>a</answer><reasoning>r</reasoning>", 0.5),  # wrong order
    ("<reasoning>r<answer>a</answer></reasoning>", 0.5),  # answer inside the reasoning
    ("<reasoning> </reasoning><answer>a</answer>", 0.5),  # empty reasoning
    ("<reasoning>r<answer>a</answer>", 0.5),  # reasoning never closed
    ("<reasoning>r</reasoning></reasoning><answer>a</answer>", 0.5),  # a tag twice
    # no single answer block
    ("", 0.0),
    ("a", 0.0),
    ("<reasoning>r</reasoning>a", 0.0),
    ("<reasoning>r</reasoning><answer>a", 0.0),  # cut off
    ("<reasoning>r</reasoning>a</answer>", 0.0),
    ("<reasoning>r</reasoning><answer> \n</answer>", 0.0),  # empty answer
    ("<reasoning>r</reasoning></answer>a<answer>", 0.0),  # closed before it is opened
    (f"{GOOD}{GOOD}", 0.0),  # twice
    ("<reasoning>r</reasoning><answer>a</answer><answer>b</answer>", 0.0),  # two answers
    ("<reasoning>r</reasoning><Answer>a</Answer>", 0.0),  # tags are lower case
    ("<think>r</think><answer>a", 0.0),
]


@pytest.mark.parametrize(("completion", "score"), FORMATS)
def test_format(completion, score):
    assert format_score(completion) == score
    assert build_format_reward(reasoning="reasoning", answer="answer")(samples([completion])) == [score]


@pytest.mark.parametrize(
    "completion",
    [
        "<reasoning>" * 100_000,
        "<answer>" * 100_000 + "</answer>" * 100_000,
        GOOD * 25_000,
        ("<reasoning>" * 80 + "</reasoning>" * 80 + "<answer>" * 90 + "\n" * 600)[:3600],
        "<reasoning>" + " " * 1_000_000 + "</reasoning><answer>",
    ],
    ids=["one tag", "two tags", "blocks", "staged", "spaces"],
)
def test_format_of_hostile_completions_takes_less_than_50_ms(completion):
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        assert format_score(completion) == 0.0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_correctness_is_the_task_s_score():
    assert build_correctness_reward()(samples()) == [1.0, 0.0]


# --- building ---


def config(*, format=None, correctness=None, own=None):
    return reward_settings(own=own, format=format, correctness=correctness)


def write(folder, text):
    path = Path(folder) / "my_rewards.py"
    path.write_text(text)
    return path


def test_selected_rewards_with_their_weights(tmp_path):
    path = write(tmp_path, "def short(completions, **kwargs):\n    return [0.0 for _ in completions]\n")
    rewards = build_rewards(config(format=0.5, correctness=1.0, own=custom(path, "short", -2.0)))
    assert [(reward.name, reward.weight) for reward in rewards] == [
        ("format", 0.5),
        ("correctness", 1.0),
        ("short", -2.0),
    ]
    assert [reward.name for reward in build_rewards(config(correctness=1.0))] == ["correctness"]


def test_total_is_the_weighted_sum(tmp_path):
    path = write(tmp_path, "def length(completions):\n    return [len(c) / 100 for c in completions]\n")
    rewards = build_rewards(config(format=0.5, correctness=2.0, own=custom(path, "length", -1.0)))
    table = score_completions(rewards, samples())
    assert table.parts == {
        "format": [1.0, 1.0],
        "correctness": [1.0, 0.0],
        "length": [0.48, 0.48],
    }
    assert table.total == pytest.approx([0.5 + 2.0 - 0.48, 0.5 - 0.48], abs=1e-12)


def test_weight_zero_only_records():
    table = score_completions(build_rewards(config(format=0.0, correctness=1.0)), samples())
    assert table.parts["format"] == [1.0, 1.0]
    assert table.total == [1.0, 0.0]


def test_no_reward_is_an_error():
    with pytest.raises(UserError, match=r"no reward is selected; give reward=\[format,correctness\]"):
        build_rewards(config())


def test_two_rewards_of_one_name_are_an_error(tmp_path):
    path = write(tmp_path, "def format(completions):\n    return [0.0] * len(completions)\n")
    with pytest.raises(UserError, match=r"reward.custom.function=format: a selected reward has"):
        build_rewards(config(format=1.0, own=custom(path, "format")))
    assert [reward.name for reward in build_rewards(config(own=custom(path, "format")))] == ["format"]


# --- a user's own function ---


def scores_of(path, function):
    rewards = build_rewards(config(own=custom(path, function)))
    return score_completions(rewards, samples()).parts[function]


def test_custom_function_gets_trl_style_columns(tmp_path):
    path = write(
        tmp_path,
        """
import json, pathlib

def keep(**columns):
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    pathlib.Path(__file__).with_name("columns.json").write_text(json.dumps(lists))
    return [0.25, 0.75]
""",
    )
    assert scores_of(path, "keep") == [0.25, 0.75]
    assert json.loads((tmp_path / "columns.json").read_text()) == {
        "prompts": PROMPTS,
        "completions": COMPLETIONS,
        "question": ["What is 1 + 2?", "What is 2 + 2?"],
        "answer": ["3", "4"],
        "level": [1, None],
        "hint": [None, "even"],
    }


@pytest.mark.parametrize(
    "source",
    [
        "def own(completions):\n    return [len(c) for c in completions]",  # only what it takes
        "def own(completions, other=None, **kw):\n    return [len(c) for c in completions]",
        "own = lambda completions, answer: [len(c) for c in completions]",
        "class Own:\n    def __call__(self, completions):\n        return [len(c) for c in completions]\nown = Own()",
        "import numpy\ndef own(completions):\n    return numpy.array([len(c) for c in completions])",
        "def own(completions):\n    return (len(c) for c in completions)",  # generator
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
        "def own(completions):\n    return [A(len(c)).x for c in completions]",
    ],
)
def test_custom_functions_of_many_kinds(tmp_path, source):
    assert scores_of(write(tmp_path, source), "own") == [48.0, 48.0]


UNUSABLE = [
    # what is in the file, the function asked for, what is said
    (None, "own", "reward.custom.path={path}: there is no such file; give a Python file"),
    ("", "own", "reward.custom.function=own: there is no such function in {path}; it has none"),
    (
        "def length_penalty(): ...\ndef other(): ...",
        "lenght_penalty",
        "reward.custom.function=lenght_penalty: there is no such function in {path}; did you mean "
        "length_penalty?; it has length_penalty, other",
    ),
    (
        "own = 3",
        "own",
        "reward.custom.function=own: own in {path} is not a function but int; "
        "give a function that returns a list of numbers",
    ),
    (
        "import not_there",
        "own",
        "reward.custom.path={path} cannot be run: ModuleNotFoundError: No module named 'not_there' ({path}:1)",
    ),
    (
        "def own(:",
        "own",
        "reward.custom.path={path} cannot be run: SyntaxError: invalid syntax (my_rewards.py, line 1)",
    ),
    ("\n1 / 0", "own", "reward.custom.path={path} cannot be run: ZeroDivisionError: division by zero ({path}:2)"),
    ("exit(0)", "own", "reward.custom.path={path} cannot be run: SystemExit: 0 ("),
]


@pytest.mark.parametrize(("source", "function", "message"), UNUSABLE)
def test_unusable_custom_reward(tmp_path, source, function, message):
    path = tmp_path / "my_rewards.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(UserError) as raised:
        build_rewards(config(own=custom(path, function)))
    assert str(raised.value).startswith(message.format(path=path))
    assert "\n" not in str(raised.value)


# --- what functions return ---


def score_with(function, completions=COMPLETIONS):
    return score_completions([Reward("own", 1.0, function)], samples(completions)).parts["own"]


NUMBERS = [
    [1, 0],
    [1.0, 0.0],
    (1, 0),
    [True, False],
    [Fraction(1), Fraction(0)],
    [np.float32(1), np.int64(0)],
    [np.bool_(True), np.array(0.0)],
    np.array([1, 0]),
    np.array([1, 0], np.float16),
    jnp.array([1, 0], jnp.bfloat16),
    [jnp.float32(1), jnp.int32(0)],
]


@pytest.mark.parametrize("values", NUMBERS, ids=repr)
def test_numbers_of_every_kind_become_floats(values):
    scores = score_with(lambda *_: values)
    assert scores == [1.0, 0.0]
    assert all(type(score) is float for score in scores)


SECOND = "on the completion '<reasoning>2 and 2</reasoning><answer>5</answer>' of the question 'What is 2 + 2?'"
REFUSED = [
    ([1.0, float("nan")], f"reward own returned nan, not a finite number, {SECOND}"),
    ([1.0, float("inf")], f"reward own returned inf, not a finite number, {SECOND}"),
    ([1.0, -np.inf], f"reward own returned -inf, not a finite number, {SECOND}"),
    ([1.0, np.float32("nan")], f"reward own returned np.float32(nan), not a finite number, {SECOND}"),
    (np.array([1.0, np.nan]), f"reward own returned np.float64(nan), not a finite number, {SECOND}"),
    ([1.0, 10**400], f"reward own returned 1{'0' * 299}..., not a finite number, {SECOND}"),
    ([1.0, "0.5"], f"reward own returned '0.5', not a finite number, {SECOND}"),
    ([1.0, [0.5]], f"reward own returned [0.5], not a finite number, {SECOND}"),
    ([1.0, 1j], f"reward own returned 1j, not a finite number, {SECOND}"),
    ([1.0, {}], f"reward own returned {{}}, not a finite number, {SECOND}"),
    ([1.0, 1e300], f"reward own returned 1e+300, more than 1e+30 in size, {SECOND}; divide it, or bound it"),
    ([1.0, -2e30], f"reward own returned -2e+30, more than 1e+30 in size, {SECOND}; divide it, or bound it"),
    (np.array([[1.0], [0.5]]), "reward own returned array([1.]), not a finite number, on the completion"),
    ([1.0], "reward own returned 1 values for 2 completions; it must return one number for each"),
    ([1.0] * 3, "reward own returned 3 values for 2 completions; it must return one number for each"),
    ([], "reward own returned 0 values for 2 completions"),
    (None, "reward own returned None; it must return a list of numbers, one for each completion"),
    (0.5, "reward own returned 0.5; it must return a list of numbers, one for each completion"),
    ("10", "reward own returned '10'; it must return a list of numbers, one for each completion"),
    ({"a": 1.0}, "reward own returned {'a': 1.0}; it must return a list of numbers"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_anything_else_is_refused(values, message):
    with pytest.raises(RewardError) as raised:
        score_with(lambda *_: values)
    assert str(raised.value).startswith(message)


def test_a_total_that_is_too_large_is_refused():
    rewards = [Reward("own", 1e20, lambda *_: [1.0, 1e20])]
    with pytest.raises(RewardError, match=r"with their weights sum up to 1e\+40, more than 1e\+30 in size, on"):
        score_completions(rewards, samples())


def test_what_does_not_apply_is_left_out_of_the_total():
    rewards = [Reward("own", 2.0, lambda _: [1.0, None]), Reward("other", 1.0, lambda _: [None, None])]
    table = score_completions(rewards, samples())
    assert table.total == [2.0, 0.0]
    assert table.parts == {"own": [1.0, None], "other": [None, None]}


def test_extras_come_beside_the_values():
    values = [Scored(1.0, {"depth": 2}), Scored(None, {"depth": 4, "width": np.float32(0.5)})]
    table = score_completions([Reward("own", 1.0, lambda _: values)], samples())
    assert table.parts == {"own": [1.0, None]}
    assert table.extras == {"own/depth": [2.0, 4.0], "own/width": [None, 0.5]}
    with pytest.raises(RewardError, match="reward own returned nan as depth, not a finite number, on the completion"):
        score_completions([Reward("own", 1.0, lambda _: [Scored(0.0, {"depth": float("nan")}), 1.0])], samples())


@pytest.mark.parametrize(("indices", "generations"), [([2, 3], 2), ([0, 1, 2, 3], 2), ([1, 2], 1), ([3], 1), ([], 2)])
def test_a_part_of_samples_has_whole_groups_or_single_rows(indices, generations):
    whole = samples(list("abcd"), questions=QUESTIONS * 2, num_generations=2)
    part = whole.rows(indices)
    assert (part.completions, part.num_generations) == ([whole.completions[row] for row in indices], generations)
    assert part.token_lengths == [1] * len(indices)


# --- what a function needs ---


@pytest.mark.parametrize("statement", ["from helpers_of_mine import score", "from .helpers_of_mine import score"])
def test_a_reward_file_imports_what_lies_beside_it(statement, tmp_path):
    for folder, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helpers_of_mine.py").write_text(f"def score(text): return {value}")
        path = write(tmp_path / folder, f"{statement}\ndef own(completions): return [score(c) for c in completions]")
        assert scores_of(path, "own") == [value, value]


def test_an_import_inside_a_function_finds_what_lies_beside_the_file(tmp_path):
    (tmp_path / "later_of_mine.py").write_text("VALUE = 3.0")
    path = write(
        tmp_path, "def own(completions):\n    import later_of_mine as m\n    return [m.VALUE for _ in completions]"
    )
    assert scores_of(path, "own") == [3.0, 3.0]


def test_a_file_beside_a_reward_hides_no_module_of_the_program(tmp_path):
    """As `datasets.py`, which is loaded later than the reward."""
    import sys

    (tmp_path / "colorsys.py").write_text("raise RuntimeError('not this one')")
    sys.modules.pop("colorsys", None)
    assert scores_of(write(tmp_path, "def own(completions): return [1.0 for _ in completions]"), "own") == [1.0, 1.0]
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("signature", "missing"),
    [
        ("completions, solution", "takes 'solution', which is no column of the data of task.name=arithmetic"),
        (
            "completions, *, hints",
            "data of task.name=arithmetic; did you mean hint?",
        ),
        ("solution, completions, **kwargs", "takes 'solution'"),
        ("completions, completion_idz", "there are prompts, completions, question, answer, level, hint; rename"),
        ("completions, solution=None", None),
        ("completions, level, hint", None),  # in some questions
        ("prompts, completions, /, answer", None),
        ("completions, *columns, **kwargs", None),
    ],
)
def test_columns_that_a_reward_needs_are_checked_against_the_data(signature, missing, tmp_path):
    path = write(tmp_path, f"def own({signature}): return [1.0 for _ in completions]")
    rewards = build_rewards(config(own=custom(path, "own")))
    if missing is None:
        require_columns(rewards, TASK)
        assert scores_of(path, "own") == [1.0, 1.0]
        return
    with pytest.raises(UserError) as raised:
        require_columns(rewards, TASK)
    assert missing in str(raised.value)
    assert str(raised.value).startswith("the reward own takes ")


# --- functions that fail ---


def test_function_that_raises_is_reported_with_the_completion(tmp_path):
    source = "def own(completions):\n    return [1 / (c.count('5') - 1) for c in completions]\n"
    path = write(tmp_path, source)
    with pytest.raises(RewardError) as raised:
        scores_of(path, "own")
    assert str(raised.value) == (f"reward own raised ZeroDivisionError: division by zero ({path}:2) {SECOND}")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_function_that_raises_on_the_batch_only():
    def own(samples):
        if len(samples) > 1:
            raise ValueError("too many")
        return [0.0]

    with pytest.raises(RewardError, match=r"own raised ValueError: too many \(.*\) on 2 completions"):
        score_with(own)


def test_exit_in_a_function_is_an_error():
    with pytest.raises(RewardError, match=r"reward own raised SystemExit: 0 \("):
        score_with(lambda *_: exit(0))


def test_ctrl_c_in_a_function_is_not():
    def own(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_with(own)


def test_generator_that_raises():
    def own(samples):
        yield 1.0
        raise LookupError("gone")

    with pytest.raises(RewardError, match=r"reward own raised LookupError: gone"):
        score_with(own)


def test_long_completions_are_shortened_in_messages():
    with pytest.raises(RewardError) as raised:
        score_with(lambda *_: ["no"], completions=["x" * 100_000])
    assert len(str(raised.value)) < 500


def test_broken_task_is_reported_as_the_reward_that_calls_it():
    class Broken(ExactTask):
        def score(self, completion, question):
            raise KeyError("metadata")

    with pytest.raises(RewardError, match=r"reward correctness raised KeyError: 'metadata'"):
        score_completions(build_rewards(config(correctness=1.0)), samples(task=Broken("broken", QUESTIONS, QUESTIONS)))


def test_no_built_in_reward_runs_what_a_completion_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "__import__('os').system('touch X')"
    completions = [f"<reasoning>{text}</reasoning><answer>{text}</answer>", text]
    rewards = build_rewards(config(format=1.0, correctness=1.0))
    table = score_completions(rewards, samples(completions))
    assert table.parts == {"format": [1.0, 0.0], "correctness": [0.0, 0.0]}
    assert list(tmp_path.iterdir()) == []

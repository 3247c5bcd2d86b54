"""Tasks give the questions that are in their data, split without overlap, or say what is wrong."""

import ast
import functools
import inspect
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import reasoning_gym
from reasoning_gym.factory import DATASETS

from tunix_grpo.config.open_groups import TASK
from tunix_grpo.tasks.arithmetic import all_questions
from tunix_grpo.tasks.base import Question, TaskError, is_heldout, split_questions
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.tasks.expressions import is_formula, is_literal
from tunix_grpo.tasks.gym_entries import make_entries
from tunix_grpo.tasks.gym_settings import UNSUPPORTED
from tunix_grpo.tasks.reasoning_gym_task import CHECKS, ReasoningGymTask, is_harmless

SOURCE = Path(__file__).resolve().parent.parent / "src"
ANY_NUMBER = {"num_questions": None, "heldout_fraction": 0.1}
COLUMNS = {"question_column": "question", "answer_column": "answer"}
GRADER = {"grader": "number", "grader_timeout_s": 5.0}
KEYS = {
    "arithmetic": {"max_operand": 20, **ANY_NUMBER},
    "gsm8k": {"path": None, "dataset": None, **COLUMNS, **ANY_NUMBER, **GRADER},
    "jsonl": {**COLUMNS, **ANY_NUMBER, **GRADER},
    "reasoning_gym": {
        "num_questions": 30,
        "heldout_fraction": 0.1,
        **dict.fromkeys(("level", "highest_level", "settings", "mixture")),
    },
}


def settings(name, **values):
    """Returns the settings of a task, as they come from the command line."""
    common = {"system_prompt": "default", "template_variables": None, "date": None}
    checks = {"validate": False, "max_unmatched": 0.5}
    content = {"name": name, **common, **checks, **KEYS[name], **values}
    return TASK.section(content)(**content)


def texts(questions):
    return [question.question for question in questions]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count, start=0):
    return [{"question": f"Question {i}?", "answer": f"{i}"} for i in range(start, start + count)]


@pytest.mark.long
def test_tasks_do_not_load_jax_or_their_libraries_before_they_are_built(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", rows(10))
    program = f"""
import sys
from tunix_grpo.tasks.gsm8k import build_gsm8k
from tunix_grpo.tasks.jsonl import build_jsonl
from tunix_grpo.tasks.gym_settings import UNSUPPORTED
from tunix_grpo.tasks.reasoning_gym_task import build_reasoning_gym
print([name for name in ("datasets", "pyarrow", "reasoning_gym") if name in sys.modules])
fixed = dict(heldout_fraction=0.1, num_questions=20, seed=0)
columns = dict(question_column="question", answer_column="answer", grader="number", grader_timeout_s=5)
build_jsonl(path={path!r}, **columns, **fixed)
build_gsm8k(path={path!r}, dataset=None, **columns, **fixed)
build_reasoning_gym(dataset="gcd", level=None, highest_level=None, settings=None, mixture=None, **fixed)
import datasets
print([name for name in ("jax", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n[]\n", "")


# --- the split ---


def test_split_depends_on_the_question_alone():
    questions = [Question(f"Question {i}?", "1") for i in range(1000)]
    train, heldout = split_questions(questions, 0.1, source="test", seed=1)
    again, heldout_again = split_questions(questions[::-1][:500], 0.1, source="test", seed=2)
    assert set(texts(again)) <= set(texts(train))
    assert set(texts(heldout_again)) <= set(texts(heldout))
    assert len(train) + len(heldout) == 1000
    assert 70 <= len(heldout) <= 130  # 100 expected, standard deviation 9.5


def test_split_is_stable_across_versions():
    """A change of the hash would mix up training and held-out questions of the bundled model."""
    heldout = [question for question in texts(all_questions(5)) if is_heldout(question, 0.1)]
    assert heldout == ["What is 0 - 4?", "What is 1 + 2?", "What is 2 - 4?", "What is 3 + 1?", "What is 4 - 4?"]


def test_equal_questions_are_on_the_same_side():
    """Equal up to space and case, whatever their answers."""
    questions = [Question(text, "1") for i in range(200) for text in (f"Why  {i}?", f"why {i}?\n")]
    train, heldout = split_questions(questions, 0.3, source="test", seed=0)
    sides = [{" ".join(text.lower().split()) for text in texts(side)} for side in (train, heldout)]
    assert sides[0] & sides[1] == set()
    assert len(sides[0]) + len(sides[1]) == 200


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_neither_side_is_empty(count, fraction):
    questions = [Question(f"Question {i}?", "1") for i in range(count)]
    train, heldout = split_questions(questions, fraction, source="test", seed=0)
    assert train
    assert heldout
    assert sorted(texts(train + heldout)) == sorted(texts(questions))


def test_one_question_cannot_be_split():
    with pytest.raises(TaskError, match=r"data.jsonl has 3 question\(s\), 1 of them different"):
        split_questions([Question("Why?", "1")] * 3, 0.5, source="data.jsonl", seed=0)


def test_num_questions_counts_both_sides():
    questions = [Question(f"Question {i}?", "1") for i in range(1000)]
    train, heldout = split_questions(questions, 0.2, source="t", seed=0, num_questions=100)
    all_train, all_heldout = split_questions(questions, 0.2, source="t", seed=0)
    assert len(train) + len(heldout) == 100
    assert len(heldout) == round(100 * len(all_heldout) / 1000)
    assert (train, heldout) == (all_train[: len(train)], all_heldout[: len(heldout)])


def test_seed_orders_training_questions_and_leaves_the_held_out_ones():
    questions = [Question(f"Question {i}?", "1") for i in range(100)]
    train, heldout = split_questions(questions, 0.5, source="test", seed=0)
    other, other_heldout = split_questions(questions, 0.5, source="test", seed=1)
    assert train != other
    assert sorted(texts(train)) == sorted(texts(other))
    assert heldout == other_heldout


# --- arithmetic ---


def test_all_arithmetic_questions_in_exact_words():
    assert [(question.question, question.answer) for question in all_questions(2)] == [
        ("What is 0 + 0?", "0"),
        ("What is 0 - 0?", "0"),
        ("What is 0 + 1?", "1"),
        ("What is 0 - 1?", "-1"),
        ("What is 1 + 0?", "1"),
        ("What is 1 - 0?", "1"),
        ("What is 1 + 1?", "2"),
        ("What is 1 - 1?", "0"),
    ]


def test_arithmetic_uses_the_whole_space():
    task = build_task(settings("arithmetic", max_operand=100), 0)
    assert len(task.train) + len(task.heldout) == 20_000
    assert len(set(texts(task.train)) | set(texts(task.heldout))) == 20_000
    assert 1800 <= len(task.heldout) <= 2200


def test_arithmetic_held_out_questions_are_in_no_seed_s_training_set():
    first = build_task(settings("arithmetic", num_questions=300), 1)
    second = build_task(settings("arithmetic", num_questions=300), 2)
    assert set(texts(first.train)) != set(texts(second.train))
    for task in (first, second):
        assert len(task.train) + len(task.heldout) == 300
        assert not any(is_heldout(text, 0.1) for text in texts(task.train))
        assert all(is_heldout(text, 0.1) for text in texts(task.heldout))


def test_arithmetic_samples_large_spaces_without_listing_them():
    start = time.perf_counter()
    task = build_task(settings("arithmetic", max_operand=10**9, num_questions=100), 0)
    assert len(task.train) + len(task.heldout) == 100
    assert time.perf_counter() - start < 1


def test_exact_score():
    task = build_task(settings("arithmetic"), 0)
    question = Question("What is 3 - 8?", "-5")
    assert task.score("<reasoning>3 - 8</reasoning><answer>-5</answer>", question) == 1.0
    assert task.score("<answer>−5.0</answer>", question) == 1.0
    assert task.score("<answer>5</answer>", question) == 0.0
    assert task.score("", question) == 0.0


# --- jsonl ---


def test_jsonl_file(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", rows(50))
    task = build_task(settings("jsonl", path=path), 0)
    found = {question.question: question.answer for question in [*task.train, *task.heldout]}
    assert found == {row["question"]: row["answer"] for row in rows(50)}
    assert set(texts(task.train)) & set(texts(task.heldout)) == set()


def test_jsonl_columns_and_answers(tmp_path):
    lines = [
        {"problem": " Why? ", "solution": "24 + 48 = 72\n#### 72", "level": 3, "tags": ["a"]},
        {"problem": "How many?", "solution": 5},
        {"problem": "How long?", "solution": 0.5, "level": None},
        {"problem": "Who?", "solution": "#### 1\n#### Ada"},
    ]
    path = write_jsonl(tmp_path / "data.jsonl", lines)
    config = settings("jsonl", path=path, question_column="problem", answer_column="solution")
    task = build_task(config, 0)
    assert sorted([*task.train, *task.heldout], key=lambda question: question.question) == [
        Question("How long?", "0.5", {"level": None}),
        Question("How many?", "5", None),
        Question("Who?", "Ada", None),
        Question("Why?", "72", {"level": 3, "tags": ["a"]}),
    ]


def test_jsonl_folder_with_parquet(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", rows(5))
    write_jsonl(tmp_path / "deeper" / "b.jsonl", rows(5, start=5))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows(5, start=10)), tmp_path / "c.parquet")
    (tmp_path / "notes.txt").write_text("not data")
    task = build_task(settings("jsonl", path=str(tmp_path)), 0)
    assert sorted(texts([*task.train, *task.heldout])) == sorted(texts_of(rows(15)))


def texts_of(data):
    return [row["question"] for row in data]


def test_jsonl_blank_lines_and_byte_order_mark(tmp_path):
    lines = b'\xef\xbb\xbf{"question": "Why?", "answer": "1"}\r\n\n  \n{"question": "How?", "answer": "2"}'
    (tmp_path / "data.jsonl").write_bytes(lines)
    task = build_task(settings("jsonl", path=str(tmp_path / "data.jsonl")), 0)
    assert sorted(texts([*task.train, *task.heldout])) == ["How?", "Why?"]


BAD_ROWS = [
    # line, what is said about it
    (b'{"question": "Why?"', "not JSON (Expecting ',' delimiter"),
    (b'[{"question": "Why?", "answer": "1"}]', "not a JSON object but [{'question': 'Why?'"),
    (b'"Why?"', "not a JSON object but 'Why?'"),
    (b'{"prompt": "Why?", "answer": "1"}', "no column 'question'; there are 'prompt', 'answer'"),
    (b'{"question": "Why?"}', "no column 'answer'; there are 'question'"),
    (b"{}", "no column 'question'; there are none"),
    (b'{"question": " ", "answer": "1"}', "question is not a text but ' '"),
    (b'{"question": 5, "answer": "1"}', "question is not a text but 5"),
    (b'{"question": null, "answer": "1"}', "question is not a text but None"),
    (b'{"question": "Why?", "answer": true}', "answer is neither text nor number but True"),
    (b'{"question": "Why?", "answer": [1]}', "answer is neither text nor number but [1]"),
    (b'{"question": "Why?", "answer": NaN}', "answer is neither text nor number but nan"),
    (b'{"question": "Why?", "answer": ' + b"9" * 5000 + b"}", "not JSON (Exceeds the limit"),
    (b"[" * 100_000, "not JSON (maximum recursion depth"),
]


@pytest.mark.parametrize(("line", "problem"), BAD_ROWS, ids=[problem for _, problem in BAD_ROWS])
def test_bad_row_is_reported_with_file_and_line(tmp_path, line, problem):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"question": "Good?", "answer": "1"}\n\n' + line + b"\n")
    with pytest.raises(TaskError) as raised:
        build_task(settings("jsonl", path=str(path)), 0)
    assert f"\n  {path}:3: {problem}" in str(raised.value)


def test_bad_rows_are_reported_together_up_to_ten(tmp_path):
    path = write_jsonl(tmp_path / "data.jsonl", [*rows(3), {}, *rows(3), {}])
    with pytest.raises(TaskError) as raised:
        build_task(settings("jsonl", path=path), 0)
    assert str(raised.value).splitlines() == [
        "bad rows; correct or remove them:",
        f"  {path}:4: no column 'question'; there are none",
        f"  {path}:8: no column 'question'; there are none",
    ]
    write_jsonl(tmp_path / "data.jsonl", [*rows(1), *[{}] * 12])
    with pytest.raises(TaskError) as raised:
        build_task(settings("jsonl", path=path), 0)
    assert len(str(raised.value).splitlines()) == 1 + 10 + 1
    assert str(raised.value).endswith("\n  and perhaps more")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file(tmp_path, content):
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(TaskError, match=r"data.jsonl: empty; one question per line is needed"):
        build_task(settings("jsonl", path=str(tmp_path / "data.jsonl")), 0)


def test_missing_paths(tmp_path):
    with pytest.raises(TaskError, match=r"task.path=.*nothing.jsonl does not exist"):
        build_task(settings("jsonl", path=str(tmp_path / "nothing.jsonl")), 0)
    with pytest.raises(TaskError, match=r"has no .jsonl, .ndjson, .json, .csv, .tsv, .parquet files"):
        build_task(settings("jsonl", path=str(tmp_path)), 0)


def test_broken_parquet(tmp_path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(TaskError, match=r"data.parquet is not a parquet file that can be read"):
        build_task(settings("jsonl", path=str(tmp_path / "data.parquet")), 0)


# --- gsm8k ---


GSM8K_TRAIN = [{"question": f"Train {i}?", "answer": f"so\n#### {i},000"} for i in range(1, 20)]
GSM8K_TEST = [{"question": f"Test {i}?", "answer": f"so\n#### {i}"} for i in range(5)]
LEAKED = {"question": "test 3? ", "answer": "#### 3"}


def check_gsm8k(task):
    """Checks that the data's own splits are used and that what they share is not trained on."""
    assert sorted(texts(task.train)) == sorted(texts_of(GSM8K_TRAIN))
    assert sorted(texts(task.heldout)) == sorted(texts_of(GSM8K_TEST))
    gold = {question.question: question.answer for question in task.train}
    assert gold["Train 7?"] == "7,000"
    question = next(question for question in task.train if question.question == "Train 7?")
    assert task.score("<answer>7000</answer>", question) == 1.0


def test_gsm8k_jsonl_folder(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [*GSM8K_TRAIN, LEAKED])
    write_jsonl(tmp_path / "test.jsonl", GSM8K_TEST)
    check_gsm8k(build_task(settings("gsm8k", path=str(tmp_path)), 0))


def test_gsm8k_copy_of_the_hub_repository(tmp_path):
    for folder in ("main", "socratic"):
        (tmp_path / folder).mkdir()
        for split, data in (("train", [*GSM8K_TRAIN, LEAKED]), ("test", GSM8K_TEST)):
            file = tmp_path / folder / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), file)
    (tmp_path / "README.md").write_text("# GSM8K")
    check_gsm8k(build_task(settings("gsm8k", path=str(tmp_path)), 0))


def test_gsm8k_single_file_is_split_by_hash(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl", GSM8K_TRAIN)
    task = build_task(settings("gsm8k", path=path, heldout_fraction=0.3), 0)
    assert sorted(texts([*task.train, *task.heldout])) == sorted(texts_of(GSM8K_TRAIN))
    assert set(texts(task.train)) & set(texts(task.heldout)) == set()
    assert task.heldout


def test_gsm8k_num_questions(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", GSM8K_TRAIN)
    write_jsonl(tmp_path / "test.jsonl", GSM8K_TEST)
    task = build_task(settings("gsm8k", path=str(tmp_path), num_questions=12), 0)
    assert (len(task.train), len(task.heldout)) == (10, 2)  # 12 * 5/24 = 2.5, rounded to even


def test_gsm8k_from_the_hub(monkeypatch):
    loaded = datasets.DatasetDict(
        train=datasets.Dataset.from_list([*GSM8K_TRAIN, LEAKED]),
        test=datasets.Dataset.from_list(GSM8K_TEST),
    )
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words: asked.append(words) or loaded)
    check_gsm8k(build_task(settings("gsm8k", dataset="openai/gsm8k"), 0))
    assert asked == [("openai/gsm8k", "main")]


def test_gsm8k_without_network_says_what_to_do(tmp_path):
    """In a process of its own: the hub library reads its environment when it is imported."""
    program = """
from tunix_grpo.tasks.base import TaskError
from tunix_grpo.tasks.gsm8k import build_gsm8k
columns = dict(question_column="question", answer_column="answer", grader="number", grader_timeout_s=5)
try:
    build_gsm8k(path=None, dataset="openai/gsm8k", **columns, heldout_fraction=0.1, num_questions=None, seed=0)
except TaskError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("task.dataset=openai/gsm8k could not be loaded from the Hugging ")
    assert done.stdout.endswith("task.path=FOLDER of train and test files, parquet or jsonl\n")
    assert done.stdout.count("\n") == 1


# --- reasoning_gym ---


def test_reasoning_gym_chain_sum():
    task = build_task(settings("reasoning_gym", dataset="chain_sum"), 0)
    assert len(task.train) + len(task.heldout) == 30
    assert set(texts(task.train)) & set(texts(task.heldout)) == set()
    question = task.train[0]
    assert task.score(f"<reasoning>.</reasoning><answer>{question.answer}</answer>", question) == 1
    assert task.score(f"so {question.answer}", question) == 1  # no tags
    assert task.score("<answer>none</answer>", question) == 0
    assert task.score("", question) == 0


@pytest.mark.long
def test_reasoning_gym_questions_are_a_function_of_the_seed():
    """Here of a data set that depends on the process's hash seed and on the global random state."""
    (entries,) = make_entries("list_functions", seed=3, size=20)
    assert make_entries("list_functions", seed=3, size=20, settings=[{}, {}]) == [entries, entries]
    (neighbours,) = make_entries("list_functions", seed=4, size=20)
    assert not {entry["question"] for entry in entries} & {entry["question"] for entry in neighbours}


def test_reasoning_gym_keeps_repeated_questions_once():
    task = build_task(settings("reasoning_gym", dataset="string_splitting", num_questions=60), 0)
    found = texts([*task.train, *task.heldout])
    assert len(found) == len(set(found)) < 60


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chain_sums", "task.dataset=chain_sums is not a data set of reasoning_gym; did you mean chain_sum?"),
        ("composite", "task.dataset=composite is not a data set of reasoning_gym; there are ab, acre,"),
    ],
)
def test_reasoning_gym_unknown_name(name, message):
    with pytest.raises(TaskError) as raised:
        build_task(settings("reasoning_gym", dataset=name), 0)
    assert str(raised.value).startswith(message)


def test_reasoning_gym_that_cannot_be_made_says_why():
    with pytest.raises(TaskError, match="chain_sums could not be made by reasoning_gym: ValueError"):
        make_entries("chain_sums", seed=0, size=2)


JUNK = [
    "{}",
    "[]",
    "null",
    "nan",
    "inf",
    "[NaN, NaN, NaN]",
    "1/0",
    "1e999999999",
    "9**9**9",
    "(9**99)**99",
    "(" * 1000,
    "-" * 990 + "1",
    "9" * 1000,
    "R99999",
    "F+999999999",
    "0",
    "x" * 10_000,
    "\x00",
    "\ud800",
    "[0]*10**10",
    "__import__('os').system('touch X')",
    "[().__class__.__bases__]",
]
SCORED = [
    # what the scorer does with an answer
    "boxnet",  # raises on JSON that is not a plan
    "prime_factorization",  # raises on words
    "game_of_life",  # raises on a JSON object
    "coin_flip",  # full marks for "0", and 1e999999999 as a fraction
    "complex_arithmetic",  # full marks for "nan"
    "number_sorting",  # full marks for NaNs
    "game_of_life_halting",  # full marks for anything
    "rubiks_cube",  # repeats a move as often as it says
    *sorted(CHECKS),  # and those that evaluate it
]


@functools.cache
def scored(name):
    """Returns the task of a data set, and three of its questions."""
    dataset = reasoning_gym.create_dataset(name, seed=1, size=3)
    questions = [Question(entry["question"], entry["answer"] or "", entry) for entry in dataset]
    return ReasoningGymTask("reasoning_gym", name, dataset, questions, []), questions


@pytest.mark.parametrize("name", sorted(set(SCORED)))
def test_reasoning_gym_scorers_survive_any_answer(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, questions = scored(name)
    for question in questions:
        if question.answer:
            assert task.score(f"<answer>{question.answer}</answer>", question) == 1.0
        for junk in JUNK:
            start = time.process_time()  # what other programs do on this machine does not count
            score = task.score(f"<answer>{junk}</answer>", question)
            assert time.process_time() - start < 2.0, junk
            assert 0.0 <= score < 0.7 or junk == question.answer, junk
    assert list(tmp_path.iterdir()) == []


def test_every_scorer_that_evaluates_text_is_checked():
    """Holds for the installed reasoning_gym: a newer one may evaluate more."""
    evaluating = {"eval", "exec", "parse_expr", "sympify", "compile"}
    found = set()
    for name in set(DATASETS) - UNSUPPORTED:
        source = inspect.getsource(DATASETS[name][0].score_answer)
        for node in ast.walk(ast.parse(textwrap.dedent(source))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                if called in evaluating:
                    found.add(name)
    # number_sorting evaluates its own gold answer, which is no text of the model's.
    assert found - {"number_sorting"} <= set(CHECKS)


def test_broken_scorer_raises():
    """What fails on the gold answer too is broken code, not a bad completion."""

    class Broken:
        def score_answer(self, answer, entry):
            raise KeyError("broken")

    task = ReasoningGymTask("reasoning_gym", "chain_sum", Broken(), [], [])
    with pytest.raises(KeyError, match="broken"):
        task.score("<answer>1</answer>", Question("Why?", "2", {"answer": "2"}))


@pytest.mark.parametrize(
    ("name", "answer", "score"),
    [
        ("countdown", "{gold} + 0", 0.05),  # right value, but a number too many
        ("polynomial_multiplication", "0 + {gold}", 1.0),
        ("simple_integration", "({gold}) + 7", 1.0),  # another constant
        ("intermediate_integration", "1 + {gold}", 1.0),
        ("spiral_matrix", "[{gold_list}]", 0.1),  # a Python list
    ],
)
def test_harmless_answers_reach_the_scorer(name, answer, score):
    task, questions = scored(name)
    for question in questions:
        gold = question.answer
        text = answer.format(gold=gold, gold_list=", ".join(gold.split()))
        assert task.score(f"<answer>{text}</answer>", question) == score


@pytest.mark.parametrize("text", ["1 + 2 * (3 - 4) / 5", "x**2 + 3*x*y", "-exp(2*x)/2 + C", "1.5*sin(3*x)"])
def test_formulas(text):
    assert is_formula(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9**9**9",
        "(9**99)**99",
        "2**101",
        "2**-101",
        "2**(1/0.001)",
        "exp(exp(99))",
        "E**(E**99)",
        "x**99*x**99*x**99*x**99",
        "9" * 400,
        "1e999",
        "1j",
        "True",
        "'a'",
        "f(x)",
        "eval(x)",
        "sin.x",
        "sin(x, y)",
        "sin(x=1)",
        "x[0]",
        "[x for x in y]",
        "lambda: 1",
        "x if y else z",
        "x == y",
        "x, y",
        "x; y",
        "x^2",
        "abc",
        "ｘ",
        "-" * 990 + "1",
        "(" * 500 + "1" + ")" * 500,
    ],
)
def test_no_formulas(text):
    assert not is_formula(text)


def test_literals():
    assert is_literal("[1, 'a', (2.5, -3)]")
    assert not any(map(is_literal, ["abs(1)", "[x for x in y]", "2**9", "[0]*9", "-" * 990 + "1", "("]))


def test_gold_answers_are_always_harmless():
    assert is_harmless("countdown", "inf", {"answer": "inf"})
    assert is_harmless("chain_sum", "9" * 5000, {"answer": "9" * 5000})
    assert not is_harmless("chain_sum", "9" * 5001, {"answer": "9"})

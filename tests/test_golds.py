"""Gold answers are tested at load: those that no completion can match are counted, shown, and refused where many."""

import decimal
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tunix_grpo.config import Config
from tunix_grpo.config.open_groups import TASK
from tunix_grpo.tasks.base import ExactTask, Question, TaskError
from tunix_grpo.tasks.builders import build_task, validate_task
from tunix_grpo.tasks.golds import unmatched_golds
from tunix_grpo.text.answers import FORMS, answers_match, extract_answer, gold_problem
from tunix_grpo.text.answers.golds import EMPTY, LONG, UNMATCHED, WHOLE_TEXT

WORKED = "We add two and two and then we take one away, which leaves us with the number that was asked for, and so on, "

GOLDS = [
    ("72", None),
    ("72 m", None),
    ("$1,234.50", None),
    ("1/2", None),
    ("\\frac{1}{2}", None),
    ("2 1/2", None),
    ("3:30 pm", None),
    ("B) 12", None),
    ("Paris", None),
    ("The answer is 5.", None),
    ("so \\boxed{1}", None),
    (WORKED * 20 + "#### 5", None),
    (WORKED * 20 + "Therefore $x=\\boxed{5}$.", None),
    ("\\{1, 2\\}", None),
    ("x^2 + 1", None),
    ("", EMPTY),
    (" \n ", EMPTY),
    ("\\boxed{}", EMPTY),
    ("<think>5", EMPTY),
    ("9" * 1001, LONG),
    (WORKED * 2, WHOLE_TEXT),
    ("a </answer> b", UNMATCHED),
]


@pytest.mark.parametrize(("gold", "problem"), GOLDS)
def test_a_gold_that_cannot_be_matched_is_told_apart(gold, problem):
    assert gold_problem(gold) == problem


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "gold", ["72", "72 m", "$5", "50%", "1/2", "2 1/2", "3:30", "-5", "B", "Paris", "1.5e3", "\\frac{3}{4}"]
)
def test_a_gold_matches_itself_in_every_form(form, gold):
    assert answers_match(extract_answer(form.format(gold)), gold)


def config(path, **values):
    content = {
        "name": "jsonl",
        "system_prompt": None,
        "validate": False,
        "max_unmatched": 0.5,
        "date": None,
        "template_variables": None,
        "path": str(path),
        "question_column": "question",
        "answer_column": "answer",
        "heldout_fraction": 0.2,
        "num_questions": None,
        "grader": "number",
        "grader_timeout_s": 5.0,
        **values,
    }
    return TASK.section(content)(**content)


def write(path, golds):
    rows = [{"question": f"Question {number}?", "answer": gold} for number, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_few_are_said_and_kept(tmp_path, caplog):
    path = write(tmp_path / "data.jsonl", [*range(12), None, "", "no idea ####", WORKED * 3])
    task = build_task(config(path), 0)
    assert len(task.train) + len(task.heldout) == 16
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("4 of 16 answers can be matched by no completion: 3 empty (such as that of 'Question 1")
    assert "1 a text of more than 30 words without a marked answer (such as 'We add two" in message
    assert message.endswith("they always score 0 (task.validate=true shows more)")


def test_many_are_refused_with_the_way_out(tmp_path):
    path = write(tmp_path / "data.jsonl", ["1", "2", *[WORKED * 3] * 4])
    with pytest.raises(TaskError) as raised:
        build_task(config(path), 0)
    message = str(raised.value)
    assert message.startswith("4 of 6 answers can be matched by no completion: 4 a text of more than 30 words")
    assert "task.answer_column=NAME" in message
    assert message.endswith("or take them as they are with task.max_unmatched=1")
    assert len(build_task(config(path, max_unmatched=1.0), 0).train) > 0
    with pytest.raises(TaskError):
        build_task(config(write(path, [1, 2, 3, ""]), max_unmatched=0.2), 0)


def test_good_golds_say_nothing(tmp_path, caplog):
    build_task(config(write(tmp_path / "data.jsonl", ["1", 2, 2.5, "yes"])), 0)
    assert caplog.text == ""


def test_validation_prints_a_table_and_refuses_like_a_run(tmp_path, capsys):
    path = write(tmp_path / "data.jsonl", [*range(8), "", "two\nlines"])
    validate_task(config(path), 0)
    shown = capsys.readouterr().out
    assert "answers of the task jsonl" in shown
    assert "different answers" in shown
    assert "9 of 10, not ''" in shown  # in tags
    assert "empty" in shown
    with pytest.raises(TaskError):
        validate_task(config(path, max_unmatched=0.05), 0)
    assert "answers of the task jsonl" in capsys.readouterr().out  # before the error


def test_validation_trains_nothing_and_needs_no_model(tmp_path, capsys, compose):
    from tunix_grpo.train import train

    config: Config = compose("model.path=/no/such/model", "task=arithmetic", "task.validate=true", "device=cpu")
    assert train(config).steps == 0
    assert "20,000" not in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_every_kind_has_its_first_examples():
    golds = ["", " ", "", "\n", "\t", "", "", "", ""]
    questions = [Question(f"{number}?", gold) for number, gold in enumerate(golds)] + [Question("x?", "5")]
    found = unmatched_golds(questions)
    assert (found.num_questions, dict(found.counts), found.share) == (10, {EMPTY: 9}, 0.9)
    assert [question.question for question in found.examples[EMPTY]] == ["0?", "1?", "3?"]


# --- numbers as they are stored ---


STORED = [
    (pyarrow.array([0.1, 2.5, 1e-5, 16777216.0], pyarrow.float32()), ["0.1", "2.5", "1e-05", "16777216.0"]),
    (pyarrow.array([0.1, 2.5, 0.25, 3.0], pyarrow.float64()), ["0.1", "2.5", "0.25", "3.0"]),
    (
        pyarrow.array([decimal.Decimal(x) for x in ("1.50", "0.10", "-3.00", "12.34")]),
        ["1.50", "0.10", "-3.00", "12.34"],
    ),
    (pyarrow.array([decimal.Decimal(x) for x in ("1", "3", "5", "70")]), ["1", "3", "5", "70"]),
    (pyarrow.array([1, 2, 3, 2**60], pyarrow.int64()), ["1", "2", "3", str(2**60)]),
]


@pytest.mark.parametrize(("answers", "golds"), STORED, ids=[str(answers.type) for answers, _ in STORED])
def test_numbers_keep_the_precision_of_their_stored_type(tmp_path, answers, golds):
    questions = [f"Question {number}?" for number in range(len(golds))]
    table = pyarrow.table({"question": questions, "answer": answers})
    pyarrow.parquet.write_table(table, tmp_path / "data.parquet")
    task = build_task(config(tmp_path / "data.parquet"), 0)
    found = {question.question: question.answer for question in [*task.train, *task.heldout]}
    assert found == dict(zip(questions, golds, strict=True))


def test_numbers_of_the_hub_keep_it_too(monkeypatch):
    from tunix_grpo.tasks.gsm8k import build_gsm8k

    features = datasets.Features(question=datasets.Value("string"), answer=datasets.Value("float32"))
    rows = {"question": ["a?", "b?", "c?", "d?"], "answer": [0.1, 0.2, 0.3, 0.7]}
    loaded = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    task = build_gsm8k(
        path=None,
        dataset="x/y",
        question_column="question",
        answer_column="answer",
        heldout_fraction=0.3,
        num_questions=None,
        grader="number",
        grader_timeout_s=5.0,
        seed=0,
    )
    assert isinstance(task, ExactTask)
    assert sorted(question.answer for question in [*task.train, *task.heldout]) == ["0.1", "0.2", "0.3", "0.7"]

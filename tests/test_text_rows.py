"""Data as people have it: kinds of files, other trainers' columns, conversations, splits, one diagnosis per file."""

import gzip
import json
import logging

import pyarrow
import pyarrow.parquet
import pytest

from tunix_grpo.tasks.base import Question, TaskError, split_questions, train_and_heldout
from tunix_grpo.tasks.files import read_splits
from tunix_grpo.tasks.finding import split_of

ROWS = [{"question": f"Question {i}, of all?", "answer": f"{i}"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "question,answer\n" + "".join(f'"Question {i}, of all?",{i}\n' for i in range(3))
USER = {"role": "user", "content": "And 2 + 3?"}
EARLIER = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1 + 2?"},
    {"role": "assistant", "content": "3"},
]


def read(path, question_column="question", answer_column="answer"):
    return read_splits(path, question_column=question_column, answer_column=answer_column)


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read_rows(folder, *rows, **columns):
    train, _ = read(written(folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), **columns)
    return train


def texts(questions):
    return [question.question for question in questions]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.jsonl", LINES),
        ("data.json", LINES),
        ("data.json", json.dumps(ROWS, indent=2)),
        ("data.jsonl", "\ufeff \n" + json.dumps(ROWS)),
        ("data.csv", CSV),
        ("data.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        ("data.csv", CSV.replace('"', "").replace(", of", " of").replace(",", ";")),
        ("data.tsv", CSV.replace('"', "").replace(", of", " of").replace(",", "\t")),
        ("data.csv", LINES),
        ("data.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("data.CSV.GZ", gzip.compress(CSV.encode(), mtime=0)),
        ("data.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("no suffix at all", LINES),
    ],
)
def test_every_kind_of_file(name, content, tmp_path):
    train, heldout = read(written(tmp_path / name, content))
    assert [(q.question.replace(",", ""), q.answer) for q in train] == [
        (f"Question {i} of all?", str(i)) for i in range(3)
    ]
    assert heldout == []


def test_parquet_by_its_first_bytes(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "data")
    assert texts(read(tmp_path / "data")[0]) == [row["question"] for row in ROWS]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", CSV, "its first line is not a JSON object but 'question,answer'; it looks like CSV: name it .csv"),
        ("a.jsonl", "hello\n" * 20, "its first line is not a JSON object but 'hello'; give a JSON object per line"),
        ("a.jsonl", LINES.encode("utf-16"), "it is UTF-16 text, which is not read; save it as UTF-8: iconv -f UTF-16"),
        ("a.csv", CSV.encode("utf-16-le"), "it holds NUL bytes, so it is UTF-16 text or no text at all"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 500, mtime=0)[:90], "not a whole gzip file"),
        ("a.json", json.dumps(ROWS)[:-9], "it begins like a JSON array, but is not a whole one"),
        ("a.json", "[" * 100_000, "it begins like a JSON array, but is not a whole one"),
        ("a.json", json.dumps({"data": ROWS}, indent=1), "it is one JSON object; give an array of objects"),
        (
            "a.json",
            json.dumps({"data": ROWS}),
            ":1: no column 'question'; there are 'data'; give task.question_column=",
        ),
        ("a.xlsx", b"PK\x03\x04...", "it is a zip archive or a spreadsheet, which is not read"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid\n", "fetch the data: git lfs pull"),
        ("a.jsonl", "<!DOCTYPE html>\n<html>\n", "it is a web page or XML, which is not read"),
        ("a.csv", "question,answer\nWie groß?,1\n".encode("latin-1"), "not UTF-8 (invalid continuation byte at byte"),
        ("a.jsonl", LINES.encode() + '{"q": "groß"}\n'.encode("latin-1") * 20, ":4: not UTF-8 (invalid continuation"),
        ("a.jsonl", '{"a": 1, "b": 2}\n' * 20, ":1: no column 'question'; there are 'a', 'b', and no other row is a"),
        ("a.jsonl", "{question: 1}\n" * 20, ":1: not JSON (Expecting property name"),
        ("a.csv", "question,answer\n", "empty; one question per line is needed"),
    ],
)
def test_one_diagnosis_per_file(name, content, words, tmp_path):
    file = written(tmp_path / name, content)
    with pytest.raises(TaskError) as raised:
        read(file)
    assert words in str(raised.value)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (r'{"question": "What is \ud83d?", "answer": "7"}', "it holds \\ud83d, half of a character"),
        (r'{"question": "What?", "answer": "\ude00"}', "it holds \\ude00, half of a character"),
    ],
)
def test_half_a_surrogate_pair_is_a_bad_row(rows, problem, tmp_path):
    with pytest.raises(TaskError) as raised:
        read(written(tmp_path / "a.jsonl", LINES + rows + "\n"))
    assert f"a.jsonl:4: {problem}" in str(raised.value)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    file = written(tmp_path / "a.jsonl", r'{"question": "\ud83d\ude00?", "answer": "7"}')
    assert texts(read(file)[0]) == ["\N{GRINNING FACE}?"]


def test_conversations_in_the_cells_of_a_table(tmp_path):
    """In JSON they are read; as Python prints them, which is what pandas writes, they are no question of their own."""
    turns = json.dumps([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
    cell = turns.replace('"', '""')
    (question,) = read(written(tmp_path / "a.csv", f'messages\n"{cell}"\n'))[0]
    assert (question.question, question.answer, question.turns) == ("2+2?", "4", None)
    printed = f'prompt,answer\n"{json.loads(turns)!r}",4\n'
    with pytest.raises(TaskError, match=r"a\.csv:2: prompt is a conversation as Python prints it, not JSON: .*; save"):
        read(written(tmp_path / "a.csv", printed))
    asked = '[{"role": "user"}] What is wrong here?'
    (question,) = read(written(tmp_path / "a.jsonl", json.dumps({"question": asked, "answer": "content"})))[0]
    assert question.question == asked


def test_a_whole_number_may_have_any_size(tmp_path):
    (question,) = read(written(tmp_path / "a.jsonl", '{"question": "10^400?", "answer": 1%s}' % ("0" * 400)))[0]
    assert question.answer == "1" + "0" * 400


def test_csv_rows_of_another_length_are_named_by_line(tmp_path):
    content = 'question,answer\n"Two\nlines?",1\nOne field\nWhat?,1,2\nGood?,3\n'
    with pytest.raises(TaskError) as raised:
        read(written(tmp_path / "a.csv", content))
    assert str(raised.value).splitlines()[1:] == [
        f"  {tmp_path}/a.csv:{line}: not 2 fields, as many as the first line has" for line in (4, 5)
    ]


# --- columns ---


@pytest.mark.parametrize(
    ("row", "answer", "extra"),
    [
        ({"prompt": [USER], "answer": 5}, "5", None),  # TRL
        ({"prompt": "And 2 + 3?", "solution": "#### 5"}, "5", {"solution": "#### 5"}),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": "5"}]}, "5", ...),
        ({"messages": [USER, {"role": "assistant", "content": "5"}]}, "5", None),
        ({"conversations": [{"from": "human", "value": "And 2 + 3?"}, {"from": "gpt", "value": "5"}]}, "5", None),
        ({"problem": "And 2 + 3?", "answer": "5", "level": 1}, "5", {"level": 1}),
        (  # verl
            {"data_source": "x", "prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "5"}},
            "5",
            {"data_source": "x", "reward_model": {"style": "rule", "ground_truth": "5"}},
        ),
    ],
)
def test_columns_of_other_trainers_are_recognised_and_said(row, answer, extra, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (question,) = read_rows(tmp_path, row)
    assert (question.question, question.answer, question.turns) == ("And 2 + 3?", answer, None)
    assert question.extra == extra or extra is ...
    assert "data.jsonl: the question is read from" in caplog.text


def test_columns_that_the_user_names_are_never_guessed(tmp_path):
    with pytest.raises(TaskError, match="no column 'text'; there are 'prompt', 'answer'"):
        read_rows(tmp_path, {"prompt": "Why?", "answer": "1"}, question_column="text")


def test_usual_columns_win_and_are_not_worth_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (question,) = read_rows(tmp_path, {"prompt": "No", "question": "Yes?", "solution": "0", "answer": "1"})
    assert (question.question, question.answer) == ("Yes?", "1")
    assert caplog.text == ""


@pytest.mark.parametrize("answer_column", ["reward_model.ground_truth", "a.b", "choices.1"])
def test_dots_lead_inside_a_column(answer_column, tmp_path):
    row = {"q": {"text": "Why?"}, "reward_model": {"ground_truth": "5"}, "a.b": 5, "choices": ["4", "5"]}
    (question,) = read_rows(tmp_path, row, question_column="q.text", answer_column=answer_column)
    assert (question.question, question.answer) == ("Why?", "5")


def test_dots_that_lead_nowhere(tmp_path):
    for column in ("choices.2", "choices.x", "reward_model.nothing", "q.text.deeper"):
        row = {"question": "Why?", "q": {"text": "Why?"}, "reward_model": {}, "choices": ["4", "5"]}
        with pytest.raises(TaskError, match=f"no column '{column}'; there are 'question'"):
            read_rows(tmp_path, row, answer_column=column)


# --- conversations ---


def test_earlier_turns_and_the_datas_own_system_message_are_kept(tmp_path):
    parts = {"role": "user", "content": [{"type": "text", "text": "And 2 "}, {"type": "text", "text": "+ 3?"}]}
    (question,) = read_rows(tmp_path, {"messages": [*EARLIER, parts], "answer": "5"}, question_column="messages")
    assert question == Question("And 2 + 3?", "5", None, (*EARLIER, USER))
    assert question.whole() == "What is 1 + 2?\n3\nAnd 2 + 3?"


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ([], "prompt is not a text but []"),
        (["Why?"], "prompt is not a text but ['Why?']"),
        (EARLIER, None),  # ends with its answer, which is not the gold one
        (EARLIER[:1], "does not end with a turn of the user"),
        ([USER, *EARLIER[:1], USER], "has a system message behind the first turn"),
        ([{"role": "tool", "content": "5"}, USER], "has a turn of 'tool'; known are system"),
        ([{"content": "5"}], "has a turn of None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "has a turn that is not text alone"),
        ([{"role": "user", "content": " "}], "ends with an empty turn of the user"),
    ],
)
def test_conversations_that_ask_nothing(prompt, problem, tmp_path):
    if problem is None:
        assert read_rows(tmp_path, {"prompt": prompt, "answer": "5"})[0].turns == tuple(EARLIER[:2])
        return
    with pytest.raises(TaskError) as raised:
        read_rows(tmp_path, {"prompt": prompt, "answer": "5"})
    assert problem in str(raised.value)


def test_conversations_that_end_alike_are_different_questions():
    """The split goes by all that is asked; the same conversation under another system message is the same question."""
    asked = [
        Question(
            "And twice that?", "1", None, ({"role": "system", "content": f"{s}"}, USER | {"content": f"{i}"}, USER)
        )
        for i in range(40)
        for s in range(2)
    ]
    sides = split_questions(asked, 0.3, source="test", seed=0)
    train, heldout = ({question.whole() for question in side} for side in sides)
    assert (len(train | heldout), train & heldout) == (40, set())


# --- folders ---


def folder_of(tmp_path, *names):
    for name in names:
        row = {"question": f"What is in {name}?", "answer": "1"}
        written(tmp_path / name, json.dumps(row) + "\n")
    return tmp_path


def inside(questions):
    return [question.question.removeprefix("What is in ").removesuffix("?") for question in questions]


@pytest.mark.parametrize(
    ("names", "train", "heldout"),
    [
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], ["train.jsonl"], ["validation.jsonl"]),
        (
            ["my-train-1.jsonl", "my-train-2.jsonl", "my_dev.jsonl"],
            ["my-train-1.jsonl", "my-train-2.jsonl"],
            ["my_dev.jsonl"],
        ),
        (["train/0.jsonl", "test/0.jsonl"], ["train/0.jsonl"], ["test/0.jsonl"]),
        (["questions.jsonl", "questions_test.jsonl"], ["questions.jsonl"], ["questions_test.jsonl"]),
        (["train.jsonl", "test.jsonl", "other.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"], []),
        (["train.jsonl", "more.jsonl"], ["more.jsonl", "train.jsonl"], []),
        (["test.jsonl"], ["test.jsonl"], []),
        (["latest.jsonl", "contest.jsonl"], ["contest.jsonl", "latest.jsonl"], []),
    ],
)
def test_files_named_for_splits_are_never_pooled(names, train, heldout, tmp_path):
    found = read(folder_of(tmp_path, *names))
    assert (sorted(inside(found[0])), inside(found[1])) == (train, heldout)


def test_what_is_trained_and_evaluated_on_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    read(folder_of(tmp_path, "train.jsonl", "test.jsonl", "val.jsonl"))
    assert "training on the split train, evaluating on validation; not read: test" in caplog.text


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(TaskError, match="has the splits test and validation, but none to train on"):
        read(folder_of(tmp_path, "test.jsonl", "validation.jsonl"))


def test_a_training_split_that_is_all_held_out():
    same = [Question("Why?", "1")]
    with pytest.raises(TaskError, match="every question of its training split is among the held-out ones"):
        train_and_heldout(same, same, 0.1, source="data", seed=0, num_questions=None)


def test_hidden_files_and_files_about_the_data_are_ignored(tmp_path):
    hidden = (".ipynb_checkpoints/a-checkpoint.jsonl", "deep/.git/x.jsonl", "__MACOSX/x.jsonl")
    folder = folder_of(tmp_path, "a.jsonl", "deep/b.jsonl", *hidden)
    written(folder / "._a.jsonl", b"\x00\x05\x16\x07")
    written(folder / "dataset_infos.json", '{"default": {"splits": {}}}')
    written(folder / "state.json", '{\n "format": null\n}')
    assert inside(read(folder)[0]) == ["a.jsonl", "deep/b.jsonl"]


def test_a_folder_below_a_hidden_one_is_data(tmp_path):
    """The hub's cache is ~/.cache/huggingface."""
    assert inside(read(folder_of(tmp_path / ".cache" / "data", "a.jsonl"))[0]) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training_Data.csv.gz", "train"),
        ("test-00000-of-00001.parquet", "test"),
        ("default", "unnamed"),
    ],
)
def test_the_split_that_a_name_says(name, split):
    assert split_of(name) == split

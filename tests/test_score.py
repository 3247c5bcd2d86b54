"""scripts/score.py tells what rewards give for completions of a file or a run, and what fails, without a device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tunix_grpo.config import score as score_settings
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.programs.score import score, score_golds
from tunix_grpo.tasks.base import ExactTask, Question

CONF = Path(__file__).resolve().parent.parent / "conf"
GOOD = "<reasoning>r</reasoning><answer>{}</answer>"
ROWS = [
    {"question": "What is 1 + 1?", "completion": GOOD.format(2), "answer": "2", "length": 9},
    {"question": "What is 1 + 1?", "completion": GOOD.format(3), "answer": "2", "length": 8},
    {"question": "What is 2 + 2?", "completion": "4", "answer": "4", "length": 2},
    {"question": "What is 2 + 2?", "completion": "many", "answer": "4", "length": 3},
]
OWN = """
import time

def own(completion, token_length, level=None):
    if completion == "many":
        time.sleep(0.3)
        raise ValueError("too many")
    return token_length, {"words": 1}

def pair(completions):
    return [len(completions)] * len(completions)
"""


@pytest.fixture
def answers(tmp_path, monkeypatch) -> Path:
    """A folder with completions and a reward of a user's; it is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def config_of(*words: str) -> score_settings.ScoreConfig:
    checked = checked_command_line(list(words), CONF, "score", score_settings.load)
    return score_settings.load(composed(checked, [CONF], "score"))


def scored(capfd, *words: str) -> dict:
    score(config_of(*words, "json=true"))
    return json.loads(capfd.readouterr().out)


MINE = ("reward.custom.path=own.py", "reward.custom.function=own")


def test_each_part_has_its_distribution_and_its_failures(answers, capfd):
    found = scored(capfd, "file=answers.jsonl", *MINE, "reward.custom.weight=0.1")
    assert found["parts"]["format"]["counts"] == {"0": 2, "1": 2}
    assert found["parts"]["correctness"]["counts"] == {"0": 2, "1": 2}
    own = found["parts"]["own"]
    assert (own["rows"], own["mean"], own["median"], own["errors"], own["timeouts"]) == (3, 19 / 3, 8, 1, 0)
    assert own["seconds"] >= 0.3
    (failure,) = found["failures"]
    assert failure["reason"].startswith("raised ValueError: too many (") and failure["rows"] == [3]
    assert [row["reward"] for row in found["rows"]] == [pytest.approx(2.4), pytest.approx(1.3), 1.2, None]
    assert found["rows"][0]["rewards"] == {"format": 1, "correctness": 1, "own": 9}
    assert found["rows"][0]["extras"] == {"own": {"words": 1}}
    assert found["slowest"][0]["reward"] == "own" and found["slowest"][0]["row"] in (2, 3)  # of one question
    (pair,) = [each for each in found["disagreements"] if (each["first"], each["second"]) == ("format", "correctness")]
    assert (pair["correlation"], pair["first_only"], pair["second_only"]) == (0.0, [1], [2])


def test_the_report_shows_it_all(answers, capfd):
    score(config_of("file=answers.jsonl", *MINE))
    out = capfd.readouterr().out
    for words in (
        "4 completions of ",
        "0: 2, 1: 2",
        "format high, correctness low",
        "answers.jsonl:2: '<reasoning>",
        "raised ValueError: too many",
        " ms ",
        "examples",
    ):
        assert words in out
    score(config_of("file=answers.jsonl", "examples=0"))
    assert "examples" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "called"), [((), 2), (("num_generations=4",), 4), (("num_generations=1",), 1)], ids=str
)
def test_completions_of_a_question_go_together(answers, capfd, words, called):
    mine = ("reward=[]", "reward.custom.path=own.py", "reward.custom.function=pair", "reward.custom.per=group")
    found = scored(capfd, "file=answers.jsonl", *mine, *words)
    assert [row["rewards"]["pair"] for row in found["rows"]] == [called] * 4


def test_a_run_is_scored_by_its_own_rewards(answers, capfd):
    records = [
        {"step": 1, "prompt": f"<user>{row['question']}", "completion": row["completion"], "answer": row["answer"]}
        | {"rewards": {"format": 0.0}, "reward": 0.0, "advantage": 0.0, "length": 5, "truncated": False}
        for row in ROWS
    ]
    (answers / "completions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = composed(["task=arithmetic", "reward=[format]", f"output_dir='{answers}'"], [CONF], "config")
    content = OmegaConf.to_container(settings, resolve=False)
    content["reward"]["format"] = {"weight": 0.25}  # as older versions wrote it
    del content["reward"]["workers"]
    (answers / "config.yaml").write_text(yaml.safe_dump(content))
    found = scored(capfd, "run=.")
    assert list(found["parts"]) == ["format"]
    assert [row["reward"] for row in found["rows"]] == [0.25, 0.25, 0, 0]
    assert list(scored(capfd, "run=.", "reward=[correctness]")["parts"]) == ["correctness"]
    with (answers / "completions.jsonl").open("a") as file:
        file.write(json.dumps(records[0]) + "\n" + json.dumps(records[1])[:20])  # a step that is being written
    assert scored(capfd, "run=.")["rows"] == found["rows"]


@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet", "conversations.jsonl"])
def test_any_kind_of_file_is_read(answers, capfd, name):
    import pyarrow
    import pyarrow.parquet

    if name.endswith("csv"):
        lines = [",".join(ROWS[0])] + [",".join(str(value) for value in row.values()) for row in ROWS]
        (answers / name).write_text("\n".join(lines) + "\n")
    elif name.endswith("parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), answers / name)
    else:
        turns = [row | {"completion": [{"role": "assistant", "content": row["completion"]}]} for row in ROWS]
        (answers / name).write_text("".join(json.dumps(row) + "\n" for row in turns))
    found = scored(capfd, f"file={name}")
    assert [row["reward"] for row in found["rows"]] == [1.5, 0.5, 1.0, 0.0]


def test_lengths_that_a_file_does_not_say_are_guessed_and_this_is_said(answers, capfd):
    (answers / "short.jsonl").write_text('{"completion": "12345678"}\n{"completion": "1"}\n')
    found = scored(capfd, "file=short.jsonl", "reward=[]", *MINE)
    assert [row["rewards"]["own"] for row in found["rows"]] == [2, 1]
    score(config_of("file=short.jsonl", "reward=[]", *MINE))
    assert "lengths of 2 rows are guessed, 4 letters a token" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "file=null and run=null: there is nothing to score; give file=answers.jsonl, or run=DIR"),
        (("file=answers.jsonl", "run=."), "there can be only one of them"),
        (("file=gone.jsonl",), "there is no file "),
        (("file=answers.jsonl", "completion_column=completionz"), "did you mean completion?"),
        (("file=answers.jsonl", "completion_column=length"), "length is no text; correct or remove the row"),
        (("file=answers.jsonl", "num_generations=3"), "has 4 completions, which is no multiple of it"),
        (("file=answers.jsonl", "reward=[]"), "reward=[]: no reward is selected"),
        (("file=answers.jsonl", "examples=-1"), "examples=-1: must be at least 0"),
        (("run=.",), "it holds no config.yaml; give the folder of a run"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(answers, words, said):
    with pytest.raises((UserError, ConfigError)) as raised:
        score(config_of(*words))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_gold_answers_are_scored_by_the_selected_rewards(answers, capfd):
    questions = [Question("q", "3"), Question("r", "seven"), Question("s", "")]
    score_golds(config_of("file=answers.jsonl", *MINE).reward, ExactTask("t", questions[:1], questions[1:]), 100)
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines[0] == ["rewards", "of", "2", "gold", "answers", "in", "the", "asked", "form"]
    assert [line[:5] for line in lines if line[:1] == ["correctness"]] == [["correctness", "1", "2", "0", "1"]]


def test_nothing_of_a_device_is_loaded(answers):
    program = (
        "import sys; from tunix_grpo.commands import score; sys.argv = ['score', 'file=answers.jsonl', 'json=true'];"
        "code = score(); print(code, [m for m in ('jax', 'torch', 'tunix') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "0 []\n")
    assert json.loads(done.stdout)["total"]["rows"] == 4
    assert sorted(file.name for file in answers.iterdir()) == ["answers.jsonl", "own.py"]  # it leaves nothing

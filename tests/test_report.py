"""What a report says of a run, and what a comparison says of several, before a browser shows it."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import re
import tarfile
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from scipy import stats

from helpers import golden
from helpers.run_folder import CONF, completion, write_run
from tunix_grpo.config.compare import load, with_runs
from tunix_grpo.config.defaults import default_config
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.statistics import paired_shares
from tunix_grpo.record.metrics import METRICS, meaning_of
from tunix_grpo.record.report.answers import greedy_answers
from tunix_grpo.record.report.comparing import find_runs, pairs_of, verdict_of
from tunix_grpo.record.report.completions import choose_steps, pack
from tunix_grpo.record.report.curves import MOST_POINTS, Points, chart, charts_of, charts_over
from tunix_grpo.record.report.differing import default_settings, differing, other_than_defaults
from tunix_grpo.record.report.intervals import share_of, wilson
from tunix_grpo.record.report.page import PROGRAMS, page
from tunix_grpo.record.report.reading import read_record
from tunix_grpo.record.report.writing import facts_of, head_of, write_report
from tunix_grpo.record.trackers import build_trackers
from tunix_grpo.run.places import HISTORY

ARCHIVES = sorted((golden.FOLDER / "old_runs").glob("*.tar.xz"))
TRAINED = [
    {"step": 0, "eval/accuracy": 0.25, "eval/reward": 0.5},
    {"step": 1, "reward": 0.6, "kl": 0.0, "completions/mean_length": 20.0},
    {"step": 2, "reward": 0.8, "kl": 0.01, "completions/mean_length": 18.0},
    {"step": 2, "eval/accuracy": 0.75, "eval/reward": 1.1},
]
HERE = {"total_steps": 2, "questions": {"eval/accuracy": 8}, "device": "a card", "versions": {"jax": "1.2.3"}}


def unpacked(content: str) -> object:
    return json.loads(gzip.decompress(base64.b64decode(content)))


# --- arithmetic ---


@pytest.mark.parametrize(("right", "total"), [(0, 8), (8, 8), (1, 1), (18, 64), (63, 64), (500, 1319)])
def test_intervals_of_shares_are_scipy_s(right, total):
    expected = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert share_of(right / total, total)[1:3] == (right, total)


def test_a_share_of_another_number_of_questions_has_no_interval():
    assert share_of(0.3, 8) == share_of(0.3, None) == (0.3, None, None, None, None)


# --- completions ---


def test_groups_are_the_completions_of_one_prompt(tmp_path):
    """One after another, of the step and of the size that the settings say; a prompt may come twice in a row."""
    lines = [completion(1, 7, place) for place in (0, 1, 0, 1)] + [completion(2, question, 0) for question in (7, 8)]
    folder = write_run(tmp_path, completions=lines)
    found = pack(folder / "completions.jsonl", 2, 100)
    columns = found.columns
    assert (columns.group_start, columns.group_step, columns.group_question) == (
        [0, 2, 4, 5],
        [1, 1, 2, 2],
        [0, 0, 0, 1],
    )
    assert columns.reward == [1.5, 0.5, 1.5, 0.5, 1.5, 1.5]
    assert unpacked(found.questions.closed()[0]) == [[lines[0]["prompt"], "8"], [lines[5]["prompt"], "9"]]
    assert unpacked(found.texts.closed()[0]) == [line["completion"] for line in lines]


def test_what_is_missing_or_broken_is_left_out(tmp_path):
    """A line that is still being written, one that a disk has damaged, numbers that are none, what old runs lack."""
    file = tmp_path / "completions.jsonl"
    whole = json.dumps(completion(1, 7, 0, completion="\ud800 \0 <script>")).encode()
    others = b'{"step": 1, "prompt": "p", "completion": "c", "reward": NaN, "rewards": {"mine": 1}, "length": 1e999}\n'
    file.write_bytes(whole + b"\n" + others + b'{"step": 2, "prompt": "p"}\n\xff\n' + whole)
    found = pack(file, 2, 100)
    assert (found.unreadable, found.total) == (2, 2)
    columns = found.columns.filled()
    assert columns["reward"] == [1.5, None] and columns["length"] == [8, None] and columns["truncated"] == [0, None]
    assert columns["rewards"] == {"format": [1.0, None], "correctness": [1.0, None], "mine": [None, 1]}
    assert unpacked(found.texts.closed()[0]) == ["\ud800 \0 <script>", "c"]


@pytest.mark.parametrize(
    ("sizes", "most", "taken"),
    [
        ([4] * 10, 40, None),
        ([4] * 10, 20, {1, 3, 5, 7, 10}),
        ([4] * 10, 8, {1, 10}),
        ([4] * 10, 3, {10}),
        ([4] * 10, 0, set()),
        ([1, 1, 90, 1, 1], 10, {1, 5}),
    ],
)
def test_of_too_many_completions_whole_steps_are_left_out(tmp_path, sizes, most, taken):
    lines = [completion(step, 1, place) for step, size in enumerate(sizes, 1) for place in range(size)]
    file = write_run(tmp_path, completions=lines) / "completions.jsonl"
    assert choose_steps(file, most) == (taken, sum(sizes))
    kept = {step for step in range(1, len(sizes) + 1) if taken is None or step in taken}
    assert set(pack(file, 4, most).columns.group_step) == kept


def test_texts_come_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("tunix_grpo.record.report.completions.CHUNK_LETTERS", 100)
    lines = [completion(step, step % 7, 0) for step in range(1, 60)]
    found = pack(write_run(tmp_path, completions=lines) / "completions.jsonl", 1, 1000)
    pieces = [unpacked(piece) for piece in found.texts.closed()]
    assert found.texts.starts == np.cumsum([0, *map(len, pieces)])[:-1].tolist() and len(pieces) > 5
    assert sum(pieces, []) == [line["completion"] for line in lines]


# --- what was run ---


def test_only_settings_that_differ_are_shown(tmp_path):
    run = read_record(write_run(tmp_path, "optimizer.learning_rate=0.5", "+notes.api_key=secret"))
    rows = {key: (here, default) for key, here, default in other_than_defaults(run.settings, default_settings())}
    assert rows["optimizer.learning_rate"] == ("0.5", "0.0001") and rows["task.max_operand"] == ("100", "")
    assert rows["notes.api_key"] == ("***", "")
    assert not {"optimizer.beta1", "output_dir", "training.checkpoint_dir"} & set(rows)


def test_the_defaults_are_read_while_hydra_runs_a_program():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        HydraConfig.instance().set_config(hydra.compose("config", ["seed=7"], return_hydra_config=True))
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
        assert default_config().seed == 42
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg) == before


def test_a_report_has_what_the_run_s_folder_has(tmp_path):
    note = {"step": 1, "where": "first look", "level": "warning", "name": "truncated", "sentence": "4 of 8 were cut"}
    folder = write_run(tmp_path, metrics=TRAINED, notes=[note], environment=HERE)
    run = read_record(folder)
    head = head_of(run, pack(folder / "completions.jsonl", 4, 100))
    assert head["state"] == "finished, step 2 of 2" and head["notes"] == [note]
    assert ("device", "a card") in head["facts"] and ("versions", "jax 1.2.3") in head["facts"]
    (accuracy,) = head["evaluated"]
    assert (accuracy["before"]["right"], accuracy["after"]["right"], accuracy["after"]["total"]) == (2, 6, 8)
    assert (accuracy["after"]["low"], accuracy["after"]["high"]) == wilson(6, 8)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda file: file.name)
def test_a_run_of_an_earlier_version_has_a_report(archive, tmp_path):
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    written = write_report(tmp_path / "run", tmp_path / "report.html", most=1000)
    assert written.shown == written.total == sum(1 for _ in (tmp_path / "run" / "completions.jsonl").open()) > 0
    run = read_record(tmp_path / "run")
    assert facts_of(run)[-2] == ("versions", "not written: an earlier version of tunix-grpo made this run")
    assert [share.low for _, share in run.shares("eval/accuracy")] == [None] * 3
    assert len(charts_of(run)) > 10


def test_what_earlier_starts_have_logged_belongs_to_the_run(tmp_path):
    """It stands beside the checkpoints; what another run has logged there does not."""
    folder = write_run(tmp_path, metrics=TRAINED[2:])
    history = folder / "checkpoints" / HISTORY
    history.parent.mkdir()
    history.write_text("".join(json.dumps(line) + "\n" for line in TRAINED))
    assert read_record(folder).values("reward")[0].tolist() == [1, 2]
    history.write_text(json.dumps({"step": 1, "reward": 0.5}) + "\n")
    assert read_record(folder).values("reward")[0].tolist() == [2]


# --- curves ---


def test_a_chart_has_the_logged_numbers(tmp_path):
    run = read_record(write_run(tmp_path, metrics=TRAINED, environment=HERE))
    reward, accuracy, kl, length = charts_of(run)
    assert reward["steps"] == [0, 1, 2]
    assert [(line["label"], line["values"]) for line in reward["series"]] == [
        ("training, sampled", [None, 0.6, 0.8]),
        ("held-out, greedy", [0.5, None, 1.1]),
    ]
    assert [line["look"] for line in accuracy["series"]] == ["dots", "low", "high"] and accuracy["percent"]
    assert accuracy["series"][2]["values"] == [wilson(2, 8)[1], wilson(6, 8)[1]]
    assert kl["about"] == METRICS["kl"] and length["steps"] == [1, 2]


def test_a_long_run_is_thinned_to_means_of_neighbours(tmp_path):
    values = np.arange(10.0 * MOST_POINTS)
    lines = [{"step": step + 1, "loss": float(value)} for step, value in enumerate(values)]
    run = read_record(write_run(tmp_path, metrics=lines))
    steps, logged = run.values("loss")
    drawn = chart("loss", "loss", [Points("loss", steps, logged)])
    assert drawn["logged"] == len(values) and len(drawn["steps"]) == MOST_POINTS
    assert drawn["series"][0]["values"][:2] == [4.5, 14.5] and drawn["steps"][:2] == [6, 16]


def test_every_metric_has_a_meaning():
    assert meaning_of("rewards/mine/mean") == METRICS["rewards/<name>/mean"] and meaning_of("unheard") == ""


# --- the page ---


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_page_holds_nothing_that_is_not_packed(kind):
    hostile = "</script><script>alert(1)</script>"
    text = page(kind, {"title": hostile}, {"texts": ["AAAA"]})
    assert (
        hostile not in text and "http-equiv" in text and "<script type='text/plain' id='texts-0'>AAAA</script>" in text
    )
    # The library names its home in a comment; nothing else is an address.
    assert [word for word in text.split() if "://" in word] == ["https://github.com/leeoniya/uPlot"]


# --- at the end of a run ---


def test_a_run_ends_with_its_report(compose, tmp_path, caplog):
    """Whatever keeps it from being written is a warning."""
    config = compose("model=tiny", "tracker.wandb=false", "tracker.tensorboard=false")
    write_run(tmp_path, completions=[completion(1, 1, place) for place in range(4)])
    with build_trackers(config, resume_step=0) as record:
        record.log_metrics(1, {"reward": 1.0})
    file = tmp_path / "report.html"
    assert file.stat().st_size > 50_000 and caplog.messages == []
    file.unlink()
    file.mkdir()
    with build_trackers(config, resume_step=1) as record:
        record.log_metrics(2, {"reward": 1.0})
    (said,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert said.getMessage().startswith(f"{file} could not be written (") and "complete without it" in said.getMessage()
    config.tracker.report = False
    file.rmdir()
    with build_trackers(config, resume_step=2):
        pass
    assert not file.exists()


# --- several runs ---


def write_evaluation(run: Path, folder: str, step: int | None, right: str) -> None:
    """Writes what an evaluation leaves of a step: 1 for a right greedy answer; and what does not count."""
    result = {"model": "m", "step": step, "task": "sums", "greedy": [digit == "1" for digit in right]}
    result["questions"] = [f"q{place}" for place in range(len(right))]
    content = {"results": [{"task": "sums"}, result, 7], "baselines": [result | {"greedy": [False] * len(right)}]}
    (run / "evaluations" / folder).mkdir(parents=True)
    (run / "evaluations" / folder / "evaluation.json").write_text(json.dumps(content))


def test_runs_are_paired_on_the_questions_that_they_share(tmp_path):
    first, second, third = (write_run(tmp_path / name) for name in "abc")
    write_evaluation(first, "step-2", 2, "0000000000")
    write_evaluation(first, "step-10", 10, "0000011111")  # the latest step counts, 10 and not 2
    write_evaluation(first, "z", None, "0000000000")  # of no step of this run
    write_evaluation(second, "step-10", 10, "11111111")
    found = find_runs([first, second, third], 10)
    assert greedy_answers(first)["sums"]["q9"] is True and greedy_answers(third) == {}
    (pair,) = pairs_of(found.runs)
    assert (pair.task, pair.questions, pair.right, pair.other_right) == ("sums", 8, 8, 3)
    assert [pair.run[-1], pair.other[-1]] == ["b", "a"]
    assert pair.difference == paired_shares([True] * 8, [False] * 5 + [True] * 3)
    shown = verdict_of(pair.difference)
    assert re.fullmatch(r"no difference shown; one of this size would take about \d+ questions", shown)


def test_a_sweep_is_its_runs_from_the_best_on(tmp_path):
    jobs = [write_run(tmp_path / "sweep" / str(number), f"seed={number}") for number in range(3)]
    rows = "rank,eval/accuracy,seed,exit_code,folder\n1,0.9,2,0,2\n2,0.5,0,0,0\n3,,5,1,gone\n4,0.1,1,0,1\n"
    (tmp_path / "sweep" / "leaderboard.csv").write_text(rows)
    found = find_runs([tmp_path / "sweep"], 2)
    assert [run.folder for _, run in found.runs] == [jobs[2], jobs[0]] and found.left_out == 1
    assert [label for label, _ in found.runs] == ["sweep/2", "sweep/0"]
    assert differing([run.settings for _, run in found.runs]) == [("training.seed", ["2", "0"])]
    (tmp_path / "sweep" / "leaderboard.csv").write_text("rank\n1\n")
    with pytest.raises(UserError, match="no column folder"):
        find_runs([tmp_path / "sweep"], 2)


def test_one_run_is_not_compared(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(UserError, match="give a second one"):
        find_runs([run, run], 2)
    with pytest.raises(UserError, match="runs=.*no such folder"):
        find_runs([run, tmp_path / "gone"], 2)


def test_a_run_that_is_no_folder_of_this_machine_is_named():
    with pytest.raises(UserError, match="runs=gs://b/run: is no folder"):
        load(OmegaConf.create({"runs": ["run", "gs://b/run"], "most": 10, "output": "compare.html"}))


def test_curves_lie_over_one_another(tmp_path):
    runs = [write_run(tmp_path / name, metrics=TRAINED[: 4 - place]) for place, name in enumerate("ab")]
    reward, accuracy, *_ = charts_over(find_runs(runs, 2).runs)
    assert [line["values"] for line in reward["series"]] == [[0.6, 0.8], [0.6, 0.8]]
    assert [line["values"] for line in accuracy["series"]] == [[0.25, 0.75], [0.25, None]]
    assert [line["color"] for line in accuracy["series"]] == [0, 1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a/b", "c d", "most=3"], ["most=3", "runs=['a/b','c d']"]),
        (["--cfg", "job", "x"], ["--cfg", "job", "runs=['x']"]),
        (["most=3", "--help"], ["most=3", "--help"]),
        (["it's"], [r"runs=['it\'s']"]),
    ],
)
def test_folders_stand_on_the_command_line_without_a_name(words, expected):
    assert with_runs(words) == expected

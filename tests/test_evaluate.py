"""scripts/evaluate.py: numbers, verdicts, going on after a kill, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunix_grpo.cli import exit_code
from tunix_grpo.config import generate
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.evaluate import EvaluateConfig, load
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.files import read_json, read_json_lines
from tunix_grpo.programs.evaluate import evaluate
from tunix_grpo.programs.evaluation.results import votes_of
from tunix_grpo.train import train

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
QUESTIONS = 48
FEW = ("evaluation.num_questions=6", "evaluation.num_samples=2", "evaluation.batch_size=4")


def configured(*words: str) -> EvaluateConfig:
    words = checked_command_line(["device=cpu", *words], CONF, "evaluate", load)
    return load(composed(words, [CONF], "evaluate"))


@pytest.fixture
def found(jax_cache, tmp_path, monkeypatch) -> Callable[..., dict]:
    """Runs the program in this process, in a folder of the test's own; returns evaluation.json."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, to: str | Path = "to") -> dict:
        evaluate(configured(f"jax_cache='{jax_cache}'", f"to={to}", *words))
        return read_json(Path(to) / "evaluation.json")

    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory, jax_cache) -> Path:
    """The folder of a run of the bundled model that has learned a little."""
    from tunix_grpo.config import load as load_training

    folder = tmp_path_factory.mktemp("run")
    words = [
        *("model=tiny", "device=cpu", "tracker.wandb=false", "tracker.tensorboard=false"),
        *(
            "training.num_batches=8",
            "training.save_interval_steps=4",
            "training.micro_batch_size=8",
            "optimizer.learning_rate=3e-4",
        ),
        *(f"output_dir={folder}", f"checkpoint_dir={folder}/checkpoints", f"jax_cache={jax_cache}"),
        f"evaluation.num_questions={QUESTIONS}",
    ]
    words = checked_command_line(words, CONF, "config", load_training)
    train(load_training(composed(words, [CONF], "config")))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, jax_cache) -> Path:
    """The folder of a small evaluation of the bundled model."""
    folder = tmp_path_factory.mktemp("evaluation") / "small"
    evaluate(configured("model=tiny", *FEW, f"to={folder}", f"jax_cache='{jax_cache}'"))
    return folder


@pytest.fixture
def small(made, found) -> Path:
    """A copy of it, which a test may change."""
    return shutil.copytree(made, Path("small"))


def metric(entry: dict, kind: str, name: str) -> float:
    return entry["metrics"][kind][name]["value"]


# --- what it says ---


def test_a_trained_model_is_better_than_its_base_and_as_the_run_itself_measured(run, found):
    words = (f"run={run}", f"evaluation.num_questions={QUESTIONS}", "evaluation.num_samples=4")
    content = found(*words, "baseline=base")
    (result,), (base,) = content["results"], content["baselines"]
    logged = {
        row["step"]: row["eval/accuracy"] for row in read_json_lines(run / "metrics.jsonl") if "eval/accuracy" in row
    }
    assert (metric(base, "greedy", "accuracy"), metric(result, "greedy", "accuracy")) == (logged[0], logged[8])
    comparison = result["comparison"]
    assert (comparison["verdict"], comparison["baseline"]) == ("better", "base")
    assert comparison["differences"]["greedy"]["p_value"] < 0.01
    assert comparison["sentence"].startswith("better: greedy accuracy ") and "power 80 %" in comparison["sentence"]
    # The file's own answers say the same.
    lines = read_json_lines(Path("to/answers/step-8.arithmetic.jsonl"))
    assert len(lines) == QUESTIONS * 5
    greedy = [line for line in lines if line["sample"] is None]
    assert np.mean([line["right"] for line in greedy]) == metric(result, "greedy", "accuracy")
    assert np.mean([line["length"] for line in greedy]) == pytest.approx(metric(result, "greedy", "length"))
    sampled = [line for line in lines if line["sample"] is not None]
    assert np.mean([line["right"] for line in sampled]) == pytest.approx(metric(result, "sampled", "mean@4"))
    form = np.mean([line["rewards"]["format"] for line in sampled])
    assert form == pytest.approx(metric(result, "sampled", "rewards/format"))
    (question, *_), count = read_json_lines(Path("to/questions.jsonl")), QUESTIONS
    assert question.keys() > {"question_id", "question", "gold", "answer", "right", "samples_right"}
    assert len(read_json_lines(Path("to/questions.jsonl"))) == 2 * count  # of both models
    assert Path("to/evaluation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_every_step_is_compared_with_an_earlier_evaluation(run, found, capsys):
    words = (f"evaluation.num_questions={QUESTIONS}", "evaluation.num_samples=0")
    found("model=tiny", *words, to="earlier")
    content = found(f"run={run}", "step=all", "baseline=earlier", *words)
    assert [(each["model"], each["step"]) for each in content["results"]] == [("step-4", 4), ("step-8", 8)]
    assert {each["comparison"]["baseline"] for each in content["results"]} == {"tiny"}
    assert "sampled" not in content["results"][0]["metrics"]
    shown = capsys.readouterr().out
    assert "step-4" in shown and "step-8 on arithmetic: better: " in shown


@pytest.mark.long
def test_a_model_is_no_better_than_itself(found, caplog):
    content = found("model=tiny", "baseline=tiny", "fail_if_worse=true", *FEW)
    comparison = content["results"][0]["comparison"]
    assert comparison["verdict"] == "no difference shown"
    for difference in comparison["differences"].values():
        assert (difference["value"], difference["p_value"], difference["needed"]) == (0, 1, None)
    assert "takes about" not in comparison["sentence"]


@pytest.mark.long
def test_strict_and_lenient_accuracy_are_apart(found, tmp_path):
    """Asked for tags that the model never writes, no answer is in form."""
    result = found("model=tiny", *FEW, "reward=[format]", "reward.format.reasoning=think")["results"][0]
    assert metric(result, "greedy", "strict_accuracy") == 0 < metric(result, "sampled", "mean@2")
    result = found("model=tiny", *FEW, "reward=[correctness]", to="other")["results"][0]
    assert "strict_accuracy" not in result["metrics"]["greedy"] and result["greedy_strict"] is None


def test_several_tasks_have_results_of_their_own(found):
    words = ("+task@evaluation.tasks.digits=arithmetic", "evaluation.tasks.digits.max_operand=10")
    content = found("model=tiny", *words, *FEW, "baseline=tiny")
    assert [each["task"] for each in content["results"]] == ["arithmetic", "digits"]
    questions = [set(each["questions"]) for each in content["results"]]
    assert not questions[0] & questions[1]
    assert [each["comparison"]["questions"] for each in content["results"]] == [6, 6]


@pytest.mark.parametrize(
    ("answers", "votes"),
    [
        (["1/2", "0.5", None, "7", "50%"], [0, 0, None, 3, 0]),
        (["a", "b", "A", None], [0, 1, 0, None]),
        ([None, None], [None, None]),
    ],
)
def test_answers_that_mean_the_same_are_one_vote(answers, votes):
    assert votes_of(answers) == votes


# --- going on ---


@pytest.mark.long
def test_a_killed_evaluation_goes_on_as_if_nothing_had_happened(found, jax_cache, tmp_path):
    words = ["model=tiny", "evaluation.num_questions=40", "evaluation.num_samples=2", "evaluation.batch_size=4"]
    unbroken = found(*words, to="unbroken")
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "device=cpu", "to=broken", *words]
    answers = tmp_path / "broken" / "answers" / "tiny.arithmetic.jsonl"
    process = subprocess.Popen([*command, f"jax_cache={jax_cache}"], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while not (answers.exists() and answers.read_bytes().count(b"\n") >= 8):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    before = answers.read_bytes()
    assert 8 <= before.count(b"\n") < 120, "it ended before it could be killed"
    whole = before[: before.rfind(b"\n") + 1]
    answers.write_bytes(whole + whole[:50])  # as a write that was cut leaves it
    assert found(*words, to="broken") == unbroken
    assert answers.read_bytes().startswith(whole)
    for name in ("evaluation.json", "questions.jsonl"):
        assert Path("broken", name).read_bytes() == Path("unbroken", name).read_bytes()
    lines = [
        sorted(Path(to, "answers/tiny.arithmetic.jsonl").read_bytes().splitlines()) for to in ("broken", "unbroken")
    ]
    assert lines[0] == lines[1]


@pytest.mark.long
def test_more_questions_and_samples_keep_what_there_is(small, found):
    file = small / "answers" / "tiny.arithmetic.jsonl"
    before = file.read_bytes()
    more = ("evaluation.num_questions=8", "evaluation.num_samples=3", "evaluation.batch_size=5")
    content = found("model=tiny", *more, to=small)
    assert file.read_bytes().startswith(before)
    assert len(file.read_bytes().splitlines()) == 8 * 4
    assert found("model=tiny", *more, to="at once") == content


def test_another_command_is_refused_unless_it_may_overwrite(small, found):
    with pytest.raises(UserError, match="holds the answers of another evaluation .*generation.temperature: 1.0 -> 0.5"):
        found("model=tiny", *FEW, "generation.temperature=0.5", to=small)
    with pytest.raises(UserError, match="seed: 42 -> 1.*to=DIR, or overwrite=true"):
        found("model=tiny", *FEW, "seed=1", to=small)
    content = found("model=tiny", *FEW, "seed=1", "overwrite=true", to=small)
    assert content["results"][0]["settings"]["seed"] == 1


def test_two_evaluations_do_not_share_a_folder(small, found):
    import fcntl

    with (small / ".lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another evaluation is writing there"):
            found("model=tiny", *FEW, to=small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line | {"length": "long"}, "tiny.arithmetic.jsonl:2: length is not what it was"),
        (lambda line: line | {"prompt": "0" * 16}, "was given another prompt .* task.date="),
        (lambda line: {}, "tiny.arithmetic.jsonl:2: question is not what it was"),
    ],
)
def test_answers_that_were_changed_are_refused(small, found, change, message):
    file = small / "answers" / "tiny.arithmetic.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = json.dumps(change(json.loads(lines[1])))
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message):
        found("model=tiny", *FEW, to=small)


# --- exit codes ---


@pytest.mark.parametrize(
    ("word", "code", "said"),
    [
        ("fail_below=1", 3, "fail_below=1: the greedy accuracy of tiny on arithmetic is 0."),
        ("fail_below=0", 0, ""),
    ],
)
def test_an_accuracy_below_the_bound_is_an_exit_code(small, jax_cache, word, code, said):
    config = configured("model=tiny", *FEW, "to=small", f"jax_cache='{jax_cache}'", word)
    reports: list[str] = []
    assert exit_code(lambda: evaluate(config), report=reports.append) == code
    assert "".join(reports).startswith(said)
    assert (small / "evaluation.json").exists()


@pytest.mark.long
def test_a_model_that_is_worse_is_an_exit_code(run, found, jax_cache):
    words = (f"evaluation.num_questions={QUESTIONS}", "evaluation.num_samples=0")
    found(f"run={run}", *words, to="trained")
    config = configured("model=tiny", *words, "to=base", "baseline=trained/evaluation.json", "fail_if_worse=true")
    config.jax_cache = jax_cache
    reports: list[str] = []
    assert exit_code(lambda: evaluate(config), report=reports.append) == 3
    assert reports[0].startswith("fail_if_worse=true: tiny on arithmetic: worse: greedy accuracy 0.")


# --- what it refuses ---


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["baseline=base"],
            "baseline=base and run=null: base is what a run began with; give run=DIR, or baseline=MODEL",
        ),
        (["step=all"], "step=all and run=null: steps belong to a run; give its folder as run=DIR"),
        (["step=first"], "step=first: must be one of latest, best, all or a number"),
        (["baseline_step=3"], "baseline=null and baseline_step=3: steps belong to a baseline; give baseline=RUN"),
        (["fail_if_worse=true"], "there is nothing to be worse than"),
        (["fail_below=2"], "fail_below=2"),
        (["evaluation.accuracy=sampled", "evaluation.num_samples=0"], "there are no samples; give"),
        (["+task@evaluation.tasks.more=arithmetik"], "there is no task arithmetik; did you mean arithmetic?"),
        (
            ["task@evaluation.tasks.more=arithmetic"],
            "a task of evaluation.tasks is added with a plus: +task@evaluation.tasks.more",
        ),
        (["+task@more=arithmetic"], "an option stands for another group only as +task@evaluation.tasks.NAME=OPTION"),
        (["+model@evaluation.tasks.more=tiny"], "an option stands for another group only as"),
        (
            ["+task@evaluation.tasks.arithmetic=arithmetic"],
            "it is the name of the main task already; give another NAME",
        ),
        (["evaluation.tasks.more.max_operand=9"], "evaluation.tasks.more.name: has no value"),
        (
            ["+task@evaluation.tasks.more=arithmetic", "evaluation.tasks.more.max_operands=9"],
            "evaluation.tasks.more.max_operands: unknown setting",
        ),
        (["+task@evaluation.tasks.more=jsonl"], "evaluation.tasks.more.path"),
        (["evaluation.tasks.more=arithmetic"], "evaluation.tasks.more: is no task"),
    ],
)
def test_wrong_settings_are_named_with_the_way_out(words, sentence):
    with pytest.raises(ConfigError) as error:
        configured("model=tiny", *words)
    assert sentence in str(error.value)


def test_other_programs_take_no_option_at_another_place():
    with pytest.raises(ConfigError, match="an option has no place but its group's; leave out @here"):
        checked_command_line(["+task@here=arithmetic"], CONF, "generate", generate.load)


def test_a_run_brings_its_settings_and_the_command_line_wins(run):
    config = configured(f"run={run}", "generation.temperature=0.5", "task.max_unmatched=0.25")
    assert (config.model.name, config.generation.max_generation_steps) == ("tiny", 16)
    assert (config.task.name, config.task.system_prompt, config.task.max_unmatched) == ("arithmetic", None, 0.25)
    assert config.generation.temperature == 0.5
    other = configured(f"run={run}", "task=jsonl", "task.path=questions.jsonl", "reward=[correctness]")
    assert (other.task.name, other.task.system_prompt) == ("jsonl", None)  # asked as the model was trained
    assert other.reward.format is None  # pyright: ignore[reportAttributeAccessIssue]
    own = configured(f"run={run}", "task=jsonl", "task.path=questions.jsonl", "task.system_prompt='Be brief.'")
    assert own.task.system_prompt == "Be brief."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["step=7"], "step=7 was not saved; .* holds steps 4, 8"),
        (
            ["baseline=gemma3_1"],
            "baseline=gemma3_1: there is no such file, run, directory or model; did you mean gemma3_1b",
        ),
        (["baseline=empty"], "baseline=empty: it holds neither evaluation.json nor"),
        (["baseline=note.json"], "baseline=note.json: .*no evaluation.json of this program; give another one"),
        (["baseline=torn.json"], "baseline=torn.json: .*not valid JSON"),
    ],
)
def test_what_is_not_there_is_one_sentence(run, found, words, message):
    Path("empty").mkdir()
    Path("note.json").write_text('{"a": 1}')
    Path("torn.json").write_text('{"format": 1, "resu')
    with pytest.raises(UserError, match=message):
        found(f"run={run}", *FEW, *words)
    assert not Path("to").exists()


def test_best_is_one_of_the_evaluated_steps(run, found):
    shutil.copytree(run, "bare")
    shutil.rmtree("bare/checkpoints/actor/8")  # step 4 was saved and not evaluated
    with pytest.raises(UserError, match="step=best: no saved step was evaluated"):
        found("run=bare", "checkpoint_dir=bare/checkpoints", "step=best", *FEW)


def edited(content: dict, change: Callable[[dict], object]) -> dict:
    change(content["results"][0])
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: result["greedy"].pop(), "is damaged .it has not one value for each of 6 questions"),
        (lambda result: result["right"].__setitem__(0, 9), "is damaged .it counts right answers that are not 0 to 2"),
        (lambda result: result.update(greedy="all"), "is damaged .results.0.greedy: "),
        (lambda result: result.pop("questions"), "is damaged .results.0.questions: Field required"),
        (lambda result: result.update(task="sums"), "it is an evaluation on sums, not on arithmetic"),
        (lambda result: result.update(questions=[f"{n}" for n in range(6)]), "was asked other questions of the task"),
        (lambda result: result.update(samples=0, right=[], right_strict=None), "needs samples of both models"),
    ],
)
def test_an_evaluation_that_is_no_baseline_is_refused(small, found, change, message):
    content = edited(read_json(small / "evaluation.json"), change)
    Path("changed.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        found("model=tiny", *FEW, "baseline=changed.json", "evaluation.accuracy=sampled", to=small)


def test_a_baseline_on_some_of_the_questions_is_compared_on_those(small, found, caplog):
    more = ("evaluation.num_questions=8", "evaluation.num_samples=2", "evaluation.batch_size=4")
    comparison = found("model=tiny", *more, "baseline=small")["results"][0]["comparison"]
    assert comparison["questions"] == 6
    assert "baseline=small was asked 6 of our 8 questions of arithmetic; the comparison is on those" in caplog.text

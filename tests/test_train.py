"""Whole runs of the bundled model, in this process where that is enough, as real processes where it is not."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_grpo.config.checkpoints import CheckpointsConfig
from tunix_grpo.errors import NotContinued, UserError
from tunix_grpo.programs.checkpoints import checkpoints as look_after
from tunix_grpo.record.curve import draw_learning_curve, write_learning_curve
from tunix_grpo.record.metrics import is_metric
from tunix_grpo.record.report.reading import read_record
from tunix_grpo.record.summary import Summary
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.saved_runs import choose_step, open_run
from tunix_grpo.train import train

ROOT = Path(__file__).resolve().parent.parent
SMALL = (
    "model=tiny",
    "task=arithmetic",
    "task.num_questions=300",
    "device=cpu",
    "training.num_batches=4",
    "training.micro_batch_size=2",
    "training.save_interval_steps=2",
    "training.eval_interval_steps=2",
    "training.log_interval_steps=1",
    "grpo.num_generations=4",
    "grpo.beta=0.02",
    "evaluation.num_questions=8",
    "evaluation.batch_size=8",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
    "tracker.report=false",
)
COPIES = ("tracker.tensorboard=true", "tracker.report=true")


# A program leaves torch to code of the user's own; this code wants none, and it takes three seconds to load.
WITHOUT_TORCH = """
import sys
if sys.argv[0].endswith("run_training.py"):
    sys.modules["torch"] = None
"""


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory, two_layer_model) -> tuple[str, ...]:
    """Settings for two layers with random weights, and for a reward that they can follow."""
    own = tmp_path_factory.mktemp("digits") / "rewards.py"
    own.write_text(
        f"{WITHOUT_TORCH}\n"
        "def digits(completions, **columns):\n"
        "    return [sum(c.isdigit() for c in text) / (1 + len(text)) for text in completions]\n"
        "def coarse(completions, **columns):\n"
        "    return [float(len(text) % 5 == 0) for text in completions]\n"
    )
    return (
        *two_layer_model,
        f"reward.custom.path={own}",
        "reward.custom.function=digits",
        "optimizer.learning_rate=1e-3",
    )


@pytest.fixture
def run(compose, tmp_path, two_layers) -> Callable[..., Summary]:
    """Trains into tmp_path / name, the checkpoints in `checkpoints` inside of it, or in that of another run."""

    def run_into(name: str, *overrides: str, checkpoints_of: str | None = None) -> Summary:
        config = compose(*SMALL, *two_layers, *overrides)
        config.output_dir = str(tmp_path / name)
        config.checkpoint_dir = str(tmp_path / (checkpoints_of or name) / "checkpoints")
        Path(config.output_dir).mkdir(exist_ok=True)
        return train(config)

    return run_into


@dataclasses.dataclass
class Finished:
    """A finished run of SMALL that several tests copy; the first of them makes it."""

    folder: Path
    summary: Summary | None = None


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run_finished(run, finished, tmp_path) -> Callable[[str], Summary]:
    """Gives tmp_path / name and the summary that `run(name, *COPIES)` would leave."""

    def put(name: str) -> Summary:
        if finished.summary is None:
            finished.summary = run("first", *COPIES)
            shutil.copytree(tmp_path / "first", finished.folder)
        shutil.copytree(finished.folder, tmp_path / name)
        return finished.summary

    return put


def lines(folder: Path, name: str) -> list[dict]:
    """Reads a JSONL file; what a clock or the machine decides is left out."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    timed = ("timing/", "perf/", "step_time")
    return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def record(folder: Path) -> tuple[list[dict], list[dict]]:
    return lines(folder, "metrics.jsonl"), lines(folder, "completions.jsonl")


def saved_bytes(folder: Path, step: int) -> dict[str, bytes]:
    """Returns every saved array of a step, by name."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        arrays = {}
        for item in ("params", "optimizer"):
            tree = checkpointer.restore(folder / "checkpoints" / "actor" / str(step) / item)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return arrays


def test_the_bundled_model_learns(compose):
    """The promise of `make demo`, in a twelfth of its steps."""
    config = compose(
        "+experiment=demo",
        "training.num_batches=8",
        "evaluation.num_questions=100",
        "tracker.tensorboard=false",
    )
    summary = train(config)
    assert summary.accuracy_before < 0.5
    assert summary.accuracy_after >= 0.9
    assert (Path(config.output_dir) / "learning_curve.png").stat().st_size > 10_000


@pytest.mark.long
def test_one_seed_gives_one_run(run, run_finished, tmp_path):
    run_finished("a")
    run("b")
    run("c", "seed=7", "training.num_batches=1")
    assert record(tmp_path / "a") == record(tmp_path / "b")
    other = record(tmp_path / "c")[1]
    assert record(tmp_path / "a")[1][: len(other)] != other


@pytest.mark.parametrize(
    "updates",
    [
        [
            "grpo.num_iterations=2",
            "grpo.num_minibatches=2",
            "grpo.replace_equal_groups=true",
            "grpo.max_extra_rounds=2",
            "training.gradient_accumulation_steps=2",
            "reward.custom.function=coarse",
        ],
        *(
            pytest.param(
                [f"grpo.num_iterations={passes}", f"training.gradient_accumulation_steps={parts}"],
                marks=pytest.mark.slow,
            )
            for passes, parts in ((1, 1), (1, 2), (2, 1), (2, 2))
        ),
    ],
)
def test_resume_is_exact(run, tmp_path, updates):
    """Two steps, the later checkpoint removed, started again: as if never stopped, bit for bit."""
    overrides = (*updates, "training.micro_batch_size=1")
    run("whole", *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "actor" / "4")
    summary = run("stopped", *overrides)
    assert summary.steps == 4
    assert record(tmp_path / "stopped") == record(tmp_path / "whole")
    assert record(tmp_path / "whole")[0][-2]["grad_norm"] > 0.0
    assert saved_bytes(tmp_path / "stopped", 4) == saved_bytes(tmp_path / "whole", 4)
    if "grpo.replace_equal_groups=true" in updates:
        assert any(row.get("groups/replaced") for row in record(tmp_path / "whole")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf" / "algorithm").glob("*.yaml")))
def test_every_algorithm_learns_and_resumes(compose, tmp_path, name):
    """Thirty steps of the bundled model: the last five have a mean reward 0.1 above the first five's."""

    def trained(folder: str, steps: int) -> list[dict]:
        words = (
            f"algorithm={name}",
            "model=tiny",
            "task=arithmetic",
            "device=cpu",
            f"training.num_batches={steps}",
        )
        logged = ("tracker.wandb=false", "training.log_interval_steps=1", "training.save_interval_steps=10")
        config = compose(*words, *logged, f"checkpoint_dir={tmp_path / folder}")
        config.output_dir = str(tmp_path / folder / "run")
        train(config)
        return [row for row in record(tmp_path / folder / "run")[0] if "reward" in row]

    rows = trained("whole", 30)
    rewards = [row["reward"] for row in rows]
    assert np.mean(rewards[-5:]) >= np.mean(rewards[:5]) + 0.1
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for step in (tmp_path / "stopped" / "actor").iterdir():
        if int(step.name) > 20:
            shutil.rmtree(step)
    assert trained("stopped", 30) == rows


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        ("data.order=band", "reward=[format]"),  # the task itself is asked which are right
        ("data.order=hard_first", "reward=[correctness]", "grpo.replace_equal_groups=true", "grpo.max_extra_rounds=2"),
    ],
    ids=["band", "hard_first, replacing"],
)
def test_resume_is_exact_where_the_order_follows_the_ledger(run, tmp_path, overrides):
    overrides = (*overrides, "task.num_questions=12", "task.heldout_fraction=0.4", "reward.custom.weight=0")
    run("whole", *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "actor" / "4")
    run("stopped", *overrides)
    assert record(tmp_path / "stopped") == record(tmp_path / "whole")
    known, again = (lines(tmp_path / name, "ledger.jsonl") for name in ("whole", "stopped"))
    assert known == again
    completions = record(tmp_path / "whole")[1]
    replaced = 2 * len(completions) if "grpo.replace_equal_groups=true" in overrides else 0
    assert sum(line["tries"] for line in known) == len(completions) + replaced
    assert max(line["tries"] for line in known) > 4


@pytest.mark.long
def test_the_record_is_complete(run_finished, tmp_path):
    summary = run_finished("run")
    folder = tmp_path / "run"
    metrics, completions = record(folder)
    assert all(is_metric(name) for row in metrics for name in row if name != "step")
    trained = [row for row in metrics if "reward" in row]
    evaluated = [row for row in metrics if "eval/accuracy" in row]
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    assert [row["step"] for row in evaluated] == [0, 2, 4]
    assert evaluated[0]["eval/accuracy"] == summary.accuracy_before
    assert evaluated[-1]["eval/accuracy"] == summary.accuracy_after
    assert len(completions) == 4 * 8
    for row in trained:
        mine = [c for c in completions if c["step"] == row["step"]]
        assert np.mean([c["reward"] for c in mine]) == pytest.approx(row["reward"])
        assert np.mean([c["length"] for c in mine]) == pytest.approx(row["completions/mean_length"])
        assert sum(c["advantage"] for c in mine) == pytest.approx(0.0, abs=1e-4)
    assert trained[-1]["num_tokens"] > trained[0]["num_tokens"]
    for name in (
        "config.yaml",
        "learning_curve.png",
        "report.html",
        "tensorboard",
        "checkpoints/actor/4/manifest.json",
    ):
        assert (folder / name).exists(), name
    reported = read_record(folder)
    assert reported.state() == "finished, step 4 of 4" and {"jax", "tunix-grpo"} <= set(
        reported.environment["versions"]
    )
    assert [share.total for _, share in reported.shares("eval/accuracy")] == [8] * 3


def test_log_interval_is_obeyed_and_the_last_step_logged(run, tmp_path):
    run("run", "training.log_interval_steps=3", "training.eval_interval_steps=100")
    metrics, completions = record(tmp_path / "run")
    assert [row["step"] for row in metrics if "reward" in row] == [3, 4]
    assert {row["step"] for row in completions} == {3, 4}
    assert [row["step"] for row in metrics if "eval/accuracy" in row] == [0, 4]


def test_a_finished_run_is_left_alone(run, run_finished, tmp_path):
    run_finished("run")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert run("run").steps == 4
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_a_longer_run_goes_on_from_its_end(run, run_finished, tmp_path):
    run_finished("run")
    assert run("run", "training.num_batches=5").steps == 5
    metrics, _ = record(tmp_path / "run")
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2, 3, 4, 5]


def test_a_checkpoint_of_another_run_is_refused(run, run_finished):
    run_finished("run")
    with pytest.raises(UserError, match="seed: 42 -> 7"):
        run("run", "seed=7")


def test_a_restart_in_a_new_folder_forgets_nothing(run, run_finished, tmp_path):
    """The default folder is a new one at every start; what was logged before stays with the checkpoints."""
    run_finished("one")
    shutil.rmtree(tmp_path / "one" / "checkpoints" / "actor" / "4")
    run("second", checkpoints_of="one")
    whole, history = record(tmp_path / "one")[0], lines(tmp_path / "one" / "checkpoints", HISTORY)
    assert history == whole
    assert lines(tmp_path / "second", "metrics.jsonl") == [row for row in whole if row["step"] > 2]
    opened = open_run(tmp_path / "second", str(tmp_path / "one" / "checkpoints"))
    assert sorted(opened.judged()) == [0, 2, 4]
    curve = draw_learning_curve(history, "second/run")
    assert [len(line.get_xdata()) for line in curve.axes[1].lines] == [3]
    write_learning_curve(tmp_path / "one" / "checkpoints" / HISTORY, tmp_path / "second" / "again.png")
    again, drawn = (tmp_path / "second" / name for name in ("again.png", "learning_curve.png"))
    assert again.read_bytes() == drawn.read_bytes()


def test_the_best_step_may_be_from_an_earlier_start(run, run_finished, tmp_path):
    run_finished("one")
    history = tmp_path / "one" / "checkpoints" / HISTORY
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    for row in rows:
        if row["step"] == 2 and "eval/accuracy" in row:
            row["eval/accuracy"] = 1.0
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("second", "training.num_batches=5", checkpoints_of="one")
    opened = open_run(tmp_path / "second", str(history.parent))
    assert opened.checkpoints.steps() == [2, 4, 5]
    assert choose_step(opened, "best") == 2


def test_a_copied_step_goes_on_as_the_original_would(run, run_finished, tmp_path):
    """In a folder that knows nothing else of the run, as on another machine: equal to the run that went to its end."""
    run_finished("whole")
    folder, to = (str(tmp_path / name / "checkpoints") for name in ("whole", "moved"))
    rest = {"keep": None, "metric": "eval/accuracy", "json": False}
    look_after(CheckpointsConfig(folder=folder, action="copy", to=to, step="2", **rest))
    run("moved", "tracker.tensorboard=true")
    history = lines(tmp_path / "moved" / "checkpoints", HISTORY)
    assert history == lines(tmp_path / "whole" / "checkpoints", HISTORY)
    assert [row["step"] for row in lines(tmp_path / "moved", "metrics.jsonl") if "reward" in row] == [3, 4]
    assert saved_bytes(tmp_path / "moved", 4) == saved_bytes(tmp_path / "whole", 4)


# What a reward gives in the evaluations of a run, by step: the best comes early.
UP_AND_DOWN = """
def height(completions, step, **columns):
    return [{1: 0.2, 2: 0.9, 3: 0.5, 4: 0.4}.get(step, 0.0)] * len(completions)
"""


@pytest.mark.long
def test_the_best_step_is_kept_and_patience_ends_the_run(run, tmp_path, capsys):
    (tmp_path / "rewards.py").write_text(UP_AND_DOWN)
    words = (
        "reward=[]",
        f"reward.custom.path={tmp_path}/rewards.py",
        "reward.custom.function=height",
        "training.num_batches=9",
        "training.eval_interval_steps=1",
        "training.save_interval_steps=100",
        "training.max_to_keep=1",
        "evaluation.metric=eval/reward",
    )
    summary = run("run", *words, "evaluation.patience=2")
    assert (summary.steps, summary.exit_code) == (4, 0)
    assert summary.early == "eval/reward was 0.9 at step 2, and not better in all 2 evaluations since"
    assert summary.accuracy_after is not None
    shown = capsys.readouterr().out
    assert "all 4 alike, one  reward 0.9 (height 0.9)" in shown
    assert "Training finished early, after step 4\n" in shown
    assert "best step           2, eval/reward 0.9; its checkpoint is kept\n" in shown
    checkpoints = tmp_path / "run" / "checkpoints"
    opened = open_run(tmp_path / "run", str(checkpoints))
    assert opened.checkpoints.steps() == [2, 4]  # of which no interval asks to be saved
    (checkpoints / HISTORY).rename(tmp_path / "gone")
    (tmp_path / "run" / "metrics.jsonl").rename(tmp_path / "gone too")
    assert choose_step(open_run(tmp_path / "run", str(checkpoints)), "best") == 2  # the checkpoints know it themselves
    (tmp_path / "gone").rename(checkpoints / HISTORY)
    (tmp_path / "gone too").rename(tmp_path / "run" / "metrics.jsonl")

    files = {file: file.stat().st_mtime_ns for file in checkpoints.rglob("*") if file.is_file()}
    assert run("run", *words, "evaluation.patience=2").steps == 4
    assert files == {file: file.stat().st_mtime_ns for file in checkpoints.rglob("*") if file.is_file()}
    assert run("run", *words, "training.num_batches=5", "evaluation.patience=3").early is None
    assert opened.checkpoints.steps() == [2, 5]


def test_evaluations_leave_training_alone(run, run_finished, tmp_path, capsys):
    """On a further task, whose prompts are wider than those of training, and only after updates."""
    run_finished("plain")
    capsys.readouterr()
    further = ("+task@evaluation.tasks.long=arithmetic", "evaluation.tasks.long.system_prompt=12345678901234")
    summary = run("more", *further, "evaluation.before_training=false", "tracker.show=0")
    assert "group 1 of" not in capsys.readouterr().out
    assert summary.accuracy_before is None
    (plain, completions), (more, others) = record(tmp_path / "plain"), record(tmp_path / "more")
    assert others == completions
    assert [row for row in more if "reward" in row] == [row for row in plain if "reward" in row]
    evaluated = [row for row in more if "eval/accuracy" in row]
    own = [{name: value for name, value in row.items() if not name.startswith("eval/long/")} for row in evaluated]
    assert own == [row for row in plain if "eval/accuracy" in row and row["step"] > 0]
    names = {f"eval/long/{name}" for name in ("accuracy", "reward", "truncated")}
    assert all(names <= row.keys() for row in evaluated)
    kept = open_run(tmp_path / "more").checkpoints.run_of(4)["state"]["evaluations"]
    assert kept == evaluated


def test_max_to_keep(run, tmp_path):
    run("run", "training.save_interval_steps=1", "training.max_to_keep=2", "training.num_batches=3")
    assert Checkpoints(tmp_path / "run" / "checkpoints", None).steps() == [2, 3]


@pytest.mark.long
def test_steps_of_broken_numbers_stop_the_run_and_leave_what_was_learned(run, tmp_path, two_layers):
    """Both their completions can be scored again; the checkpoint holds the weights from before them, bit for bit."""
    own = tmp_path / "broken.py"
    own.write_text(
        "import jax.numpy as jnp\n"
        "def broken(logps, old_logps, advantages, mask):\n"
        "    return jnp.log(-jnp.exp(logps - old_logps)) * advantages[:, None]\n"
    )
    run("all", "training.num_batches=2")
    shutil.copytree(tmp_path / "all" / "checkpoints", tmp_path / "bad" / "checkpoints")
    changed = ("training.resume=changed", f"grpo.ratio={own}:broken", "training.max_bad_steps=2")
    with pytest.raises(
        UserError, match=r"^step 4: the loss or the gradient is not .* as in the 1 step.* and the run stops"
    ):
        run("bad", *changed, "training.num_batches=8", "training.save_interval_steps=8")
    aside = sorted((tmp_path / "bad" / "left_out").iterdir())
    assert [path.name for path in aside] == ["step_3.jsonl", "step_4.jsonl"]
    row = json.loads(aside[0].read_text().splitlines()[0])
    assert len(row["token_ids"]) == len(row["sampled_logps"]) == row["length"] and row["prompt_token_ids"]
    (third,) = [line for line in lines(tmp_path / "bad", "metrics.jsonl") if line["step"] == 3 and "reward" in line]
    assert third["updates/left_out"] == 1.0 and "loss" not in third
    assert saved_bytes(tmp_path / "bad", 2) == saved_bytes(tmp_path / "bad", 4)


def test_a_reward_that_raises_saves_the_last_full_step(run, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "calls = []\n"
        "def picky(completions, answer, **columns):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 4:\n"  # 0: evaluation, then steps 1 and 2, evaluation, step 3
        "        raise KeyError('no price for it')\n"
        "    return [0.0] * len(completions)\n"
    )
    custom = (f"reward.custom.path={tmp_path}/rewards.py", "reward.custom.function=picky")
    with pytest.raises(UserError, match=r"step 3: .*picky.*no price for it"):
        run("run", *custom, "training.save_interval_steps=100")
    assert Checkpoints(tmp_path / "run" / "checkpoints", None).latest_valid() == 2


# Fails where the disk refuses a file of the record: at the reward's fourth call, in step 2, it is exchanged for
# /dev/full, which refuses everything that is written to it.
FULL = """
import os
calls = []
def until_full(completions, **columns):
    calls.append(1)
    if len(calls) == 4:
        for entry in os.scandir("/proc/self/fd"):
            if os.path.realpath(entry.path).endswith("/{name}"):
                os.dup2(os.open("/dev/full", os.O_WRONLY), int(entry.name))
    return [float(len(text)) for text in completions]
"""


@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl"])
def test_a_record_that_cannot_be_written_saves_the_step(run, tmp_path, name):
    (tmp_path / "rewards.py").write_text(FULL.format(name=name))
    custom = (f"reward.custom.path={tmp_path}/rewards.py", "reward.custom.function=until_full")
    with pytest.raises(UserError) as caught:
        run("run", *custom, "training.save_interval_steps=100", "training.eval_interval_steps=1")
    reason = "cannot be written (No space left on device); make room and start the same command again"
    assert str(caught.value) == f"step 2: {tmp_path}/run/{name}: {reason}"
    assert Checkpoints(tmp_path / "run" / "checkpoints", None).latest_valid() == 2


# The reward of two_layers, which sends a signal after as many calls as a file says.
SIGNALS = """
import pathlib, signal
file = pathlib.Path(__file__).with_name("calls")
def digits(completions, **columns):
    if file.exists():
        file.write_text(str(int(file.read_text()) - 1))
        if file.read_text() == "0":
            signal.raise_signal(signal.SIGUSR1)
    return [sum(c.isdigit() for c in text) / (1 + len(text)) for text in completions]
"""


@pytest.mark.long
def test_evaluations_that_are_cut_off_are_made_up_for(run, run_finished, tmp_path):
    """By the time, then by a cluster's signal; nothing of them is left, and in the end the record is as without a stop.

    Two batches each are asked before step 1, after step 2 and after step 4.
    """
    whole = run_finished("whole")
    (tmp_path / "rewards.py").write_text(SIGNALS)
    folder, files = tmp_path / "cut", ("metrics.jsonl", f"checkpoints/{HISTORY}")
    words = ("evaluation.batch_size=4", f"reward.custom.path={tmp_path}/rewards.py")

    def stopped(calls: int, *more: str) -> tuple[int, int, list[list[int]]]:
        (tmp_path / "calls").write_text(str(calls))
        summary = run("cut", *words, *more)
        evaluated = [[row["step"] for row in lines(folder, name) if "eval/accuracy" in row] for name in files]
        return summary.steps, summary.exit_code, evaluated

    assert stopped(0, "training.max_hours=1e-9") == (0, 75, [[], []])
    assert list((folder / "checkpoints" / "actor").iterdir()) == []
    assert stopped(5) == (2, 75, [[0], [0]])  # step 1, 0, 0, step 2, and a first batch
    assert open_run(folder).checkpoints.run_of(2)["state"]["unevaluated"] is True
    evaluation = {"step": 2, "eval/accuracy": 0.5, "timing/eval": 1.0}  # of a start that was killed right after it
    for name in files:
        with (folder / name).open("a") as file:
            file.write(json.dumps(evaluation) + "\n")
    assert stopped(5) == (4, 75, [[0, 2], [0, 2]])  # 2, 2, steps 3 and 4, and a first batch
    assert stopped(0) == (4, 0, [[0, 2, 4], [0, 2, 4]])
    assert record(folder) == record(tmp_path / "whole")
    assert lines(folder, files[1]) == lines(tmp_path / "whole", files[1])
    for step in (2, 4):
        assert saved_bytes(folder, step) == saved_bytes(tmp_path / "whole", step)
        state, other = (open_run(tmp_path / name).checkpoints.run_of(step)["state"] for name in ("cut", "whole"))
        assert state == other
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    assert run("cut", *words).accuracy_after is None and whole.accuracy_after is not None  # nothing is left to do
    assert before == {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_checkpoints_that_cannot_fit_are_refused_before_anything_is_written(run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"checkpoint_dir=.*: a checkpoint takes .*, and 1.0 kB are free there"):
        run("run")
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.long
def test_lora_saves_the_adapter_alone(run, tmp_path):
    run("run", "model.lora_rank=4", "training.num_batches=1")
    names = saved_bytes(tmp_path / "run", 1)
    trained = [name for name in names if name.startswith("params")]
    assert trained and all("lora" in name for name in trained)


# --- real processes: they compile as this one (conftest.py), so that what they compute is compared bit for bit ---


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "run_training.py"),
        *SMALL,
        f"hydra.run.dir={folder}",
        f"checkpoint_dir={folder}/checkpoints",
        f"jax_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        *overrides,
    ]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Returns once the step's metrics are in the record."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = folder / "metrics.jsonl"
        if file.exists() and f'"step": {step}, "reward"' in file.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come")


@pytest.mark.slow  # the short form is in test_verify_resume.py
def test_killed_at_any_moment_and_started_again(run, tmp_path, two_layers):
    """SIGKILL, then SIGTERM (which saves), then to the end: equal to the run that nobody stopped."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    longer = ("training.num_batches=12", "training.save_interval_steps=3", "training.eval_interval_steps=100")
    longer += ("tracker.report=true",)
    run("whole", *longer)
    longer = (*two_layers, *longer)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command(killed, *longer), **how)
    wait_for_step(killed, 4, process)
    process.kill()
    process.wait()

    process = subprocess.Popen(command(killed, *longer), **how)
    wait_for_step(killed, 7, process)
    process.terminate()
    output = process.communicate()[0].decode()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    assert read_record(killed).state().startswith("step ") and (killed / "report.html").exists()

    subprocess.run(command(killed, *longer), check=True, **how)
    assert record(killed) == record(whole)
    assert saved_bytes(killed, 12) == saved_bytes(whole, 12)


# From step 2 on no file may grow beyond 20 kB: the checkpoint and the picture cannot be written, the record can.
SMALL_DISK = """
import resource
calls = []
def until_full(completions, **columns):
    calls.append(1)
    if len(calls) == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
    return [float(len(text)) for text in completions]
"""


@pytest.mark.long
def test_a_full_disk_is_a_warning_and_at_the_end_one_sentence(tmp_path, two_layers):
    (tmp_path / "rewards.py").write_text(WITHOUT_TORCH + SMALL_DISK)
    custom = (f"reward.custom.path={tmp_path}/rewards.py", "reward.custom.function=until_full")
    folder = tmp_path / "run"
    done = subprocess.run(command(folder, *two_layers, *custom), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    reason = "the checkpoint could not be written (File too large); make room and start the same command again"
    assert done.stderr == f"error: step 4: {folder}/checkpoints/actor/4: {reason}\n"
    said = "the checkpoint could not be written (File too large); training goes on, and the next save is tried"
    assert done.stdout.count(f"warning: {folder}/checkpoints/actor/2: {said}\n") == 1
    assert [path.name for path in (folder / "checkpoints").rglob("*")] == [".lock", "actor", HISTORY]
    assert f"warning: {folder}/learning_curve.png could not be written ([Errno 27] File too large)" in done.stdout
    assert [row["step"] for row in lines(folder, "metrics.jsonl")] == [0, 1, 2, 2, 3, 4, 4]


# Starts a program with the clock moved by some days.
MOVED_CLOCK = """
import datetime, runpy, sys
moved = datetime.timedelta(days=int(sys.argv[1]))
class Day(datetime.date):
    @classmethod
    def today(cls):
        return super().today() + moved
class Moment(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + moved
datetime.date, datetime.datetime = Day, Moment
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_dated_chat_template_says_the_same_after_midnight(run, tmp_path, two_layers):
    """Resumed with the clock moved by a day: equal to the run that nobody stopped."""
    model = tmp_path / "dated"
    shutil.copytree(two_layers[0].removeprefix("model.path="), model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    # Short, so that prompts are padded to the width that the other runs have, whose programs then serve here too.
    config["chat_template"] = "{{ strftime_now('%d.%m.') }}\n" + config["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    dated = (*two_layers, f"model.path={model}", "task.system_prompt=null")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run("whole", *dated)
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "actor" / "4")
    python, *words = command(stopped, *dated)
    done = subprocess.run([python, "-c", MOVED_CLOCK, "1", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert record(stopped) == record(whole)
    assert saved_bytes(stopped, 4) == saved_bytes(whole, 4)
    day = datetime.date.fromisoformat(open_run(stopped, str(stopped / "checkpoints")).config.task.date)
    assert all(row["prompt"].startswith(day.strftime("%d.%m.\n")) for row in lines(stopped, "completions.jsonl"))
    with pytest.raises(NotContinued, match=r"task\.date: \"\S+\" -> \"2020-01-01\""):
        run("stopped", *dated, "task.date=2020-01-01")


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        [],
        ["generation.max_rows=3"],  # 4 of two devices
        ["algorithm=gspo", "grpo.num_minibatches=2"],
        ["algorithm=dapo", "grpo.max_extra_rounds=1", "grpo.num_iterations=2", "reward.custom.function=coarse"],
        ["algorithm=dr_grpo", "training.gradient_accumulation_steps=2"],
    ],
    ids=lambda words: "-".join(words) or "default",
)
def test_two_devices_share_a_step(tmp_path, two_layers, algorithm):
    """Two data-parallel devices with one prompt each do what one device does with two, within float32 rounding."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = (*two_layers, "training.num_batches=2", *algorithm)
    subprocess.run(command(one, *settings), check=True, capture_output=True)
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"}
    split = command(two, *settings, "training.micro_batch_size=1")
    subprocess.run(split, check=True, capture_output=True, env=environment)
    assert [c["completion"] for c in lines(one, "completions.jsonl")] == [
        c["completion"] for c in lines(two, "completions.jsonl")
    ]
    for a, b in zip(lines(one, "metrics.jsonl"), lines(two, "metrics.jsonl"), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=hf", "model.path=/nowhere/at/all"], "model.path=/nowhere/at/all"),
        (["task=jsonl", "task.path=empty.jsonl"], "empty.jsonl"),
        (["task=jsonl", "task.path=broken.jsonl"], "broken.jsonl:2"),
        (["checkpoint_dir=empty.jsonl/inside"], "checkpoint_dir"),
        (["generation.max_prompt_length=4"], "generation.max_prompt_length=4"),
        (["task=gsm8k"], "task.path"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(compose, tmp_path, overrides, words):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": \n')
    with pytest.raises(UserError) as caught:
        train(compose(*SMALL, "checkpoint_dir=ck", *overrides))
    assert words in str(caught.value)
    assert not (tmp_path / "ck").exists()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_bad_input_ends_the_program_with_one_sentence(run_training, tmp_path):
    done = run_training(*SMALL, "hydra.run.dir=out", "checkpoint_dir=ck", "device=cuda")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "device=cpu" in done.stderr
    assert not (tmp_path / "ck").exists()
    assert not (tmp_path / "out" / "metrics.jsonl").exists()

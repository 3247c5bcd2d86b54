"""Whole runs on demonstrations, and runs with GRPO that start from them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import ConfigCompositionException

from helpers.models import one_device_mesh
from helpers.trainer import arrays
from tunix_grpo.config import evaluate, load, selected_rewards
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.export import ExportConfig, MovedModel
from tunix_grpo.errors import ConfigError, NotContinued, UserError
from tunix_grpo.export.exporting import export, logits
from tunix_grpo.programs.evaluation.subjects import Subject, baseline_of, subjects_of
from tunix_grpo.record.metrics import is_metric
from tunix_grpo.record.report.differing import default_settings, other_than_defaults
from tunix_grpo.record.report.reading import read_record
from tunix_grpo.record.summary import Summary
from tunix_grpo.run.checkpoints import SavedSteps
from tunix_grpo.run.saved_runs import choose_step, find_origin, load_trained, open_run, start_model
from tunix_grpo.sft import train_on_demonstrations
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.prompt_set import prompt_set
from tunix_grpo.text.tokenizer import model_tokenizer
from tunix_grpo.tiny.demonstrations import Sum, training_questions
from tunix_grpo.train import train

SMALL = (
    "model=tiny",
    "task.num_questions=300",
    "device=cpu",
    "training.num_batches=4",
    "training.micro_batch_size=4",
    "training.save_interval_steps=2",
    "training.eval_interval_steps=2",
    "training.log_interval_steps=1",
    "evaluation.num_questions=8",
    "evaluation.batch_size=8",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
)
ROOT = Path(__file__).resolve().parent.parent
GRPO = (*SMALL, "training.num_batches=1", "training.micro_batch_size=2", "grpo.num_generations=4")
LORA = ("model.lora_rank=2", "model.lora_alpha=8")


def write_workings(file: Path) -> None:
    """Writes conversations in which every sum of the training questions is worked out rightly."""
    rows = []
    for question in training_questions():
        each = Sum.of(question.question)
        said = f"<reasoning>{each.working()}</reasoning><answer>{each.answer()}</answer>"
        turns = [{"role": "user", "content": question.question}, {"role": "assistant", "content": said}]
        rows.append(json.dumps({"messages": turns}))
    file.write_text("\n".join(rows))


@pytest.fixture
def sft(compose_sft, tmp_path, two_layer_model) -> Callable[..., Summary]:
    """Trains two layers on demonstrations into tmp_path / name, its checkpoints in `checkpoints` inside of it."""

    def run_into(name: str, *overrides: str) -> Summary:
        config = compose_sft(*SMALL, *two_layer_model, "optimizer.learning_rate=1e-2", *overrides)
        return train_on_demonstrations(into(config, tmp_path / name))

    return run_into


@pytest.fixture
def grpo(compose, tmp_path) -> Callable[..., Summary]:
    """Makes a step of GRPO, likewise."""
    return lambda name, *overrides: train(into(compose(*GRPO, *overrides), tmp_path / name))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Where runs that several tests start from are kept."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def first(sft, finished, tmp_path) -> Callable[..., Path]:
    """Returns the folder of a run of four steps on demonstrations, which is not to be changed."""

    def made(*overrides: str) -> Path:
        folder = finished / ("adapter" if overrides else "all")
        if not folder.exists():
            folder.mkdir()
            (tmp_path / folder.name).symlink_to(folder)
            sft(folder.name, *overrides)
        return folder

    return made


def into(config, folder: Path):
    folder.mkdir(exist_ok=True)
    folder = folder.resolve()
    config.output_dir, config.checkpoint_dir = str(folder), str(folder / "checkpoints")
    return config


def record(folder: Path) -> list[dict]:
    """Reads metrics.jsonl without what a clock or the machine decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("timing/", "perf/", "step_time")
    return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def trained(folder: Path, step: str = "latest"):
    run = open_run(folder)
    return load_trained(run, choose_step(run, step), one_device_mesh())


def shown(model) -> np.ndarray:
    """Returns a model's logits on some tokens."""
    return logits(model, model.decoder_weights(), [[2, 5, 9, 200, 31], [2, 77, 14]])


@pytest.mark.slow
def test_the_bundled_model_learns_from_demonstrations_and_grpo_goes_on(compose_sft, grpo, tmp_path):
    """Right workings make it calculate rightly; the first evaluation with GRPO is then that of the last one here."""
    write_workings(tmp_path / "workings.jsonl")
    asked = ("task.num_questions=2000", "evaluation.num_questions=100", "evaluation.batch_size=100")
    config = compose_sft(
        *SMALL,
        *asked,
        "file=workings.jsonl",
        "training.num_batches=15",
        "training.micro_batch_size=32",
        "training.eval_interval_steps=15",
        "training.save_interval_steps=15",
        "optimizer.learning_rate=1e-3",
    )
    summary = train_on_demonstrations(into(config, tmp_path / "sft"))
    assert summary.accuracy_before < 0.5 and summary.accuracy_after > 0.85
    rows = record(tmp_path / "sft")
    assert all(is_metric(name) for row in rows for name in row if name != "step")
    steps = [row for row in rows if "loss" in row]
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert steps[-1]["mean_token_accuracy"] > steps[0]["mean_token_accuracy"]
    assert [row["step"] for row in rows if "eval/accuracy" in row] == [0, 15]
    assert not (tmp_path / "sft" / "completions.jsonl").exists()

    after = grpo("grpo", *asked, f"model.run={tmp_path}/sft")
    assert after.accuracy_before == summary.accuracy_after
    first = record(tmp_path / "grpo")[1]
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is the model that was left


@pytest.mark.long
def test_resume_is_exact(sft, tmp_path):
    """Two steps, the later checkpoint removed, started again: as if never stopped, bit for bit."""
    words = ("training.micro_batch_size=2", "training.gradient_accumulation_steps=2")
    words = (*words, "+task@evaluation.tasks.more=arithmetic", "evaluation.metric=eval/more/accuracy")
    sft("whole", *words)
    assert [row["step"] for row in record(tmp_path / "whole") if "eval/more/accuracy" in row] == [0, 2, 4]
    assert json.loads((tmp_path / "whole/environment.json").read_text())["questions"]["eval/more/accuracy"] == 8
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "actor" / "4")
    assert sft("stopped", *words).steps == 4
    assert record(tmp_path / "stopped") == record(tmp_path / "whole")
    for one, other in zip(
        arrays(trained(tmp_path / "stopped").trained), arrays(trained(tmp_path / "whole").trained), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert sft("stopped", *words, "evaluation.num_questions=6").accuracy_after is None  # nothing to do

    refused = (
        (["optimizer.learning_rate=1e-3"], "optimizer.learning_rate: 0.01 -> 0.001"),
        (["answer_form='It is {answer}.'"], "demonstrations: "),
        (["generation.max_generation_steps=90"], "generation.max_generation_steps: 16 -> 90"),
        (["seed=7"], "seed: 42 -> 7"),
        (["training.micro_batch_size=1"], "demonstrations per step: 4 -> 2"),
        (["model.lora_rank=2"], "model.lora_rank: null -> 2"),
    )
    for others, words_of_it in refused:
        with pytest.raises(NotContinued) as caught:
            sft("stopped", *words, *others)
        assert words_of_it in str(caught.value)


@pytest.mark.long
def test_held_out_questions_are_a_part_of_a_run(sft, tmp_path):
    """Those of other answers to the same demonstrations are no measure of it; how many are asked is free."""
    (tmp_path / "rows.jsonl").write_text('{"question": "What is 1000 + 1?", "completion": "1001"}\n')
    words = ("file=rows.jsonl", "evaluation.before_training=false")
    sft("run", *words, "training.num_batches=2")
    others = ("task.max_operand=50", "training.num_batches=4")
    with pytest.raises(NotContinued, match=r'task prompts: "\w+" -> "\w+"; task\.max_operand: 100 -> 50'):
        sft("run", *words, *others)
    sft("run", *words, *others, "training.resume=changed")
    saved = SavedSteps(tmp_path / "run" / "checkpoints").run_of(4)
    assert [row["step"] for row in saved["state"]["evaluations"]] == [4]
    assert sft("run", *words, *others, "evaluation.num_questions=6").accuracy_after is None  # nothing to do


def test_what_is_held_out_is_not_trained_on_though_no_evaluation_asks_it(sft, compose_sft, two_layer_model, tmp_path):
    config = compose_sft(*SMALL, *two_layer_model)
    tokenizer = model_tokenizer(None, Path(config.model.path), 512, None, "2026-01-01")
    heldout = prompt_set("held-out", build_task(config.task, config.seed).heldout, tokenizer, config)
    assert len(heldout) > config.evaluation.num_questions
    row = {"prompt": heldout.texts[-1], "completion": "42"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="all 1 demonstrations ask what the task holds out"):
        sft("run", "file=rows.jsonl", "prompt_texts=rendered")


@pytest.mark.slow
def test_two_devices_share_a_step(sft, two_layer_model, jax_cache, tmp_path):
    """Two data-parallel devices with two demonstrations each do what one does with four, within float32 rounding."""
    words = ("training.num_batches=2", "training.eval_interval_steps=1")
    sft("one", *words)
    settings = (*SMALL, *two_layer_model, *words, "optimizer.learning_rate=1e-2", "training.micro_batch_size=2")
    places = ("hydra.run.dir=two", "checkpoint_dir=two/checkpoints", f"jax_cache={jax_cache}")
    devices = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
    command = [sys.executable, str(ROOT / "scripts" / "sft.py"), *settings, *places]
    environment = os.environ | {"XLA_FLAGS": devices}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["devices"] == 2
    for one, two in zip(record(tmp_path / "one"), record(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)  # float32 sums in another order


STOPS = """
import signal
class Stops:
    def __init__(self, output_dir, config): pass
    def log_metrics(self, step, metrics):
        if "loss" in metrics and step == 1:
            signal.raise_signal(signal.SIGTERM)
    def log_completions(self, step, records): pass
    def close(self, failed=False): pass
"""


@pytest.mark.long
def test_a_signal_stops_after_the_step_and_saves(sft, tmp_path):
    (tmp_path / "stops.py").write_text(STOPS)
    summary = sft("run", "tracker.custom=stops.py:Stops")
    assert (summary.steps, summary.exit_code) == (1, 128 + signal.SIGTERM)
    assert SavedSteps(tmp_path / "run" / "checkpoints").steps() == [1]


@pytest.mark.long
def test_evaluations_that_are_cut_off_are_made_up_for(sft, tmp_path):
    """By the time before step 1, by a signal after it."""
    (tmp_path / "stops.py").write_text(STOPS)
    words = ("training.eval_interval_steps=1", "training.num_batches=2", "+task@evaluation.tasks.more=arithmetic")
    early = sft("run", *words, "training.max_hours=1e-9")
    assert (early.steps, early.exit_code) == (0, 75)
    stopped = sft("run", *words, "tracker.custom=stops.py:Stops")
    assert (stopped.steps, stopped.exit_code) == (1, 128 + signal.SIGTERM)
    assert [row["step"] for row in record(tmp_path / "run") if "eval/accuracy" in row] == [0]
    assert sft("run", *words).exit_code == 0
    assert [row["step"] for row in record(tmp_path / "run") if "eval/accuracy" in row] == [0, 1, 2]


def test_steps_that_are_not_finite_are_set_aside_and_stop_the_run(sft, tmp_path):
    """A rate beyond all measure breaks the weights; what comes after is left out."""
    rate = ("optimizer.learning_rate=1e30", "scheduler=constant", "scheduler.warmup_ratio=0")
    with pytest.raises(UserError, match=r"^step 3: the loss or the gradient is not .* as in the 1 step.* run stops"):
        sft("bad", *rate, "training.max_bad_steps=2")
    aside = sorted((tmp_path / "bad" / "left_out").iterdir())
    assert [path.name for path in aside] == ["step_2.jsonl", "step_3.jsonl"]
    rows = [json.loads(line) for line in aside[0].read_text().splitlines()]
    assert len(rows) == 4 and all(row["token_ids"] and row["prompt_token_ids"] for row in rows)
    assert SavedSteps(tmp_path / "bad" / "checkpoints").steps()[-1] == 3
    (note,) = [json.loads(line) for line in (tmp_path / "bad" / "health.jsonl").read_text().splitlines()]
    assert (note["step"], note["name"]) == (2, "not finite")


@pytest.mark.long
def test_each_program_refuses_the_other_s_checkpoints(sft, grpo, two_layer_model, tmp_path):
    sft("sft", "training.num_batches=2")
    grpo("grpo", *two_layer_model)
    with pytest.raises(NotContinued, match=r"made by scripts/sft\.py; give another folder .* model\.run=RUN") as caught:
        grpo("sft", *two_layer_model)
    assert list(caught.value.ways) == ["start afresh"]
    with pytest.raises(NotContinued, match=r"made by run_training\.py"):
        sft("grpo")


@pytest.mark.long
@pytest.mark.parametrize("then", [(), LORA], ids=["all weights", "adapter"])
@pytest.mark.parametrize("now", [(), LORA], ids=["all weights", "adapter"])
def test_a_run_starts_from_what_another_has_trained(first, compose, then, now):
    """Weights and reference are those of the first run; an adapter is merged, and a fresh one changes nothing yet."""
    folder = first(*then)
    config = compose(*GRPO, f"model.run={folder}", *now)
    before = trained(folder)
    model = start_model(config.model, before.directory, one_device_mesh(), 0, find_origin(config.model))
    # float32: W + s A B is summed in another order than W x + s B (A x).
    np.testing.assert_allclose(shown(model), shown(before), rtol=0, atol=1e-4 if then else 0)
    np.testing.assert_array_equal(shown(dataclasses.replace(model, trained={}, lora_scale=0.0)), shown(model))
    random = start_model(config.model, model.directory, one_device_mesh(), 42, None)
    assert np.abs(shown(random) - shown(before)).max() > 0.01


@pytest.mark.long
def test_the_weights_that_a_run_starts_from_are_a_part_of_it(first, grpo, two_layer_model, tmp_path):
    shutil.copytree(first(), tmp_path / "first")
    start = f"model.run={tmp_path}/first"
    grpo("second", start, "model.step=2")
    with pytest.raises(NotContinued, match=r'model\.run: "\w+" -> "\w+"') as caught:
        grpo("second", start, "model.step=4")
    assert "model.step=2" in str(caught.value)  # the way to go on
    with pytest.raises(NotContinued, match=r'model\.run: "\w+" -> null'):
        grpo("second", *two_layer_model)
    there = shown(trained(tmp_path / "second"))
    shutil.move(tmp_path / "first", tmp_path / "moved")  # its checkpoints lie where it has said
    assert grpo("second", f"model.run={tmp_path}/moved", "model.step=2").steps == 1  # nothing to do: the same run
    again = open_run(tmp_path / "second", None, {"run": str(tmp_path / "moved")})
    np.testing.assert_array_equal(shown(load_trained(again, 1, one_device_mesh())), there)
    with pytest.raises(UserError, match=r"model\.run=\S+first: no such folder"):
        trained(tmp_path / "second")


@pytest.mark.long
def test_a_chain_of_runs_is_exported(first, sft, tmp_path):
    """An adapter on a merged adapter: a whole model, and refused as the adapter of a base that nobody has."""
    folder = first(*LORA)
    sft("second", f"model.run={folder}", *LORA, "training.num_batches=2")
    before, after = shown(trained(folder)), shown(trained(tmp_path / "second"))
    assert np.abs(after - before).max() > 1e-3
    settings = ExportConfig(
        run=str(tmp_path / "second"),
        step="latest",
        to=str(tmp_path / "out"),
        format="merged",
        dtype="float32",
        push=None,
        checkpoint_dir=None,
        overwrite=False,
        device="cpu",
        jax_cache=None,
        model=MovedModel(path=None, tokenizer=None, family=None, run=None),
    )
    check = export(settings)  # compares logits
    assert check.difference <= check.allowed
    assert "trained on demonstrations for the task `arithmetic`, 2 steps" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(UserError, match="format=adapter: .* started from the weights of another run"):
        export(dataclasses.replace(settings, format="adapter", to=str(tmp_path / "adapter")))


@pytest.mark.long
def test_an_evaluation_knows_what_a_run_has_begun_with(first, sft, tmp_path):
    """Its baseline is what the run has started from, not the model before that; answers of other starts are others."""
    folder = first(*LORA)
    sft("second", f"model.run={folder}", "training.num_batches=2")
    words = checked_command_line([f"run={tmp_path}/second", "baseline=base"], ROOT / "conf", "evaluate", evaluate.load)
    config = evaluate.load(composed(words, [ROOT / "conf"], "evaluate"))
    assert selected_rewards(config.reward)  # the program's own: the run has none
    (subject,) = subjects_of(config)
    base = baseline_of(config, [subject])
    assert isinstance(base, Subject)
    np.testing.assert_allclose(shown(base.load(one_device_mesh())), shown(trained(folder)), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(shown(subject.load(one_device_mesh())), shown(trained(tmp_path / "second")))
    assert base.identity()["model.run"] == subject.identity()["model.run"] == find_origin(subject.model).digest()


def test_a_report_compares_with_the_program_s_own_defaults(first):
    run = read_record(first())
    rows = {
        key: (here, default) for key, here, default in other_than_defaults(run.settings, default_settings(run.main))
    }
    assert rows["optimizer.learning_rate"] == ("0.01", "0.0001")
    assert not {"answer_form", "optimizer.weight_decay", "file"} & set(rows)
    assert (first() / "report.html").is_file()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["min_reward=1"], "min_reward=1.0 and file=null: rewards are those of a file"),
        (["answer_form=yes"], "answer_form=yes: it has no place for the answer; write {answer}"),
        (["evaluation.metric=eval/reward"], "there are no rewards here; give evaluation.metric=eval/accuracy"),
        (["evaluation.metric=eval/more/accuracy"], "no task of evaluation.tasks is called more"),
        (["model.step=best"], "model.step=best and model.run=null: steps belong to a run"),
        (["model.run=nowhere"], "nowhere: no such folder; give the folder of a run"),
        (["max_per_question=0"], "max_per_question=0: must be at least 1"),
        (["task.validate=true"], "it is run_training.py that validates a task"),
        (["grpo.beta=1"], "grpo.beta"),
    ],
)
def test_wrong_settings_are_one_sentence(compose_sft, overrides, words):
    with pytest.raises((ConfigError, ConfigCompositionException)) as caught:
        compose_sft("model=tiny", *overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "overrides", "words"),
    [
        ('{"messages": 3}\n', [], "rows.jsonl:1: messages is not a list of messages but 3; correct or remove the row"),
        ("", [], "no demonstration is left"),
        ('{"prompt": "a", "completion": "b"}', ["generation.max_generation_steps=1"], "longer than generation.max_gen"),
        ('{"prompt": "a", "completion": "b"}', ["model.path=/nowhere"], "model.path=/nowhere: no such directory"),
    ],
)
def test_bad_input_leaves_nothing(sft, tmp_path, content, overrides, words):
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        sft("run", "file=rows.jsonl", *overrides)
    assert words in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_step_that_is_meant_has_to_be_there(first, compose):
    folder = first()
    with pytest.raises(UserError, match=r"model\.step=7 was not saved; "):
        find_origin(compose(*GRPO, f"model.run={folder}", "model.step=7").model)
    run = open_run(folder)
    best = max(run.judged().items(), key=lambda item: (item[1], item[0] if item[0] else -1))[0]
    assert find_origin(compose(*GRPO, f"model.run={folder}", "model.step=best").model).step == best


def test_the_run_says_which_model_it_is(first, compose, tmp_path):
    folder = first()
    config = compose("task=arithmetic", f"model.run={folder}")
    own = open_run(folder).config.model
    assert (config.model.name, config.model.path, config.model.random_weights) == ("tiny", own.path, True)
    assert config.model.hub_id is None
    with pytest.raises(
        ConfigError, match=r"the run is of model\.path=\S+, not of model\.\w+=\S*gemma\S*; leave out model="
    ):
        checked_command_line(["model=gemma3_1b", f"model.run={folder}"], ROOT / "conf", "config", load)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match="it is not the config of a run"):
        compose("task=arithmetic", f"model.run={tmp_path}/other")

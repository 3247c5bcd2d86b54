"""A training compiled from shapes alone: the same programs that a run calls, and what is said of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import jax
import pytest

from conftest import ROOT
from helpers.models import load, one_device_mesh, write_model
from helpers.trainer import number_prompts, small_trainer
from tunix_grpo.config.preflight import PreflightConfig
from tunix_grpo.errors import UserError
from tunix_grpo.grpo import at_once, passes, stages
from tunix_grpo.model.abstract import abstract_model
from tunix_grpo.preflight import compiling, program, targets
from tunix_grpo.preflight.compiling import Needs
from tunix_grpo.preflight.fitting import first_that_fits, ways_out
from tunix_grpo.preflight.training_programs import Programs
from tunix_grpo.train import train

LONG = 70  # tokens: longer than what one program draws
SETTINGS = ("training.micro_batch_size=2", "grpo.num_generations=4", "grpo.beta=0.1", "generation.max_prompt_length=8")


def shapes(tree: Any) -> Any:
    """Returns what decides about a program: shapes and types of arrays, and everything else as it is."""
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)) if hasattr(leaf, "shape") else leaf, tree)


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(
    "changes", [{}, {"lora_rank": 4}, {"lora_rank": 4, "quantization": "nf4", "dtype": "bfloat16"}], ids=str
)
def test_a_model_without_arrays_has_the_shapes_of_a_loaded_one(family, changes, tmp_path, compose):
    write_model(family, tmp_path / "model", num_hidden_layers=2)
    words = [f"model.{name}={value}" for name, value in {"lora_rank": "null", "dtype": "float32", **changes}.items()]
    config = compose("model=hf", f"model.path={tmp_path / 'model'}", *words)
    loaded = load(tmp_path / "model", **changes)
    abstract = abstract_model(config.model, tmp_path / "model", one_device_mesh())
    assert shapes(abstract.trained) == shapes(loaded.trained)
    assert shapes(abstract.reference) == shapes(loaded.reference)
    assert abstract.form == replace(loaded.form, lora_scale=abstract.lora_scale)


@pytest.mark.long
@pytest.mark.parametrize("length", [6, LONG])
def test_the_programs_are_those_of_a_run(compose, folder, monkeypatch, length):
    """Every program is asked for with the shapes with which a step calls the same function."""
    called: dict[str, list[Any]] = {}

    def noting(module: Any, name: str) -> None:
        function = getattr(module, name)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            called.setdefault(name, []).append(shapes(jax.tree.leaves(arguments)))
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, noted)

    settings = (*SETTINGS, f"generation.max_generation_steps={length}")
    trainer = small_trainer(compose, folder, *settings, lora_rank=4)
    monkeypatch.setattr("tunix_grpo.grpo.cutting.cut_by_length", whole)
    for module, name in (
        (at_once, "completions_drawn"),
        (stages, "_started"),
        (stages, "_continued"),
        (passes, "accumulate"),
        (passes, "whole_logps"),
    ):
        noting(module, name)
    trainer.step(1, number_prompts(2).batch(range(2), 4))
    monkeypatch.undo()
    config = small_config(compose, folder, *settings)
    model = abstract_model(config.model, folder, one_device_mesh())
    programs = Programs(config, model, one_device_mesh())
    asked = {each.function.__name__: shapes(jax.tree.leaves(each.arguments)) for each in programs.all()}
    assert set(called) == set(asked) - {"apply_gradient"}
    for name, arguments in called.items():
        ours, theirs = ([leaf for leaf in each if isinstance(leaf, tuple)] for each in (asked[name], arguments[-1]))
        assert ours == theirs, name


def whole(lengths, prompt_width, sampling, devices, per_program):
    """Leaves a micro batch whole and of full length, as it is compiled."""
    from tunix_grpo.grpo.buckets import Piece

    return [Piece(jax.numpy.arange(len(lengths)), None, sampling.max_tokens)]


def small_config(compose, folder, *settings):
    return compose(
        "model=hf", f"model.path={folder}", "device=cpu", "model.lora_rank=4", "model.dtype=float32", *settings
    )


def needs(**sizes: int) -> list[Needs]:
    return [Needs(name.replace("__", ", "), size, 0, 0.0) for name, size in sizes.items()]


def test_ways_out_are_tried_one_on_top_of_the_other(compose):
    config = compose("model=tiny", "model.lora_rank=8", "training.micro_batch_size=4", "grpo.num_generations=4")
    tried = []

    def fits(changed, first) -> bool:
        tried.append((changed.training.micro_batch_size, changed.generation.max_rows, changed.model.quantization))
        assert first == ["rollout, tokens", "update"]
        return changed.model.quantization == "nf4"

    words = first_that_fits(config, "block", needs(rollout__tokens=9, reference=2, update=9), 5, fits)
    assert words == [
        "training.remat=full",
        "training.micro_batch_size=1",
        "training.gradient_accumulation_steps=4",
        "generation.max_rows=4",
        "model.quantization=nf4",
    ]
    assert tried == [
        (4, None, None), (2, None, None), (1, None, None), (1, 8, None), (1, 4, None), (1, 4, "nf4"),
    ]  # fmt: skip
    assert first_that_fits(config, "block", needs(rollout__tokens=9, update=9), 5, lambda *_: False) is None
    assert [words for words, _ in ways_out(config, "full", ["reference"])][-1][-1] == "model.quantization=nf4"


@pytest.fixture
def small(compose):
    return compose("model=tiny", "task=arithmetic", "device=cpu", "generation.max_prompt_length=16")


@pytest.mark.long
def test_what_is_said_of_a_training(small, capsys, monkeypatch):
    """It fits this machine; on one with little memory it does not, and the sentence names the setting that helps."""
    program.preflight(PreflightConfig(train=[], target="this", json=True), small)
    said = json.loads(capsys.readouterr().out)
    assert said["fits"] and [each["name"] for each in said["programs"]] == [
        "rollout",
        "reference",
        "update",
        "optimizer",
    ]
    update = said["programs"][2]
    assert 0 < update["peak_bytes"] < update["total_bytes"] < said["memory_bytes"]
    resident = update["total_bytes"] - update["peak_bytes"]
    assert 0 < resident < said["resident_bytes"]

    present = targets.present

    def with_little(config):
        target, mesh = present(config)
        return replace(target, memory=update["total_bytes"] - 1), mesh

    monkeypatch.setattr(program, "present", with_little)
    with pytest.raises(UserError, match=r"does not fit: .*update needs .*; with training\.\S+=\S+.* it fits"):
        program.preflight(PreflightConfig(train=[], target="this", json=False), small)
    assert "at its highest" in capsys.readouterr().out


@pytest.mark.long
def test_a_target_that_cannot_be_compiled_for_is_a_sentence(tmp_path):
    """Nothing of CUDA is installed where tests run."""
    command = [sys.executable, str(ROOT / "scripts" / "preflight.py"), "model=gemma3_270m", "target=h100"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert result.returncode == 1 and "Traceback" not in result.stderr + result.stdout
    assert "target=h100: what compiles for it is not here" in result.stderr + result.stdout
    assert "make preflight-cuda" in result.stderr + result.stdout
    wrong = subprocess.run([*command[:2], "model=tiny", "training.lr=1"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "training.lr" in wrong.stderr + wrong.stdout and "Traceback" not in wrong.stderr


def test_a_compiler_that_refuses_is_heard(small):
    """As a TPU's does when a program is larger than its memory; here the refusal is injected."""
    model = abstract_model(small.model, program.config_directory(small.model), one_device_mesh())
    each = next(iter(Programs(small, model, one_device_mesh()).all()))

    class Refusing:
        def trace(self, *_, **__):
            return self

        def lower(self, **_):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: total memory required exceeds what there is\nmore")

    refused = compiling.compiled(replace(each, function=Refusing()))
    assert refused.refusal == "RESOURCE_EXHAUSTED: total memory required exceeds what there is"


@pytest.mark.long
def test_a_training_that_is_only_tried(compose, tmp_path, capsys):
    """It reads and checks what a training does, shows what its programs need for these prompts, and leaves nothing."""
    words = ("model=tiny", "task=arithmetic", "task.num_questions=60", "device=cpu", "evaluation.num_questions=4")
    words += ("training.num_batches=3", "training.dry_run=true", "checkpoint_dir=checkpoints")
    summary = train(compose(*words))
    assert (summary.steps, summary.exit_code) == (0, 0)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"training questions 5\d, prompts of up to 1?\d tokens held-out questions 4, prompts of", said)
    for part in ("steps 3 ", "rollout ", "update ", "optimizer ", "1 kept, ", " MB each, ", "trained nothing"):
        assert part in said, part
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.long
def test_what_is_only_tried_is_refused_as_the_training_would_be(compose, two_layer_model, tmp_path):
    """A checkpoint of another run is there."""
    words = ("model=tiny", "task=arithmetic", "task.num_questions=60", "device=cpu", "evaluation.num_questions=4")
    words += ("training.num_batches=1", "training.micro_batch_size=1", "grpo.num_generations=2", "grpo.beta=0")
    words += ("generation.max_generation_steps=4", "checkpoint_dir=checkpoints", "tracker.report=false")
    words += ("tracker.tensorboard=false", "tracker.wandb=false", *two_layer_model)
    train(compose(*words))
    saved = sorted(path for path in (tmp_path / "checkpoints").rglob("*"))
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: .* -> 0\.5"):
        train(compose(*words, "training.num_batches=2", "optimizer.learning_rate=0.5", "training.dry_run=true"))
    assert sorted(path for path in (tmp_path / "checkpoints").rglob("*")) == saved

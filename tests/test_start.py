"""Which checkpoint a run goes on from, and which it refuses."""

import dataclasses
import json
import logging
from pathlib import Path

import jax.numpy as jnp
import pytest

from tunix_grpo.config.history import BEFORE
from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import MANIFEST, Checkpoints
from tunix_grpo.run.start import RunState, find_start, identity, settings
from tunix_grpo.text.prompt_set import PromptSet

STATE = RunState(step=20, num_tokens=12345, accuracy_before=0.4375, wandb_run_id="abc123", total_steps=100)
PROMPTS = PromptSet(["1+1?", "2+2?"], ["<1+1?>", "<2+2?>"], [[1], [2]], 0)
LORA = ("model=tiny", "model.lora_rank=4")


def model_directory(folder: Path, weights: bytes = b"abc" * 100_000) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def save(checkpoints: Checkpoints, config, directory: Path, state: RunState = STATE) -> None:
    """Saves a step as train() does, with arrays that nobody reads here."""
    run = {
        "identity": identity(config, directory, PROMPTS, 8),
        "settings": settings(config),
        "state": dataclasses.asdict(state),
    }
    checkpoints.save(state.step, {"w": jnp.zeros(2)}, {"count": jnp.int32(1)}, run)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "ckpts", None)


def start(checkpoints, config, directory, *, prompts=PROMPTS, prompts_per_step=8, total_steps=100, resume="auto"):
    this_run = identity(config, directory, prompts, prompts_per_step)
    return find_start(checkpoints, resume, this_run, settings(config), total_steps)


def test_the_same_run_goes_on_with_its_state(compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    moved = directory.rename(tmp_path / "moved")
    for resume in ("auto", "must"):
        assert start(checkpoints, compose(*LORA), moved, resume=resume) == STATE
    assert caplog.text == ""


def test_an_empty_folder_starts_anew_unless_it_must_not(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    for resume in ("auto", "never"):
        assert start(checkpoints, compose(*LORA), directory, resume=resume) == RunState(total_steps=100)
    with pytest.raises(UserError, match=r"training\.resume=must, but .*/actor holds no valid checkpoint; give"):
        start(checkpoints, compose(*LORA), directory, resume="must")


def test_never_refuses_a_used_folder(compose, checkpoints, tmp_path):
    """A damaged checkpoint too: a run that starts anew would write over it."""
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    (checkpoints.root / "20" / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"resume=never, but .*/actor already holds checkpoints; give another folder"):
        start(checkpoints, compose(*LORA), directory, resume="never")


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    older = dataclasses.replace(STATE, step=10, num_tokens=6000)
    for state in (older, STATE):
        save(checkpoints, compose(*LORA), directory, state)
    (checkpoints.root / "20" / "params" / "_METADATA").write_text("{}")
    assert start(checkpoints, compose(*LORA), directory) == older


REFUSED = {
    "model": ("model.name=large", '"tiny" -> "large"'),
    "model.dtype": ("model.dtype=bfloat16", '"auto" -> "bfloat16"'),
    "model.lora_rank": ("model.lora_rank=16", "4 -> 16"),
    "model.lora_alpha": ("model.lora_alpha=8", "32.0 -> 8.0"),
    "model.lora_target_modules": ("model.lora_target_modules=mlp", '"all" -> "mlp"'),
    "model.quantization": ("model.quantization=nf4", 'null -> "nf4"'),
    "task.template_variables": ("task.template_variables={a: 1}", 'null -> {"a": 1}'),
    "task": ("task=gsm8k", '"arithmetic" -> "gsm8k"'),
    "seed": ("seed=7", "42 -> 7"),
    "grpo.num_generations": ("grpo.num_generations=6", "4 -> 6"),
}


def test_a_checkpoint_of_another_run_is_refused(compose, checkpoints, tmp_path):
    """Key, both values, and the ways out."""
    directory = model_directory(tmp_path / "model")
    base = compose(*LORA, "grpo.num_generations=4")
    save(checkpoints, base, directory)

    def refusal(config=base, directory=directory, **how) -> str:
        with pytest.raises(UserError) as caught:
            start(checkpoints, config, directory, **how)
        return str(caught.value)

    sentences = {key: refusal(compose(*LORA, "grpo.num_generations=4", word)) for key, (word, _) in REFUSED.items()}
    for key, (_, values) in REFUSED.items():
        assert f"({key}: {values}); give the settings it was made with, or another folder with" in sentences[key]
        assert "checkpoint_dir='${output_dir}/checkpoints'" in sentences[key]
        assert f"{checkpoints.root}/20 belongs to another run" in sentences[key]
        assert "\n" not in sentences[key]
    other_weights = model_directory(tmp_path / "other", weights=b"abc" * 99_999 + b"abd")
    assert '(model weights: "' in refusal(directory=other_weights)
    assert '(task prompts: "' in refusal(prompts=dataclasses.replace(PROMPTS, texts=["<1+1?>", "<2+3?>"]))
    assert "(prompts per step: 8 -> 16)" in refusal(prompts_per_step=16)
    full = refusal(compose("model=tiny", "grpo.num_generations=4", "seed=1"))
    for difference in ("lora_rank: 4 -> null", "lora_alpha: 32.0 -> null", "seed: 42 -> 1"):
        assert difference in full
    saved = checkpoints.run_of(20)["identity"]
    assert set(saved) == {*REFUSED, "model weights", "task prompts", "prompts per step"}  # nothing left untested


def test_an_older_version_s_checkpoint_lacks_what_was_added_later(compose, checkpoints, tmp_path, monkeypatch, caplog):
    """It is compared with what was in effect then: the same goes on without a word, anything else is refused."""
    monkeypatch.setitem(BEFORE, "model.dtype", "auto")
    monkeypatch.setitem(BEFORE, "grpo.beta", 0.08)
    config, directory = compose(*LORA, "grpo.beta=0.08"), model_directory(tmp_path / "model")
    run = {"identity": identity(config, directory, PROMPTS, 8), "settings": settings(config)}
    del run["identity"]["model.dtype"], run["settings"]["grpo.beta"]
    run["state"] = dataclasses.asdict(STATE)
    checkpoints.save(STATE.step, {"w": jnp.zeros(2)}, {"count": jnp.int32(1)}, run)
    with caplog.at_level(logging.WARNING):
        assert start(checkpoints, config, directory) == STATE
    assert caplog.messages == []
    with pytest.raises(UserError, match='model.dtype: "auto" -> "bfloat16"'):
        start(checkpoints, compose(*LORA, "model.dtype=bfloat16"), directory)


def test_the_way_out_in_the_sentence_is_a_folder_per_run(compose, tmp_path):
    assert compose("checkpoint_dir='${output_dir}/checkpoints'").checkpoint_dir == f"{tmp_path}/checkpoints"


def test_weights_from_the_seed_depend_on_the_shapes_alone(compose, tmp_path):
    config = compose(*LORA, "model.random_weights=true")
    one, same = model_directory(tmp_path / "a"), model_directory(tmp_path / "b", weights=b"others")
    other = model_directory(tmp_path / "c")
    (other / "config.json").write_text('{"model_type": "qwen3"}')
    first, second, third = (identity(config, folder, PROMPTS, 8)["model weights"] for folder in (one, same, other))
    assert first == second != third


def test_changed_settings_are_named_and_obeyed(compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    saved = compose(*LORA, "optimizer.learning_rate=1e-3", "grpo.beta=0.08", "reward.format.weight=1")
    save(checkpoints, saved, directory)
    changed = compose(
        *LORA, "optimizer.learning_rate=1e-4", "grpo.beta=0.02", "reward.format.weight=3", "tracker.num_completions=1"
    )
    with caplog.at_level(logging.WARNING):
        assert start(checkpoints, changed, directory) == STATE
    assert [record.message for record in caplog.records] == [
        "resuming with a changed setting: grpo.beta: 0.08 -> 0.02",
        "resuming with a changed setting: optimizer.learning_rate: 0.001 -> 0.0001",
        'resuming with a changed setting: reward.format: {"weight": 1.0} -> {"weight": 3.0}',
    ]


def test_a_longer_run_is_told_that_the_learning_rate_follows(compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    with caplog.at_level(logging.WARNING):
        state = start(checkpoints, compose(*LORA), directory, total_steps=250)
    assert state == dataclasses.replace(STATE, total_steps=250)
    assert [record.message for record in caplog.records] == [
        "total steps: 100 -> 250; the learning rate follows the new length"
    ]


@pytest.mark.parametrize("state", [STATE, RunState(), RunState(step=3, accuracy_before=1 / 3)])
def test_the_state_survives_json(state):
    assert RunState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


def test_settings_and_identity_survive_json(compose, tmp_path):
    """What comes back from a checkpoint must compare equal, or every resumed run would be told of changes."""
    config = compose(*LORA, "reward.custom.path=x.py", "reward.custom.function=f", "generation.top_k=5")
    for values in (settings(config), identity(config, model_directory(tmp_path / "model"), PROMPTS, 8)):
        assert json.loads(json.dumps(values)) == values

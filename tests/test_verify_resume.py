"""The proof that stopping changes nothing: it stops real trainings, and names the first place where two differ."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tunix_grpo.commands import CONF
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.short_words import as_typed, gathered
from tunix_grpo.config.verify_resume import load
from tunix_grpo.errors import UserError
from tunix_grpo.programs.differences import compare
from tunix_grpo.programs.verify_resume import Training, verify_resume
from tunix_grpo.run.checkpoints import Checkpoints

ROOT = Path(__file__).resolve().parent.parent


def config_of(*words: str):
    words = gathered(words, "train", load.settings())
    return load(composed(checked_command_line(words, CONF, "verify_resume", load), [CONF], "verify_resume"))


# --- the command line ---


def test_what_is_no_setting_of_the_program_is_training_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["model=tiny", "steps=6", "+notes.a='x, {y} ${seed}'", "seed=3", "interruptions=[kill]", "task.path=~/a"]
    config = config_of(*words)
    assert as_typed(config.train) == ["model=tiny", "+notes.a='x, {y} ${seed}'", "seed=3", "task.path=~/a"]
    assert (config.steps, config.interruptions) == (6, ["kill"])
    assert config_of().train == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.learning_rate=1e-3,1e-4"], "a sweep is several trainings; give one value"),
        (["model=tiny", "tiny"], "tiny: not of the form key=value"),
        (["steps=1"], "steps=1: must be at least 2"),
        (["interruptions=[kil]"], "interruptions"),
    ],
)
def test_a_mistake_is_one_sentence(words, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        config_of(*words)
    assert "\n" not in str(caught.value)


def test_a_used_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="there is something already; give a folder that does not exist yet"):
        verify_resume(config_of("model=tiny", f"folder={tmp_path}"))
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


# --- where two trainings differ ---

ROWS = [{"step": step, "reward": step / 7, "kl": 0.5, "step_time": 1.0, "timing/save": 0.1} for step in (1, 2, 3)]
COMPLETIONS = [
    {"step": step, "completion": f"the answer is {place}", "reward": 1.0} for step in (1, 2) for place in (1, 2)
]


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    """A run folder with two saved steps and its checkpoints inside."""
    folder = tmp_path_factory.mktemp("training")
    return write_training(folder)


def write_training(folder: Path, rows=ROWS, completions=COMPLETIONS, bump: float = 0.0, ledger=(1, 2)) -> Path:
    checkpoints = Checkpoints(folder / "checkpoints", None)
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights[1, 0] += bump
    for step in (2, 3):
        state = {"step": step, "num_tokens": 10 * step, "wandb_run_id": str(folder)}
        params = {"layer": {"w": jnp.asarray(weights), "b": jnp.zeros(2, jnp.bfloat16)}}
        run = {"identity": {}, "state": state, "ledger": list(ledger)}
        checkpoints.save(step, params, {"count": jnp.int32(step)}, run)
    checkpoints.close()
    (folder / "checkpoints" / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in completions))
    return folder


def test_equal_trainings_are_equal_whatever_their_clocks_say(training, tmp_path):
    rows = [row | {"step_time": 9.0, "timing/save": 8.0} for row in ROWS]
    assert compare(training, write_training(tmp_path, rows)) == (None, 9, 4, 3)


LONG = COMPLETIONS[:2] + [COMPLETIONS[2] | {"completion": "x" * 100 + "y"}, COMPLETIONS[3]]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"rows": [*ROWS[:2], ROWS[2] | {"kl": 0.5000000001}]}, "step 3, metric kl: 0.5 | 0.5000000001"),
        ({"rows": [*ROWS[:2], {"step": 3, "kl": 0.5}]}, "step 3, metric reward: 0.42857142857142855 | nothing"),
        ({"rows": ROWS[:2]}, "step 3, number of rows (metric): 3 | 2"),
        ({"rows": [*ROWS, ROWS[2] | {"step": 4}]}, "step 4, number of rows (metric): 3 | 4"),
        (
            {"completions": [*COMPLETIONS[:3], COMPLETIONS[3] | {"completion": "the answer is 7"}], "bump": 1.0},
            'step 2, completion 4: completion: "the answer is 2" | "the answer is 7"',
        ),
        ({"completions": LONG}, 'step 2, completion 3: completion: ..."the answer is 1"... | ..."xxx'),
        ({"bump": 0.25}, "step 3, params layer.w[1, 0] (1 of 6 numbers differ): 3.0 | 3.25"),
        ({"ledger": (1, 3)}, "step 3, what the run knows: ledger: [1, 2] | [1, 3]"),
    ],
)
def test_the_first_difference_is_named_with_its_place(training, tmp_path, changed, wanted):
    first = compare(training, write_training(tmp_path, **changed)).first
    assert str(first).startswith(wanted)


def test_trainings_of_other_lengths_differ(training, tmp_path):
    shutil.copytree(training, tmp_path / "short")
    shutil.rmtree(tmp_path / "short" / "checkpoints" / "actor" / "3")
    assert str(compare(training, tmp_path / "short").first) == "step 2, the last saved step: 3 | 2"


# --- real trainings ---

SMALL = (
    *("task=arithmetic", "task.num_questions=40", "device=cpu", "training.micro_batch_size=2"),
    *("grpo.num_generations=2", "generation.max_generation_steps=16", "evaluation.num_questions=2"),
)


def program(folder: Path, *words: str, timeout_s: float = 280) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "verify_resume.py"), f"folder={folder}", *words]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=timeout_s)


def verified(folder: Path, two_layer_model, jax_cache: str, *words: str, timeout_s: float = 280) -> str:
    command = ("model=tiny", *two_layer_model, *SMALL, f"jax_cache={jax_cache}", *words)
    done = program(folder, *command, timeout_s=timeout_s)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert not folder.exists()
    return done.stdout


@pytest.mark.slow
def test_a_killed_training_with_a_damaged_checkpoint_is_equal(tmp_path, two_layer_model, jax_cache):
    words = ("steps=6", "save_every=1", "interruptions=[kill,corrupt]")
    shown = verified(tmp_path / "v", two_layer_model, jax_cache, *words)
    assert re.search(r"^interrupted: (SIGKILL after step \d, exit code -9|it ended before SIGKILL came)$", shown, re.M)
    assert re.search(r"^interrupted: one bit of actor/\d/\S+ is flipped$", shown, re.M)
    assert re.search(r"^equal, bit for bit: 6 steps, \d+ metrics, 24 completions, \d+ arrays of step 6$", shown, re.M)


def test_a_training_does_not_outlive_the_program(tmp_path):
    training = Training(tmp_path / "run", [])
    training._command = [sys.executable, "-c", "import time; time.sleep(100)"]
    with pytest.raises(SystemExit) as stopped, training.started() as process:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert process.returncode == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


FIVE = "interruptions=[kill,kill,kill,kill,kill]"
UPDATES = ("grpo.num_minibatches=2", "grpo.num_iterations=2")
BEST = ("evaluation.metric=eval/reward", "evaluation.patience=50")
ALWAYS = "training.eval_interval_steps=1"  # some moments are in an evaluation


PROVED = {
    "adapters": ("interruptions=[kill,kill,kill,kill,kill,terminate,corrupt,kill]", "steps=40", "save_every=3"),
    "all weights": (
        *("model.lora_rank=null", "training.micro_batch_size=1", "training.gradient_accumulation_steps=2"),
        "steps=20",
    ),
    "order and fresh groups": (
        *("data.order=hard_first", "grpo.replace_equal_groups=true", "interruptions=[terminate,corrupt,kill]"),
        "steps=20",
    ),
    # Twenty kills: adapters and all weights, updates of several parts and passes, evaluations, the best step kept, a
    # checkpoint after every step, and so seldom that some kills come before the first one.
    "kills, adapters": (FIVE, "save_every=1", "steps=20", "moments=1", ALWAYS, *BEST),
    "kills, all weights": (FIVE, "model.lora_rank=null", "save_every=2", "steps=20", "moments=2", ALWAYS),
    "kills, parts": (
        *(FIVE, *UPDATES, "training.gradient_accumulation_steps=2", "save_every=4", "steps=20", "moments=3"),
        "training.eval_interval_steps=3",
    ),
    "kills, all weights in parts": (
        *(FIVE, *UPDATES, "model.lora_rank=null", "save_every=7", "steps=20", "moments=4", "training.spikes=skip"),
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("words", PROVED.values(), ids=PROVED)
def test_the_proof_holds_for_many_settings(tmp_path, two_layer_model, jax_cache, words):
    shown = verified(tmp_path / "v", two_layer_model, jax_cache, *words, timeout_s=960)
    assert "equal, bit for bit" in shown
    if FIVE in words:
        assert shown.count("interrupted: SIGKILL after step ") == 5


def test_a_training_that_cannot_start_is_its_sentence_and_leaves_nothing(tmp_path):
    done = program(tmp_path / "v", "model=tny")
    assert done.returncode == 1
    assert done.stderr.startswith("error: the training ended with exit code 2: model=tny: there is no model tny")
    assert not (tmp_path / "v").exists()

"""Every command line and file of the users' reference page composes, with the values in effect."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tunix_grpo.config import load
from tunix_grpo.config.composing import composed
from tunix_grpo.config.overrides import check_words, normalise

CONF = Path(__file__).resolve().parent.parent / "conf"

DEFAULT_FILE = """
micro_batch_size: 4
num_batches: 3738
num_epochs: 1
checkpoint_dir: ./checkpoints/ckpts/
save_interval_steps: 100
eval_interval_steps: 500
log_interval_steps: 10
seed: 42
device: cuda
"""
AGGRESSIVE_FILE = """
micro_batch_size: 8
num_batches: 1000
num_epochs: 1
checkpoint_dir: ./checkpoints/ckpts/
save_interval_steps: 50
eval_interval_steps: 100
log_interval_steps: 5
seed: 42
device: cuda
"""

# The words after `python run_training.py`, and what must be in effect (paths: under /start, where
# the command is given, and /home/someone).
COMMANDS = [
    ("training.micro_batch_size=1", {"training.micro_batch_size": 1}),
    ("training.micro_batch_size=4", {"training.micro_batch_size": 4}),
    ("training.micro_batch_size=8", {"training.micro_batch_size": 8}),
    ("training.num_batches=50", {"training.num_batches": 50}),
    ("training.num_batches=3738", {"training.num_batches": 3738}),
    ("training.num_batches=10000", {"training.num_batches": 10000}),
    ("training.num_epochs=2", {"training.num_epochs": 2}),
    (
        "training.checkpoint_dir=./checkpoints/ckpts/",
        {"checkpoint_dir": "{start}/checkpoints/ckpts"},
    ),
    (
        "training.checkpoint_dir=/full/path/to/checkpoints/ckpts/",
        {"checkpoint_dir": "/full/path/to/checkpoints/ckpts"},
    ),
    (
        "checkpoint_dir=~/my_models/checkpoints/",
        {"checkpoint_dir": "/home/someone/my_models/checkpoints"},
    ),
    (
        "training.checkpoint_dir=~/my_models/checkpoints/",
        {"checkpoint_dir": "/home/someone/my_models/checkpoints"},
    ),
    ("training.save_interval_steps=200", {"training.save_interval_steps": 200}),
    ("training.eval_interval_steps=1000", {"training.eval_interval_steps": 1000}),
    ("training.log_interval_steps=5", {"training.log_interval_steps": 5}),
    ("seed=42", {"seed": 42, "training.seed": 42}),
    ("seed=43", {"seed": 43, "training.seed": 43}),
    ("seed=44", {"seed": 44, "training.seed": 44}),
    ("device=cuda", {"device": "cuda", "training.device": "cuda"}),
    ("device=cpu", {"device": "cpu", "training.device": "cpu"}),
    (
        "training.micro_batch_size=2 training.gradient_accumulation_steps=4",
        {"training.micro_batch_size": 2, "training.gradient_accumulation_steps": 4},
    ),
    (
        "training=aggressive",
        {
            "training.micro_batch_size": 8,
            "training.num_batches": 1000,
            "training.save_interval_steps": 50,
            "training.eval_interval_steps": 100,
            "training.log_interval_steps": 5,
            "seed": 42,
            "device": "cuda",
        },
    ),
    (
        """training.micro_batch_size=2 \
        training.num_batches=10 \
        training.save_interval_steps=10 \
        training.eval_interval_steps=10""",
        {
            "training.micro_batch_size": 2,
            "training.num_batches": 10,
            "training.save_interval_steps": 10,
            "training.eval_interval_steps": 10,
        },
    ),
    (
        "+experiment=quick_test",
        {"training.num_batches": 10, "model.name": "tiny", "task.name": "arithmetic"},
    ),
    (
        """model=gemma3_270m \
        training.micro_batch_size=1 \
        training.num_batches=3738""",
        {
            "model.hub_id": "google/gemma-3-270m-it",
            "training.micro_batch_size": 1,
            "training.num_batches": 3738,
        },
    ),
    (
        """model=gemma3_4b \
        training.micro_batch_size=8 \
        training.num_batches=10000 \
        training.eval_interval_steps=1000""",
        {
            "model.hub_id": "google/gemma-3-4b-it",
            "training.micro_batch_size": 8,
            "training.num_batches": 10000,
            "training.eval_interval_steps": 1000,
        },
    ),
    (
        """model=gemma3_1b \
        training.micro_batch_size=4 \
        training.num_batches=10000 \
        training.save_interval_steps=100""",
        {
            "model.hub_id": "google/gemma-3-1b-it",
            "training.micro_batch_size": 4,
            "training.num_batches": 10000,
            "training.save_interval_steps": 100,
        },
    ),
    ("checkpoint_dir=./checkpoints/ckpts/", {"checkpoint_dir": "{start}/checkpoints/ckpts"}),
    (
        "checkpoint_dir=/path/to/checkpoints/ckpts/",
        {"checkpoint_dir": "/path/to/checkpoints/ckpts"},
    ),
    ("training.save_interval_steps=500", {"training.save_interval_steps": 500}),
    (
        """model=gemma3_270m \
        model.lora_rank=8 \
        training.micro_batch_size=1 \
        grpo.num_generations=2 \
        optimizer.learning_rate=1e-5""",
        {
            "model.hub_id": "google/gemma-3-270m-it",
            "model.lora_rank": 8,
            "training.micro_batch_size": 1,
            "grpo.num_generations": 2,
            "optimizer.learning_rate": 1e-5,
        },
    ),
    (
        """model=gemma3_4b \
        model.lora_rank=64 \
        training.micro_batch_size=8 \
        grpo.num_generations=4 \
        optimizer.learning_rate=3e-6""",
        {
            "model.hub_id": "google/gemma-3-4b-it",
            "model.lora_rank": 64,
            "training.micro_batch_size": 8,
            "grpo.num_generations": 4,
            "optimizer.learning_rate": 3e-6,
        },
    ),
]


@pytest.mark.parametrize(("command", "expected"), COMMANDS, ids=[" ".join(c[0].split()) for c in COMMANDS])
def test_commands_take_effect(command, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    words = normalise(shlex.split(command))
    assert check_words(words, [CONF]).problems == []
    cfg = composed(words, [CONF], "config")

    config = load(cfg)
    shown = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    for key, value in expected.items():
        if key == "checkpoint_dir":
            value = value.format(start=tmp_path)
            assert config.checkpoint_dir == config.training.checkpoint_dir == value
        else:
            section, _, name = key.rpartition(".")
            holder = getattr(config, section) if section else config
            assert getattr(holder, name) == value
            assert OmegaConf.select(shown, key) == value


# Steps in place of those that a command asks for; longer stays longer.
FEWER = {10: 1, 50: 2, 1000: 2, 3738: 3, 10000: 4}
SMALL = (
    "task=arithmetic",
    "task.num_questions=100",
    "generation.max_generation_steps=8",
    "evaluation.num_questions=2",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
)


def small(command: str, folder: Path) -> list[str]:
    """Returns the words of a command with less work, on the bundled model: what it differs in from others stays."""
    words = [*SMALL, "grpo.num_generations=2", "device=cpu"]
    given = shlex.split(command)
    if "+experiment=quick_test" not in given:
        words = ["model=tiny", "model.name=gemma3_270m", "model.lora_rank=4", *words]
    if "training=aggressive" not in given:
        words.append(f"training.num_batches={FEWER[3738]}")
    for word in given:
        key, _, value = word.partition("=")
        if key == "model":
            word = f"model.name={value}"
        elif key == "training.num_batches":
            word = f"training.num_batches={FEWER[int(value)]}"
        elif value == "aggressive":
            words += [word, f"training.num_batches={FEWER[1000]}"]
            continue
        elif value == "quick_test":
            words += [word, f"training.num_batches={FEWER[10]}"]
            continue
        words.append(word.replace("cuda", "cpu").replace("=/", f"={folder}/"))
    return words


# Runs command lines one after the other in one process and prints exit code and output of each as a line of JSON.
DRIVER = f"""
import contextlib, io, json, sys
from pathlib import Path
from tunix_grpo import cli
from tunix_grpo.config import load
from tunix_grpo.train import train

printed = sys.stdout
for line in sys.stdin:
    words = json.loads(line)
    sys.argv, sys.orig_argv = ["run_training.py", *words], ["python", "run_training.py", *words]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = cli.run(lambda config: train(config), config_dir=Path({str(CONF)!r}), load=load)
    print(json.dumps([code, shown.getvalue()]), file=printed, flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_command_trains_or_is_refused_with_two_commands(tmp_path, jax_cache):
    """All of them, in their order, in one folder: none goes on in silence with what another one made."""
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path, "env": environment}
    ends = []
    with subprocess.Popen([sys.executable, "-c", DRIVER], **how) as driver:

        def run(words: list[str]) -> tuple[int, str]:
            print(json.dumps(words), file=driver.stdin, flush=True)
            return json.loads(driver.stdout.readline())

        for command, _ in COMMANDS:
            code, shown = run([f"jax_cache={jax_cache}", *small(command, tmp_path)])
            trained, done = "Training finished" in shown, "nothing to do" in shown
            refused = "was made with other settings" in shown
            assert (code, refused, trained or done) in [(1, True, False), (0, False, True)], f"{command}\n{shown}"
            assert "going on with another setting" not in shown
            if refused:
                go_on, afresh = (shlex.split(line)[2:] for line in shown.splitlines() if line.startswith("    python "))
                assert "training.resume=changed" in go_on or any(word.startswith("model.") for word in go_on), shown
                if "refused" not in ends:
                    for pasted in (afresh, go_on):
                        code, shown = run(pasted)
                        assert (code, "Training finished" in shown) == (0, True), f"{pasted}\n{shown}"
            ends.append("refused" if refused else "trained" if trained else "done")
        driver.stdin.close()
    assert {"refused", "trained", "done"} == set(ends), ends


@pytest.mark.parametrize(("option", "content"), [("default", DEFAULT_FILE), ("aggressive", AGGRESSIVE_FILE)])
def test_training_files_hold_the_documented_values(option, content):
    file = OmegaConf.load(CONF / "training" / f"{option}.yaml")
    documented = OmegaConf.create(content)
    assert {key: file[key] for key in documented} == dict(documented)


def test_the_run_folder_is_the_documented_one():
    output_dir = composed([], [CONF], "config").output_dir
    assert re.fullmatch(r"outputs/tunix-grpo/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", output_dir)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("checkpoint_dir=~/my_models/checkpoints/ seed=43", "  seed: 43"),
        ("+experiment=quick_test", "  name: tiny"),
        ("training=aggressive device=cpu", "device: cpu"),
    ],
)
def test_cfg_job_resolve_shows_the_values(run_training, command, shown):
    done = run_training(*shlex.split(command), "--cfg", "job", "--resolve")
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout.splitlines()
    assert "${" not in done.stdout

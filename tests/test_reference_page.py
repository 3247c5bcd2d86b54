"""Every command line and file of the users' reference page composes, with the values in effect."""

import re
import shlex
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

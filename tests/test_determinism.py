"""training.deterministic: XLA's flags are there before jax starts, or the run does not begin."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest

from tunix_grpo.errors import UserError

PROGRAM = """
import json, os, sys
from tunix_grpo.config import MeshConfig
from tunix_grpo.errors import UserError
from tunix_grpo.run.determinism import ask_for_determinism
from tunix_grpo.run.devices import open_devices
results = []
for wanted in json.loads(sys.argv[1]):
    try:
        ask_for_determinism(wanted)
    except UserError as error:
        results.append(str(error))
        continue
    open_devices("cpu", MeshConfig(fsdp=None, tp=1), None)
    import jax
    assert jax.jit(lambda x: x + 1)(1) == 2  # jaxlib ends the process where it does not know a flag
    results.append(os.environ.get("XLA_FLAGS"))
print(json.dumps(results))
"""
FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"


def started(*wanted: bool, flags: str | None) -> list[str | None]:
    """Returns what each start of one process has in XLA_FLAGS, or its error."""
    kept = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment = kept | ({} if flags is None else {"XLA_FLAGS": flags})
    command = [sys.executable, "-c", PROGRAM, json.dumps(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_flags_are_set_once_behind_those_that_are_there():
    own = "--xla_gpu_autotune_level=4"  # of two flags of one name the last one counts
    assert started(True, True, False, flags=own) == [f"{own} {FLAGS}"] * 3


def test_a_process_that_has_started_without_them_is_one_sentence():
    without, refused = started(False, True, flags=None)
    assert without is None
    assert refused == (
        "training.deterministic=true: an earlier job of this process has started jax without it; start a program of "
        "its own for this job"
    )


def test_training_asks_before_it_opens_the_device(compose, monkeypatch):
    training = importlib.import_module("tunix_grpo.train")

    def asked(wanted):
        raise UserError(f"asked: {wanted}")

    monkeypatch.setattr(training, "open_devices", None)  # cannot be called
    monkeypatch.setattr(training, "ask_for_determinism", asked)
    for value, said in (("true", "asked: True"), ("false", "asked: False")):
        with pytest.raises(UserError, match=said):
            training.train(compose("model=tiny", f"training.deterministic={value}"))

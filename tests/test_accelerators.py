"""Ten trainings compiled for GPUs and TPUs that are not here, by the command that users have; nothing is run.

`make test-accelerators` makes the environments that compile, and runs these tests; all of them take at most 30 minutes
on two cores. PREFLIGHT_CUDA and PREFLIGHT_TPU name other interpreters.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import ROOT

QWEN = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
# What the tests set for programs that run; these are compiled as users do.
OF_TESTS = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS")


class Combination(NamedTuple):
    """A training and a device.

    Attributes:
        words: of the command line.
        way_out: what makes it fit, where it does not.
    """

    target: str
    words: str
    way_out: str = ""


# TPUs first: what is compiled for them takes longest.
COMBINATIONS = {
    "270m adapters, v5e-1": Combination("v5e-1", "model=gemma3_270m training.remat=full"),
    "qwen 0.5b adapters, rows in slots, v5e-1": Combination("v5e-1", "model=hf model.path=QWEN generation.max_rows=8"),
    "4b adapters, v5e-1": Combination("v5e-1", "model=gemma3_4b"),
    "1b adapters, four devices, v5e-4": Combination("v5e-4", "model=gemma3_1b mesh.fsdp=4"),
    "4b adapters, h100": Combination("h100", "model=gemma3_4b"),
    "1b all weights, accumulated, h100": Combination(
        "h100",
        "model=gemma3_1b model.lora_rank=null training.micro_batch_size=1 training.gradient_accumulation_steps=4",
    ),
    "1b adapters, layers kept, a100": Combination("a100", "model=gemma3_1b training.remat=block"),
    "270m adapters, without a reference, rtx4090": Combination("rtx4090", "model=gemma3_270m grpo.beta=0"),
    "4b adapters on 4 bits, rtx4090": Combination(
        "rtx4090", "model=gemma3_4b model.quantization=nf4 training.micro_batch_size=1"
    ),
    "qwen 0.5b all weights, long, layers kept, rtx4090": Combination(
        "rtx4090",
        "model=hf model.path=QWEN model.lora_rank=null generation.max_generation_steps=2048 "
        "training.micro_batch_size=16 training.remat=block",
        way_out="training.remat=full",
    ),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shapes of Qwen2.5-0.5B."""
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "config.json").write_text(json.dumps(QWEN))
    return folder


def interpreter(target: str) -> Path:
    """Returns the Python that compiles for a target."""
    kind = "tpu" if target.startswith("v5e") else "cuda"
    given = os.environ.get(f"PREFLIGHT_{kind.upper()}")
    python = Path(given) if given else ROOT / f".venv-preflight-{kind}" / "bin" / "python"
    assert python.exists(), f"{python} is not there: run `make preflight-{kind}`, or `make test-accelerators`"
    return python


def preflight(target: str, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command of a user in a folder."""
    program = str(ROOT / "scripts" / "preflight.py")
    command = [str(interpreter(target)), program, *words, f"target={target}", "json=true"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_TESTS}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.accelerators
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", COMBINATIONS)
def test_it_compiles_fits_and_leaves_the_host_alone(name, qwen, tmp_path):
    """Or it does not fit, and preflight names the settings with which it does."""
    target, words, way_out = COMBINATIONS[name]
    done = preflight(target, words.replace("QWEN", str(qwen)).split(), tmp_path)
    assert "Traceback" not in done.stderr and done.stdout.startswith("{"), done.stderr
    said = json.loads(done.stdout)
    assert {"rollout", "update", "optimizer"} <= {each["name"].split(",")[0] for each in said["programs"]}
    read = [each for each in said["programs"] if each["refusal"] is None]
    assert {each["name"]: each["host_transfers_in_loops"] for each in read} == {each["name"]: [] for each in read}
    over = [each["name"] for each in said["programs"] if each["refusal"] or each["total_bytes"] > said["memory_bytes"]]
    if way_out:
        assert over and not said["fits"] and done.returncode == 1
        sentence = re.search(r"does not fit: .* with (\S+=\S+(?: \S+=\S+)*) it fits", done.stderr)
        assert sentence and sentence[1] == way_out, done.stderr
    else:
        assert (over, said["fits"], done.returncode) == ([], True, 0), done.stderr

"""What the tests share; jax is told of the CPU and its cache before anything imports it."""

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tunix_grpo.cli import NEW_OBJECTS
from tunix_grpo.config import Config, SftConfig, load, sft

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
TINY = ROOT / "src" / "tunix_grpo" / "assets" / "tiny"


# The files that take ten seconds and more, longest first: two workers take a file each, small ones fill up the end.
LONGEST = (
    *(
        "test_train",
        "test_golden",
        "test_evaluate",
        "test_sft",
        "test_generate",
        "test_export",
        "test_generation",
        "test_composing",
        "test_model",
        "test_trackers",
        "test_memory",
        "test_buckets",
        "test_updates",
    ),
    *("test_decoder", "test_trainer", "test_old_runs", "test_tunix_plugin", "test_loss", "test_cli", "test_config"),
    *("test_mirror", "test_benchmark", "test_health", "test_start", "test_sampling", "test_tasks", "test_quantization"),
    *("test_layouts", "test_verify_resume", "test_security"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Sets the environment of this process and of every program that a test starts, before jax reads it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # The small programs of the tests take far longer to compile than to run, and XLA's older emitter compiles them in
    # about half the time. The commands of the pages run as users run them.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_collection_finish() -> None:
    """Spares the garbage collector what the tests have loaded; its rounds took a sixth of their time."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> None:
    """Drops what earlier files have compiled, which nobody else runs: a worker of `make test-all` grew to 10 GB by it.

    The garbage collector is spared what is left all the same; a round of it took 2 s.
    """
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as users do: for tests of what is in a compiled program, or of what it needs."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def jax_cache() -> str:
    """Folder of compiled programs that all tests share; programs take it as `jax_cache=`."""
    return os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama model with two layers, for trainers that `helpers.trainer` puts together."""
    from helpers.models import write_model  # it loads jax, which reads what `pytest_configure` sets

    folder = tmp_path_factory.mktemp("llama")
    write_model("llama", folder, num_hidden_layers=2)
    return folder


@pytest.fixture(scope="session")
def two_layer_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings for the bundled model's shape and tokenizer with two layers and random weights: quick to compile.

    For runs that nothing is to be learned in. They stand behind `model=tiny`.
    """
    folder = tmp_path_factory.mktemp("two_layers")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, folder)
    config = json.loads((TINY / "config.json").read_text())
    config |= {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    (folder / "config.json").write_text(json.dumps(config))
    return f"model.path={folder}", "model.random_weights=true"


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_cache: str) -> Callable[..., Config]:
    """Composes the shipped config: `compose("model=tiny", "seed=7")`.

    The test's current directory and the run's output directory are its own `tmp_path`.
    """
    monkeypatch.chdir(tmp_path)
    # A test before this one may have run a program here: its command line is not this test's.
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    return lambda *overrides: load(_composed("config", tmp_path, jax_cache, overrides))


@pytest.fixture
def compose_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jax_cache: str) -> Callable[..., SftConfig]:
    """Composes the shipped config of scripts/sft.py, as `compose` does that of training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    return lambda *overrides: sft.load(_composed("sft", tmp_path, jax_cache, overrides))


def _composed(name: str, output_dir: Path, jax_cache: str, overrides: Sequence[str]) -> DictConfig:
    folders = [f"output_dir='{output_dir}'", f"jax_cache='{jax_cache}'"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, [*folders, *overrides])


@pytest.fixture
def run_training(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python run_training.py WORDS` in a process of its own, started in `tmp_path`."""

    def run_program(*words: str, timeout_s: float = 240) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "run_training.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run_program

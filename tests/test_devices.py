"""The device and the mesh. JAX starts once per process, so most of this runs in processes of its own."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tunix_grpo.run.devices import CompilationCounter, peak_memory_bytes

# Opens devices as asked, one after another, and prints what came of each.
PROGRAM = """
import json, sys
from tunix_grpo.config import MeshConfig
from tunix_grpo.run.devices import open_devices
from tunix_grpo.errors import UserError

results = []
for device, fsdp, tp, jax_cache in json.loads(sys.argv[1]):
    try:
        opened = open_devices(device, MeshConfig(fsdp=fsdp, tp=tp), jax_cache)
    except UserError as error:
        results.append(str(error))
        continue
    import jax
    results.append([dict(opened.mesh.shape), opened.data_parallel, opened.kind, jax.config.jax_compilation_cache_dir])
    jax.jit(lambda x: x + 1)(1.0)
print(json.dumps(results))
"""


def opened(*asked: list, **environment: str) -> list:
    """Returns, per [device, fsdp, tp, jax_cache], the error or [mesh shape, data parallel, kind, cache folder]."""
    kept = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(asked)], env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_device_that_is_not_there_is_one_sentence_with_the_ways_out():
    cuda, tpu = opened(["cuda", None, 1, None], ["tpu", None, 1, None], CUDA_VISIBLE_DEVICES="")
    assert cuda.startswith("device=cuda: JAX finds no such device (")
    assert cuda.endswith(
        "; choose device=cpu, or, on a machine with an NVIDIA GPU, run `make cuda12` or `make cuda13` (by driver)"
    )
    assert tpu.startswith("device=tpu: JAX finds no such device (")
    assert tpu.endswith("; choose device=cpu, or, on a machine with a TPU, run `make tpu`")
    assert "\n" not in cuda + tpu


def test_auto_names_the_variable_that_rules_all_devices_out():
    (sentence,) = opened(["auto", None, 1, None], JAX_PLATFORMS="nonsense")
    assert sentence.startswith("device=auto: JAX finds no such device (")
    assert sentence.endswith("; choose device=cpu, or unset JAX_PLATFORMS")


def test_mesh_and_cache_folder(tmp_path):
    """On four devices; `device=cpu` wins over what the environment says."""
    new, wide, taken = tmp_path / "a" / "new", tmp_path / "wide", tmp_path / "taken"
    wide.mkdir()
    wide.chmod(0o755)
    taken.write_text("")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # like /tmp
    results = opened(
        ["cpu", None, 1, None],
        ["cpu", None, 2, str(new)],
        ["cpu", 1, 4, str(wide)],
        ["cpu", 4, 2, None],
        ["cpu", None, 3, None],
        ["cpu", 1, 1, None],
        ["cpu", None, 1, str(shared)],
        ["cpu", None, 1, str(taken)],
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
        JAX_PLATFORMS="cuda",
    )
    assert results[:3] == [
        [{"fsdp": 4, "tp": 1}, 4, "cpu (4 x cpu)", None],
        [{"fsdp": 2, "tp": 2}, 2, "cpu (4 x cpu)", str(new)],
        [{"fsdp": 1, "tp": 4}, 1, "cpu (4 x cpu)", str(wide)],
    ]
    way_out = "does not use the 4 device(s) of this machine; mesh.fsdp=null mesh.tp=1 takes all"
    assert results[3:6] == [
        f"mesh.fsdp=4 x mesh.tp=2 {way_out}",
        f"mesh.fsdp=1 x mesh.tp=3 {way_out}",
        f"mesh.fsdp=1 x mesh.tp=1 {way_out}",
    ]
    assert results[6:] == [
        f"jax_cache={shared}: others may write to it; give a folder of your own, or jax_cache=null",
        f"jax_cache={taken}: cannot be used (File exists); give another folder, or jax_cache=null",
    ]
    assert list(new.glob("*-cache"))  # also of a program that took milliseconds to compile
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (new, wide, shared)] == [0o700, 0o700, 0o1777]


def test_compilations_are_counted_once_per_program():
    counter = CompilationCounter()
    program = jax.jit(lambda x: jnp.sin(x) * 3.0)
    for _ in range(3):
        program(jnp.ones(3))
    once = counter.count
    program(jnp.ones(4))
    assert once >= 1
    assert counter.count > once
    twice = counter.count
    program(jnp.ones(4))
    assert counter.count == twice


def test_peak_memory_is_in_bytes():
    """On the CPU that of the process, as the kernel has it in kB; an accelerator tells its own."""
    status = Path("/proc/self/status")
    if jax.default_backend() != "cpu" or not status.exists():
        pytest.skip("the kernel does not tell the peak of what computes here")
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak_memory_bytes() == pytest.approx(peak * 1024, rel=0.05)

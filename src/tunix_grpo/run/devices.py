"""The machine: which device computes, and the mesh that models and batches are laid out on."""

from __future__ import annotations

import dataclasses
import os
import resource
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tunix_grpo.config import MeshConfig
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.hosts.cluster import ALONE, Hosts

if TYPE_CHECKING:  # the device is chosen before jax is imported
    import jax

_WAY_OUT = {
    "cuda": "choose device=cpu, or, on a machine with an NVIDIA GPU, run `make cuda12` or `make cuda13` (by driver)",
    "tpu": "choose device=cpu, or, on a machine with a TPU, run `make tpu`",
    "auto": "choose device=cpu, or unset JAX_PLATFORMS",
}


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        mesh: axes `fsdp` (data parallel; weights are sharded along it too) and `tp` (tensor parallel).
        kind: what the hardware calls itself, for people.
    """

    mesh: jax.sharding.Mesh
    kind: str

    @property
    def data_parallel(self) -> int:
        """How many devices share the prompts of a step."""
        return self.mesh.shape["fsdp"]


def open_devices(device: str, mesh: MeshConfig, jax_cache: str | None, hosts: Hosts = ALONE) -> Devices:
    """Starts JAX on the asked device and lays out the mesh, which becomes that of this thread's programs.

    Args:
        device: cuda, cpu, tpu or auto (what JAX finds first).
        jax_cache: folder of the persistent compilation cache, or None. It is kept private to its owner, since
            whoever can write to it can run code in this process.
        hosts: those whose devices are taken.

    Raises:
        UserError: there is no such device, or the mesh does not fit the devices.
    """
    if device != "auto":
        os.environ["JAX_PLATFORMS"] = device
    import jax

    if device != "auto":
        jax.config.update("jax_platforms", device)
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX only asserts that it found a GPU
        reason = one_line(error).partition(" (set JAX_PLATFORMS")[0] if str(error) else "none is visible"
        raise UserError(f"device={device}: JAX finds no such device ({reason}); {_WAY_OUT[device]}") from error
    if jax_cache is not None:
        _use_cache(jax, Path(jax_cache).expanduser())
    mesh_of_all = mesh_over(found, mesh, "this machine" if hosts.count == 1 else f"the {hosts.count} hosts")
    if mesh_of_all.size > 1:
        jax.set_mesh(mesh_of_all)  # what `decoder/layouts.py` lays programs out on
    kind = f"{len(found)} x {found[0].device_kind}" if len(found) > 1 else found[0].device_kind
    where = "" if hosts.count == 1 else f" on {hosts.count} hosts"
    return Devices(mesh_of_all, f"{found[0].platform} ({kind}){where}")


def mesh_over(devices: Sequence[object], mesh: MeshConfig, place: str) -> jax.sharding.Mesh:
    """Returns the mesh of all these devices.

    Args:
        place: where they are, in words.

    Raises:
        UserError: it does not fit them.
    """
    import jax

    fsdp = mesh.fsdp if mesh.fsdp is not None else max(1, len(devices) // mesh.tp)
    if fsdp * mesh.tp != len(devices):
        raise UserError(
            f"mesh.fsdp={fsdp} x mesh.tp={mesh.tp} does not use the {len(devices)} device(s) of {place}; "
            "mesh.fsdp=null mesh.tp=1 takes all"
        )
    # Built from an array: jax.make_mesh would give explicit axes, which Tunix's models cannot run on.
    return jax.sharding.Mesh(np.array(devices).reshape(fsdp, mesh.tp), ("fsdp", "tp"))


def peak_memory_bytes() -> int:
    """Returns the most memory used so far: of the first device where it tells, of this process otherwise."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return process_peak_bytes()


def device_memory_bytes() -> int:
    """Returns how much memory there is: of the first device where it tells, of this machine otherwise."""
    from tunix_grpo.decoder.platform import memory

    held = memory()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if held is None else held


def process_peak_bytes() -> int:
    """Returns the most memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _use_cache(jax, folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_ISVTX:
            raise UserError(f"jax_cache={folder}: others may write to it; give a folder of your own, or jax_cache=null")
        folder.chmod(0o700)
    except OSError as error:
        raise UserError(
            f"jax_cache={folder}: cannot be used ({error.strerror}); give another folder, or jax_cache=null"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # All of them: a start compiles about fifty programs that take 0.02 s each, and reading them takes a tenth of that.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class CompilationCounter:
    """Counts the programs that XLA has compiled since it was made; cached ones count too, at no cost.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        import jax

        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: object) -> None:
        del duration_secs
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1

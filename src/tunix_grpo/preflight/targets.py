"""The devices that a training can be compiled for without having one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.experimental import topologies
from jax.sharding import Mesh

from tunix_grpo.config import Config, MeshConfig
from tunix_grpo.decoder.platform import Described, memory, platform
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.grpo.limits import Ceilings
from tunix_grpo.preflight.compiling import lowering
from tunix_grpo.run.devices import device_memory_bytes, mesh_over, open_devices

_DESCRIPTIONS = Path(__file__).parents[1] / "assets" / "devices"
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Target:
    """A device.

    Attributes:
        about: what a person calls it.
        lowering: what programs are lowered for: cpu, cuda or tpu.
        described: the device, if it is not there.
        count: how many of them.
        memory: bytes of one; None where it does not tell.
        ceilings: its rates by the data sheet, bytes and bfloat16 FLOP per second; None where they are not known.
    """

    about: str
    lowering: str
    described: Described | None
    count: int
    memory: int | None
    ceilings: Ceilings | None = None


# Memory: what XLA's description of the device, or the compiler's refusal, says can be had.
_H100 = Described("gpu", 84_942_979_072, longest_head=256)
_A100 = Described("gpu", 84_986_691_584, longest_head=128)
_RTX4090 = Described("gpu", 25_386_352_640, longest_head=128)
_V5E = Described("tpu", int(15.75 * _GIB))
TARGETS = {
    "h100": Target("NVIDIA H100 80 GB", "cuda", _H100, 1, _H100.memory, Ceilings(3.35e12, 989e12)),
    "a100": Target("NVIDIA A100 80 GB", "cuda", _A100, 1, _A100.memory, Ceilings(2.04e12, 312e12)),
    "rtx4090": Target("NVIDIA GeForce RTX 4090", "cuda", _RTX4090, 1, _RTX4090.memory, Ceilings(1.008e12, 165e12)),
    "v5e-1": Target("TPU v5e", "tpu", _V5E, 1, _V5E.memory, Ceilings(819e9, 197e12)),
    "v5e-4": Target("4 x TPU v5e", "tpu", _V5E, 4, _V5E.memory, Ceilings(819e9, 197e12)),
}


def present(config: Config) -> tuple[Target, Mesh]:
    """Returns the devices that are there, as a run would open them."""
    devices = open_devices(config.device, config.mesh, None)
    held = device_memory_bytes() if platform() == "cpu" else memory()
    return Target(devices.kind, lowering(), None, devices.mesh.size, held), devices.mesh


def described_mesh(name: str, target: Target, config: MeshConfig) -> Mesh:
    """Returns the mesh of a run on a device that is not there, as `mesh.fsdp` and `mesh.tp` cut it.

    Raises:
        UserError: they do not cut it, or what compiles for such a device is not installed.
    """
    try:
        devices = _topology(name, target).devices
    except Exception as error:  # plugins raise what they like
        extra = {"cuda": "preflight-cuda", "tpu": "preflight-tpu"}[target.lowering]
        raise UserError(
            f"target={name}: what compiles for it is not here ({one_line(error)}); run `make {extra}`, which makes an "
            "environment of its own, and start this program from there"
        ) from error
    return mesh_over(devices, config, f"target={name}")


def _topology(name: str, target: Target) -> topologies.TopologyDescription:
    if target.lowering == "cuda":
        described = (_DESCRIPTIONS / f"{name}.txtpb").read_text()
        return topologies.get_topology_desc(platform="cuda", target_config=described, topology=f"1x1x{target.count}")
    if target.count == 1:
        bounds = {"chips_per_host_bounds": (1, 1, 1)}
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:1x1", **bounds)
    return topologies.get_topology_desc(platform="tpu", topology_name=f"v5e:2x{target.count // 2}")


def ask_no_device() -> None:
    """Answers for JAX what it asks a GPU before it lowers to cuDNN: nothing runs here, and the target has it."""
    cudnn.check_cudnn_version = lambda: 91000
    cudnn.check_compute_capability = lambda capability: True
    cudnn.is_cuda_compute_capability_equal = lambda capability: False

"""Compiles the programs of a step for an H100 or a TPU v5e that is not here, and prints what each of them needs.

    python tools/compiled_memory.py [--size 4b] [--rank 32] [--programs update,rollout,reference]
    python tools/compiled_memory.py --size 4b --programs update --held 12
    python tools/compiled_memory.py --size 270m --programs prompts,update_piece,update_prompts
    python tools/compiled_memory.py --size 270m --programs update,rollout --deterministic
    python tools/compiled_memory.py --size 270m --fsdp 4 [--tp 2] [--device v5e] [--form plain]

Wants `pip install -e . "jax[cuda12]"`, or "jax[tpu]" for a v5e, and no device: nothing runs, all figures are the
compiler's, per device. The work is 4 prompts x 4 completions of 256 + 512 tokens for each data-parallel device, on a
Gemma 3 in bfloat16; with --rank 0 all weights are trained. "sent" is what a device has from the others: the weights of
a rollout, which are gathered before it, are not in it. "kernels" is how many a GPU runs one after another, a loop's as
often as it goes round where that is known. "atomics" counts the kernels, of those that XLA writes itself, in which
threads add in the order in which they come; --deterministic sets the flags of training.deterministic=true.
--held lists the largest of the arrays that are held at the peak.
assets/devices/h100.txtpb is XLA's description of the device. There is no autotuning, and cuDNN's workspace is not
counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
from held_at_peak import held_at_peak  # noqa: E402

from tunix_grpo.run.determinism import ask_for_determinism  # noqa: E402

# XLA reads its flags with the first program.
DUMPED = tempfile.TemporaryDirectory()
if "v5e" not in sys.argv:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={DUMPED.name}"
ask_for_determinism("--deterministic" in sys.argv)

import jax  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from step_programs import PROGRAMS, SHAPES, described_model  # noqa: E402

from tunix_grpo.decoder import layouts  # noqa: E402
from tunix_grpo.decoder.attention import FUSED, PLAIN  # noqa: E402
from tunix_grpo.decoder.platform import traced_for  # noqa: E402
from tunix_grpo.preflight.collectives import collectives, traffic  # noqa: E402
from tunix_grpo.preflight.compiled_text import instructions  # noqa: E402
from tunix_grpo.preflight.targets import TARGETS, ask_no_device, described_mesh  # noqa: E402

# Operations that name something, or run what is in them.
_NO_KERNELS = frozenset(
    ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "call", "conditional", "after-all")
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="4b", help="of Gemma 3: 270m, 1b, 4b, 12b or 27b")
    parser.add_argument("--rank", type=int, default=32, help="of the adapters; 0 trains all weights")
    parser.add_argument("--programs", default="update,rollout,reference")
    parser.add_argument("--device", default="h100", choices=("h100", "v5e"))
    parser.add_argument("--fsdp", type=int, default=1, help="data-parallel devices")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel devices")
    parser.add_argument("--deterministic", action="store_true", help="as training.deterministic=true compiles them")
    parser.add_argument("--held", type=int, default=0, help="how many of the arrays at the peak are listed; of an H100")
    parser.add_argument("--form", default="", help="of attention: plain or fused; fused on an H100")
    asked = parser.parse_args()
    name = {"h100": "h100", "v5e": "v5e-1"}[asked.device]
    target = dataclasses.replace(TARGETS[name], count=asked.fsdp * asked.tp)
    divided: Any = SimpleNamespace(fsdp=asked.fsdp, tp=asked.tp)
    ask_no_device()
    with traced_for(target.described):
        compile_all(asked, target.lowering, described_mesh(name, target, divided))


def compile_all(asked: argparse.Namespace, platform: str, mesh: Mesh) -> None:
    model = described_model(SHAPES / f"google--gemma-3-{asked.size}-it", asked.rank, mesh)
    form = asked.form or (FUSED if platform == "cuda" else PLAIN)
    print(
        f"{'program':<18}{'arguments':>12}{'temporaries':>13}{'peak':>11}{'sent':>11}{'kernels':>9}{'atomics':>9}"
        "   (MB; compiled in)"
    )
    for name in asked.programs.split(","):
        program, inputs = PROGRAMS[name](model, mesh, form)
        start = time.perf_counter()
        with layouts.on(mesh):
            compiled = jax.jit(program).trace(*inputs).lower(lowering_platforms=(platform,)).compile()
        memory = compiled.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.peak_memory_in_bytes)
        text = compiled.as_text()
        sizes = (*sizes, traffic(collectives(text)))
        arguments, temporaries, peak, sent = (f"{size / 1e6:,.1f}" for size in sizes)
        seconds = time.perf_counter() - start
        figures = f"{arguments:>12}{temporaries:>13}{peak:>11}{sent:>11}{kernels(text):>9,}{atomic_kernels():>9}"
        print(f"{name:<18}{figures}   ({seconds:.0f} s)", flush=True)
        show_held(asked.held)


def show_held(count: int) -> None:
    """Prints the largest arrays that the program that was compiled last holds at its peak, and forgets its dump."""
    if count:
        held = held_at_peak(Path(DUMPED.name))
        for each in held[:count]:
            print(f"  {each.num_bytes / 1e6:>10,.1f}  {each.count:>3} x {each.shape:<28} {each.origin}")
        print(f"  {sum(each.num_bytes for each in held) / 1e6:>10,.1f}  all {sum(each.count for each in held)}")
    for file in filter(Path.is_file, Path(DUMPED.name).rglob("*")):
        file.unlink()


def kernels(text: str) -> int:
    """Returns how many kernels a compiled program runs."""
    return sum(each.times for each in instructions(text) if each.operation not in _NO_KERNELS)


def atomic_kernels() -> int:
    """Returns how many of the kernels that were compiled since the last call have atomic operations."""
    found = 0
    for file in Path(DUMPED.name).rglob("*.ptx"):
        found += re.search(r"\b(atom|red)\.", file.read_text()) is not None
        file.unlink()
    return found


if __name__ == "__main__":
    main()

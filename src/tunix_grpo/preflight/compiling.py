"""A program compiled from shapes, and what it needs of each device."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
from jax.sharding import Mesh

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.platform import platform
from tunix_grpo.grpo.needed import program_bytes


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a program needs, per device.

    Attributes:
        name: what of a step it is.
        peak: bytes at its highest, with its inputs and outputs.
        beside: bytes of what lives on the device meanwhile and is no input of it.
        refusal: what the compiler said instead; the figures are 0 then.
        seconds: that it took to compile.
        text: the compiled program.
    """

    name: str
    peak: int
    beside: int
    seconds: float
    refusal: str = ""
    text: str = ""

    @property
    def total(self) -> int:
        """Bytes of the device while it runs."""
        return self.peak + self.beside


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to be compiled.

    Attributes:
        function: what `jax.jit` returns.
        arguments: shapes, and static ones.
        mesh: that it is laid out on.
        beside: bytes of what lives on each device meanwhile and is no input of it.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    mesh: Mesh
    beside: int

    @functools.cached_property
    def made(self) -> jax.stages.Compiled | str:
        """The compiled program, or what its compiler said where there is too little memory for it."""
        with layouts.on(self.mesh):
            traced = self.function.trace(*self.arguments, **self.keywords)
            try:
                return traced.lower(lowering_platforms=(lowering(),)).compile()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                return str(error).splitlines()[0]


def lowering() -> str:
    """Returns what programs are lowered for: cpu, cuda or tpu."""
    return {"gpu": "cuda"}.get(platform(), platform())


def compiled(program: Program) -> Needs:
    """Compiles a program, and returns what it needs."""
    begun = time.perf_counter()
    made = program.made
    seconds = time.perf_counter() - begun
    if isinstance(made, str):
        return Needs(program.name, 0, program.beside, seconds, refusal=made)
    memory: Any = made.memory_analysis()
    peak = memory.peak_memory_in_bytes or program_bytes(made) or 0
    return Needs(program.name, peak, program.beside, seconds, text=made.as_text() or "")

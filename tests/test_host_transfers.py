"""What compiled programs send to the host and to other devices, read from their text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from helpers.models import one_device_mesh
from tunix_grpo.preflight import program
from tunix_grpo.preflight.collectives import Collective, collectives
from tunix_grpo.preflight.compiling import Program
from tunix_grpo.preflight.host_transfers import host_transfers_in_loops
from tunix_grpo.preflight.training_programs import Programs

NUMBERS = jax.ShapeDtypeStruct((4,), jnp.float32)


def told(numbers: jax.Array) -> jax.Array:
    jax.debug.callback(np.sum, numbers)
    return numbers + 1


def asked(numbers: jax.Array) -> jax.Array:
    return numbers + io_callback(np.sum, jax.ShapeDtypeStruct((), jnp.float32), numbers)


def still(numbers: jax.Array) -> jax.Array:
    return numbers * 2


def looped(body: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda numbers: jax.lax.fori_loop(0, 5, lambda _, held: body(held), numbers)


def in_a_branch(numbers: jax.Array) -> jax.Array:
    return jax.lax.switch(numbers[0].astype(int), [still, jnp.sin, asked], numbers)


def in_a_condition(numbers: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda held: asked(held)[0] < 9, still, numbers)


@pytest.mark.parametrize(
    ("function", "place"),
    [
        (looped(told), "debug_callback"),
        (looped(asked), "io_callback"),
        (looped(looped(told)), "debug_callback"),
        (looped(in_a_branch), "io_callback"),
        (in_a_condition, "io_callback"),
        (looped(still), ""),
        (lambda numbers: told(looped(still)(asked(numbers))), ""),
    ],
    ids=["told", "asked", "in a loop in a loop", "in a branch", "in a condition", "nothing", "outside of it"],
)
def test_calls_of_python_inside_loops_are_found(function, place):
    found = host_transfers_in_loops(jax.jit(function).lower(NUMBERS).compile().as_text())
    assert len(found) == bool(place)
    for each in found:
        assert each.startswith("xla_ffi_python_cpu_callback at ") and each.endswith(place) and "/while/" in each


# As XLA writes them for a TPU, where S(5) is the host's memory and S(1) the core's own.
BODY = """
%body (arg: (f32[8,256]{1,0:T(8,128)S(5)}, f32[256]{0:T(256)})) -> (f32[8,256], f32[256]) {
  %arg = (f32[8,256]{1,0:T(8,128)S(5)}, f32[256]{0:T(256)}) parameter(0)
  %far = f32[8,256]{1,0:T(8,128)S(5)} get-tuple-element(%arg), index=0
  %near = f32[256]{0:T(256)} get-tuple-element(%arg), index=1
  %token = token[] after-all()
  INSTRUCTION, metadata={op_name="jit(f)/while/body/here"}
  ROOT %both = (f32[8,256]{1,0:T(8,128)S(5)}, f32[256]{0:T(256)}) tuple(%far, %near)
}

ENTRY %main (x: f32[8,256]) -> (f32[8,256], f32[256]) {
  %start = ((f32[8,256]{1,0:T(8,128)S(5)}, f32[256]{0:T(256)}), f32[]) copy-start(%x)
  ROOT %while = (f32[8,256]{1,0:T(8,128)S(5)}, f32[256]{0:T(256)}) while(%start), condition=%body, body=%body
}
"""


@pytest.mark.parametrize(
    ("instruction", "found"),
    [
        ("%a = (f32[], u32[], token[]) send(%near, %token), channel_id=1, is_host_transfer=true", "send"),
        ("%a = (f32[], u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true", "recv"),
        ("%a = (f32[], token[]) recv-done(%a), channel_id=1, is_host_transfer=true", ""),
        ("%a = (f32[], u32[], token[]) send(%near, %token), channel_id=1", ""),
        ('%a = token[] outfeed(%near, %token), outfeed_shape=f32[256]{0:T(256)}, outfeed_config="x"', "outfeed"),
        ("%a = (f32[256]{0:T(256)}, token[]) infeed(%token)", "infeed"),
        (
            "%a = ((f32[8,256]{1,0:T(8,128)S(5)}, s32[]{:T(128)}), f32[1,256]{1,0}, u32[]{:S(2)}) "
            "dynamic-slice-start(%far, %token), dynamic_slice_sizes={1,256}",
            "dynamic-slice-start",
        ),
        ("%a = f32[8,256]{1,0:T(8,128)S(5)} dynamic-update-slice-done(%a)", ""),
        ("%a = f32[1,256]{1,0:T(8,128)} fusion(%near, %far), kind=kLoop, calls=%fused", "fusion"),
        ("%a = f32[256]{0:T(256)S(5)} copy(%near)", "copy"),
        ("%a = f32[256]{0:T(256)S(1)} copy(%near)", ""),
        ('%a = f32[8,256]{1,0:T(8,128)S(5)} custom-call(), custom_call_target="AllocateBuffer"', ""),
        ('%a = (f32[256]{0}, s8[512]{0}) custom-call(%near), custom_call_target="__cublas$gemm"', ""),
        ('%a = f32[] custom-call(%near), custom_call_target="python_gpu_callback"', "python_gpu_callback"),
    ],
)
def test_what_an_accelerator_waits_for_is_found(instruction, found):
    """Once in the body and once in the condition, which are one here."""
    text = BODY.replace("INSTRUCTION", instruction)
    assert host_transfers_in_loops(text) == [f"{found} at jit(f)/while/body/here"] * 2 * bool(found)


def test_collectives_of_a_branch_are_counted():
    text = """
%with (a: (f32[8])) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} all-reduce(%a), to_apply=%add
}

%body (b: f32[8]) -> f32[8] {
  %b = f32[8]{0} parameter(0)
  ROOT %c = f32[8]{0} conditional(%b, %b, %b), branch_computations={%other, %with}
}

%other (a: (f32[8])) -> f32[8] {
  ROOT %a = f32[8]{0} parameter(0)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %w = f32[8]{0} while(%x), condition=%other, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""
    assert collectives(text) == [Collective("all-reduce", (("f32", (8,)),), times=3, loops=1)]


def test_preflight_says_what_waits_for_the_host(compose, capsys, monkeypatch):
    """In its table and in its figures; of a program that is refused there is nothing to read."""

    mesh = one_device_mesh()

    def of_a_step(_: Programs) -> Any:
        yield from (Program(name, jax.jit(looped(each)), (NUMBERS,), {}, mesh, 0) for name, each in functions.items())

    functions = {"rollout": still, "update": told}
    monkeypatch.setattr(Programs, "all", of_a_step)
    config = compose("model=tiny", "task=arithmetic", "device=cpu")
    figures = program.show_needs(config, *program.present(config))
    said = {each["name"]: each["host_transfers_in_loops"] for each in figures["programs"]}
    assert said["rollout"] == [] and len(said["update"]) == 1
    assert f"host transfers  update: {said['update'][0]}" in " ".join(capsys.readouterr().out.split("\n"))
    program._show(figures, as_json=True)
    assert json.loads(capsys.readouterr().out)["programs"][1]["host_transfers_in_loops"] == said["update"]
    refused = {"name": "update", "host_transfers_in_loops": None}
    assert program._host_transfers([{**refused, "name": "rollout", "host_transfers_in_loops": []}, refused]) == (
        "none in loops, not known of update"
    )

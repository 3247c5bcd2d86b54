"""Several devices: the same numbers as one, and no more sent or held than each needs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_grpo.decoder import attention, layouts

TESTS = Path(__file__).parent
ROWS, LONGEST, EMBED, VOCABULARY, LAYERS = 32, 48, 64, 1024, 2  # of helpers/several_devices.py


def on_four_devices(folder: Path, kind: str) -> dict:
    """Returns what helpers/several_devices.py prints."""
    found = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    devices = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(found), "XLA_FLAGS": devices}
    command = [sys.executable, str(TESTS / "helpers" / "several_devices.py"), kind, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict:
    return on_four_devices(tmp_path_factory.mktemp("programs"), "programs")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> dict:
    return on_four_devices(tmp_path_factory.mktemp("numbers"), "numbers")


def assert_equal_steps(one: dict, several: dict) -> None:
    """The same completions; metrics within 1e-4 or, around zero, 1e-6: float32 sums in another order."""
    assert several["completions"] == one["completions"]
    for a, b in zip(one["metrics"], several["metrics"], strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-6)


# --- the numbers ---


@pytest.mark.long
def test_several_devices_do_what_one_does(numbers):
    assert numbers["full 1x1"]["metrics"][1]["grad_norm"] > 0
    assert_equal_steps(numbers["full 1x1"], numbers["full 4x1"])


@pytest.mark.long
def test_with_too_little_memory_for_copies_devices_share_one(numbers):
    """The rollout's mesh is 1 x 4, the update's 4 x 1; nothing else differs."""
    assert (numbers["full 4x1"]["rollout"], numbers["lora small 4x1"]["rollout"]) == ([4, 1], [1, 4])
    assert numbers["lora 1x1"]["metrics"][1]["grad_norm"] > 0
    assert_equal_steps(numbers["lora 1x1"], numbers["lora small 4x1"])
    assert numbers["lora small slots 4x1"]["rollout"] == [1, 4]
    assert_equal_steps(numbers["lora 1x1"], numbers["lora small slots 4x1"])


@pytest.mark.slow
def test_all_meshes_and_a_model_that_does_not_divide(tmp_path):
    found = on_four_devices(tmp_path, "more_numbers")
    assert len(found) == 12
    assert found["lora 2x2"]["rollout"] == [2, 2]
    for name, several in found.items():
        assert_equal_steps(found[name.rsplit(" ", 1)[0] + " 1x1"], several)


# --- what is said of them beforehand ---


@pytest.mark.long
def test_preflight_compiles_a_rollout_as_several_devices_draw_it(tmp_path):
    """The same shapes at the same places, also where devices share a copy of the weights for want of memory."""
    found = on_four_devices(tmp_path, "described")
    assert len(found) == 7
    for name, (called, described, beside) in found.items():
        assert min(beside.values()) >= 0, name
        assert called and set(called) == set(described), name
        for function, inputs in called.items():
            assert inputs == described[function], (name, function)


# --- what each device holds ---


@pytest.mark.long
@pytest.mark.parametrize("case", ["full 4x1", "lora small 4x1"])
def test_weights_moments_and_gradients_are_divided(numbers, case):
    """Parameters and Adam's moments before and after the steps, and the gradient that micro batches add up in."""
    assert len(numbers[case]["shares"]) == 5
    assert max(numbers[case]["shares"]) <= 0.26


@pytest.mark.long
def test_what_cannot_be_divided_is_named_with_its_bytes(numbers):
    """66 columns and one key/value head do not divide by 4; a matrix and an adapter each are looked up by hand."""
    [[title, text]] = numbers["whole"]
    assert title == "on every device"
    assert "embed 26 kB" in text or "embed 25.6 kB" in text  # 97 x 66 x 4
    assert "adapters of gate" in text
    assert text.endswith("not divided by mesh.fsdp=4")


@pytest.mark.long
def test_copies_are_made_where_they_leave_a_quarter_of_the_memory(numbers):
    """400 bytes of weights, held twice by a device of its own, once by those that share; 100 more are there already."""
    assert numbers["meshes"] == {"None": [4, 1], "1200": [4, 1], "1199": [2, 2], "400": [2, 2], "1": [1, 4]}


@pytest.mark.long
def test_an_update_needs_its_share_of_memory(programs):
    """At an equal number of rows in all; it is 0.67 where XLA chooses."""
    assert programs["fsdp update"]["temporaries"] <= 0.45 * programs["one update"]["temporaries"]


# --- what is sent ---


def sent(program: dict) -> list[tuple[str, list[list], int, int]]:
    """Returns kind, shapes, times and loops of what a program sends."""
    return [(kind, shapes, times, loops) for kind, shapes, times, loops, _ in program["sent"]]


@pytest.mark.long
def test_no_token_waits_for_weights_or_activations(programs):
    """Between tokens data-parallel devices only tell each other whether all rows have ended."""
    looped = [(kind, shapes) for kind, shapes, _, loops in sent(programs["fsdp rollout"]) if loops]
    assert looped == [("all-reduce", [["pred", []]])]


@pytest.mark.long
def test_tensor_parallel_devices_add_up_two_products_per_layer(programs):
    """One of the attention, one of the MLP, [rows, D] each and with it what goes through an adapter; then the logits
    change hands, so that each device draws a part of the rows."""
    looped = [(kind, shapes) for kind, shapes, _, loops in sent(programs["tp rollout"]) if loops]
    sums = [shapes for kind, shapes in looped if kind == "all-reduce" and ["f32", [ROWS, 1, EMBED]] in shapes]
    assert len(sums) == 2 * LAYERS + 1  # the embedding's rows are spread too
    exchanged = [shapes for kind, shapes in looped if kind == "all-to-all"]
    assert [sum(math.prod(sizes) for _, sizes in shapes) for shapes in exchanged] == [ROWS // 4 * VOCABULARY]
    others = [shapes for kind, shapes in looped if shapes not in sums and kind != "all-to-all"]
    assert sum(math.prod(sizes) for shapes in others for _, sizes in shapes) <= 2 * ROWS
    assert not any(kind == "collective-permute" for kind, _ in looped)


@pytest.mark.long
def test_an_update_sends_weights_and_no_activations(programs):
    """Of activations only what enters and leaves the layers: embeddings, and D wide the hidden states for the head."""
    found = sent(programs["fsdp update"])
    arrays = [(kind, sizes) for kind, shapes, _, _ in found for dtype, sizes in shapes if dtype == "f32"]
    assert not any(VOCABULARY in sizes for _, sizes in arrays)
    moved = {(kind, sizes[-1]) for kind, sizes in arrays if len(sizes) > 2}
    assert moved == {("all-gather", EMBED), ("all-reduce", EMBED), ("all-to-all", EMBED // 4)}
    added = [sizes for kind, sizes in arrays if kind == "all-reduce" and len(sizes) > 2]
    assert len(added) == 1  # of the head's chunk, of which there is one here
    assert max(math.prod(sizes) for kind, sizes in arrays if len(sizes) == 2) <= ROWS * LONGEST * EMBED


# --- one device, and what is decided by the mesh ---


def test_nothing_is_laid_out_on_one_device():
    """Not even a constraint is written into the program."""
    x = jax.ShapeDtypeStruct((4, 2, 8, 16), np.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    for where in (layouts.on(mesh), jax.set_mesh(mesh)):
        with where:
            for place in (layouts.rows, layouts.heads, layouts.inner, layouts.cached, layouts.logits, layouts.whole):
                assert jax.make_jaxpr(place)(x).eqns == []


@pytest.mark.parametrize(("kv_heads", "fused"), [(1, False), (2, True)])
def test_flash_attention_where_the_mesh_divides_its_heads(monkeypatch, kv_heads, fused):
    """cuDNN refuses queries that are divided otherwise than keys."""
    taken = []
    monkeypatch.setattr(attention, "fused", lambda q, k, v, *_, **__: taken.append(True) or q)
    q, kv = (jax.ShapeDtypeStruct((2, 3, heads, 8), np.float32) for heads in (4, kv_heads))
    positions, valid = jax.ShapeDtypeStruct((2, 3), np.int32), jax.ShapeDtypeStruct((2, 3), bool)

    def attend(q, k, v, positions, valid):
        places = {"query_positions": positions, "key_positions": positions, "key_valid": valid}
        return attention.attend(q, k, v, **places, window=None, scale=1.0, form=attention.FUSED)

    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((2, 2), ("fsdp", "tp"))):
        jax.eval_shape(attend, q, kv, kv, positions, valid)
    assert bool(taken) == fused

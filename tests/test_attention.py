"""The two forms of attention against each other and against NumPy."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from helpers.models import load, write_model
from tunix_grpo.decoder import attention
from tunix_grpo.decoder.attention import FUSED, PLAIN, attend, fused, usable_form
from tunix_grpo.decoder.platform import Described, traced_for
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.loss import completion_logprobs

ROWS, QUERIES, SLOTS, HEADS, KV_HEADS, HEAD_DIM = 3, 7, 12, 4, 2, 8


def example() -> tuple[list[jax.Array], dict]:
    """Rows of 12 keys: whole, padded on the left, padded on both sides; the last 7 are the queries' own."""
    rng = np.random.default_rng(0)
    shapes = ((ROWS, QUERIES, HEADS, HEAD_DIM), *((ROWS, SLOTS, KV_HEADS, HEAD_DIM),) * 2)
    places = np.arange(SLOTS)
    valid = np.stack([places >= 0, places >= 3, (places >= 2) & (places < 10)])
    positions = np.maximum(valid.cumsum(axis=1) - 1, 0)
    inputs = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    return inputs, {
        "query_positions": jnp.asarray(positions[:, -QUERIES:]),
        "key_positions": jnp.asarray(positions),
        "key_valid": jnp.asarray(valid),
        "scale": 0.3,
    }


def numpy_attention(q, k, v, places: dict, window: int | None) -> np.ndarray:
    """One query at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for row, query, head in np.ndindex(ROWS, QUERIES, HEADS):
        place = SLOTS - QUERIES + query
        seen = np.arange(max(0, place + 1 - (window or SLOTS)), place + 1)
        seen = seen[np.asarray(places["key_valid"])[row, seen]]
        kv_head = head // (HEADS // KV_HEADS)
        score = np.exp(k[row, seen, kv_head] @ q[row, query, head] * places["scale"])
        out[row, query, head] = score / score.sum() @ v[row, seen, kv_head] if len(seen) else 0.0
    return out


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("form", ["plain", "in blocks", "fused"])
def test_forms_equal_numpy(form, window, monkeypatch):
    """Within 1e-5 in float32. The fused call runs here as XLA computes it; its cuDNN kernel needs a GPU."""
    inputs, places = example()
    valid = np.asarray(places["key_valid"])[:, -QUERIES:]
    if form == "in blocks":
        monkeypatch.setattr(attention, "_SCORE_BYTES", 4 * ROWS * HEADS * SLOTS * 2)  # two queries a block, 7 in all
    if form == "fused":
        key_valid = places["key_valid"]
        got = fused(*inputs, key_valid, window=window, scale=0.3, implementation="xla")
    else:
        got = attend(*inputs, **places, window=window, form=PLAIN)
    expected = numpy_attention(*inputs, places, window)
    np.testing.assert_allclose(np.asarray(got)[valid], expected[valid], atol=1e-5)


def test_blocks_have_the_same_gradient(monkeypatch):
    """And hold no array of all the scores."""
    inputs, places = example()

    def total(*inputs):
        return jnp.sum(jnp.sin(attend(*inputs, **places, window=4, form=PLAIN)))

    whole = jax.grad(total, argnums=(0, 1, 2))(*inputs)
    monkeypatch.setattr(attention, "_SCORE_BYTES", 4 * ROWS * HEADS * SLOTS * 2)
    program = jax.jit(jax.grad(lambda *inputs: total(*inputs), argnums=(0, 1, 2))).lower(*inputs).compile()
    for got, wanted in zip(program(*inputs), whole, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    scores = f"f32[{ROWS},{KV_HEADS},{HEADS // KV_HEADS * QUERIES},{SLOTS}]"
    assert scores not in program.as_text()


def test_a_gpu_computes_apart_what_products_multiply():
    """Behind barriers, forward and backward, which change no number; `make test-accelerators` compiles it for GPUs."""
    inputs, places = example()

    def lowered() -> jax.stages.Lowered:
        def total(*inputs):
            return jnp.sum(jnp.sin(attend(*inputs, **places, window=4, form=PLAIN)))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*inputs)

    here = lowered()
    with traced_for(Described("gpu", 2**34)):
        there = lowered()
    assert [each.as_text().count("optimization_barrier") for each in (here, there)] == [0, 8]
    for got, wanted in zip(there.compile()(*inputs), here.compile()(*inputs), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("window", [None, 50])
def test_the_trial_of_the_fused_form_sees_no_difference_where_there_is_none(window):
    assert attention._difference((4, 2, 16), window, jnp.bfloat16, "xla") < 0.01


@pytest.mark.parametrize(("option", "instead", "window"), [("is_causal", False, None), ("local_window_size", None, 50)])
def test_the_trial_sees_a_mask_that_is_ignored(option, instead, window, monkeypatch):
    right = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *x, **given: right(*x, **{**given, option: instead}))
    assert attention._difference((4, 2, 16), window, jnp.bfloat16, "xla") > attention._BFLOAT16_TOLERANCE


def test_a_device_without_flash_attention_computes_plainly(monkeypatch, caplog):
    """A GPU is made up here; the cuDNN call then fails as it does on one that lacks the kernel."""
    assert usable_form(4, 2, 16, None, jnp.dtype(jnp.bfloat16)) == PLAIN
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    caplog.set_level("INFO")
    assert usable_form(4, 2, 24, None, jnp.dtype(jnp.bfloat16)) == PLAIN
    assert "plain attention is used" in caplog.text
    assert usable_form(4, 2, 24, None, jnp.dtype(jnp.float32)) == PLAIN


@pytest.mark.long
def test_the_gpu_program_of_a_gradient_attends_by_cudnn(tmp_path, monkeypatch):
    """Lowered for a GPU that is not here: what JAX asks of one is answered as a Hopper with cuDNN 9.10 would."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    write_model("gemma3", tmp_path)
    model = load(tmp_path, dtype="bfloat16", lora_rank=4)
    ids = jax.ShapeDtypeStruct((4, 12), jnp.int32)
    batch = Completions(ids, jax.ShapeDtypeStruct((4, 12), bool), ids, jax.ShapeDtypeStruct((4,), jnp.int32))

    def total(trained, frozen, batch):
        weights = model.decoder_weights(trained, frozen)
        form = FUSED
        return completion_logprobs(model.spec, weights, batch, 1.0, attention_form=form, remat="full")[0].sum()

    traced = jax.jit(jax.grad(total)).trace(model.trained, model.frozen, batch)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Of layers with and without a window, in prompts and in completions; 12 + 11 keys, an odd number, are no obstacle.
    assert text.count("@__cudnn$fmhaSoftmax(") >= 4
    assert text.count("@__cudnn$fmhaSoftmaxBackward(") >= 4
    assert "callback" not in text
    # Neither what turns rows nor the choice of the targets adds up gradients where threads meet.
    assert "stablehlo.scatter" not in text
    # No scores of all heads, queries and keys: [rows, heads, queries, keys].
    assert not re.search(r"tensor<4x4x11x23xf32>|tensor<4x2x22x23xf32>", text)

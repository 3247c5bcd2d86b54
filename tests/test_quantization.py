"""QLoRA: a quantized base under float32 adapters, close to the dense model and able to learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import qwix

from helpers.models import load, write_model
from helpers.trainer import number_prompts, small_trainer
from tunix_grpo.decoder.forward import forward
from tunix_grpo.decoder.joined import apart
from tunix_grpo.model.quantization import quantize

PROMPTS = number_prompts(8)


def weights_of(model):
    return apart(model.spec, model.decoder_weights())


@pytest.mark.long
@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma3", "gemma3-mha"])
@pytest.mark.parametrize(("qtype", "bits", "tolerance"), [("nf4", 4, 0.1), ("int8", 8, 0.01)])
def test_every_projection_is_small_and_close(variant, qtype, bits, tolerance, tmp_path):
    """Each weight within its format's step of the dense one; the mean error a fraction of the mean weight."""
    write_model(variant, tmp_path, num_hidden_layers=2)
    dense = weights_of(load(tmp_path, lora_rank=4))
    small = weights_of(load(tmp_path, lora_rank=4, quantization=qtype))
    for name in ("q", "k", "v", "o", "gate", "up", "down"):
        exact, quantized = dense["layers"][0][name]["w"], small["layers"][0][name]["w"]
        assert quantized.qvalue.dtype.itemsize == 1 and quantized.qtype in (qtype, jnp.dtype(jnp.int8))
        error = jnp.mean(jnp.abs(qwix.dequantize(quantized) - exact)) / jnp.mean(jnp.abs(exact))
        assert 0 < error < tolerance
    np.testing.assert_array_equal(small["embed"], dense["embed"])


def test_int8_rounds_to_the_nearest_step_of_its_block():
    """Hand-computed: the largest entry of a block is 127 steps."""
    leaf = jnp.array([[127.0], [-63.6], [0.4], [0.6]])
    np.testing.assert_array_equal(quantize(leaf, 4, "int8").qvalue[:, 0], [127, -64, 0, 1])


@pytest.mark.long
@pytest.mark.parametrize("qtype", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_qlora_learns_and_its_base_stays(compose, tmp_path, qtype):
    """40 steps: means over five steps swing by 0.05, and by then the gain has been twice what is asked."""
    write_model("llama", tmp_path, num_hidden_layers=2)
    trainer = small_trainer(compose, tmp_path, "grpo.beta=0.001", tx=optax.adam(3e-2), lora_rank=4, quantization=qtype)
    base = [np.asarray(leaf) for leaf in jax.tree.leaves(trainer._frozen)]
    results = [trainer.step(step, PROMPTS.batch(np.arange(4), 4)) for step in range(1, 41)]
    rewards = [np.mean(result.rewards.total) for result in results]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1
    assert results[0].metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference sees the same quantized base
    for before, after in zip(base, jax.tree.leaves(trainer._frozen), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_quantized_forward_pass_is_that_of_its_numbers(tmp_path):
    write_model("gemma3", tmp_path, num_hidden_layers=2)
    small = load(tmp_path, lora_rank=4, quantization="nf4")
    weights = small.decoder_weights()
    plain = jax.tree.map(
        lambda leaf: qwix.dequantize(leaf) if isinstance(leaf, qwix.QArray) else leaf,
        weights,
        is_leaf=lambda leaf: isinstance(leaf, qwix.QArray),
    )
    tokens = jnp.arange(10)[None] + 3
    inputs = (tokens, jnp.arange(10)[None], jnp.ones((1, 10), bool))
    one, _ = forward(small.spec, weights, *inputs)
    other, _ = forward(small.spec, plain, *inputs)
    np.testing.assert_allclose(one, other, atol=1e-6)

"""The loss against NumPy and against a plain computation over whole sequences."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from helpers.models import SHAPES, load, write_model
from tunix_grpo.decoder.forward import choose_remat, forward, head_logits, text_positions
from tunix_grpo.decoder.platform import Described, traced_for
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.grpo import head_chunks, loss
from tunix_grpo.grpo.loss import completion_logprobs
from tunix_grpo.model.config_json import spec_from_config

TEMPERATURE = 0.7


@pytest.fixture(scope="module", params=["gemma3", "llama"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_model(request.param, folder, num_hidden_layers=2)
    return load(folder)


def small_batch() -> Completions:
    """Two prompts of 4 and 7 tokens, three completions of each, 1 to 6 tokens long."""
    rng = np.random.default_rng(0)
    tokens, valid = left_padded([list(rng.integers(3, 97, n)) for n in (4, 7)], 8, 0)
    lengths = np.array([6, 1, 3, 2, 6, 5], np.int32)
    completions = rng.integers(3, 97, (6, 6)).astype(np.int32)
    completions[np.arange(6) >= lengths[:, None]] = 0
    return Completions(jnp.asarray(tokens), jnp.asarray(valid), jnp.asarray(completions), jnp.asarray(lengths))


def plain_logprobs(model, weights, batch: Completions) -> tuple[np.ndarray, np.ndarray]:
    """Every completion behind its own copy of the prompt, all logits at once."""
    group = batch.tokens.shape[0] // batch.prompt_tokens.shape[0]
    width = batch.prompt_tokens.shape[1]
    tokens = jnp.concatenate([jnp.repeat(batch.prompt_tokens, group, 0), batch.tokens], axis=1)
    valid = jnp.concatenate([jnp.repeat(batch.prompt_valid, group, 0), batch.mask()], axis=1)
    hidden, _ = forward(model.spec, weights, tokens, text_positions(valid), valid)
    logits = head_logits(weights, hidden)[:, width - 1 : -1] / TEMPERATURE
    logps = jax.nn.log_softmax(logits)
    entropies = -jnp.sum(jnp.exp(logps) * logps, axis=-1)
    return jnp.take_along_axis(logps, batch.tokens[..., None], axis=-1)[..., 0], entropies


def test_shared_prompts_and_chunked_head_change_nothing(model, monkeypatch):
    """Value within 1e-5, gradient within 1e-4 of the plain computation (float32, other orders of summation)."""
    monkeypatch.setattr(
        head_chunks, "_chunk_bytes", lambda: 4 * 97 * 16
    )  # 16 tokens a chunk: several of them, the last one padded
    batch = small_batch()
    params = model.trained

    def weighted(logps):
        return jnp.sum(jnp.where(batch.mask(), logps, 0.0) * jnp.arange(1.0, 7.0)[:, None])

    def total(compute):
        return jax.jit(jax.value_and_grad(lambda params: weighted(compute(params)[0])))(params)

    @jax.jit
    def ours(params):
        return completion_logprobs(model.spec, model.decoder_weights(params), batch, TEMPERATURE)

    @jax.jit
    def plain(params):
        return plain_logprobs(model, model.decoder_weights(params), batch)

    mask = np.asarray(batch.mask())
    for got, wanted in zip(ours(params), plain(params), strict=True):
        np.testing.assert_allclose(np.asarray(got)[mask], np.asarray(wanted)[mask], atol=1e-5)
    (value, gradient), (plain_value, plain_gradient) = total(ours), total(plain)
    assert abs(value - plain_value) < 1e-5 * abs(plain_value)
    # With a head that stays, as with adapters, its tokens' gradients are computed ahead.
    heads = {name: params[name] for name in ("embedder", "lm_head") if name in params}
    others = {name: part for name, part in params.items() if name not in heads}
    ahead = jax.jit(jax.grad(lambda others: weighted(ours({**heads, **others})[0])))(others)
    for found, expected in ((gradient, plain_gradient), (ahead, {name: plain_gradient[name] for name in others})):
        for got, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A vocabulary of 509, a number that nothing else here has."""
    folder = tmp_path_factory.mktemp("wide")
    write_model("gemma3", folder, num_hidden_layers=2, vocab_size=509)
    return load(folder, lora_rank=2)


def compiled_gradient(model, remat: str):
    """Returns the program that an update's gradient comes from, and its inputs: adapters, the rest, a batch."""

    def total(trained, frozen, batch):
        weights = model.decoder_weights(trained, frozen)
        logps, _ = completion_logprobs(model.spec, weights, batch, TEMPERATURE, remat=remat)
        return jnp.sum(jnp.where(batch.mask(), logps, 0.0))

    inputs = (jax.tree.map(lambda leaf: leaf + 0.1, model.trained), model.frozen, small_batch())
    return jax.jit(jax.value_and_grad(total)).lower(*inputs).compile(), inputs


@pytest.mark.long
@pytest.mark.usefixtures("optimised")
def test_no_array_holds_the_logits_of_all_tokens(wide_model, monkeypatch):
    """In the whole compiled program only the vocabulary's own matrices and one chunk of logits are that wide."""
    monkeypatch.setattr(head_chunks, "_chunk_bytes", lambda: 4 * 509 * 16)
    program, _ = compiled_gradient(wide_model, "full")
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\w+\[([\d,]+)\]", program.as_text())}
    wide = {shape for shape in shapes if 509 in shape}
    assert (16, 509) in wide
    sizes = {int(np.prod(shape)) // 509 for shape in wide}
    assert sizes <= {1, 16, wide_model.spec.embed_dim}  # 32; B x T is 36, B x prompt 48, P x prompt 16


@pytest.mark.parametrize(("trained", "products"), [((0,), 2), ((0, 1), 4)], ids=["hidden states", "head too"])
def test_a_head_that_stays_is_multiplied_twice(trained, products):
    """The logits once and the hidden states' gradient; a trained one has its own, of logits that are computed again."""

    def total(hidden, head):
        how = head_chunks._How(TEMPERATURE, (None, None), head_chunks.normalisers_and_entropies)
        return jnp.sum(head_chunks._measured_chunks(hidden, head, jnp.arange(6).reshape(2, 3), how)[0])

    program = jax.make_jaxpr(jax.grad(total, argnums=trained))(jnp.ones((2, 3, 8)), jnp.ones((97, 8)))
    live, _ = pe.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    assert str(live).count("dot_general[") == products


@pytest.mark.parametrize(
    ("platform", "memory", "held"),
    [
        ("cpu", None, 2**25),
        ("gpu", 84_942_979_072, 2**28),  # an H100
        ("gpu", 25_386_352_640, 2**28),  # an RTX 4090
        ("gpu", 12 * 10**9, 2**27),
        ("tpu", 16_911_433_728, 2**27),  # a v5e
    ],
)
def test_a_chunk_of_logits_is_a_small_part_of_the_devices_memory(platform, memory, held):
    with traced_for(Described(platform, memory) if memory else None):
        assert head_chunks._chunk_bytes() == held
        assert memory is None or held <= memory / 64


@pytest.mark.long
def test_what_is_computed_again_changes_nothing_but_memory(wide_model):
    """Gradients within 1e-4, as they are for any other order of summation; each word needs less than the one before."""
    results = {}
    for remat in ("none", "block", "full"):
        program, inputs = compiled_gradient(wide_model, remat)
        results[remat] = (*program(*inputs), program.memory_analysis().temp_size_in_bytes)
    for remat in ("block", "full"):
        assert float(results[remat][0]) == pytest.approx(float(results["none"][0]), rel=1e-5)
        for got, wanted in zip(jax.tree.leaves(results[remat][1]), jax.tree.leaves(results["none"][1]), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4 * max(1.0, float(np.abs(wanted).max())))
    assert results["none"][2] > results["block"][2] > results["full"][2]


def test_k1_would_not_regularise_and_ours_do():
    """Why Tunix's default is not offered: the expected on-policy gradient of k1 is zero, that of k3 and k2 is not."""
    theta = jax.random.normal(jax.random.key(0), (6,))
    reference = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (6,)))

    def expected_gradient(estimate):
        probs = jax.lax.stop_gradient(jax.nn.softmax(theta))
        return jax.grad(lambda t: jnp.sum(probs * estimate(reference - jax.nn.log_softmax(t))))(theta)

    k1 = expected_gradient(lambda log_ratio: -log_ratio)
    assert np.abs(k1).max() < 1e-6
    for estimator in ("low_var_kl", "mse_kl"):
        assert np.abs(expected_gradient(lambda r, e=estimator: loss._token_kl(r, jnp.ones(()), e))).max() > 0.05


@pytest.mark.parametrize(
    ("wanted", "tokens", "dtype", "chosen"),
    [
        # width 32 + (4 + 2 * 2) * 16 + 2 * 48 = 256, 2 layers: 2 KiB a token in float32
        ("auto", 2**19, "float32", "block"),
        ("auto", 2**19 + 1, "float32", "full"),
        ("auto", 2**20, "bfloat16", "block"),
        ("none", 2**30, "float32", "none"),
        ("full", 1, "float32", "full"),
    ],
)
def test_auto_remat_keeps_at_most_a_gibibyte(wanted, tokens, dtype, chosen):
    spec = spec_from_config({"model_type": "llama", **SHAPES, "num_hidden_layers": 2})
    assert choose_remat(wanted, spec, tokens, dtype) == chosen

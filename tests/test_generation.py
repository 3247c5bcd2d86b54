"""Generation token by token against the pass over whole rows: rings, stages, blocks, joined weights."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from helpers.models import load, write_model
from tunix_grpo.decoder import cache, joined
from tunix_grpo.decoder.cache import cache_sizes, empty_cache, grown
from tunix_grpo.decoder.drawing import Drawn, Sampling
from tunix_grpo.decoder.generation import generate, prefill
from tunix_grpo.decoder.layer import Weights, linear
from tunix_grpo.decoder.platform import Described, traced_for
from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.grpo.loss import completion_logprobs
from tunix_grpo.model.model import Model

PAD, GROUP, LENGTH = 0, 2, 14


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> Model:
    """Three layers with a window of 5 and one without, so that a prompt and its completions are longer than windows."""
    folder = tmp_path_factory.mktemp("gemma")
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    write_model("gemma3", folder, num_hidden_layers=4, layer_types=kinds)
    return load(folder, lora_rank=4)


def weights_of(model: Model, adapters: float = 0.0) -> Weights:
    """Returns the trained weights, their adapters filled with numbers of this size."""
    rng = np.random.default_rng(0)
    return model.decoder_weights(
        jax.tree.map(lambda leaf: jnp.asarray(adapters * rng.standard_normal(leaf.shape), leaf.dtype), model.trained)
    )


def prompts() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return left_padded([list(rng.integers(3, 97, n)) for n in (9, 4, 7)], 9, PAD)


def drawn_by(model: Model, weights: Weights, *, stop_ids=(), block=1, **changes) -> Drawn:
    config = Sampling(**{"num_generations": GROUP, "max_tokens": LENGTH, "temperature": 1.0, **changes})
    keys = jax.random.split(jax.random.key(7), 3 * config.num_generations)

    def run(weights, tokens, valid, keys):
        return generate(model.spec, weights, tokens, valid, keys, config, stop_ids=stop_ids, pad_id=PAD, block=block)

    return jax.device_get(jax.jit(run)(weights, *prompts(), keys))


def trainers_logprobs(model: Model, weights: Weights, drawn: Drawn) -> np.ndarray:
    batch = Completions(*map(jnp.asarray, (*prompts(), drawn.tokens, drawn.lengths)))
    score = jax.jit(lambda weights, batch: completion_logprobs(model.spec, weights, batch, 1.0)[0])
    return np.asarray(score(weights, batch))


@pytest.mark.long
@pytest.mark.parametrize("first_slots", [256, 3])
def test_rings_and_growing_caches_lose_nothing(gemma, first_slots, monkeypatch):
    """With caches of 3, 6, 12 and 13 slots, and rings of 5, every token has the trainer's log-probability (1e-4)."""
    monkeypatch.setattr(cache, "_FIRST_SLOTS", first_slots)
    weights = weights_of(gemma, 0.3)
    drawn = drawn_by(gemma, weights)
    assert (drawn.lengths == LENGTH).all()
    assert np.abs(trainers_logprobs(gemma, weights, drawn) - drawn.logps).max() < 1e-4


def test_caches_are_no_longer_than_needed(gemma):
    assert cache_sizes(0) == []
    assert cache_sizes(63) == [63]
    assert cache_sizes(511) == [256, 511]
    assert cache_sizes(1100) == [256, 512, 1024, 1100]
    cache = grown(gemma.spec, empty_cache(gemma.spec, 2, 3, jnp.float32), 100)
    assert [keys.shape[3] for keys in cache.keys] == [5, 5, 100, 5]
    _, seen = prefill(gemma.spec, weights_of(gemma), *map(jnp.asarray, prompts()), "plain")
    assert [keys.shape[2] for keys in seen.keys] == [5, 5, 9, 5]


@pytest.mark.long
def test_blocks_of_tokens_change_nothing(gemma):
    """Stop tokens end rows at different places; a block that runs on behind the last one leaves no trace."""
    weights = weights_of(gemma)
    stop_ids = tuple(range(3, 20))
    one, eight = (drawn_by(gemma, weights, stop_ids=stop_ids, block=block) for block in (1, 8))
    assert one.stopped.any() and len(set(one.lengths.tolist())) > 2
    np.testing.assert_allclose(eight.logps, one.logps, atol=1e-6)  # float32, another program
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(*(vars_of[name] for vars_of in (eight._asdict(), one._asdict())))
    for tokens, logps, length, stopped in zip(*one[:2], one.lengths, one.stopped, strict=True):
        assert stopped == (tokens[length - 1] in stop_ids)
        assert (tokens[length:] == PAD).all() and (logps[length:] == 0).all()


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_short_completions(gemma, max_tokens):
    drawn = drawn_by(gemma, weights_of(gemma), max_tokens=max_tokens, block=8)
    assert drawn.tokens.shape == (6, max_tokens)
    assert (drawn.lengths == max_tokens).all() and not drawn.stopped.any()


VARIANTS = ["gemma3", "gemma3-mha", "qwen2", "qwen3", "llama"]


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_sampler_and_trainer_agree_in_every_family(variant, tmp_path):
    """Within 1e-4 in float32, adapters of real size included."""
    write_model(variant, tmp_path, num_hidden_layers=2)
    model = load(tmp_path, lora_rank=4)
    weights = weights_of(model, 0.3)
    drawn = drawn_by(model, weights, max_tokens=8)
    assert np.abs(trainers_logprobs(model, weights, drawn) - drawn.logps).max() < 1e-4


@pytest.mark.long
@pytest.mark.parametrize("variant", ["gemma3", "llama"])
def test_bfloat16_sampler_is_as_close_as_bfloat16_is_to_float32(variant, tmp_path):
    write_model(variant, tmp_path, num_hidden_layers=2)
    exact, rounded = (load(tmp_path, lora_rank=4, dtype=dtype) for dtype in ("float32", "bfloat16"))
    weights = weights_of(rounded, 0.3)
    drawn = drawn_by(rounded, weights, max_tokens=8)
    trainers = trainers_logprobs(rounded, weights, drawn)
    distance = np.abs(trainers - trainers_logprobs(exact, weights_of(exact, 0.3), drawn)).mean()
    assert np.abs(drawn.logps - trainers).mean() <= 1.5 * distance


@pytest.mark.parametrize(("device", "held"), [(None, "turned"), (Described("gpu", 2**30), "w")])
def test_joined_weights_are_the_same_weights(gemma, device, held):
    layer = joined.apart(gemma.spec, weights_of(gemma, 0.1))["layers"][0]
    with traced_for(device):
        whole = joined.join_layer(layer)
    assert {name for name, leaf in whole.items() if isinstance(leaf, dict)} == {"q+k+v", "gate+up", "o", "down"}
    assert all(held in whole[name] for name in ("q+k+v", "gate+up", "o", "down"))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, layer["q"]["w"].shape[0])), jnp.float32)
    apart = jnp.concatenate([linear(layer[name], x) for name in "qkv"], axis=-1)
    np.testing.assert_allclose(linear(whole["q+k+v"], x), apart, atol=1e-5)


def test_joining_keeps_small_adapters_in_bfloat16():
    """An adapter of 1/1000 of a weight would be rounded away in a bfloat16 sum; the output must move all the same."""
    rng = np.random.default_rng(0)

    def leaf(width: int) -> dict:
        parts = {"w": (64, width), "a": (64, 4), "b": (4, width)}
        leaf = {name: rng.standard_normal(shape) for name, shape in parts.items()}
        return {**leaf, "b": leaf["b"] * 5e-4}

    exact = [leaf(32), leaf(16)]
    rounded = [{name: jnp.asarray(part, jnp.bfloat16) for name, part in leaf.items()} for leaf in exact]
    del rounded[1]["a"], rounded[1]["b"]  # only the first is adapted
    whole = joined._join(rounded)
    bare = joined._join([{"w": leaf["w"]} for leaf in rounded])
    x = jnp.asarray(rng.standard_normal((512, 64)), jnp.bfloat16)
    moved = np.asarray(linear(whole, x), np.float32) - np.asarray(linear(bare, x), np.float32)
    expected = np.asarray(x, np.float64) @ exact[0]["a"] @ exact[0]["b"]
    slope = (moved[:, :32] * expected).sum() / np.square(expected).sum()
    assert 0.95 < slope < 1.05
    assert (moved[:, 32:] == 0).all()
    merged = (exact[0]["w"] + exact[0]["a"] @ exact[0]["b"]).astype(np.float32)
    kept = np.asarray(jnp.asarray(merged, jnp.bfloat16), np.float64) - np.asarray(rounded[0]["w"], np.float64)
    assert (kept == 0).mean() > 0.6  # what merging would have lost


def test_quantized_weights_stay_small():
    w = qwix.quantize(jnp.ones((64, 8)), "int8", channelwise_axes=[1], tiled_axes={0: 64})
    layer = {name: {"w": w} for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert joined.join_layer(layer) == layer


@pytest.mark.long
@pytest.mark.usefixtures("optimised")
def test_nothing_leaves_the_device_between_tokens(gemma):
    """No callback, no feed, and inside a block no condition on data: its loop knows its number of rounds."""
    config = Sampling(num_generations=2, max_tokens=17, temperature=1.0)

    def run(weights, tokens, valid, keys):
        return generate(gemma.spec, weights, tokens, valid, keys, config, stop_ids=(1,), pad_id=0, block=8)

    keys = jax.random.split(jax.random.key(0), 6)
    text = jax.jit(run).lower(weights_of(gemma), *prompts(), keys).compile().as_text()
    assert not re.search(r"outfeed|infeed|callback|\bsend\b|\brecv\b", text)
    assert '"known_trip_count":{"n":"8"}' in text

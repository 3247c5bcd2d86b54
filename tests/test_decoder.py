"""The decoder against transformers, in every variant that changes the arithmetic, and against Tunix's own forward pass.

Tolerance: 1e-4 on float32 logits of about 3 in size; the two sum in different orders (seen: 4e-6).
"""

from __future__ import annotations

import os
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.logits import (
    LENGTH,
    PROMPT,
    left_padded_tokens,
    logits_at_once,
    our_logits,
    reference_logits,
    smollm2_distances,
)
from helpers.models import VARIANTS, load, write_model
from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.layer import rotary_angles
from tunix_grpo.decoder.spec import Rope
from tunix_grpo.model.config_json import spec_from_config
from tunix_grpo.model.layout import leaves
from tunix_grpo.model.tunix_modules import module_with

TOLERANCE = 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant, tmp_path):
    """Prefill on left-padded rows, then token by token from a shared-prefix cache."""
    theirs = write_model(variant, tmp_path)
    tokens, valid = left_padded_tokens()
    expected = reference_logits(theirs, tokens, valid)
    at_once, one_by_one = our_logits(load(tmp_path), tokens, valid, PROMPT)
    assert np.abs(at_once - expected)[valid].max() < TOLERANCE
    assert np.abs(one_by_one - expected[:, PROMPT:]).max() < TOLERANCE


@pytest.mark.slow
@pytest.mark.skipif("TUNIX_GRPO_SMOLLM2" not in os.environ, reason="TUNIX_GRPO_SMOLLM2=DIR names no SmolLM2 model")
def test_smollm2_is_as_close_to_float64_as_transformers_own_float32():
    """Real weights have activations of thousands at the first token, whose rounding shows in float32 logits.

    How large it may be, transformers says: as far as its own float32 is from its float64, times 1.5, for a token in the
    middle. The largest of a hundred thousand differences is chance; it may be twice that of small models.
    """
    distances, largest_logit = smollm2_distances(Path(os.environ["TUNIX_GRPO_SMOLLM2"]))
    assert largest_logit > 20
    for ours, theirs in (("at once", "transformers"), ("one by one", "transformers, last")):
        assert distances[ours].typical <= 1.5 * distances[theirs].typical
        assert distances[ours].largest < 2 * TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3", "gemma3"])
def test_bfloat16_is_as_close_to_float32_as_transformers_own(variant, tmp_path):
    theirs = write_model(variant, tmp_path)
    tokens, valid = left_padded_tokens()
    exact = reference_logits(theirs, tokens, valid)
    theirs_distance = np.abs(reference_logits(theirs.bfloat16(), tokens, valid) - exact)[valid].mean()
    ours = logits_at_once(load(tmp_path, dtype="bfloat16"), tokens, valid)
    assert np.abs(ours - exact)[valid].mean() <= 1.5 * theirs_distance


def test_prefix_shared_by_a_group_equals_repeating_it(tmp_path):
    write_model("gemma3", tmp_path)
    model = load(tmp_path)
    weights = model.decoder_weights()
    tokens, valid = left_padded_tokens()
    positions = text_positions(jnp.asarray(valid))
    prompts = (tokens[:, :PROMPT], positions[:, :PROMPT], jnp.asarray(valid[:, :PROMPT]))
    later = np.random.default_rng(1).integers(0, 97, (6, 5)).astype(np.int32)
    start = jnp.repeat(positions[:, PROMPT - 1] + 1, 2)[:, None] + jnp.arange(5)
    ones = jnp.ones((6, 5), bool)
    _, shared = forward(model.spec, weights, *prompts)
    _, repeated = forward(model.spec, weights, *(jnp.repeat(jnp.asarray(a), 2, axis=0) for a in prompts))
    one, _ = forward(model.spec, weights, later, start, ones, shared)
    other, _ = forward(model.spec, weights, later, start, ones, repeated)
    np.testing.assert_allclose(one, other, atol=1e-5)  # float32, other order of summation


def test_tunix_ignores_rope_theta_and_we_do_not(tmp_path):
    """The reason for our own arithmetic: stock Tunix gives the same llama logits whatever rope_theta says."""
    write_model("llama", tmp_path)
    model = load(tmp_path)
    tokens, _ = left_padded_tokens()
    mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))[None]
    positions = jnp.arange(LENGTH)[None].repeat(3, axis=0)
    module = module_with(model.spec, {leaf.path: model.array(leaf) for leaf in leaves(model.spec)})
    stock, _ = module(jnp.asarray(tokens), positions, None, jnp.repeat(mask, 3, axis=0))
    weights = model.decoder_weights()
    ones = jnp.ones((3, LENGTH), bool)
    ours = head_logits(weights, forward(model.spec, weights, tokens, positions, ones)[0])
    assert np.abs(np.asarray(stock) - np.asarray(ours)).max() > 0.01


def without_lora(stack: dict) -> dict:
    return {name: {"w": leaf["w"]} if isinstance(leaf, dict) and "b" in leaf else leaf for name, leaf in stack.items()}


def test_lora_off_gives_the_base_logits_exactly(tmp_path):
    write_model("qwen3", tmp_path)
    model = load(tmp_path, lora_rank=4)
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.trained)
    weights = model.decoder_weights(params)
    tokens, valid = left_padded_tokens()
    positions = text_positions(jnp.asarray(valid))
    bare = {**weights, "stacks": [without_lora(stack) for stack in weights["stacks"]]}
    adapted, _ = forward(model.spec, weights, tokens, positions, jnp.asarray(valid))
    base, _ = forward(model.spec, bare, tokens, positions, jnp.asarray(valid))
    assert np.abs(np.asarray(adapted) - np.asarray(base)).max() > 0.01


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, 'model_type="mamba" is not supported; supported are gemma3, gemma3_text, llama'),
        ({"attention_bias": True}, "attention_bias=true is not supported"),
        ({"hidden_act": "relu"}, 'hidden_act="relu" is not supported; supported are silu, gelu_pytorch_tanh'),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            'rope_scaling.rope_type="yarn" is not supported; supported are default, linear',
        ),
    ],
)
def test_what_the_arithmetic_does_not_cover_is_refused(config, words):
    from helpers.models import SHAPES
    from tunix_grpo.errors import UserError

    whole = config if "model_type" in config else {"model_type": "llama", **SHAPES, **config}
    with pytest.raises(UserError, match=words):
        spec_from_config(whole)


def test_old_and_new_rope_keys_mean_the_same():
    from helpers.models import SHAPES

    old = {
        "model_type": "gemma3_text",
        **SHAPES,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 5,
    }
    new = {
        "model_type": "gemma3_text",
        **SHAPES,
        "sliding_window": 5,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    assert spec_from_config(old) == spec_from_config(new)
    assert spec_from_config(old).ropes[5] == Rope(theta=1e6, factor=8.0)
    assert spec_from_config(old).windows == (5, 5, 5, 5, 5, None, 5)


@pytest.mark.parametrize("step", [1, -1])
def test_rotary_tables_stand_in_the_order_of_the_layers(step):
    """Not in that of a set, which another process has in another order: its programs would not be found compiled."""
    ropes = [Rope(theta=10.0 * number) for number in range(1, 9)][::step]
    spec = types.SimpleNamespace(ropes=(*ropes, *ropes[::-1]), head_dim=4)
    assert list(rotary_angles(spec, jnp.zeros((1, 1), jnp.int32))) == ropes


@pytest.mark.parametrize("rank", [4, None])
def test_a_loop_over_periods_hands_down_no_weights_that_stay(rank, tmp_path):
    """Where they are adapted: it would hold a copy of a period's. Weights that are trained it does hand down."""
    write_model("gemma3", tmp_path)
    model = load(tmp_path, lora_rank=rank)
    weights = model.form.decoder_weights(model.trained, model.frozen)
    tokens = jnp.ones((2, 8), jnp.int32)

    def run(weights):
        return forward(model.spec, weights, tokens, text_positions(tokens > 0), tokens > 0)[0]

    loops = [each for each in jax.make_jaxpr(run)(weights).eqns if each.primitive.name == "scan"]
    assert loops
    handed = set()
    for loop in loops:
        first = loop.params["num_consts"] + loop.params["num_carry"]
        handed |= {each.aval.shape for each in loop.invars[first:]}
    large = {stack[name]["w"].shape for stack in weights["stacks"] for name in ("q", "gate", "down")}
    assert large & handed == (set() if rank else large)

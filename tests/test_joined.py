"""Where a device has no memory for a joined copy of the weights, a token reads them where they lie."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.models import load, one_device_mesh, write_model
from helpers.trainer import NumberTokenizer, number_prompts
from tunix_grpo.benchmark import answers
from tunix_grpo.decoder import joined
from tunix_grpo.decoder.drawing import DrawRule, Sampling
from tunix_grpo.decoder.generation import generate
from tunix_grpo.decoder.rows import left_padded
from tunix_grpo.decoder.streaming import stream_tokens
from tunix_grpo.grpo import engine, rollout, stages
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.model import gathering
from tunix_grpo.model.gathering import bytes_per_device, form_of_rollout
from tunix_grpo.model.model import Model

WIDTH, LENGTH, GROUP = 8, 14, 2
SAMPLING = Sampling(num_generations=GROUP, max_tokens=LENGTH, temperature=1.0)
PROMPTS = number_prompts(3).ids


def moved(model: Model) -> Model:
    """Returns the model with adapters that change what it says."""
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        model,
        trained=jax.tree.map(
            lambda leaf: jnp.asarray(0.1 * rng.standard_normal(leaf.shape), leaf.dtype), model.trained
        ),
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    """Two kinds of layers in turns, three stacks."""
    folder = tmp_path_factory.mktemp("model")
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    write_model("gemma3", folder, num_hidden_layers=4, layer_types=kinds)
    return moved(load(folder, lora_rank=4))


@pytest.fixture
def little_memory(model, monkeypatch):
    """The device has a byte less than a copy of the layers takes, a quarter of it being kept free."""
    least = 4 / 3 * (gathering._resident(model) + bytes_per_device(model.frozen["stacks"]))
    monkeypatch.setattr(gathering, "memory", lambda: least + 1)
    assert form_of_rollout(model, one_device_mesh()).copies
    monkeypatch.setattr(gathering, "memory", lambda: least - 1)
    assert not form_of_rollout(model, one_device_mesh()).copies


def drawing(model: Model, copies: bool):
    """Returns the program that draws completions, and its inputs."""
    keys = jax.random.split(jax.random.key(7), len(PROMPTS) * GROUP)

    def run(trained, frozen, tokens, valid, keys):
        weights = model.form.decoder_weights(trained, frozen)
        return generate(model.spec, weights, tokens, valid, keys, SAMPLING, stop_ids=(), pad_id=0, copies=copies)

    return jax.jit(run), (model.trained, model.frozen, *left_padded(PROMPTS, WIDTH, 0), keys)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [
        ("gemma3", {}),
        pytest.param("gemma3", {"lora_target_modules": "attention"}, marks=pytest.mark.long),
        pytest.param("gemma3", {"lora_rank": None}, marks=pytest.mark.long),
        pytest.param("qwen2", {}, marks=pytest.mark.long),
        pytest.param("llama", {"quantization": "nf4"}, marks=pytest.mark.long),
    ],
)
def test_completions_are_the_same(variant, settings, tmp_path):
    """Tokens equal, log-probabilities within 1e-5: sums over an adapter's rank are added in another order."""
    write_model(variant, tmp_path, num_hidden_layers=2)
    model = moved(load(tmp_path, **{"lora_rank": 4, **settings}))
    if settings.get("lora_rank", 4) is None:
        model = dataclasses.replace(model, trained={})
    with_copies, without = (jax.device_get(program(*given)) for program, given in (drawing(model, c) for c in (1, 0)))
    np.testing.assert_array_equal(without.tokens, with_copies.tokens)
    np.testing.assert_allclose(without.logps, with_copies.logps, atol=1e-5)


@pytest.mark.parametrize(
    "way", ["at once", *(pytest.param(way, marks=pytest.mark.long) for way in ("stages", "slots"))]
)
def test_a_device_with_little_memory_draws_the_same(model, monkeypatch, request, way):
    monkeypatch.setattr(NumberTokenizer, "stop_ids", tuple(range(1, 5)))
    monkeypatch.setattr(rollout, "SHORT", 0 if way == "stages" else LENGTH)

    def drawn():
        sampler = Sampler(model, NumberTokenizer(), one_device_mesh(), prompt_width=WIDTH, seed=5)
        found = sampler.sample(
            (model.trained, model.frozen), PROMPTS, SAMPLING, 1, max_rows=2 if way == "slots" else None
        )
        return sampler._form.copies, found

    copies, expected = drawn()
    request.getfixturevalue("little_memory")
    without, found = drawn()
    assert (copies, without) == (True, False)
    assert found.token_ids == expected.token_ids
    np.testing.assert_allclose(found.logps, expected.logps, atol=1e-5)


@pytest.mark.usefixtures("little_memory")
def test_an_evaluation_is_timed_as_it_would_be_drawn(model, monkeypatch):
    """Nothing is drawn: what would draw says which form it was given."""
    given = []

    def drawing_with(form, *_, **__):
        given.append(form.copies)
        raise EOFError

    monkeypatch.setattr(answers, "completions_drawn", drawing_with)
    monkeypatch.setattr(answers, "Engine", drawing_with)
    lengths = SimpleNamespace(max_prompt_length=WIDTH, max_generation_steps=LENGTH)
    config = SimpleNamespace(generation=lengths, seed=5)
    sides = answers._Sides(config, model, one_device_mesh(), NumberTokenizer(), PROMPTS, np.full(3, LENGTH), rows=2)
    for way in (sides.in_batches, sides.in_slots):
        with pytest.raises(EOFError):
            next(way([0, 1, 2]))
    assert given == [False, False]


@pytest.mark.long
@pytest.mark.usefixtures("optimised")
def test_a_program_then_holds_no_copy(model):
    """What a program needs beside its inputs is less by most of the layers' matrices; one is cut out at a time."""
    with_copies, without = (
        program.lower(*given).compile().memory_analysis().temp_size_in_bytes
        for program, given in (drawing(model, copies) for copies in (True, False))
    )
    matrices = bytes_per_device(model.frozen["stacks"])
    assert with_copies - without > 0.6 * matrices


@pytest.mark.parametrize("copies", [True, False])
def test_a_program_hands_out_nothing_that_stays(model, copies):
    """An output is an array of its own, a second embedding for example, even where an input is handed on."""
    form = dataclasses.replace(model.form, copies=copies)
    held = model.trained, model.frozen
    tokens, valid = left_padded(PROMPTS, WIDTH, 0)
    keys = jax.random.split(jax.random.key(7), len(PROMPTS) * GROUP)
    started, _ = stages._started.eval_shape(form, held, tokens, valid, keys, None, DrawRule(SAMPLING, (), 0), LENGTH)
    made = engine._made.eval_shape(form, *held)
    assert [*started] == [*made] == ["layers"]
    token_weights = form.token_weights(made, model.frozen)
    assert token_weights["embed"] is model.frozen["embed"]
    assert ("stacks" in token_weights) == (not copies)
    weights = model.decoder_weights()
    shapes = jax.eval_shape(lambda weights: joined.for_tokens(model.spec, weights, copies)["layers"], weights)
    assert jax.tree.map(lambda leaf: leaf.shape, made["layers"]) == jax.tree.map(lambda leaf: leaf.shape, shapes)


@pytest.mark.long
def test_an_answer_that_is_read_along_is_the_same(model):
    settings = {"prompt_width": WIDTH, "stop_ids": (), "pad_id": 0}
    given = model.spec, model.decoder_weights(), PROMPTS[0], SAMPLING, jax.random.key(3)
    with_copies, without = ([*stream_tokens(*given, **settings, copies=copies)] for copies in (True, False))
    assert with_copies == without and len(without) == LENGTH

"""The rollout engine against transformers, against the trainer, and against what stock Tunix does wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from helpers.models import write_model
from helpers.trainer import PAD, STOPS, number_prompts, small_trainer
from tunix_grpo.grpo.passes import whole_logps
from tunix_grpo.grpo.rollout import greedy_sampling, train_sampling
from tunix_grpo.model.layout import leaves
from tunix_grpo.model.tunix_modules import module_with

PROMPTS = number_prompts(3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_model("gemma3", folder, num_hidden_layers=2)
    return folder


@pytest.fixture
def trainer(compose, folder):
    return small_trainer(compose, folder)


def sampling(**changes):
    from tunix_grpo.decoder.generation import Sampling

    return dataclasses.replace(Sampling(num_generations=4, max_tokens=6, temperature=1.0), **changes)


@pytest.mark.long
def test_noise_belongs_to_seed_step_and_row(compose, folder, trainer):
    """Equal for one seed and step, bit for bit; new for every step, row and seed (stock Tunix repeats its noise)."""
    first = trainer.sample(PROMPTS.ids, sampling(), 1)
    again = small_trainer(compose, folder).sample(PROMPTS.ids, sampling(), 1)
    np.testing.assert_array_equal(first.batch.tokens, again.batch.tokens)
    np.testing.assert_array_equal(first.logps, again.logps)
    assert not np.array_equal(first.batch.tokens, trainer.sample(PROMPTS.ids, sampling(), 2).batch.tokens)
    other_seed = small_trainer(compose, folder, "seed=43").sample(PROMPTS.ids, sampling(), 1)
    assert not np.array_equal(first.batch.tokens, other_seed.batch.tokens)
    same_prompt = trainer.sample([PROMPTS.ids[0]] * 3, sampling(), 1)
    assert len({tuple(row) for row in np.asarray(same_prompt.batch.tokens).tolist()}) == 12


def test_completions_end_with_their_stop_token(trainer):
    """Tunix cuts the stop token off; here it belongs to the completion, whichever of the stop tokens it is."""
    rollout = trainer.sample(PROMPTS.ids * 20, sampling(temperature=3.0), 1)
    tokens = np.asarray(rollout.batch.tokens)
    seen = set()
    for row, length, truncated in zip(tokens, rollout.lengths, rollout.truncated, strict=True):
        body, end, rest = row[: length - 1], row[length - 1], row[length:]
        assert not np.isin(body, STOPS).any()
        assert (rest == PAD).all()
        assert truncated == (end not in STOPS)
        assert not truncated or length == 6
        seen |= {int(end)} & set(STOPS)
    assert seen == set(STOPS)
    np.testing.assert_array_equal(rollout.batch.mask().sum(axis=1), rollout.lengths)


def test_greedy_equals_transformers(trainer, folder):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    rollout = trainer.sample(PROMPTS.ids, sampling(num_generations=1, temperature=0.0, max_tokens=12), 1)
    for ids, row, length in zip(PROMPTS.ids, np.asarray(rollout.batch.tokens), rollout.lengths, strict=True):
        output = theirs.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=12, eos_token_id=list(STOPS), pad_token_id=PAD
        )
        assert row[:length].tolist() == output[0, len(ids) :].tolist()


@pytest.mark.long
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_agree(compose, folder, temperature):
    """Tunix scores old log-probabilities at temperature 1; ours agree with the sampler's within 1e-4 (float32)."""
    trainer = small_trainer(compose, folder, f"generation.temperature={temperature}")
    rollout = trainer.sample(PROMPTS.ids, sampling(temperature=temperature), 1)
    batch = rollout.batch
    scored = whole_logps(trainer._form, trainer.params, trainer._frozen, batch)
    mask = np.asarray(batch.mask())
    assert np.abs(np.asarray(scored) - np.asarray(rollout.logps))[mask].max() < 1e-4


def test_a_batch_does_not_change_a_rows_completion(trainer):
    """Row 0 alone draws what row 0 draws among others: the same key, the same arithmetic."""
    config = sampling(num_generations=1)
    alone = trainer.sample(PROMPTS.ids[:1], config, 5)
    together = trainer.sample(PROMPTS.ids, config, 5)
    np.testing.assert_array_equal(alone.batch.tokens[0], together.batch.tokens[0])


def test_settings_reach_the_sampler(compose):
    config = compose(
        "model=tiny",
        "generation.temperature=0.6",
        "generation.top_k=7",
        "generation.top_p=0.9",
        "generation.max_generation_steps=5",
        "grpo.num_generations=3",
    )
    drawn = train_sampling(config)
    assert (drawn.temperature, drawn.top_k, drawn.top_p, drawn.max_tokens, drawn.num_generations) == (0.6, 7, 0.9, 5, 3)
    greedy = greedy_sampling(5)
    assert (greedy.temperature, greedy.num_generations, greedy.max_tokens) == (0.0, 1, 5)


def test_stock_tunix_repeats_its_noise(folder):
    """The defect that the engine is there for: two calls of Tunix's own sampler give the same completions."""
    from tunix.generate import sampler as tunix_sampler
    from tunix.generate.tokenizer_adapter import TokenizerAdapter

    from helpers.models import load
    from helpers.trainer import NumberTokenizer

    model = load(folder)
    module = module_with(model.spec, {leaf.path: model.array(leaf) for leaf in leaves(model.spec)})
    cache = tunix_sampler.CacheConfig(cache_size=32, num_layers=2, num_kv_heads=2, head_dim=16)
    stock = tunix_sampler.Sampler(module, TokenizerAdapter(NumberTokenizer()), cache)
    options = {"max_generation_steps": 6, "max_prompt_length": 8, "temperature": 1.0, "top_p": 1.0, "eos_tokens": [1]}
    one, two = (stock(PROMPTS.texts, **options) for _ in range(2))
    assert [list(map(int, t)) for t in one.tokens] == [list(map(int, t)) for t in two.tokens]

"""Rows that are filled again as they end, against the same rows drawn all at once."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.models import load, one_device_mesh, write_model
from helpers.trainer import NumberTokenizer, number_prompts, small_trainer
from tunix_grpo.decoder import cache
from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.decoder.generation import generate
from tunix_grpo.decoder.rows import left_padded
from tunix_grpo.grpo import engine
from tunix_grpo.grpo.answering import Answered, Request, SlotAnswerer, answer_keys
from tunix_grpo.grpo.engine import Asked, Engine
from tunix_grpo.grpo.rollout import Sampler
from tunix_grpo.run.devices import CompilationCounter

WIDTH, LENGTH = 8, 14
PROMPTS = number_prompts(6).ids
REQUESTS = [Request(question, sample, PROMPTS[question]) for question in range(6) for sample in range(2)]
SAMPLED = Sampling(num_generations=1, max_tokens=LENGTH, temperature=1.0)
GREEDY = dataclasses.replace(SAMPLED, temperature=0.0)


class Wordy(NumberTokenizer):
    """A tenth of the tokens ends a completion, so that lengths differ."""

    stop_ids = tuple(range(3, 12))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A layer with a window of 5, shorter than prompts and answers, and one without."""
    folder = tmp_path_factory.mktemp("model")
    kinds = ["sliding_attention", "full_attention"]
    write_model("gemma3", folder, num_hidden_layers=2, layer_types=kinds)
    return load(folder)


def weights(model):
    return model.trained, model.frozen


def sampler(model, **changes) -> Sampler:
    return Sampler(model, Wordy(), one_device_mesh(), prompt_width=WIDTH, seed=5, **changes)


def rows_of(model, rows: int) -> Engine:
    return Engine(
        form=model.form, mesh=one_device_mesh(), stop_ids=Wordy.stop_ids, pad_id=0, rows=rows, prompt_width=WIDTH
    )


def answered(model, rows: int, requests: list[Request], sampling: Sampling, seed: int = 3) -> list[Answered]:
    answerer = SlotAnswerer(rows_of(model, rows), weights(model), Wordy(), seed)
    return list(answerer.answers(requests, sampling))


def by_request(answers: list[Answered]) -> dict[tuple[int, int], list[int]]:
    return {(one.request.question, one.request.sample): one.token_ids for one in answers}


def in_one_batch(model, sampling: Sampling) -> dict[tuple[int, int], list[int]]:
    """Returns the tokens of all requests as the plain rollout draws them from the same keys."""
    tokens, valid = left_padded([request.prompt for request in REQUESTS], WIDTH, 0)

    def run(weights, tokens, valid, keys):
        return generate(model.spec, weights, tokens, valid, keys, sampling, stop_ids=Wordy.stop_ids, pad_id=0, block=1)

    keys = jax.random.wrap_key_data(jnp.asarray(answer_keys(3, REQUESTS)))
    drawn = jax.device_get(jax.jit(run)(model.decoder_weights(), tokens, valid, keys))
    rows = zip(REQUESTS, drawn.tokens, drawn.lengths, strict=True)
    return {(request.question, request.sample): row[:length].tolist() for request, row, length in rows}


@pytest.mark.long
@pytest.mark.parametrize("sampling", [SAMPLED, GREEDY], ids=["sampled", "greedy"])
def test_answers_depend_neither_on_the_rows_nor_on_their_order(model, sampling):
    """Bit for bit: token t of a row is computed in the same places, whatever the rows beside it."""
    expected = in_one_batch(model, sampling)
    lengths = {len(ids) for ids in expected.values()}
    assert len(lengths) > 2 and LENGTH in lengths  # rows of uneven lengths, one of them truncated
    for rows in (1, 3, 16):  # 16 become 4 for the last answers
        assert by_request(answered(model, rows, REQUESTS, sampling)) == expected
    assert by_request(answered(model, 3, REQUESTS[::-1], sampling)) == expected
    alone = answered(model, 3, REQUESTS[7:8], sampling)
    assert [one.token_ids for one in alone] == [expected[3, 1]]
    if sampling is SAMPLED:
        assert expected[0, 0] != expected[0, 1]  # a sample has noise of its own


def test_each_sample_and_each_seed_draws_anew(model):
    same = [Request(question, sample, PROMPTS[0]) for question in range(3) for sample in range(3)]
    drawn = by_request(answered(model, 3, same, SAMPLED))
    assert len({tuple(ids) for ids in drawn.values()}) == len(drawn)
    assert by_request(answered(model, 3, same, SAMPLED, seed=4)) != drawn


def test_an_answer_says_what_it_is(model):
    for one in answered(model, 3, REQUESTS, SAMPLED):
        ended = one.token_ids[-1] in Wordy.stop_ids
        assert one.truncated == (not ended) and (ended or len(one.token_ids) == LENGTH)
        words = one.token_ids[:-1] if ended else one.token_ids
        assert one.text == Wordy().decode(words)
    assert answered(model, 3, [], SAMPLED) == []


@pytest.mark.long
@pytest.mark.parametrize(("max_rows", "first_slots"), [(1, 256), (5, 4)])
def test_a_rollout_of_few_rows_at_once_is_the_same_rollout(compose, model, max_rows, first_slots, monkeypatch):
    """Tokens bit for bit, also in caches of 4, 8 and 13 slots; log-probabilities within 1e-5, by another program."""
    monkeypatch.setattr(cache, "_FIRST_SLOTS", first_slots)
    config = dataclasses.replace(SAMPLED, num_generations=3)
    whole, few = (sampler(model, max_rows=rows).sample(weights(model), PROMPTS, config, 4) for rows in (None, max_rows))
    assert len(set(whole.lengths)) > 2 and whole.truncated.any()
    assert few.texts == whole.texts
    assert few.token_ids == whole.token_ids
    for name in ("lengths", "truncated"):
        np.testing.assert_array_equal(getattr(few, name), getattr(whole, name))
    for ours, theirs in zip(few.batch, whole.batch, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(few.logps, whole.logps, atol=1e-5)


def test_a_trainer_draws_with_max_rows(compose, folder):
    """In a step, and in the extra rounds of a step."""
    batch = number_prompts(4).batch(range(4), 4)
    all_at_once, few = (small_trainer(compose, folder, f"generation.max_rows={rows}") for rows in ("null", 5))
    for place in ((1, 0), (1, 2), (3, 0)):
        assert few.draw(batch, *place, few.ahead()).token_ids == all_at_once.draw(batch, *place, few.ahead()).token_ids
    assert few._sampler._max_rows == 5


def test_lists_of_any_length_share_few_programs(model):
    """One fills rows, two draw; the rest are small."""
    answered(model, 16, REQUESTS * 2, SAMPLED)
    counter = CompilationCounter()
    for requests in (REQUESTS[:1], REQUESTS[2:7], REQUESTS * 3):
        assert len(answered(model, 16, requests, SAMPLED)) == len(requests)
    assert counter.count == 0


def test_rows_end_at_their_limit(model):
    """What a benchmark forces lengths with."""
    limits = np.array([3, 1, 9, LENGTH, 5])
    asked = Asked(PROMPTS[:5], answer_keys(0, REQUESTS[:5]), limits)
    endless = dataclasses.replace(rows_of(model, 2), stop_ids=())
    ended = list(itertools.chain.from_iterable(endless.completions(weights(model), asked, SAMPLED)))
    assert {done.place: len(done.tokens) for done in ended} == dict(enumerate(limits))
    # Two rows: the first ends after 3 tokens and the second after 1, in one look; then the shorter of the next two.
    assert [done.place for done in ended[:2]] == [0, 1]


def test_the_next_tokens_are_on_their_way_when_an_answer_is_handed_out(model, monkeypatch):
    events = []
    draw = engine._continued
    monkeypatch.setattr(engine, "_continued", lambda *args: events.append("drawing") or draw(*args))
    answerer = SlotAnswerer(rows_of(model, 3), weights(model), Wordy(), seed=3)
    for _ in answerer.answers(REQUESTS, SAMPLED):
        events.append("answer")
    while events[-1] == "answer":  # of the last round, after which nothing is left to draw
        events.pop()
    first = events.index("answer")
    assert events[first - 2 : first] == ["drawing", "drawing"]

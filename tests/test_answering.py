"""Answers to requests: the same whatever is drawn beside them."""

from __future__ import annotations

import pytest

from helpers.models import load, one_device_mesh
from helpers.trainer import STOPS, NumberTokenizer, number_prompts
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.answering import Answered, BatchAnswerer, Request

PROMPTS = number_prompts(5)
REQUESTS = [Request(question, sample, ids) for question, ids in enumerate(PROMPTS.ids) for sample in range(2)]


def answered(folder, requests: list[Request], *, rows: int, temperature: float = 1.0, seed: int = 3) -> list[Answered]:
    answerer = BatchAnswerer(load(folder), NumberTokenizer(), one_device_mesh(), prompt_width=16, rows=rows, seed=seed)
    return list(answerer.answers(requests, Sampling(num_generations=1, max_tokens=6, temperature=temperature)))


def by_place(answers: list[Answered]) -> dict[tuple[int, int], list[int]]:
    return {(each.request.question, each.request.sample): each.token_ids for each in answers}


@pytest.mark.parametrize(("rows", "requests"), [(1, REQUESTS), (10, REQUESTS[::-1]), (4, REQUESTS[3:6])])
def test_an_answer_depends_on_nothing_but_its_question_and_sample(folder, rows, requests):
    whole = by_place(answered(folder, REQUESTS, rows=4))
    assert by_place(answered(folder, requests, rows=rows)) == {
        (each.question, each.sample): whole[each.question, each.sample] for each in requests
    }


def test_each_sample_and_each_seed_draws_anew(folder):
    same = [Request(question, sample, PROMPTS.ids[0]) for question in range(3) for sample in range(3)]
    drawn = [tuple(ids) for ids in by_place(answered(folder, same, rows=9)).values()]
    assert len(set(drawn)) == len(drawn)
    assert by_place(answered(folder, same, rows=9, seed=4)) != by_place(answered(folder, same, rows=9))
    greedy = by_place(answered(folder, same, rows=9, temperature=0.0))
    assert len({tuple(ids) for ids in greedy.values()}) == 1


def test_the_stop_token_belongs_to_the_tokens_and_not_to_the_text(folder):
    many = [Request(question, 0, PROMPTS.ids[question % 5]) for question in range(40)]
    found = answered(folder, many, rows=8, temperature=3.0)
    assert {each.truncated for each in found} == {False, True}
    for each in found:
        assert each.truncated == (each.token_ids[-1] not in STOPS)
        words = each.token_ids if each.truncated else each.token_ids[:-1]
        assert each.text == NumberTokenizer().decode(words)


def test_no_request_is_no_answer(folder):
    assert answered(folder, [], rows=4) == []

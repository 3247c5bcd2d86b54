"""Which questions a step sees, and their prompts as rows of token ids."""

import numpy as np
import pytest

from tunix_grpo.decoder.rows import Completions, left_padded
from tunix_grpo.tasks.base import Question
from tunix_grpo.text.order import extra_indices, step_indices
from tunix_grpo.text.prompt_set import PromptSet, build_prompts


def sequence(steps: int, size: int, prompts_per_step: int, seed: int) -> np.ndarray:
    """Returns the indices of steps 1 to `steps`, one after another."""
    return np.concatenate([step_indices(step, size, prompts_per_step, seed) for step in range(1, steps + 1)])


@pytest.mark.parametrize("prompts_per_step", [1, 3, 7, 10, 25])  # 25: a step reads across three passes
def test_every_pass_asks_every_question_once(prompts_per_step):
    read = sequence(150 // prompts_per_step, 10, prompts_per_step, seed=0)
    passes = read[: len(read) // 10 * 10].reshape(-1, 10)
    assert len(passes) >= 14
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(10), (len(passes), 1)))


def test_how_a_step_is_cut_does_not_change_the_order():
    """So that nothing is skipped or asked twice at the border of two steps."""
    by_one = sequence(84, 10, 1, seed=5)
    for prompts_per_step in (2, 3, 4, 7, 12):
        np.testing.assert_array_equal(sequence(84 // prompts_per_step, 10, prompts_per_step, seed=5), by_one)


def test_the_order_is_the_promised_permutation():
    """(seed, stream of this use, pass) and nothing else: a resumed run reads on where it was."""
    promised = [np.random.default_rng([42, 1, number]).permutation(1000) for number in range(2)]
    np.testing.assert_array_equal(sequence(500, 1000, 4, seed=42), np.concatenate(promised))
    np.testing.assert_array_equal(step_indices(251, 1000, 4, seed=42), promised[1][:4])


def test_passes_and_seeds_have_orders_of_their_own():
    first, second = sequence(2, 100, 100, seed=0).reshape(2, 100)
    other = step_indices(1, 100, 100, seed=1)
    assert min((first != second).sum(), (first != other).sum(), (first != np.arange(100)).sum()) > 80


def test_fresh_prompts_of_a_step_are_new_to_it_and_depend_on_the_seed():
    own = step_indices(3, 20, 4, seed=1)
    rounds = [extra_indices(3, number, 20, 4, seed=1) for number in range(1, 5)]
    assert len({*own.tolist(), *np.concatenate(rounds).tolist()}) == 20  # all there are
    assert set(extra_indices(3, 5, 20, 4, seed=1)) == set(own)  # then from the start
    assert not np.array_equal(rounds[0], extra_indices(3, 1, 20, 4, seed=2))
    assert not np.array_equal(rounds[0], extra_indices(4, 1, 20, 4, seed=1))


def test_left_padding():
    tokens, valid = left_padded([[5, 6, 7], [8], [1, 2, 3, 4]], 4, pad_id=9)
    assert tokens.tolist() == [[9, 5, 6, 7], [9, 9, 9, 8], [1, 2, 3, 4]]
    assert valid.tolist() == [[False, True, True, True], [False, False, False, True], [True] * 4]
    assert tokens.dtype == np.int32


def test_what_looks_like_padding_in_a_prompt_stays_valid():
    _, valid = left_padded([[0, 5, 0]], 4, pad_id=0)
    assert valid.tolist() == [[False, True, True, True]]


def test_a_completions_mask_holds_its_length():
    batch = Completions(None, None, np.zeros((3, 4), np.int32), np.array([4, 1, 0]))
    assert batch.mask().tolist() == [[True] * 4, [True, False, False, False], [False] * 4]


class Letters:
    """A tokenizer with a token per letter, behind one that starts the text."""

    def render_prompt(self, messages: list[dict[str, str]]) -> str:
        return messages[0]["content"]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return [[1, *map(ord, text)] for text in texts]

    def unknown_tokens(self, ids: list[int]) -> list[str]:
        return [chr(token) for token in ids if token > 127]


def prompts_of(words: list[str], max_prompt_length: int, limit: int | None = None) -> PromptSet:
    questions = [Question(question=word, answer="") for word in words]
    return build_prompts(questions, Letters(), lambda q: [{"content": q.question}], max_prompt_length, limit)


def test_over_long_prompts_are_left_out_and_counted():
    made = prompts_of(["abc", "abcd", "", "abcde", "xyz"], max_prompt_length=4)
    assert made.texts == ["abc", "", "xyz"]
    assert [q.question for q in made.questions] == made.texts
    assert made.ids == [[1, 97, 98, 99], [1], [1, 120, 121, 122]]
    assert (made.dropped, len(made), made.longest()) == (2, 3, 4)


@pytest.mark.parametrize(("limit", "kept", "dropped"), [(2, ["ab", "c"], 1), (3, ["ab", "c", "de"], 2), (9, None, 2)])
def test_the_limit_counts_what_is_kept(limit, kept, dropped):
    made = prompts_of(["ab", "long", "c", "longer", "de", "f"], max_prompt_length=3, limit=limit)
    assert (made.texts, made.dropped) == (kept or ["ab", "c", "de", "f"], dropped)

"""The prompts of a benchmark: questions of a given length, or token ids that mean nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunix_grpo import seeds
from tunix_grpo.benchmark.job import worth
from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.tasks.base import Question
from tunix_grpo.text.prompt_set import PromptSet
from tunix_grpo.text.tokenizer import Tokenizer

_LONG_SENTENCE = 32  # tokens, more than a sentence of the story ever has


class EndlessTokenizer:
    """A tokenizer of whose tokens none ends a completion, so that each is generated in full."""

    stop_ids = ()

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion."""
        return self._tokenizer.decode(ids)

    def pad_id(self) -> int:
        """Returns the id that fills rows."""
        return self._tokenizer.pad_id()

    def eos_id(self) -> int:
        """Returns the id that Tunix takes for the end; nothing here asks for it."""
        return self._tokenizer.eos_id()

    def bos_id(self) -> int | None:
        """Returns the beginning-of-text token, or None."""
        return self._tokenizer.bos_id()


class NumberTokenizer:
    """Stands in where there is no tokenizer: token 17 is the word "17", and none ends a completion."""

    stop_ids = ()

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion."""
        return " ".join(str(int(i)) for i in ids)

    def pad_id(self) -> int:
        """Returns the id that fills rows."""
        return 0

    def eos_id(self) -> int:
        """Returns the id that Tunix takes for the end; nothing here asks for it."""
        return 0

    def bos_id(self) -> None:
        """Returns that there is no beginning-of-text token."""
        return None


def apple_prompts(tokenizer: Tokenizer, count: int, width: int, seed: int) -> PromptSet:
    """Returns `count` prompts about sums, as long as sentences can make them within `width` tokens.

    Raises:
        UserError: even the shortest question is too long.
    """
    rng = seeds.generator("benchmark questions", seed)
    questions, texts, rows = [], [], []
    for _ in range(count):
        question, text, ids = _longest_question(tokenizer, rng, width)
        questions.append(question)
        texts.append(text)
        rows.append(ids)
    return PromptSet(questions, texts, rows, 0)


def random_prompts(vocab_size: int, count: int, width: int, seed: int) -> PromptSet:
    """Returns `count` prompts of exactly `width` random tokens."""
    rows = seeds.generator("benchmark questions", seed).integers(0, vocab_size, (count, width)).tolist()
    texts = [" ".join(map(str, row)) for row in rows]
    return PromptSet([Question(text, str(row[0])) for text, row in zip(texts, rows, strict=True)], texts, rows, 0)


def length_reward() -> Reward:
    """Returns the reward that all programs are timed with."""
    return Reward("answer_and_length", 1.0, _answer_and_length)


def _answer_and_length(samples: Samples) -> list[float]:
    pairs = zip(samples.completions, samples.questions, strict=True)
    return [worth(text, question.answer) for text, question in pairs]


def _longest_question(tokenizer: Tokenizer, rng: np.random.Generator, width: int) -> tuple[Question, str, list[int]]:
    """Adds purchases, then words, to a story while the prompt fits; without room for one, asks for the bare sum."""

    def prompt(question: str) -> tuple[str, list[int]]:
        text = tokenizer.render_prompt([{"role": "user", "content": question}])
        return text, tokenizer.encode(text)

    def length(numbers: Sequence[int], words: int = 0) -> int:
        return len(prompt(_story(numbers, words))[1])

    numbers, words = rng.integers(1, 51, 2).tolist(), 0
    question = f"What is {numbers[0]} + {numbers[1]}?"
    if length(numbers) <= width:
        while True:  # many sentences at a time as long as there is much room
            more = rng.integers(1, 51, max(1, (width - length(numbers)) // _LONG_SENTENCE)).tolist()
            if length(numbers + more) > width:
                break
            numbers += more
        while length(numbers, words + 1) <= width:
            words += 1
        question = _story(numbers, words)
    text, ids = prompt(question)
    if len(ids) > width:
        raise UserError(
            f"generation.max_prompt_length={width}: a question with its chat template has {len(ids)} tokens; "
            f"give generation.max_prompt_length={len(ids)} or more"
        )
    return Question(question, str(sum(numbers))), text, ids


def _story(numbers: Sequence[int], words: int) -> str:
    first, second, *others = numbers
    more = "".join(f" Then he buys {number} more." for number in others)
    return f"Tom has {first} apples and buys {second} more.{more} How many apples does he have{' now' * words}?"

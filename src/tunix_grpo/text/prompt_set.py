"""Questions with their prompts.

Letters: P prompts in a step, G completions of each, B = P * G.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from tunix_grpo.config import AskedTask, TaskConfig
from tunix_grpo.errors import UserError, shortened
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
_SHOWN_CHARS = 60  # of a question in a message
_AT_ONCE = 1024  # prompts that are encoded together
_WIDTH_STEP = 16  # prompts are padded to a multiple of it


@dataclasses.dataclass(frozen=True)
class Batch:
    """The prompts of one step.

    Attributes:
        questions: P of them, as the task gave them.
        texts: P prompts as text.
        ids: P prompts as token ids.
        num_generations: G, completions that each prompt gets.
        rows: the P indices into the set that the prompts come from.
        limits: int[B], tokens at which each completion is ended; None: a stop token or the longest length ends it.
    """

    questions: list
    texts: list[str]
    ids: list[list[int]]
    num_generations: int
    rows: list[int]
    limits: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns P."""
        return len(self.ids)

    def per_completion(self, values: Sequence[Value]) -> list[Value]:
        """Returns [B], each of P values once for every completion of its prompt."""
        return [value for value in values for _ in range(self.num_generations)]

    def with_groups(self, fresh: Batch, source: np.ndarray) -> Batch:
        """Returns a batch of P prompts taken from this one and a fresh one.

        Args:
            source: int[P], the index of each in the prompts of this batch followed by those of the fresh one.
        """

        def taken(own: list, new: list) -> list:
            both = own + new
            return [both[index] for index in source]

        questions, texts = taken(self.questions, fresh.questions), taken(self.texts, fresh.texts)
        ids, rows = taken(self.ids, fresh.ids), taken(self.rows, fresh.rows)
        return Batch(questions, texts, ids, self.num_generations, rows)


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Questions with their prompts, none longer than allowed.

    Attributes:
        questions: what the task gave.
        texts: the prompts as text.
        ids: the prompts as token ids.
        dropped: how many questions were left out because their prompt is too long.
        unknown: of the questions that were left out, because the model has no row for a token of their prompt, that
            token.
    """

    questions: list
    texts: list[str]
    ids: list[list[int]]
    dropped: int
    unknown: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.questions)

    def longest(self) -> int:
        """Returns the longest prompt's length in tokens."""
        return max(len(ids) for ids in self.ids)

    def first(self, count: int) -> PromptSet:
        """Returns at most so many prompts, those that stand first."""
        kept = self.questions[:count], self.texts[:count], self.ids[:count]
        return PromptSet(*kept, self.dropped, self.unknown)

    def batch(self, rows: Sequence[int] | np.ndarray, num_generations: int) -> Batch:
        """Returns the prompts at the indices int[P], to be answered G times each."""
        return Batch(
            [self.questions[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.ids[row] for row in rows],
            num_generations,
            [int(row) for row in rows],
        )


def build_prompts(
    questions: Sequence, tokenizer: Tokenizer, to_messages: Callable, max_prompt_length: int, limit: int | None = None
) -> PromptSet:
    """Renders and encodes the prompts, leaving out those over the limit and those that the model cannot read.

    Args:
        tokenizer: has render_prompt, encode_all and unknown_tokens.
        to_messages: question -> chat messages.
        max_prompt_length: tokens, BOS included.
        limit: stop after so many questions have been kept.
    """
    kept: list[tuple] = []
    dropped = 0
    unknown: list[str] = []
    waiting = iter(questions)
    while limit is None or len(kept) < limit:
        # Never more than may still be kept: nothing is looked at that a limit leaves out.
        asked = list(itertools.islice(waiting, _AT_ONCE if limit is None else min(_AT_ONCE, limit - len(kept))))
        if not asked:
            break
        texts = [tokenizer.render_prompt(to_messages(question)) for question in asked]
        for question, text, ids in zip(asked, texts, tokenizer.encode_all(texts), strict=True):
            if beyond := tokenizer.unknown_tokens(ids):
                unknown.append(beyond[0])
            elif len(ids) > max_prompt_length:
                dropped += 1
            else:
                kept.append((question, text, ids))
    return PromptSet([k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept], dropped, unknown)


class _PromptLength(Protocol):
    @property
    def max_prompt_length(self) -> int: ...


class AsksQuestions(Protocol):
    """Settings that say how questions become prompts."""

    @property
    def task(self) -> TaskConfig: ...

    @property
    def generation(self) -> _PromptLength: ...


def prompt_set(
    name: str,
    questions: Sequence,
    tokenizer: Tokenizer,
    config: AsksQuestions,
    limit: int | None = None,
    task: AskedTask | None = None,
) -> PromptSet:
    """Returns the prompts of questions as the config wants them; those left out are reported.

    Args:
        name: what the set is called in messages.
        limit: at most so many prompts.
        task: what the questions come from; None is the run's own task.

    Raises:
        UserError: no prompt is short enough.
    """
    system_prompt = system_prompt_text((task or config.task).system_prompt)
    longest = config.generation.max_prompt_length
    made = build_prompts(
        questions, tokenizer, lambda q: chat_messages(q.question, system_prompt, q.turns), longest, limit
    )
    if made.dropped:
        _log.warning(
            "%d of %d %s prompts are longer than generation.max_prompt_length=%d tokens and are left out",
            made.dropped,
            made.dropped + len(made),
            name,
            longest,
        )
    if made.unknown:
        _log.warning(
            "%d of %d %s prompts hold a token that the model has no row for (%s) and are left out",
            len(made.unknown),
            len(made.unknown) + len(made),
            name,
            made.unknown[0],
        )
    if not len(made) and made.unknown:
        raise UserError(
            f"every {name} prompt holds a token that the model has no row for ({made.unknown[0]}): the tokenizer is "
            "another model's; set model.tokenizer to the model's own, or correct its chat template"
        )
    if not len(made):
        raise UserError(f"no {name} prompt fits into generation.max_prompt_length={longest} tokens; raise it")
    _warn_of_special_tokens(name, made, tokenizer)
    own = sum(question.turns is not None and question.turns[0]["role"] == "system" for question in made.questions)
    if own and system_prompt is not None:
        _log.warning(
            "%d of %d %s questions have a system message of their own, which takes the place of task.system_prompt",
            own,
            len(made),
            name,
        )
    return made


def _warn_of_special_tokens(name: str, made: PromptSet, tokenizer: Tokenizer) -> None:
    """Says how many questions spell a special token, such as one that ends a turn, which the model reads as such."""
    found = [
        (question.question, tokens[0])
        for question in made.questions
        if (tokens := tokenizer.special_tokens_in(question.whole()))
    ]
    if found:
        question, token = found[0]
        _log.warning(
            "%d of %d %s questions hold special tokens, which the model reads as control tokens, not words: %s in %r",
            len(found),
            len(made),
            name,
            token,
            shortened(question, _SHOWN_CHARS),
        )


def prompt_width(limit: int, *sets: PromptSet) -> int:
    """Returns the width in tokens that all prompts are padded to, so that each program is compiled once."""
    longest = max(prompts.longest() for prompts in sets)
    return min(limit, _WIDTH_STEP * math.ceil(longest / _WIDTH_STEP))

"""Demonstrations as the model sees them, and which of them a step has.

Letters: N demonstrations, D of them in a step.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tunix_grpo.config import SftConfig
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Task, question_hash
from tunix_grpo.tasks.demonstrations import Demonstration
from tunix_grpo.text.prompt_set import PromptSet
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DemonstrationSet:
    """Demonstrations as token ids.

    Attributes:
        prompts: N prompts, BOS included.
        completions: N answers, each with the token that ends a turn.
    """

    prompts: list[list[int]]
    completions: list[list[int]]

    def __len__(self) -> int:
        """Returns N."""
        return len(self.prompts)

    def longest(self) -> tuple[int, int]:
        """Returns the lengths of the longest prompt and of the longest answer, in tokens."""
        return max(map(len, self.prompts)), max(map(len, self.completions))

    def digest(self) -> str:
        """Returns what tells the set from others: of its tokens, in their order."""
        found = hashlib.blake2b(digest_size=8)
        for pair in zip(self.prompts, self.completions, strict=True):
            found.update(repr(pair).encode())
        return found.hexdigest()


def demonstration_set(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, config: SftConfig, task: Task, heldout: PromptSet
) -> DemonstrationSet:
    """Returns the demonstrations that can be trained on; those left out are reported, by why.

    Args:
        task: what it holds out is not trained on.
        heldout: the prompts of the evaluations.

    Raises:
        UserError: a conversation cannot be rendered, or none is left.
    """
    system_prompt = system_prompt_text(config.task.system_prompt)
    hashes = {question_hash(question.whole()) for question in task.heldout}
    texts = set(heldout.texts)
    longest = config.generation.max_prompt_length, config.generation.max_generation_steps
    left_out: dict[str, int] = {}
    prompts, completions = [], []
    for each in demonstrations:
        prompt, answer = each.prompt, each.answer
        if each.turns:
            try:
                prompt = tokenizer.render_prompt(chat_messages("", system_prompt, each.turns))
            except UserError as error:
                raise UserError(f"{each.place}: {error}") from error
            answer = tokenizer.answer_text(answer)
        asks, says = tokenizer.encode(prompt), tokenizer.encode_completion(answer)
        why = None
        if prompt in texts or question_hash(_words(each)) in hashes:
            why = "ask what the task holds out"
        elif tokenizer.unknown_tokens([*asks, *says]):
            why = "hold a token that the model has no row for"
        elif set(says[:-1]) & set(tokenizer.stop_ids):
            why = "hold a token that would end the answer before its end"
        elif len(asks) > longest[0]:
            why = f"have a prompt longer than generation.max_prompt_length={longest[0]} tokens"
        elif len(says) > longest[1]:
            why = f"have an answer longer than generation.max_generation_steps={longest[1]} tokens"
        if why is not None:
            left_out[why] = left_out.get(why, 0) + 1
            continue
        prompts.append(asks)
        completions.append(says)
    for why, count in left_out.items():
        _log.warning("%d of %d demonstrations %s, and are left out", count, len(demonstrations), why)
    if not prompts:
        raise UserError(f"all {len(demonstrations)} demonstrations {' or '.join(left_out)}; give others")
    return DemonstrationSet(prompts, completions)


def _words(each: Demonstration) -> str:
    """Returns all that is asked, as `Question.whole` does."""
    return "\n".join(turn["content"] for turn in each.turns if turn["role"] != "system")

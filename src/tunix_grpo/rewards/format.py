"""The reward for the form of a completion: reasoning and answer in their tags, or thinking and then an answer."""

import re
from typing import NamedTuple

from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import RewardFunction, Samples
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START, REASONING_END, REASONING_START

EXACT = 1.0
ANSWER_ONLY = 0.5
_NAME = re.compile(r"[\w.-]+")


class Tags(NamedTuple):
    """What stands before a block and behind it."""

    start: str
    end: str


class Form(NamedTuple):
    """What a completion is to look like.

    Attributes:
        reasoning: around the reasoning.
        answer: around the answer; None: the answer is what follows the reasoning.
    """

    reasoning: Tags
    answer: Tags | None


# What the package's own system prompt asks for.
ASKED = Form(Tags(REASONING_START, REASONING_END), Tags(ANSWER_START, ANSWER_END))


def build_format_reward(*, reasoning: str, answer: str | None) -> RewardFunction:
    """Returns the reward: what each completion's form is worth; see `format_score`.

    Args:
        reasoning, answer: see `form_of`.

    Raises:
        UserError: they name no form.
    """
    form = form_of(reasoning, answer)

    def format_reward(samples: Samples) -> list[float]:
        pairs = zip(samples.prompts, samples.completions, strict=True)
        return [format_score(completion, form, prompt) for prompt, completion in pairs]

    return format_reward


def form_of(reasoning: str, answer: str | None) -> Form:
    """Returns the form that the settings name.

    Args:
        reasoning: the tags around the reasoning: `think` for `<think>` and `</think>`, or both as `[THINK] [/THINK]`.
        answer: the tags around the answer, likewise; None: the answer is what follows the reasoning.

    Raises:
        UserError: something else is given, or one tag for both.
    """
    form = Form(
        _tags(reasoning, "reward.format.reasoning"),
        None if answer is None else _tags(answer, "reward.format.answer"),
    )
    if form.answer is not None and set(form.reasoning) & set(form.answer):
        raise UserError(
            f"reward.format.reasoning={reasoning} and reward.format.answer={answer}: they have a tag in common; give "
            "others, or reward.format.answer=null for an answer without tags"
        )
    return form


def format_score(completion: str, form: Form = ASKED, prompt: str = "") -> float:
    """Returns 1.0 for one reasoning block and then one answer block, 0.5 for the answer block alone.

    Blocks have their tags once each, in order, and something between them. For 1.0 nothing but
    white space may stand outside the two blocks; for 0.5 anything may. All else is worth 0.0.

    Without answer tags the answer is what follows the reasoning's end, which is there once: 1.0 where one reasoning
    block begins the completion, else 0.5.

    Args:
        prompt: where it ends with the reasoning's beginning, as the templates of some models do, that is taken as the
            beginning of the completion.
    """
    if prompt.rstrip().endswith(form.reasoning.start):
        completion = form.reasoning.start + completion
    reasoning = _block(completion, form.reasoning)
    if form.answer is None:
        return _untagged_score(completion, reasoning, form.reasoning)
    answer = _block(completion, form.answer)
    if answer is None:
        return 0.0
    if reasoning is None or reasoning[1] > answer[0]:
        return ANSWER_ONLY
    outside = completion[: reasoning[0]] + completion[reasoning[1] : answer[0]] + completion[answer[1] :]
    return ANSWER_ONLY if outside.strip() else EXACT


def _untagged_score(completion: str, reasoning: tuple[int, int] | None, tags: Tags) -> float:
    before, end, answer = completion.partition(tags.end)
    if not end or not answer.strip() or tags.start in answer or tags.end in answer:
        return 0.0
    return EXACT if reasoning is not None and not completion[: reasoning[0]].strip() else ANSWER_ONLY


def _block(text: str, tags: Tags) -> tuple[int, int] | None:
    """Returns where a block starts and ends, tags included, if it is there once and not empty."""
    if text.count(tags.start) != 1 or text.count(tags.end) != 1:
        return None
    start, end = text.index(tags.start), text.index(tags.end)
    content = text[start + len(tags.start) : end] if start < end else ""
    return (start, end + len(tags.end)) if content.strip() else None


def _tags(text: str, setting: str) -> Tags:
    """Returns the tags that a setting gives."""
    parts = text.split()
    if len(parts) == 1 and _NAME.fullmatch(text):
        return Tags(f"<{text}>", f"</{text}>")
    if len(parts) == 2 and parts[0] not in parts[1] and parts[1] not in parts[0]:
        return Tags(*parts)
    raise UserError(
        f"{setting}={text}: names no tags; give a word, such as think for <think> and </think>, or both tags with a "
        "space between them"
    )

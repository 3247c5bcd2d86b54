"""The reward for the form of a completion: reasoning and answer in their tags."""

from tunix_grpo.rewards.base import RewardFunction, Samples
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START, REASONING_END, REASONING_START

EXACT = 1.0
ANSWER_ONLY = 0.5


def build_format_reward() -> RewardFunction:
    """Returns the reward: what each completion's form is worth; see `format_score`."""
    return _format_scores


def format_score(completion: str) -> float:
    """Returns 1.0 for one reasoning block and then one answer block, 0.5 for the answer block alone.

    Blocks have their tags once each, in order, and something between them. For 1.0 nothing but
    white space may stand outside the two blocks; for 0.5 anything may. All else is worth 0.0.
    """
    answer = _block(completion, ANSWER_START, ANSWER_END)
    if answer is None:
        return 0.0
    reasoning = _block(completion, REASONING_START, REASONING_END)
    if reasoning is None or reasoning[1] > answer[0]:
        return ANSWER_ONLY
    outside = completion[: reasoning[0]] + completion[reasoning[1] : answer[0]] + completion[answer[1] :]
    return ANSWER_ONLY if outside.strip() else EXACT


def _format_scores(samples: Samples) -> list[float]:
    return [format_score(completion) for completion in samples.completions]


def _block(text: str, start_tag: str, end_tag: str) -> tuple[int, int] | None:
    """Returns where a block starts and ends, tags included, if it is there once and not empty."""
    if text.count(start_tag) != 1 or text.count(end_tag) != 1:
        return None
    start, end = text.index(start_tag), text.index(end_tag)
    content = text[start + len(start_tag) : end] if start < end else ""
    return (start, end + len(end_tag)) if content.strip() else None

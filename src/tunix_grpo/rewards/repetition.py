"""The penalty for a completion that says the same again and again."""

from typing import Literal

from tunix_grpo.rewards.base import RewardFunction, Samples


def build_repetition_reward(*, ngram_size: int, unit: Literal["words", "characters"]) -> RewardFunction:
    """Returns the penalty: minus the share of n-grams that stood in the completion before, from -1 to 0.

    The n-gram penalty of "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv:2502.03373, appendix C.2) in the
    form that open-r1 gave it (huggingface/open-r1, `get_repetition_penalty_reward`), with a largest penalty of -1: the
    weight makes it another. Letters' case does not matter. It is linear in the length of the completion.

    Args:
        ngram_size: words or characters in a row that are compared, 1 to 100.
        unit: words are what white space separates; characters suit languages that write without spaces.
    """

    def repetition_reward(samples: Samples) -> list[float]:
        texts = [completion.lower() for completion in samples.completions]
        return [_penalty(tuple(text.split()) if unit == "words" else text, ngram_size) for text in texts]

    return repetition_reward


def _penalty(parts: tuple[str, ...] | str, size: int) -> float:
    total = len(parts) - size + 1
    if total <= 0:
        return 0.0
    different = len({parts[first : first + size] for first in range(total)})
    return -(1.0 - different / total) if different < total else 0.0

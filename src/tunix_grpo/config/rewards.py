"""The settings that the rewards of the package have beside those of all rewards."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.parts import MathReward, WeightedReward
from tunix_grpo.config.rules import GROUP, Count, Name, Number, Path, Text, Values, Whole


@dataclass(kw_only=True, slots=True, config=GROUP)
class FormatReward(WeightedReward):
    """The reward for the form of a completion."""

    reasoning: Name = rules.hint("give a word, such as think, or both tags, such as '[THINK] [/THINK]'")
    """Tags around the reasoning: `think` stands for `<think>` and `</think>`; both tags, with a space between them,
    for themselves."""
    answer: Name | None = rules.hint("give a word, both tags, or null for what follows the reasoning")
    """Tags around the answer, likewise; null: the answer is what follows the reasoning."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class LengthReward(WeightedReward):
    """The reward for a completion of a wanted length."""

    target: Count
    """Tokens that a completion should have, its end-of-turn token included, 1 or more."""

    def bounds(self) -> tuple[float, float]:
        """Returns those of a distance."""
        return -1.0, 0.0


@dataclass(kw_only=True, slots=True, config=GROUP)
class OverlongReward(WeightedReward):
    """The penalty for a completion that comes close to the largest length."""

    max_length: Whole | None = rules.number(minimum=1, hint="null is generation.max_generation_steps")
    """Tokens at which the penalty is -1, 1 or more; null is generation.max_generation_steps."""
    cache: Whole | None = rules.number(minimum=0, hint="null is a fifth of the largest length")
    """Tokens before that over which it grows from 0, 0 or more; null is a fifth of the largest length."""

    def bounds(self) -> tuple[float, float]:
        """Returns those of a penalty."""
        return -1.0, 0.0


@dataclass(kw_only=True, slots=True, config=GROUP)
class RepetitionReward(WeightedReward):
    """The penalty for a completion that repeats itself."""

    ngram_size: Whole = rules.number(minimum=1, maximum=100)
    """Words or characters in a row that are compared, 1 to 100."""
    unit: Literal["words", "characters"]
    """What is compared: words, or characters in languages that write without spaces."""

    def bounds(self) -> tuple[float, float]:
        """Returns those of a penalty."""
        return -1.0, 0.0


@dataclass(kw_only=True, slots=True, config=GROUP)
class RegexReward(WeightedReward):
    """The reward for a completion that a regular expression matches."""

    pattern: Text
    """Regular expression; flags stand in it, as in (?si)."""
    match: Literal["search", "full"]
    """search finds it anywhere in the completion, full compares it with all of it."""
    value: Number = rules.number()
    """Reward of a match, any finite number; other completions get 0."""
    timeout_s: Number = rules.number(above=0)
    """Seconds that a completion may take, above 0; one that takes longer counts as no match."""

    def bounds(self) -> tuple[float, float]:
        """Returns no match and a match, in order."""
        return min(0.0, self.value), max(0.0, self.value)


@dataclass(kw_only=True, slots=True, config=GROUP)
class JsonSchemaReward(WeightedReward):
    """The reward for JSON that is valid against a schema."""

    schema: Values | None = rules.hint("give the schema, as in {type: object, required: [name]}, or null for a file's")
    """The JSON schema itself; null where it is in a file."""
    path: Path | None = rules.hint("give a JSON file, or null")
    """JSON file with the schema; null where it is given itself."""
    where: Literal["completion", "answer"]
    """What must be the JSON: all of the completion, or what stands in its answer tags."""
    timeout_s: Number = rules.number(above=0)
    """Seconds that a completion may take, above 0; one that takes longer counts as not valid."""
    workers: Count
    """Processes that check side by side, 1 or more."""


# The rewards that have settings of their own.
REWARD_SETTINGS: dict[str, type[WeightedReward]] = {
    "format": FormatReward,
    "json_schema": JsonSchemaReward,
    "length": LengthReward,
    "math": MathReward,
    "overlong": OverlongReward,
    "regex": RegexReward,
    "repetition": RepetitionReward,
}

"""The settings that the rewards of the package have beside those of all rewards."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.parts import MathReward, WeightedReward
from tunix_grpo.config.python_tests import PythonTestsReward
from tunix_grpo.config.rules import GROUP, Count, Name, Number, Path, Text, Values, Whole


def web_address(value: str) -> str:
    """Checks an address of a service; a password in it would stand in every record of the run."""
    try:
        parts = urlsplit(value)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment
        right = right and (parts.port is None or parts.port > 0) and value.isprintable() and " " not in value
    except ValueError:
        right = False
        parts = None
    if parts is not None and "@" in parts.netloc:
        raise ValueError("a password does not belong into an address; name an environment variable by api_key_env")
    if not right:
        raise ValueError("must be an address such as http://localhost:8000/v1")
    return value


def variable_name(value: str) -> str:
    """Checks the name of an environment variable by the rule of shells, which keys themselves seldom follow."""
    if not (value.isascii() and value.isidentifier()):
        raise ValueError("must be the name of an environment variable that holds the key, not the key, or null")
    return value


Url = Annotated[Name, AfterValidator(web_address)]
Variable = Annotated[Text, AfterValidator(variable_name)]


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


@dataclass(kw_only=True, slots=True, config=GROUP)
class ServiceReward(WeightedReward):
    """What rewards of services have in common."""

    concurrency: Count
    """Requests at once, 1 or more."""
    request_timeout_s: Number = rules.number(above=0)
    """Seconds that a request may take, above 0; one that takes longer is tried again."""
    retries: Whole = rules.number(minimum=0, maximum=20)
    """How often a request is tried again, 0 to 20, after 0.5 s, 1 s, 2 s and so on, or as long as the service asks for,
    at most a minute."""
    api_key_env: Variable | None = rules.hidden()
    """Environment variable that holds the service's key, which is never written down; null sends none."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class JudgeReward(ServiceReward):
    """The reward that another model gives."""

    base_url: Url
    """Address of a service with OpenAI's chat completions, up to /v1."""
    model: Name = rules.hint("give the judge's name at the service")
    """Name of the judge at the service."""
    prompt_file: Path = rules.hint("give a text file, or bundled:judge")
    """Text file with what the judge is asked, with {question}, {answer}, {completion}, {prompt} and columns of the data
    in it; `bundled:judge` is the package's, which asks for a grade from 0 to 10."""
    score_pattern: Name = rules.hint("give a regular expression with one group, around the number")
    """Regular expression with one group, around the number; its last match in the reply counts."""
    lowest: Number = rules.number()
    """Score that is worth 0."""
    highest: Number = rules.number()
    """Score that is worth 1, above `lowest`."""
    temperature: Number | None = rules.number(minimum=0, hint="null leaves it to the service")
    """Temperature of the judge, 0 or more; null leaves it to the service."""
    max_tokens: Whole | None = rules.number(minimum=1, hint="null leaves it to the service")
    """Tokens of the judge's reply, 1 or more; null leaves them to the service."""
    body: Values | None = rules.hint("give fields of the request, as in {top_p: 0.9}, or null for none")
    """Further fields of the request, such as {reasoning_effort: low}; null is none."""
    cache_dir: Path | None = rules.hint("give a folder, or null for none")
    """Folder of the judge's replies, by all that was asked, so that nothing is asked twice; null keeps none."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class HttpReward(ServiceReward):
    """The reward that a service of your own gives."""

    url: Url
    """Address that completions are posted to."""
    batch_size: Whole | None = rules.number(minimum=1, hint="null sends a batch in one request")
    """Completions in a request, 1 or more, of which whole groups are made; null sends a batch in one."""

    def bounds(self) -> None:
        """Returns None: the service decides."""


# The rewards that have settings of their own.
REWARD_SETTINGS: dict[str, type[WeightedReward]] = {
    "format": FormatReward,
    "http": HttpReward,
    "json_schema": JsonSchemaReward,
    "judge": JudgeReward,
    "length": LengthReward,
    "math": MathReward,
    "overlong": OverlongReward,
    "python_tests": PythonTestsReward,
    "regex": RegexReward,
    "repetition": RepetitionReward,
}

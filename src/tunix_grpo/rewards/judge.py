"""The reward that another model gives: any service with OpenAI's chat completions."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tunix_grpo.errors import UserError, shortened
from tunix_grpo.rewards.base import Failure, RewardFunction, Samples, Scored
from tunix_grpo.rewards.judge_prompt import JudgePrompt
from tunix_grpo.rewards.patterns import compiled
from tunix_grpo.rewards.remote import Client, ServiceError
from tunix_grpo.rewards.reply_cache import ReplyCache

# Of a reply, its end: that is where scores stand.
KEPT_CHARS = 20_000
_PATTERN_S = 1.0
_SHOWN_CHARS = 120
_OWN_FIELDS = ("messages", "model", "stream")


def build_judge_reward(
    *,
    base_url: str,
    model: str,
    prompt_file: str,
    score_pattern: str,
    lowest: float,
    highest: float,
    temperature: float | None,
    max_tokens: int | None,
    body: Mapping[str, object] | None,
    concurrency: int,
    request_timeout_s: float,
    retries: int,
    api_key_env: str | None,
    cache_dir: str | None,
) -> RewardFunction:
    """Returns the reward: the judge's score of each completion, from 0 at `lowest` to 1 at `highest`.

    A completion without a score (no reply, none in the reply, one beyond the scale) is a `Failure` in its place.

    Args:
        base_url: address of the service up to /v1, to which /chat/completions is added.
        model: its name there.
        prompt_file: what it is asked; see `JudgePrompt`.
        score_pattern: regular expression with one group, around the number; its last match in the reply counts.
        lowest, highest: ends of the judge's scale.
        temperature, max_tokens: of the judge's reply; None leaves them to the service.
        body: further fields of the request; None is none.
        concurrency, request_timeout_s, retries, api_key_env: see `Client`.
        cache_dir: folder of the replies; None keeps none.

    Raises:
        UserError: something of it cannot be used.
    """
    body = body or {}
    if taken := [field for field in _OWN_FIELDS if field in body]:
        raise UserError(f"reward.judge.body={body}: {taken[0]} is not for it to say; leave it out")
    client = Client(
        setting="reward.judge.base_url",
        url=_chat_address(base_url),
        api_key_env=api_key_env,
        timeout_s=request_timeout_s,
        retries=retries,
        concurrency=concurrency,
    )
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    return Judge(
        service=client,
        address=base_url,
        prompt=JudgePrompt(prompt_file),
        fields={"model": model, **{key: value for key, value in sampling.items() if value is not None}, **body},
        scale=Scale(score_pattern, lowest, highest),
        cache=None if cache_dir is None else ReplyCache(Path(cache_dir), "reward.judge.cache_dir"),
    )


def _chat_address(base_url: str) -> str:
    """Returns the address of chat completions; what stands behind a question mark stays there."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/chat/completions"))


class Scale:
    """Where the score stands in a reply, and what it is worth."""

    def __init__(self, pattern: str, lowest: float, highest: float) -> None:
        """
        Raises:
            UserError: the pattern has not one group, or the scale no two ends.
        """
        about = "reward.judge.score_pattern"
        self._pattern, self._lowest, self._highest = compiled(pattern, about), lowest, highest
        if self._pattern.groups != 1:
            raise UserError(
                f"{about}={pattern}: has {self._pattern.groups} groups; give it one, around the number, and write "
                "others as (?:...)"
            )
        if lowest >= highest:
            raise UserError(
                f"reward.judge.lowest={lowest:g} and reward.judge.highest={highest:g}: must be in ascending order; "
                "swap them"
            )

    def score(self, reply: str) -> float:
        """Returns the score of a reply, in [0, 1].

        Raises:
            ServiceError: there is none, or one beyond the scale.
        """
        shown = f"in the judge's reply ...{reply[-_SHOWN_CHARS:]!r}"
        try:
            found = [match.group(1) for match in self._pattern.finditer(reply, timeout=_PATTERN_S)]
        except TimeoutError:
            raise ServiceError(f"reward.judge.score_pattern took longer than {_PATTERN_S:g} s {shown}") from None
        try:
            number = float(found[-1])
        except (IndexError, TypeError, ValueError):
            raise ServiceError(f"there is no score {shown}") from None
        if not (math.isfinite(number) and self._lowest <= number <= self._highest):
            raise ServiceError(f"the score {number:g} is not from {self._lowest:g} to {self._highest:g} {shown}")
        return (number - self._lowest) / (self._highest - self._lowest)


class Judge:
    """The reward function.

    Attributes:
        columns: of the data, beside question and answer, that the prompt names.
    """

    limits_itself = True
    by_row = True

    def __init__(
        self,
        *,
        service: Client,
        address: str,
        prompt: JudgePrompt,
        fields: Mapping[str, object],
        scale: Scale,
        cache: ReplyCache | None,
    ) -> None:
        self.columns = prompt.columns
        self._service, self._address, self._prompt, self._fields = service, address, prompt, fields
        self._scale, self._cache = scale, cache

    def __call__(self, samples: Samples) -> list[Scored | Failure]:
        """Returns the scores; completions that are asked about in the same words are asked about once."""
        rows = zip(samples.prompts, samples.completions, samples.questions, strict=True)
        asked = [self._request(self._prompt.filled(*row)) for row in rows]
        replies = self._replies(list(dict.fromkeys(asked)), samples.deadline)
        return [self._scored(replies[request]) for request in asked]

    def _request(self, text: str) -> bytes:
        return json.dumps({"messages": [{"role": "user", "content": text}], **self._fields}, sort_keys=True).encode()

    def _replies(self, requests: Sequence[bytes], deadline: float | None) -> dict[bytes, str | ServiceError]:
        """Returns the reply to each request: the text that was kept, or that the judge gives now."""
        replies: dict[bytes, str | ServiceError] = {}
        for request in requests if self._cache else ():
            kept = self._cache.get(self._cache_key(request)) if self._cache else None
            if kept is not None:
                replies[request] = kept
        missing = [request for request in requests if request not in replies]

        def keep(index: int, reply: object) -> None:
            text = self._text(reply)
            replies[missing[index]] = text
            if self._cache is not None and isinstance(text, str):
                self._cache.put(self._cache_key(missing[index]), text)

        asked = self._service.ask(missing, deadline, keep) if missing else []
        for request, reply in zip(missing, asked, strict=True):
            if isinstance(reply, ServiceError):
                replies[request] = reply
        return replies

    def _cache_key(self, request: bytes) -> bytes:
        return self._address.encode() + b"\n" + request

    def _text(self, reply: Any) -> str | ServiceError:
        """Returns the end of what the judge said."""
        try:
            content = reply["choices"][0]["message"].get("content") or ""  # null: nothing but reasoning, cut off
        except (KeyError, IndexError, TypeError, AttributeError):
            content = None
        if not isinstance(content, str):
            shown = shortened(json.dumps(reply), _SHOWN_CHARS)
            return ServiceError(f"the judge's reply has no text at choices[0].message.content: {shown}")
        return content[-KEPT_CHARS:]

    def _scored(self, reply: str | ServiceError) -> Scored | Failure:
        try:
            if isinstance(reply, ServiceError):
                raise reply
            return Scored(self._scale.score(reply))
        except ServiceError as error:
            return error.failure()

"""The reward that a service gives: a batch of completions in, a number for each out, as JSON."""

import json
import re
from collections.abc import Sequence
from typing import Any

from tunix_grpo.errors import shortened
from tunix_grpo.rewards.base import RewardFunction, Samples, Scored
from tunix_grpo.rewards.remote import Client, ServiceError

_SHOWN_CHARS = 120
_EXTRA_NAME = re.compile(r"[\w.-]{1,64}")


def build_http_reward(
    *,
    url: str,
    batch_size: int | None,
    concurrency: int,
    request_timeout_s: float,
    retries: int,
    api_key_env: str | None,
) -> RewardFunction:
    """Returns the reward: what the service at an address gives each completion.

    Posted are lists with an entry per completion, `prompts`, `completions`, `questions`, `answers`, `token_lengths`,
    and `columns` (name -> list), the other columns of the data; `step` and `num_generations` are numbers. The reply is
    `{"scores": [number or null, ...], "extras": {NAME: [number or null, ...]}}`, of which `extras` may be missing. The
    completions of a request that fails are a `Failure` each.

    Args:
        url: the address.
        batch_size: completions in a request, 1 or more, of which whole groups are made; None sends all in one.
        concurrency, request_timeout_s, retries, api_key_env: see `Client`.

    Raises:
        UserError: the key is not there.
    """
    service = Client(
        setting="reward.http.url",
        url=url,
        api_key_env=api_key_env,
        timeout_s=request_timeout_s,
        retries=retries,
        concurrency=concurrency,
    )
    return _Http(service, url, batch_size)


class _Http:
    """The reward function."""

    limits_itself = True

    def __init__(self, service: Client, url: str, batch_size: int | None) -> None:
        self._service, self._url, self._batch_size = service, url, batch_size

    def __call__(self, samples: Samples) -> list[object]:
        parts = _parts(samples, self._batch_size)
        replies = self._service.ask([_request(part) for part in parts], samples.deadline)
        given = zip(parts, replies, strict=True)
        return [value for part, reply in given for value in _values(reply, len(part), self._url)]


def _parts(samples: Samples, batch_size: int | None) -> list[Samples]:
    """Cuts a batch into parts of whole groups, of at least `batch_size` completions but for the last."""
    group = samples.num_generations
    size = len(samples) if batch_size is None else -(-batch_size // group) * group
    firsts = range(0, len(samples), max(size, 1))
    return [samples.rows(range(first, min(first + size, len(samples)))) for first in firsts]


def _request(samples: Samples) -> bytes:
    extras = [question.extra or {} for question in samples.questions]
    names = dict.fromkeys(name for extra in extras for name in extra)
    content = {
        "prompts": list(samples.prompts),
        "completions": list(samples.completions),
        "questions": [question.question for question in samples.questions],
        "answers": [question.answer for question in samples.questions],
        "columns": {name: [extra.get(name) for extra in extras] for name in names},
        "token_lengths": list(samples.token_lengths),
        "step": samples.step,
        "num_generations": samples.num_generations,
    }
    text = json.dumps(content, default=str)  # dates and decimals of Parquet files are texts
    if "NaN" in text or "Infinity" in text:  # which JSON does not have
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text.encode()


def _values(reply: Any, count: int, url: str) -> Sequence[object]:
    """Returns what a reply gives each of so many completions; whoever asked checks the numbers."""
    try:
        if isinstance(reply, ServiceError):
            raise reply
        scores = _list(reply, "scores", count)
        extras = reply.get("extras") or {}
        if not isinstance(extras, dict):
            raise ServiceError(f"extras is no object but {_shown(extras)}")
        if wrong := next((name for name in extras if not _EXTRA_NAME.fullmatch(name)), None):
            raise ServiceError(f"the extra {_shown(wrong)} has a name that is no word of at most 64 characters")
        columns = {name: _list(extras, name, count) for name in extras}
    except ServiceError as error:
        if not isinstance(reply, ServiceError):
            error = ServiceError(f"reward.http.url={url}: in its reply {error}")
        return [error.failure()] * count
    rows = [{name: column[row] for name, column in columns.items() if column[row] is not None} for row in range(count)]
    return [Scored(score, extra) if extra else score for score, extra in zip(scores, rows, strict=True)]


def _list(content: object, name: str, count: int) -> list[Any]:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise ServiceError(f"there is no list {name}: {_shown(content)}")
    if len(found) != count:
        raise ServiceError(f"{name} has {len(found)} values for {count} completions; it must have one for each")
    return found


def _shown(content: object) -> str:
    return shortened(json.dumps(content), _SHOWN_CHARS)

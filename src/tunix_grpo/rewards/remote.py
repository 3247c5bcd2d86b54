"""Asks a service over HTTP, several requests at once: each within a time limit, and tried again where that may help."""

import asyncio
import email.utils
import functools
import itertools
import json
import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import httpx

from tunix_grpo.errors import UserError, one_line, shortened
from tunix_grpo.rewards.base import Failure

MAX_REPLY_BYTES = 8 << 20
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 60.0  # before another try; doubled each time
_SHOWN_CHARS = 120
# What may be otherwise at the next try: too busy, or broken at the moment.
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}

logging.getLogger("httpcore").setLevel(logging.INFO)  # its lines for debugging show headers, which may repeat a key


class ServiceError(Exception):
    """Says in a sentence why a service gave no reply that can be used; it never holds the key."""

    def __init__(self, message: str, kind: Literal["error", "timeout"] = "error") -> None:
        """Takes the sentence, and whether it is about time."""
        super().__init__(message)
        self.kind: Literal["error", "timeout"] = kind

    def failure(self) -> Failure:
        """Returns what stands in the place of a score."""
        return Failure(self.kind, f"got no score: {self}")


class _PassingError(ServiceError):
    """Says the same of what may be otherwise at the next try.

    Attributes:
        wait_s: seconds that the service asks for.
    """

    wait_s = 0.0


class Client:
    """Posts JSON to one address.

    Requests run in a thread of their own, so that Ctrl-C ends a wait at once; a wait that ends early ends its requests.
    """

    def __init__(
        self, *, setting: str, url: str, api_key_env: str | None, timeout_s: float, retries: int, concurrency: int
    ) -> None:
        """
        Args:
            setting: the key of the address, such as `reward.http.url`, for error messages.
            url: the address.
            api_key_env: environment variable that holds the key of the service; None sends none.
            timeout_s: seconds that a try may take, from connecting to the end of the reply, above 0.
            retries: how often a request is tried again, 0 or more.
            concurrency: requests at once, 1 or more.

        Raises:
            UserError: there is no such variable, or it holds what no header can.
        """
        self._about, self._group, self._url = f"{setting}={url}", setting.rpartition(".")[0], url
        self._key = _key(f"{self._group}.api_key_env", api_key_env)
        self._timeout_s, self._retries, self._slots = timeout_s, retries, asyncio.Semaphore(concurrency)
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._http = httpx.AsyncClient(headers=headers, timeout=None, limits=limits, follow_redirects=False)
        weakref.finalize(self, _close, self._http)

    def ask(
        self,
        bodies: Sequence[bytes],
        deadline: float | None,
        done: Callable[[int, Any], object] = lambda index, reply: None,
    ) -> list[Any | ServiceError]:
        """Returns what each request is answered: the JSON of the reply, or why there is none.

        Args:
            bodies: one request each, as JSON.
            deadline: the `time.monotonic()` by which all end; None is no limit.
            done: is called with a request's index and the JSON of its reply as soon as it is there, one at a time.
        """
        asked = asyncio.run_coroutine_threadsafe(self._ask_all(bodies, deadline, done), _loop())
        try:
            return asked.result()
        except BaseException:  # Ctrl-C: nobody waits for the others any more
            asked.cancel()
            raise

    def _without_key(self, text: str) -> str:
        """Returns a text of the service's in which the key, if it says it, cannot be read."""
        return text.replace(self._key, "***") if self._key else text

    def _shown(self, text: str) -> str:
        return shortened(" ".join(self._without_key(text).split()), _SHOWN_CHARS)

    async def _ask_all(
        self, bodies: Sequence[bytes], deadline: float | None, done: Callable[[int, Any], object]
    ) -> list[Any | ServiceError]:
        async def one(index: int) -> Any | ServiceError:
            try:
                async with asyncio.timeout_at(deadline), self._slots:  # the loop's clock is time.monotonic()
                    reply = await self._ask(bodies[index])
            except TimeoutError:
                return ServiceError(f"{self._about}: no reply within {self._group}.time_limit", "timeout")
            except ServiceError as error:
                return error
            done(index, reply)
            return reply

        return await asyncio.gather(*map(one, range(len(bodies))))

    async def _ask(self, body: bytes) -> Any:
        for tried in itertools.count(1):
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._try(body)
            except TimeoutError:
                error = _PassingError(f"no reply within {self._group}.request_timeout_s={self._timeout_s:g}", "timeout")
            except (httpx.HTTPError, httpx.InvalidURL) as failure:
                error = _PassingError(f"{type(failure).__name__}: {self._shown(str(failure))}")
            except _PassingError as failure:
                error = failure
            if tried > self._retries:
                count = f" (tried {tried} times)" if tried > 1 else ""
                raise ServiceError(f"{self._about}: {error}{count}", error.kind)
            await asyncio.sleep(min(max(error.wait_s, FIRST_WAIT_S * 2 ** (tried - 1)), LONGEST_WAIT_S))

    async def _try(self, body: bytes) -> Any:
        async with self._http.stream("POST", self._url, content=body) as response:
            if response.is_redirect:
                where = self._shown(response.headers.get("Location", "elsewhere"))
                raise ServiceError(f"{self._about}: it redirects to {where}; give that address")
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > MAX_REPLY_BYTES:
                    raise ServiceError(f"{self._about}: its reply has more than {MAX_REPLY_BYTES} bytes")
        text = self._without_key(content.decode(errors="replace"))
        if not response.is_success:
            said = ": ".join(filter(None, (self._shown(response.reason_phrase), self._shown(text))))
            problem = f"it answered {response.status_code} {said}"
            if response.status_code in _PASSING:
                error = _PassingError(problem)
                error.wait_s = _asked_wait(response.headers.get("Retry-After", ""))
                raise error
            hint = f"; name the key's variable by {self._group}.api_key_env" if response.status_code == 401 else ""
            raise ServiceError(f"{self._about}: {problem}{hint}")
        try:
            reply = json.loads(text, parse_constant=_refuse)
            if not self._key:
                return reply
            return json.loads(json.dumps(reply).replace(json.dumps(self._key)[1:-1], "***"))  # however it was escaped
        except (ValueError, RecursionError) as error:
            problem = f"its reply is no JSON ({one_line(error)}): {self._shown(text)}"
            raise ServiceError(f"{self._about}: {problem}") from None


def _key(setting: str, variable: str | None) -> str:
    """Returns the key that an environment variable holds; empty for none."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{setting}={variable}: there is no such environment variable; set it, or give null for no key")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"{setting}={variable}: the variable holds characters that no key has; set it to the key alone")
    return key


def _asked_wait(header: str) -> float:
    """Returns the seconds that a Retry-After header asks for, as a number or as a date; 0 where it makes no sense."""
    if re.fullmatch(r"\d{1,9}(\.\d*)?", header.strip()):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Returns the event loop of all requests, in a thread that never keeps the program from ending."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward services", daemon=True).start()
    return loop


def _close(http: httpx.AsyncClient) -> None:
    asyncio.run_coroutine_threadsafe(http.aclose(), _loop())

"""Where a user's async function runs: one event loop for all of its calls, in a thread of its own."""

import asyncio
import threading
import weakref
from collections.abc import Awaitable
from concurrent import futures
from typing import Any

from tunix_grpo.rewards.calling import abandon

_LOOK_S = 0.05  # between looks at whether a call is still wanted
_HANGS_S = 1.0  # without a sign of a loop that has nothing to do


class EventLoop:
    """Awaits things one call after another.

    The loop stays the same, since what a function keeps from call to call, such as a client or a semaphore, is bound to
    the loop that it was first used in. One that hangs or has ended is replaced.
    """

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._raised: list[BaseException] = []

    def run(self, awaitable: Awaitable[object]) -> Any:
        """Returns what an awaitable gives, or raises what it raises; a wait that ends early ends it, too."""

        async def wait() -> Any:
            return await awaitable

        loop, thread, raised = self._running()
        asked = asyncio.run_coroutine_threadsafe(wait(), loop)
        try:
            while not asked.done():
                futures.wait([asked], _LOOK_S)
                if not thread.is_alive() and not asked.done():  # `sys.exit` ends the loop itself
                    raise raised[0]
        except BaseException:
            if thread.is_alive():
                asked.cancel()
            raise
        return asked.result()

    def _running(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread, list[BaseException]]:
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return self._start()
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        if answered.wait(_HANGS_S):
            return self._loop, self._thread, self._raised
        abandon(self._thread)
        return self._start()

    def _start(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread, list[BaseException]]:
        loop, raised = asyncio.new_event_loop(), []
        thread = threading.Thread(target=_serve, args=(loop, raised), name="async reward", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, loop)
        self._loop, self._thread, self._raised = loop, thread, raised
        return loop, thread, raised


def _serve(loop: asyncio.AbstractEventLoop, raised: list[BaseException]) -> None:
    try:
        loop.run_forever()
    except BaseException as error:  # whoever waits gets it
        raised.append(error)
        loop.set_exception_handler(lambda *_: None)  # it is said once, by whoever waits
    finally:
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)

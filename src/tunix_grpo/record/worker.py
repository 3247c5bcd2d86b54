"""A thread that does slow things in order, for somebody who must not wait for them."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

_T = TypeVar("_T")


class Worker:
    """Runs calls one after another on a daemon thread.

    Unlike an executor of `concurrent.futures`, it does not keep the program alive: a call that
    hangs is left behind at exit.
    """

    def __init__(self, name: str) -> None:
        """Starts the thread."""
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future]] = SimpleQueue()
        Thread(target=self._work, daemon=True, name=name).start()

    def submit(self, function: Callable[[], _T]) -> Future[_T]:
        """Queues a call; the future gets its result or what it raised."""
        future: Future[_T] = Future()
        self._calls.put((function, future))
        return future

    def _work(self) -> None:
        while True:
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # not handled here: whoever asks the future gets it
                future.set_exception(error)

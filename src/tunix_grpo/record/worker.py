"""A thread that runs slow calls in order while its owner goes on."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


class Worker:
    """Runs calls one after another on a daemon thread, so that a call that hangs does not keep the program alive."""

    def __init__(self, name: str) -> None:
        """Starts the thread."""
        self._calls: SimpleQueue[tuple[Callable[[], object], Future]] = SimpleQueue()
        Thread(target=self._work, daemon=True, name=name).start()

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Queues a call; the future gets its result or what it raised."""
        future: Future[Result] = Future()
        self._calls.put((function, future))
        return future

    def _work(self) -> None:
        while True:
            function, future = self._calls.get()
            try:
                future.set_result(function())
            except BaseException as error:  # the future raises it for whoever asks
                future.set_exception(error)

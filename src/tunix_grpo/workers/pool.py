"""Several programs of one kind that answer side by side."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tunix_grpo.workers.worker import NoReplyError, Worker, seconds_left


class WorkerPool:
    """Asks several programs of one kind side by side."""

    def __init__(self, module: str, size: int, *, timeout_s: float | None = None, first: Any = None, metric: str = ""):
        """
        Args:
            size: programs, 1 or more; no more are started than there are questions.
            timeout_s: as `Worker` takes it, and `first` and `metric` too.
        """
        self._workers = [Worker(module, timeout_s=timeout_s, first=first, metric=metric) for _ in range(size)]

    def ask_all(self, questions: Sequence[Any], deadline: float | None = None) -> list[Any]:
        """Returns the reply to each question, or the `NoReplyError` that says why there is none.

        The time that programs take to start does not count.

        Args:
            deadline: the `time.monotonic()` at which what has no reply is given up; None is no limit.

        Raises:
            UserError: a program cannot be started.
        """
        batch = _Batch(questions, deadline, self._workers[: len(questions)])
        try:
            return batch.replies()
        except BaseException:  # Ctrl-C: nothing that was asked goes on
            batch.stop()
            self.close()
            raise

    def close(self) -> None:
        """Ends the programs; later questions start them again."""
        for worker in self._workers:
            worker.close()


class _Batch:
    """Questions on their way to workers, a thread for each worker."""

    def __init__(self, questions: Sequence[Any], deadline: float | None, workers: Sequence[Worker]) -> None:
        self._questions, self._workers = questions, workers
        self._deadline, self._begun = deadline, time.monotonic()
        self._next, self._taking = 0, threading.Lock()
        self._replies: list[Any] = [None] * len(questions)
        self._raised: list[BaseException] = []

    def replies(self) -> list[Any]:
        self._on_all(Worker.start)
        if self._deadline is not None:
            self._deadline += time.monotonic() - self._begun
        self._on_all(self._ask)
        return self._replies

    def stop(self) -> None:
        with self._taking:
            self._next = len(self._questions)

    def _on_all(self, work: Callable[[Worker], object]) -> None:
        """Does something with all workers at once; raises what the first of them raised."""

        def run(worker: Worker) -> None:
            try:
                work(worker)
            except BaseException as error:
                self._raised.append(error)
                self.stop()

        threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._raised:
            raise self._raised[0]

    def _ask(self, worker: Worker) -> None:
        while (place := self._taken()) is not None:
            left = seconds_left(self._deadline)
            try:
                if left == 0:
                    raise NoReplyError("it was not asked in time", "late")
                self._replies[place] = worker.ask(self._questions[place], left)
            except NoReplyError as error:
                self._replies[place] = error

    def _taken(self) -> int | None:
        with self._taking:
            if self._next == len(self._questions):
                return None
            self._next += 1
            return self._next - 1

"""Looks after the other processes of a cluster: whoever is lost or has given up ends this one too, with a sentence.

A device that waits for a lost host waits for ever, and no exception reaches the program: so this is a thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from tunix_grpo.hosts.store import Store, StoreError

_ALIVE, _ENDED, _HEARD = "alive", "ended", "heard"
_LONGEST_PAUSE_S = 1.0
_PAUSES = 10  # signs of life within the timeout, at the least
GO_ON = "the last checkpoint is whole, and the same command goes on from it"


class Watch:
    """Gives a sign of life again and again, and looks for those of the others."""

    def __init__(self, store: Store, index: int, count: int, timeout: float, end: Callable[[str], object]):
        """
        Args:
            timeout: seconds.
            end: ends this process with a sentence; is called at most once, from a thread.
        """
        self._store, self._index, self._timeout, self._end = store, index, timeout, end
        self._pause = min(_LONGEST_PAUSE_S, timeout / _PAUSES)
        self._others = [host for host in range(count) if host != index]
        self._beats = 0
        self._last: dict[int, str | None] = dict.fromkeys(self._others)
        self._silent = dict.fromkeys(self._others, 0.0)  # seconds
        self._unreachable = 0.0  # seconds
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watch of the hosts", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch: this process will not be ended any more."""
        self._stopped.set()

    def leave(self, sentence: str) -> bool:
        """Tells the others why this process ends, and waits until they have heard it, for a few looks.

        Returns:
            False where another one has ended them all already, so that there is nothing to be said.
        """
        with self._lock:
            if self._stopped.is_set():
                return False
            self._stopped.set()
        deadline = time.monotonic() + 4 * self._pause
        with contextlib.suppress(StoreError):
            self._store.put(f"{_ENDED}/{self._index}", sentence)
            while time.monotonic() < deadline and len(self._store.below(_HEARD)) < len(self._others):
                time.sleep(self._pause / 4)
        return True

    def _run(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(self._pause):
            now = time.monotonic()
            # A process that has slept itself has not heard anybody meanwhile.
            passed, before = min(now - before, 3 * self._pause), now
            reason = self._look(passed)
            if reason is not None:
                with self._lock:
                    if self._stopped.is_set():
                        return
                    self._stopped.set()
                self._end(reason)
                return

    def _look(self, passed: float) -> str | None:
        """Returns why this process has to end, or None.

        Args:
            passed: seconds since the last look.
        """
        self._beats += 1
        try:
            self._store.put(f"{_ALIVE}/{self._index}", str(self._beats), overwrite=True)
            ended, beats = self._store.below(_ENDED), self._store.below(_ALIVE)
            if said := {host: ended[str(host)] for host in self._others if str(host) in ended}:
                self._store.put(f"{_HEARD}/{self._index}", "", overwrite=True)
                host = min(said)
                return f"host {host}: {said[host]}"
        except StoreError:
            self._unreachable += passed
            if self._unreachable < self._timeout:
                return None
            return f"host 0 could not be reached for {self._timeout:g} s (distributed.timeout); {GO_ON}"
        self._unreachable = 0.0
        for host in self._others:
            beat = beats.get(str(host))
            self._silent[host] = 0.0 if beat != self._last[host] else self._silent[host] + passed
            self._last[host] = beat
            if self._silent[host] > self._timeout:
                return f"host {host} gave no sign of life for {self._timeout:g} s (distributed.timeout); {GO_ON}"
        return None

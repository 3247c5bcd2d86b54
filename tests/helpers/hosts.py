"""Processes of a cluster as threads of a test, with a board in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.hosts.store import StoreError


class Board:
    """A `Store`. `lost`: it cannot be reached."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.changed = threading.Condition()
        self.lost = False

    def put(self, key: str, text: str, *, overwrite: bool = False) -> None:
        with self._there():
            assert overwrite or key not in self.texts, key
            self.texts[key] = text
            self.changed.notify_all()

    def wait(self, key: str, seconds: float) -> str | None:
        with self._there():
            self.changed.wait_for(lambda: key in self.texts, min(seconds, 0.05))
            return self.texts.get(key)

    def below(self, folder: str) -> dict[str, str]:
        with self._there():
            found = ((key, text) for key, text in self.texts.items() if key.startswith(f"{folder}/"))
            return {key.removeprefix(f"{folder}/"): text for key, text in found}

    def remove(self, key: str) -> None:
        with self._there():
            del self.texts[key]

    def _there(self) -> threading.Condition:
        if self.lost:
            raise StoreError("no board")
        return self.changed


def together(count: int, call: Callable[[Hosts], object], board: Board | None = None) -> list[object]:
    """Returns, by process, what a call returns or raises; fails where one of them hangs."""
    found: list[object] = [None] * count
    store = board or Board()

    def run(index: int) -> None:
        try:
            found[index] = call(Hosts(index, count, store))
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "a process hangs"
    return found

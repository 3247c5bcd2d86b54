"""Where processes leave word for one another: a board of keys and texts that all of them can read and write."""

from __future__ import annotations

from typing import Protocol


class StoreError(Exception):
    """The board cannot be reached."""


class Store(Protocol):
    """The board. A key is written once unless it is overwritten on purpose."""

    def put(self, key: str, text: str, *, overwrite: bool = False) -> None:
        """Writes a text; raises StoreError."""
        ...

    def wait(self, key: str, seconds: float) -> str | None:
        """Returns the text of a key as soon as there is one, None if there is none by then; raises StoreError."""
        ...

    def below(self, folder: str) -> dict[str, str]:
        """Returns the texts of all keys `<folder>/<name>`, by name; raises StoreError."""
        ...

    def remove(self, key: str) -> None:
        """Removes a key; raises StoreError."""
        ...

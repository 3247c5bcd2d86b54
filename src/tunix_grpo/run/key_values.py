"""The board of a cluster's processes, on the key-value store of JAX's coordination service, which process 0 holds."""

from __future__ import annotations

from typing import Any

from tunix_grpo.hosts.store import StoreError

_OURS = "tunix_grpo"


class KeyValues:
    """A `hosts.store.Store`."""

    def __init__(self, client: Any):
        """Takes JAX's client of the service."""
        import jax

        self._client, self._error = client, jax.errors.JaxRuntimeError

    def put(self, key: str, text: str, *, overwrite: bool = False) -> None:
        """Writes a text."""
        try:
            self._client.key_value_set(f"{_OURS}/{key}", text, allow_overwrite=overwrite)
        except self._error as error:
            raise StoreError(str(error)) from error

    def wait(self, key: str, seconds: float) -> str | None:
        """Returns the text of a key as soon as there is one, None if there is none by then."""
        try:
            return self._client.blocking_key_value_get(f"{_OURS}/{key}", int(seconds * 1000))
        except self._error as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            raise StoreError(str(error)) from error

    def below(self, folder: str) -> dict[str, str]:
        """Returns the texts of all keys `<folder>/<name>`, by name."""
        try:
            found = self._client.key_value_dir_get(f"{_OURS}/{folder}/")
        except self._error as error:
            raise StoreError(str(error)) from error
        return {key.rpartition("/")[2]: text for key, text in found}

    def remove(self, key: str) -> None:
        """Removes a key."""
        try:
            self._client.key_value_delete(f"{_OURS}/{key}")
        except self._error as error:
            raise StoreError(str(error)) from error

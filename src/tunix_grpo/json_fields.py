"""The values of JSON files that others wrote, such as config.json: each by key, type, range and default.

A value that is not what its reader wants is one sentence that names the file, the key, the value and the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tunix_grpo.errors import UserError

REQUIRED = object()  # the default of a key that must be there


class Fields:
    """The values of a JSON object, read one by one.

    An absent key is its default. So is null where `null_is_absent`, for keys that the writers of such files leave null;
    elsewhere null is an error like any other wrong value.
    """

    def __init__(self, file: str, values: Mapping[str, Any], prefix: str = ""):
        """
        Args:
            file: what errors call the file.
            prefix: of the keys in errors: `rope_parameters.` for an object inside the file.
        """
        self.file, self._values, self._prefix = file, values, prefix

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> Any:
        """Returns a value as it is, None where there is none."""
        return self._values.get(key)

    def integer(self, key: str, default: Any = REQUIRED, *, least: int = 1, null_is_absent: bool = False) -> Any:
        """Returns a whole number of at least `least`."""
        wanted = f"a whole number of at least {least}"

        def fits(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        return self._read(key, default, null_is_absent, wanted, fits)

    def number(self, key: str, default: Any = REQUIRED, *, null_is_absent: bool = False) -> Any:
        """Returns a finite number above 0, as a float."""

        def fits(value: Any) -> bool:
            return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")

        value = self._read(key, default, null_is_absent, "a number above 0", fits)
        return value if value is default else float(value)

    def boolean(self, key: str, default: Any = REQUIRED) -> Any:
        """Returns a truth value."""
        return self._read(key, default, False, "true or false", lambda value: isinstance(value, bool))

    def choice(self, key: str, choices: Mapping[str, Any], default: str) -> Any:
        """Returns what `choices` has for the word that is the value."""
        word = self._values.get(key, default)
        if not isinstance(word, str) or word not in choices:
            raise self.error(key, f"is not supported; supported are {', '.join(choices)}")
        return choices[word]

    def words(self, key: str, choices: Iterable[str], length: int) -> list[str] | None:
        """Returns a list of `length` words, each one of `choices`; None where there is none."""
        choices = tuple(choices)

        def fits(value: Any) -> bool:
            return isinstance(value, list) and len(value) == length and all(word in choices for word in value)

        return self._read(key, None, True, f"a list of {length} words, each one of {', '.join(choices)}", fits)

    def tokens(self, key: str) -> list[int]:
        """Returns one or several token ids, none where there is nothing or null."""

        def fits(value: Any) -> bool:
            ids = value if isinstance(value, list) else [value]
            return all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids)

        value = self._read(key, [], True, "a token id of at least 0, or a list of them", fits)
        return value if isinstance(value, list) else [value]

    def object(self, key: str) -> Fields | None:
        """Returns an object inside this one; None where there is none, or null."""
        value = self._read(key, None, True, "an object", lambda value: isinstance(value, dict))
        return None if value is None else Fields(self.file, value, f"{self._prefix}{key}.")

    def error(self, key: str, words: str) -> UserError:
        """Returns the error that a value is, in `words`."""
        value = json.dumps(self._values.get(key), default=str)
        return UserError(f"{self.file}: {self._prefix}{key}={value} {words}")

    def _read(self, key: str, default: Any, null_is_absent: bool, wanted: str, fits: Any) -> Any:
        value = self._values.get(key)
        if key not in self._values or (value is None and null_is_absent):
            if default is REQUIRED:
                raise UserError(f"{self.file}: {self._prefix}{key} is missing; give {wanted}")
            return default
        if not fits(value):
            raise self.error(key, f"is not {wanted}; correct it{'' if default is REQUIRED else ', or leave it out'}")
        return value

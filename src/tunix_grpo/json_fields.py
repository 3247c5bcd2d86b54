"""The values of JSON files that others wrote, such as config.json: each by key, type, range and default.

A value that is not what its reader wants is one sentence that names the file, the key, the value and the way out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypeGuard, TypeVar

from tunix_grpo.errors import UserError
from tunix_grpo.files import Json

Choice = TypeVar("Choice")
Number = TypeVar("Number", int, float)


class Fields:
    """The values of a JSON object, read one by one.

    An absent key is its default. So is null where `null_is_absent`, for keys that the writers of such files leave null;
    elsewhere null is an error like any other wrong value.
    """

    def __init__(self, file: str, values: Mapping[str, Json], prefix: str = ""):
        """
        Args:
            file: what errors call the file.
            prefix: of the keys in errors: `rope_parameters.` for an object inside the file.
        """
        self.file, self._values, self._prefix = file, values, prefix

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> Json:
        """Returns a value as it is, None where there is none."""
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None, *, least: int = 1, null_is_absent: bool = False) -> int:
        """Returns a whole number of at least `least`; without a default the key must be there."""
        wanted = f"a whole number of at least {least}"
        if self._is_absent(key, null_is_absent):
            return self._default(key, default, wanted)
        value = self._values[key]
        if not _is_whole(value) or value < least:
            raise self._refused(key, wanted, may_be_absent=default is not None)
        return value

    def number(self, key: str, default: float | None = None, *, null_is_absent: bool = False) -> float:
        """Returns a finite number above 0; without a default the key must be there."""
        wanted = "a number above 0"
        if self._is_absent(key, null_is_absent):
            return self._default(key, default, wanted)
        value = self._values[key]
        if not (_is_whole(value) or isinstance(value, float)) or not 0 < value < float("inf"):
            raise self._refused(key, wanted, may_be_absent=default is not None)
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Returns a truth value."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self._refused(key, "true or false")
        return value

    def choice(self, key: str, choices: Mapping[str, Choice], default: str) -> Choice:
        """Returns what `choices` has for the word that is the value."""
        word = self._values.get(key, default)
        if not isinstance(word, str) or word not in choices:
            raise self.error(key, f"is not supported; supported are {', '.join(choices)}")
        return choices[word]

    def words(self, key: str, choices: Iterable[str], length: int) -> list[str] | None:
        """Returns a list of `length` words, each one of `choices`; None where there is none."""
        choices = tuple(choices)
        if self._is_absent(key, null_is_absent=True):
            return None
        value = self._values[key]
        found = [word for word in value if isinstance(word, str) and word in choices] if isinstance(value, list) else []
        if not isinstance(value, list) or not len(found) == len(value) == length:
            raise self._refused(key, f"a list of {length} words, each one of {', '.join(choices)}")
        return found

    def tokens(self, key: str) -> list[int]:
        """Returns one or several token ids, none where there is nothing or null."""
        if self._is_absent(key, null_is_absent=True):
            return []
        value = self._values[key]
        given = value if isinstance(value, list) else [value]
        ids = [token for token in given if _is_whole(token) and token >= 0]
        if len(ids) < len(given):
            raise self._refused(key, "a token id of at least 0, or a list of them")
        return ids

    def object(self, key: str) -> Fields | None:
        """Returns an object inside this one; None where there is none, or null."""
        if self._is_absent(key, null_is_absent=True):
            return None
        value = self._values[key]
        if not isinstance(value, dict):
            raise self._refused(key, "an object")
        return Fields(self.file, value, f"{self._prefix}{key}.")

    def error(self, key: str, words: str) -> UserError:
        """Returns the error that names a key with its value; `words` say what is wrong with it."""
        value = json.dumps(self._values.get(key), default=str)
        return UserError(f"{self.file}: {self._prefix}{key}={value} {words}")

    def _is_absent(self, key: str, null_is_absent: bool) -> bool:
        return key not in self._values or (null_is_absent and self._values[key] is None)

    def _default(self, key: str, default: Number | None, wanted: str) -> Number:
        if default is None:
            raise UserError(f"{self.file}: {self._prefix}{key} is missing; give {wanted}")
        return default

    def _refused(self, key: str, wanted: str, *, may_be_absent: bool = True) -> UserError:
        return self.error(key, f"is not {wanted}; correct it{', or leave it out' if may_be_absent else ''}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)

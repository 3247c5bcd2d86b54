"""The program, as its judge sees it: what it defines is asked for, and arrives as a copy or stays where it is."""

from __future__ import annotations

import builtins
import sys
import types

from tunix_grpo.sandbox.values import CHANGEABLE, Line, Objects

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    from collections.abc import Iterable
    from typing import Any


class Ended(BaseException):
    """Says that the program is gone; no test can catch it by `except Exception`."""


class Program:
    """The other process: what it defines, asked one question at a time."""

    def __init__(self, line: Line) -> None:
        """Takes the connection."""

        class Remote(_Remote):
            _program_ = self

        self.line = line
        self.objects = Objects(Remote)
        self.problem: Exception | None = None
        try:
            self.names = self.ask("names")["names"]
        except Exception as error:
            self.names, self.problem = [], error

    def ask(self, what: str, **details: Any) -> dict[str, Any]:
        """Returns the answer to a question; raises what the program raised."""
        try:
            self.line.send({"ask": what, **details})
            answer = self.line.receive()
        except (EOFError, OSError, ValueError, RecursionError, MemoryError):
            raise Ended from None
        if "raised" in answer:
            raise _exception(answer["raised"], str(answer["message"]))
        return answer

    def value(self, what: str, **details: Any) -> Any:
        """Returns the value that answers a question."""
        return self.objects.decoded(self.ask(what, **details)["value"])

    def function(self, name: str) -> Any:
        """Returns a function that it defines, a method of its class Solution if there is no such function."""
        if name not in self.names and "Solution" in self.names:
            return getattr(self.value("name", name="Solution")(), name)
        return self.value("name", name=name)

    def as_module(self, name: str) -> types.ModuleType:
        """Returns a module to import its names from; `*` leaves out what means something in Python itself."""
        module = types.ModuleType(name)
        known = {*dir(builtins), *sys.stdlib_module_names}
        own = [each for each in self.names if each not in known and not each.startswith("_")]
        module.__dict__.update({"__getattr__": self._member, "__all__": own})
        return module

    def _member(self, name: str) -> Any:
        if name not in self.names:
            raise AttributeError(name)
        return self.value("name", name=name)

    def call(self, of: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls something of the program; lists and the like that it changed are changed here, too."""
        encoded = [self.objects.encoded(each) for each in arguments]
        named = {key: self.objects.encoded(each) for key, each in named.items()}
        answer = self.ask("call", of=self.objects.encoded(of), arguments=encoded, named=named)
        for place, content in answer["changed"]:
            _become(arguments[place], self.objects.decoded(content))
        return self.objects.decoded(answer["value"])


class _Remote:
    """Stands for an object that stays in the program's process.

    It does not compute, and it equals no value: a program could answer what is expected from it.
    """

    _program_: Program
    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        object.__setattr__(self, "_number", number)

    @classmethod
    def _number_of_(cls, remote: Any) -> int:
        return object.__getattribute__(remote, "_number")

    def _ask(self, name: str, *arguments: Any) -> Any:
        objects = self._program_.objects
        return self._program_.value(
            "method", of=objects.encoded(self), name=name, arguments=[objects.encoded(each) for each in arguments]
        )

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._program_.call(self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._program_.value("attribute", of=self._program_.objects.encoded(self), name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        objects = self._program_.objects
        self._program_.ask("set_attribute", of=objects.encoded(self), name=name, value=objects.encoded(value))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._ask("__eq__", other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(type(self)._number_of_(self))

    def __iter__(self) -> Any:
        return self._ask("__iter__")

    def __next__(self) -> Any:
        return self._ask("__next__")

    def __len__(self) -> int:
        return self._ask("__len__")

    def __getitem__(self, key: Any) -> Any:
        return self._ask("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("__setitem__", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("__delitem__", key)

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(self._ask("__str__"))

    def __repr__(self) -> str:
        return str(self._ask("__repr__"))


def _become(mine: Any, theirs: Any) -> None:
    """Gives a list, set or dictionary the content of another one."""
    if type(mine) is not type(theirs) or not isinstance(mine, CHANGEABLE):
        return
    mine.clear()
    if isinstance(mine, (set, dict)):
        mine.update(theirs)
    else:
        mine.extend(theirs)


def _exception(names: Iterable[Any], message: str) -> Exception:
    """Returns an exception of the first kind that Python itself has."""
    for name in names:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(message)
            except TypeError:
                continue
    return RuntimeError(message)

"""Values between a program and the judge of its tests: only copies of plain values pass, as JSON.

What arrives is made of the types of Python alone, never of classes of the program, so that no value of its can decide
how it compares. Any other object stays where it is and passes as a number that stands for it.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    import socket
    from typing import Any

MESSAGE_BYTES = 8 << 20
CHANGEABLE = (list, dict, set, collections.deque, bytearray)  # what a call may change in place
_BIG = 1 << 53


class Objects:
    """The objects of this side that the other side knows by number."""

    def __init__(self, remote_class: Any = None) -> None:
        """Takes the class of what stands for an object of the other side, by number; None where it has none."""
        self.remote_class = remote_class
        self.kept: list[Any] = []

    def encoded(self, value: Any) -> Any:
        """Returns what JSON can hold in place of a value."""
        if value is None or isinstance(value, (bool, str)):
            return str.__str__(value) if isinstance(value, str) else value
        if isinstance(value, int):
            number = int.__index__(value)
            return number if -_BIG < number < _BIG else {"int": hex(number)}
        if isinstance(value, float):
            return float.__float__(value)
        if isinstance(value, list):
            return [self.encoded(member) for member in list.__iter__(value)]
        for name, kind in _SEQUENCES.items():
            if isinstance(value, kind):
                return {name: [self.encoded(member) for member in kind.__iter__(value)]}
        if isinstance(value, dict):
            return {"dict": [[self.encoded(key), self.encoded(member)] for key, member in dict.items(value)]}
        for name, (kind, take_apart, _) in _ATOMS.items():
            if type(value) is kind:
                return {name: take_apart(value)}
        if self.remote_class is not None and type(value) is self.remote_class:
            return {"yours": self.remote_class._number_of_(value)}
        self.kept.append(value)
        return {"mine": len(self.kept) - 1}

    def decoded(self, content: Any) -> Any:
        """Returns the value that was encoded on the other side.

        Raises:
            ValueError: it is no such content.
        """
        if isinstance(content, list):
            return [self.decoded(member) for member in content]
        if not isinstance(content, dict):
            return content
        ((name, inner),) = content.items()
        if name == "int":
            return int(inner, 16)
        if name == "dict":
            return {self.decoded(key): self.decoded(member) for key, member in inner}
        if name in _SEQUENCES:
            return _SEQUENCES[name](self.decoded(member) for member in inner)
        if name in _ATOMS:
            return _ATOMS[name][2](inner)
        if name == "mine" and self.remote_class is not None:
            return self.remote_class(int(inner))
        if name == "yours":
            return self.kept[int(inner)]
        raise ValueError(f"no value is called {name!r}")


class Line:
    """A connection that carries JSON, a line each."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes a connected socket."""
        self.reader, self.writer = connection.makefile("rb"), connection.makefile("wb")

    def send(self, content: Any) -> None:
        """Sends one message."""
        self.writer.write(json.dumps(content).encode() + b"\n")
        self.writer.flush()

    def receive(self) -> Any:
        """Returns the next message.

        Raises:
            EOFError: the other side has ended, or says more than fits into a message.
            ValueError: it is no JSON.
        """
        line = self.reader.readline(MESSAGE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        return json.loads(line)


_SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}
# name -> type, a value of it -> content, content -> the value
_ATOMS = {
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "bytearray": (bytearray, bytearray.hex, bytearray.fromhex),
    "complex": (complex, lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "range": (range, lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    "decimal": (decimal.Decimal, str, decimal.Decimal),
    "fraction": (fractions.Fraction, str, fractions.Fraction),
    "datetime": (datetime.datetime, datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.isoformat, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.isoformat, datetime.time.fromisoformat),
    "timedelta": (
        datetime.timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: datetime.timedelta(*parts),
    ),
}

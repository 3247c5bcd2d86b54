"""The processes that train one model together, as one of them sees it: trivial for a process that is alone.

All of them run the same program; process 0 owns the disk and decides what is no function of settings, seed and step.
What they tell one another here are small values, through a `Store`, apart from the devices: a wait for a host that
takes long is no fault, and one for a host that is lost is ended by its `Watch`.

Every method with an exchange is called by all processes, in the same order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from tunix_grpo.errors import UserError
from tunix_grpo.files import Json
from tunix_grpo.hosts.store import Store, StoreError

Item = TypeVar("Item")
Value = TypeVar("Value")
Error = TypeVar("Error", bound=BaseException)
_LOOK_S = 1.0  # a wait is left so often, to hear signals


class Hosts:
    """The processes of a cluster.

    Attributes:
        index: of this process, from 0.
        count: of all.
    """

    def __init__(self, index: int = 0, count: int = 1, store: Store | None = None):
        """Takes the place of this process, and the board, which a process that is alone needs none of."""
        assert (store is None) == (count == 1)
        self.index, self.count, self._store = index, count, store
        self._numbers = itertools.count()
        self._known: list[BaseException] = []

    @property
    def is_first(self) -> bool:
        """Says whether this process owns the disk."""
        return self.index == 0

    def gather(self, value: Json) -> list[Json]:
        """Returns what each of them gives, in their order."""
        if self._store is None:
            return [value]
        number = next(self._numbers)
        said = json.dumps(value)
        self._patiently(lambda store: store.put(f"said/{number}/{self.index}", said, overwrite=True))
        values = [json.loads(self._awaited(f"said/{number}/{host}")) for host in range(self.count)]
        if number > 0:  # who has come as far as this has read what was said before
            with contextlib.suppress(StoreError):
                self._store.remove(f"said/{number - 1}/{self.index}")
        return values

    def broadcast(self, value: Json) -> Json:
        """Returns what the first of them gives."""
        return self.gather(value if self.is_first else None)[0]

    def agree(self, flag: bool) -> bool:
        """Says whether any of them says so."""
        return any(self.gather(flag))

    def barrier(self, name: str) -> None:
        """Returns when all have come here.

        Args:
            name: of the place, so that processes which are out of step find out.
        """
        places = self.gather(name)
        if any(place != name for place in places):
            raise RuntimeError(f"the processes are out of step: {places}")

    def part(self, count: int, unit: int = 1) -> range:
        """Returns which of so many rows are this process's: whole units in a row, shared evenly.

        Args:
            unit: rows that stay together; divides their number.
        """
        units = count // unit
        first, end = (units * place // self.count * unit for place in (self.index, self.index + 1))
        return range(first, end)

    def spread(self, items: Sequence[Item], call: Callable[[Sequence[Item]], list[Value]]) -> list[Value]:
        """Returns one value for each item; each process computes those of its part.

        Args:
            call: items -> as many values, which JSON can hold.

        Raises:
            UserError: the call of one has raised it.
        """
        if self._store is None:
            return call(items)
        own: list = []
        with self.together():
            mine = self.part(len(items))
            own = call(items[mine.start : mine.stop])
        parts: list = self.gather(own)
        return [value for part in parts for value in part]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What one of them cannot do, none does: in the block there is no exchange, at its end they compare.

        Raises:
            UserError: of the first of them that has raised one; where all say the same it is this process's own.
        """
        if self._store is None:
            yield
            return
        problem: UserError | None = None
        try:
            yield
        except UserError as error:
            problem = error
        said = self.gather(None if problem is None else str(problem))
        first = next((host for host, sentence in enumerate(said) if sentence is not None), None)
        if first is None:
            return
        if problem is None or any(sentence != said[first] for sentence in said):
            problem = UserError(f"host {first}: {said[first]}")
        raise self.known(problem)

    def known(self, error: Error) -> Error:
        """Returns an error that all of them are about to raise, for the same reason."""
        self._known.append(error)
        return error

    def is_known(self, error: BaseException | None) -> bool:
        """Says whether all of them raise this error, or one that it comes from."""
        while error is not None:
            if any(error is known for known in self._known):
                return True
            error = error.__cause__
        return self._store is None

    def first_then_others(self, call: Callable[[], Value]) -> Value:
        """Returns what a call returns; the first process calls before the others do: what it leaves, they find.

        Raises:
            UserError: the call of one has raised it.
        """
        results = []
        for is_turn in (self.is_first, not self.is_first)[: min(self.count, 2)]:
            with self.together():
                if is_turn:
                    results.append(call())
        return results[0]

    def require_same(self, facts: Mapping[str, Json], way_out: str) -> None:
        """Compares facts that must be the same everywhere.

        Raises:
            UserError: names the first key that differs, and the host.
        """
        if self._store is None:
            return
        each: list = self.gather(dict(facts))
        for host, theirs in enumerate(each):
            for key in sorted(each[0].keys() | theirs.keys()):
                here, there = each[0].get(key), theirs.get(key)
                if here != there:
                    problem = UserError(
                        f"{key} is {_shown(here)} on host 0 and {_shown(there)} on host {host}; {way_out}"
                    )
                    raise self.known(problem)

    def _awaited(self, key: str) -> str:
        while (text := self._patiently(lambda store: store.wait(key, _LOOK_S))) is None:
            pass
        return text

    def _patiently(self, call: Callable[[Store], Value]) -> Value:
        """Returns what the board answers: who waits in vain for one that is lost is ended by the watch."""
        assert self._store is not None
        while True:
            try:
                return call(self._store)
            except StoreError:
                time.sleep(_LOOK_S)


def _shown(value: Json) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


ALONE = Hosts()

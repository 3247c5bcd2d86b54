"""A user's function as a reward: which columns it gets, how often it is called, and TRL's further arguments.

TRL (its `GRPOTrainer`) calls `function(prompts=, completions=, completion_ids=, trainer_state=, log_extra=,
log_metric=, **columns)` with lists. A function of that signature is called alike here.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Failure, Samples
from tunix_grpo.rewards.event_loop import EventLoop
from tunix_grpo.rewards.values import as_list, as_number, failure_of, with_extras

FIXED_COLUMNS = ("prompts", "completions", "question", "answer")
# What a function may ask for beside them; a column of the data of that name hides it.
FURTHER = ("token_lengths", "step", "completion_ids", "trainer_state", "log_extra", "log_metric")
# What TRL always gives, and `**kwargs` then holds.
_OF_TRL = ("completion_ids", "trainer_state", "log_extra", "log_metric")
# The names of both where a call gets one completion.
OF_ONE = {"prompts": "prompt", "completions": "completion", "token_lengths": "token_length"}
Unit = Literal["completion", "group", "batch"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes.

    Attributes:
        by_place: its parameters that have no name outside.
        taken: all others.
        needed: those without a default.
        takes_all: it has `**kwargs`.
    """

    by_place: tuple[str, ...]
    taken: frozenset[str]
    needed: tuple[str, ...]
    takes_all: bool


def signature_of(function: Callable[..., object]) -> Signature:
    """Returns what a function takes."""
    parameters = inspect.signature(function).parameters.values()
    by_place = tuple(each.name for each in parameters if each.kind is each.POSITIONAL_ONLY)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return Signature(
        by_place,
        frozenset(each.name for each in parameters if each.kind not in several).difference(by_place),
        tuple(each.name for each in parameters if each.default is each.empty and each.kind not in several),
        any(each.kind is each.VAR_KEYWORD for each in parameters),
    )


class UserFunction:
    """Calls a user's function on a batch, once or in parts, and takes its results as values.

    Attributes:
        unit: what a call gets.
        columns: of the data, without which the function cannot be called.
    """

    def __init__(
        self, function: Callable[..., object], *, per: Literal["auto"] | Unit = "auto", messages: bool = False
    ) -> None:
        """Takes the function and its settings, as `config.parts.UserReward` has them."""
        self._function, self._messages, self._signature = function, messages, signature_of(function)
        self._events = EventLoop()
        names = {*self._signature.by_place, *self._signature.taken}
        by_name: Unit = "completion" if "completion" in names and "completions" not in names else "batch"
        self.unit: Unit = by_name if per == "auto" else per
        given = [self._name(name) for name in (*FIXED_COLUMNS, *FURTHER)]
        self.columns = tuple(name for name in self._signature.needed if name not in given)

    def __call__(self, samples: Samples) -> object:
        """Returns a value per completion; of a function that is called in parts, a `Failure` where a part fails."""
        if self.unit == "batch":
            call = _Call(self, samples)
            result = call.start()
            return call.values(self._events.run(result) if inspect.isawaitable(result) else result)
        parts = [samples.rows(rows) for rows in self.parts(samples)]
        calls = [_Call(self, part) for part in parts]
        results = [_attempt(call.start) for call in calls]
        if any(map(inspect.isawaitable, results)):
            results = self._events.run(_all_of(results, samples))
        return [value for call, result in zip(calls, results, strict=True) for value in self._values(call, result)]

    def parts(self, samples: Samples) -> Iterator[list[int]]:
        """Yields the rows of each call."""
        size = {"completion": 1, "group": samples.num_generations, "batch": len(samples)}[self.unit]
        for first in range(0, len(samples), max(1, size)):
            yield list(range(first, first + size))

    def arguments(self, samples: Samples, notes: "_Notes") -> tuple[list[object], dict[str, object]]:
        """Returns what a call gets by place and by name."""
        data = {name: [None] * len(samples) for name in self.columns} | _data_columns(samples)
        columns: dict[str, object] = {**data, **self._fixed(samples)}
        wanted = {*self._signature.by_place, *self._signature.taken}
        if self._signature.takes_all and "completions" in wanted:  # TRL's signature; `**columns` alone is the data
            wanted.update(_OF_TRL)
        for name, value in _further(samples, notes, wanted.difference(data), self._signature.needed).items():
            columns[name] = value
        if self.unit == "completion":
            alone = ("step", "trainer_state", "log_extra", "log_metric")
            columns = {
                self._name(name): column if name in alone and name not in data else column[0]  # pyright: ignore[reportIndexIssue]
                for name, column in columns.items()
            }
        first = [columns.pop(name) for name in self._signature.by_place if name in columns]
        all_of_it = self._signature.takes_all
        return first, {key: value for key, value in columns.items() if all_of_it or key in self._signature.taken}

    def start(self, samples: Samples, notes: "_Notes") -> object:
        """Calls the function; returns its result, or what it is awaited from."""
        by_place, by_name = self.arguments(samples, notes)
        return self._function(*by_place, **by_name)

    def _values(self, call: "_Call", result: object) -> list[object]:
        """Returns the values of a part."""
        count = len(call.samples)
        if isinstance(result, Failure):
            return [result] * count
        if self.unit == "completion":
            return call.values([result])
        values = as_list(result)
        if values is None or len(values) != count:
            given = type(result).__name__ if values is None else f"{len(values)} values"
            return [Failure("error", f"returned {given} for a group of {count} completions,")] * count
        return call.values(values)

    def _name(self, name: str) -> str:
        return OF_ONE.get(name, name) if self.unit == "completion" else name

    def _fixed(self, samples: Samples) -> dict[str, object]:
        prompts: list[object] = list(samples.prompts)
        completions: list[object] = list(samples.completions)
        if self._messages:
            prompts = [
                list(question.turns or [{"role": "user", "content": question.question}])
                for question in samples.questions
            ]
            completions = [[{"role": "assistant", "content": text}] for text in samples.completions]
        return {
            "prompts": prompts,
            "completions": completions,
            "question": [question.question for question in samples.questions],
            "answer": [question.answer for question in samples.questions],
        }


def _data_columns(samples: Samples) -> dict[str, list[Any]]:
    """Returns the columns of the data by name; None where a question has no such column."""
    extras = [question.extra or {} for question in samples.questions]
    names = dict.fromkeys(name for extra in extras for name in extra)
    return {name: [extra.get(name) for extra in extras] for name in names}


def _further(samples: Samples, notes: "_Notes", wanted: set[str], needed: Sequence[str]) -> dict[str, object]:
    """Returns what a function asks for by name beside the columns."""
    if samples.token_ids is None and "completion_ids" in wanted:
        if "completion_ids" in needed:
            raise UserError(
                "a reward takes completion_ids, which completions from a file lack; give it a default value"
            )
        wanted = wanted - {"completion_ids"}
    further = {
        "token_lengths": list(samples.token_lengths),
        "token_length": list(samples.token_lengths),
        "step": samples.step,
        "completion_ids": samples.token_ids,
        "trainer_state": TrainerState(samples.step),
        "log_extra": notes.log_extra,
        "log_metric": notes.log_metric,
    }
    return {name: value for name, value in further.items() if name in wanted}


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What of TRL's trainer state there is here.

    Attributes:
        global_step: the step, from 1; 0 in the evaluation before the first.
    """

    global_step: int

    def __getattr__(self, name: str) -> NoReturn:
        """Says what there is."""
        raise AttributeError(f"trainer_state.{name}: of TRL's trainer state there is global_step alone")


@dataclass(slots=True)
class _Notes:
    """What a call logs by TRL's `log_extra` and `log_metric`: extras of its rows.

    Attributes:
        extras: name -> a number for each row.
        metrics: name -> a number of the call.
    """

    count: int
    extras: dict[str, list[float | None]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def log_extra(self, column: str, values: Sequence[object]) -> None:
        """Keeps the numbers of a column; texts, which TRL shows in its table, are not kept."""
        if len(values) != self.count:
            raise ValueError(f"log_extra({column!r}) got {len(values)} values for {self.count} completions")
        numbers = [as_number(value) for value in values]
        if any(number is not None for number in numbers):
            self.extras[column] = numbers
        elif column not in _said:
            _said.add(column)
            _log.warning("log_extra(%r) gives no numbers; a reward's texts are not kept", column)

    def log_metric(self, name: str, value: object) -> None:
        """Keeps a number."""
        number = as_number(value)
        if number is None:
            raise ValueError(f"log_metric({name!r}) got {value!r}, which is no number")
        self.metrics[name] = number

    def added(self, values: object) -> object:
        """Returns values with the extras that were logged."""
        rows = as_list(values) if self.extras or self.metrics else None
        if rows is None or len(rows) != self.count:
            return values
        made = []
        for row, value in enumerate(rows):
            number, extras = with_extras(value)
            own = {name: numbers[row] for name, numbers in self.extras.items() if numbers[row] is not None}
            made.append((number, {**own, **(self.metrics if row == 0 else {}), **extras}))
        return made


_said: set[str] = set()


class _Call:
    """One call of a user's function."""

    def __init__(self, function: UserFunction, samples: Samples) -> None:
        self.samples, self._function, self._notes = samples, function, _Notes(len(samples))

    def start(self) -> object:
        return self._function.start(self.samples, self._notes)

    def values(self, result: object) -> Any:
        return self._notes.added(result)


def _attempt(call: Callable[[], object]) -> object:
    """Returns what a call returns, or that it failed."""
    try:
        return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        return failure_of(error)


async def _all_of(results: Sequence[object], samples: Samples) -> list[object]:
    """Awaits what is to be awaited, all at once; what is not there at the deadline is given up."""
    tasks = {
        place: asyncio.ensure_future(result) for place, result in enumerate(results) if isinstance(result, Awaitable)
    }
    _, late = await asyncio.wait(tasks.values(), timeout=samples.seconds_left())
    for task in late:
        task.cancel()
    made = list(results)
    for place, task in tasks.items():
        made[place] = Failure("timeout", "got no result in time") if task in late else _attempt(task.result)
    return made

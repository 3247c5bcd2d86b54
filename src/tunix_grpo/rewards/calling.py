"""Calls a reward function on a batch of completions, within its time, and finds out which of them it fails on."""

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tunix_grpo.errors import UserError
from tunix_grpo.rewards.base import Failure, Reward, RewardError, Samples, Scored
from tunix_grpo.rewards.values import as_list, checked, failure_of

# For what ends by itself at the deadline, and then hands over what it has.
GRACE_S = 0.5
# Calls that were given up and go on all the same: more than these would take the machine from the run.
MOST_ABANDONED = 8

_log = logging.getLogger(__name__)
_abandoned: list[threading.Thread] = []


class TookTooLong(Exception):
    """Says that a call did not end in its time."""


def outcomes(reward: Reward, samples: Samples) -> list[Scored | Failure]:
    """Returns what a reward gives for each of B completions, or why there is no value.

    A function that fails on the batch is called again on its parts, so that only those fail that it fails on.
    """
    if reward.time_limit is not None:
        samples = replace(samples, deadline=time.monotonic() + reward.time_limit)
    return _outcomes(reward, samples)


def _outcomes(reward: Reward, samples: Samples) -> list[Scored | Failure]:
    count = len(samples)
    try:
        return checked(_result(reward, samples), count)
    except TookTooLong:
        return [_too_long(reward)] * count
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        failure = failure_of(error)
        parts = list(_parts(reward, samples))
        if len(parts) == 1:
            return [failure] * count
        found = []
        for rows in parts:
            in_time = samples.seconds_left() != 0.0
            found += _outcomes(reward, samples.rows(rows)) if in_time else [_too_long(reward)] * len(rows)
            if reward.on_error == "stop" and isinstance(found[-1], Failure):  # it is the one that is shown
                return [*found, *[failure] * (count - len(found))]
        return found if any(isinstance(each, Failure) for each in found) else [failure._replace(about="batch")] * count


def _too_long(reward: Reward) -> Failure:
    return Failure("timeout", f"took longer than its time_limit of {reward.time_limit:g} s", about="batch")


def _parts(reward: Reward, samples: Samples) -> Iterator[list[int]]:
    """Yields the rows that belong together."""
    size = samples.num_generations if reward.unit == "group" else 1
    for first in range(0, len(samples), size):
        yield list(range(first, first + size))


def _result(reward: Reward, samples: Samples) -> object:
    def result() -> object:
        returned = reward.function(samples)
        values = as_list(returned)  # a generator does its work here
        return returned if values is None else values

    left = samples.seconds_left()
    return result() if left is None or reward.limits_itself else within(left + GRACE_S, result, reward.name)


def within(seconds: float, call: Callable[[], object], name: str) -> object:
    """Returns what a call returns, or raises what it raises, unless it takes too long.

    It runs in a thread of its own. A thread cannot be killed: one that takes too long is told to end, which Python code
    does when it comes to its next line, and is left alone. So Ctrl-C is heard while the call hangs.

    Raises:
        TookTooLong: it did not end in time.
        RewardError: so many earlier calls still run that the machine would be lost to them.
    """
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    if len(_abandoned) >= MOST_ABANDONED:
        raise RewardError(
            f"reward {name}: {len(_abandoned)} calls that took too long have not ended and cannot be ended from here; "
            "a reward that hangs belongs into a process of its own, as reward.custom.isolate=true does it"
        )
    ended = threading.Event()
    returned: list[object] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # whoever waits gets it, Ctrl-C included
            raised.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name=f"reward {name}", daemon=True)
    thread.start()
    if not ended.wait(seconds):
        abandon(thread)
        raise TookTooLong
    if raised:
        raise raised[0]
    return returned[0]


def abandon(thread: threading.Thread) -> None:
    """Tells a thread to end, and counts it for as long as it goes on all the same."""
    _abandoned.append(thread)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))

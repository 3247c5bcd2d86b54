"""What asks a run to stop: signals, of which a second one ends it at once, and its time."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Self

from tunix_grpo.hosts.cluster import Hosts

_log = logging.getLogger(__name__)
_BY_A_PERSON = (signal.SIGINT, signal.SIGTERM)
OF_A_RUN = (*_BY_A_PERSON, signal.SIGUSR1)  # clusters announce with it that they will take the machine back
NOTICE = "stopping, and saving what is not saved; once more stops at once, without saving"
START_AGAIN = os.EX_TEMPFAIL  # 75: whoever starts runs may start this one again, and it goes on


class StopRequest:
    """Between `with` and its end, notes the first stop signal, which would else end the process.

    It is true once the run is to stop.

    Attributes:
        signal: the signal that asked, or None.
    """

    def __init__(
        self,
        notice: str | None = NOTICE,
        *,
        signals: Sequence[signal.Signals] = _BY_A_PERSON,
        deadline: float | None = None,
    ) -> None:
        """
        Args:
            notice: what is logged when the signal comes.
            signals: those that are noted.
            deadline: the `time.monotonic()` from which on it is true without a signal; None is never.
        """
        self._notice, self._signals, self._deadline = notice, signals, deadline
        self._out_of_time = False
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __bool__(self) -> bool:
        return self.asked()

    def asked(self) -> bool:
        """Says whether a signal has come, or the time is over."""
        if self.signal is None and not self._out_of_time and self._deadline is not None:
            self._out_of_time = time.monotonic() >= self._deadline
            if self._out_of_time:
                _log.warning("training.max_hours are over: stopping")
        return self.signal is not None or self._out_of_time

    @property
    def exit_code(self) -> int:
        """75 where the run may be started again; 128 + the signal's number, as shells report it, for a person's."""
        if self.signal is not None and self.signal in _BY_A_PERSON:
            return 128 + self.signal
        assert self.asked()
        return START_AGAIN

    def heard_by(self, hosts: Hosts) -> bool:
        """Says whether any process of a cluster is asked to stop; from then on this one is, too."""
        if hosts.count == 1:
            return self.asked()
        signals: list = [said for said in hosts.gather([self.signal] if self.asked() else None) if said is not None]
        if signals and not self.asked():
            self.signal = None if signals[0][0] is None else signal.Signals(signals[0][0])
            self._out_of_time = self.signal is None
        return bool(signals)  # this one may have been asked since: then all hear of it when they compare again

    def __enter__(self) -> Self:
        # Only the main thread may handle signals; a caller's thread keeps what it has.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.signal = signal.Signals(number)
        self._restore()
        if self._notice is not None:
            _log.warning("%s: %s", self.signal.name, self._notice)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def stop_of_a_run(max_hours: float | None, started: float) -> StopRequest:
    """Returns what asks a training to stop: its signals, and its time.

    Args:
        max_hours: None is no limit.
        started: the `time.monotonic()` from which on they count.
    """
    return StopRequest(signals=OF_A_RUN, deadline=None if max_hours is None else started + 3600 * max_hours)

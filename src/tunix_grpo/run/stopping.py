"""Ctrl-C and SIGTERM: the first asks a run to stop after the step it is in, a second one ends it at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from tunix_grpo.hosts.cluster import Hosts

_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Between `with` and its end, notes the first stop signal, which would else end the process.

    Attributes:
        signal: the signal that asked, or None.
    """

    def __init__(
        self, notice: str | None = "stopping after this step; once more stops at once, without saving"
    ) -> None:
        """
        Args:
            notice: what is logged when the signal comes.
        """
        self._notice = notice
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        assert self.signal is not None
        return 128 + self.signal

    def heard_by(self, hosts: Hosts) -> bool:
        """Says whether any process of a cluster was asked; from then on this one was too."""
        if hosts.count == 1:
            return bool(self)
        numbers = [number for number in hosts.gather(self.signal) if isinstance(number, int)]
        if numbers and self.signal is None:
            self.signal = signal.Signals(numbers[0])
        return bool(numbers)  # this one's own may have come since; then all hear of it after the next step

    def __enter__(self) -> Self:
        # Only the main thread may handle signals; a caller's thread keeps what it has.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
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

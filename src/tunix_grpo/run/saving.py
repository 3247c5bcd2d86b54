"""Saves a run beside its training: a save that fails is said, and the next one tried."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Protocol

from tunix_grpo.files import Json
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError
from tunix_grpo.run.evaluated import best_first, values_of
from tunix_grpo.run.runs import Run
from tunix_grpo.run.start import RunState
from tunix_grpo.text.ledger import Ledger

_log = logging.getLogger(__name__)


class Learned(Protocol):
    """What trains, with what it has learned up to now."""

    params: object
    optimizer_state: object


class Saver:
    """Saves what a run knows after its last full step, and counts what fails."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        run: Run,
        state: RunState,
        ledger: Ledger | None,
        learner: Learned,
        metric: str,
        most_failures: int | None,
        beside: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ):
        """
        Args:
            state: of the run, which goes on to change it.
            ledger: of the questions; None where a run does not choose any.
            metric: what evaluations are judged by; the best of the saved steps stays.
            most_failures: so many saves in a row that fail end the run; None: no number does.
            beside: is called with each save.
            after: is called when one has succeeded.
        """
        self._checkpoints, self._run, self._state, self._ledger = checkpoints, run, state, ledger
        self._learner = learner
        self._metric, self._most, self._beside, self._after = metric, most_failures, beside, after
        self._whole = self._writing = state.step  # steps: the last that was saved, the one that is on its way
        self._failed = self._in_a_row = 0
        self._held_up = 0.0

    def start(self) -> None:
        """Begins to save; returns when parameters and optimizer state are copied. Waits for the save before.

        Raises:
            NotSavedError: the save before is the last of too many that failed.
        """
        begun = time.perf_counter()
        self._take_note()
        self._writing = self._state.step
        self._checkpoints.start(*self._arrays(), self._content(), self._best())
        self._beside()
        self._held_up += time.perf_counter() - begun

    def look(self) -> None:
        """Takes note of a save that has ended.

        Raises:
            NotSavedError: it is the last of too many that failed.
        """
        if self._checkpoints.ended():
            self._take_note()

    def finish(self) -> None:
        """Saves the last step where that has not been done; waits for the save, which is to succeed.

        Raises:
            NotSavedError: it has failed.
        """
        if self._state.step != self._writing:
            self.start()
        self._checkpoints.finish()

    def save_into(self, checkpoints: Checkpoints) -> None:
        """Saves in any folder, and returns when it is done; what is on its way is waited for.

        Raises:
            NotSavedError: it fails.
        """
        try:
            self._checkpoints.finish()
        except NotSavedError as error:
            _log.warning("%s", error.what)
        checkpoints.save(*self._arrays(), self._content(), self._best())

    def metrics(self) -> dict[str, float]:
        """Returns the seconds that saves have held training up since this was asked last, and how many have failed."""
        held_up, self._held_up = self._held_up, 0.0
        return {"timing/save": held_up} | ({"saves/failed": self._failed} if self._failed else {})

    def _take_note(self) -> None:
        try:
            if self._checkpoints.finish():
                self._whole, self._in_a_row = self._writing, 0
                self._after()
        except NotSavedError as error:
            self._failed += 1
            self._in_a_row += 1
            self._writing = self._whole
            if self._in_a_row == self._most:
                raise NotSavedError(f"{error.what}{self._why_it_ends()}") from error
            _log.warning("%s; training goes on, and the next save is tried", error.what)

    def _why_it_ends(self) -> str:
        """Returns that too many saves have failed, and the last good state."""
        in_a_row = f"; that is {self._most} in a row (training.max_failed_saves={self._most})"
        folder = self._checkpoints.root
        good = f"the last whole step is {folder / str(self._whole)}" if self._whole else "no step has been saved"
        return f"{in_a_row}; {good}"

    def _arrays(self) -> tuple[int, object, object]:
        return self._state.step, self._learner.params, self._learner.optimizer_state

    def _content(self) -> dict[str, Json]:
        return self._run.saved() | {
            "state": dataclasses.asdict(self._state),
            "ledger": None if self._ledger is None else self._ledger.saved(),
        }

    def _best(self) -> list[int]:
        return best_first(values_of(self._state.evaluations, self._metric))

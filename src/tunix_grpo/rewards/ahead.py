"""Rewards that are asked while other completions are still drawn."""

import contextlib
import threading
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from tunix_grpo.rewards.base import Failure, Reward, Samples, Scored
from tunix_grpo.rewards.values import checked

# Name of a reward -> what it gives some of the rows.
Early: TypeAlias = Mapping[str, Mapping[int, Scored | Failure]]
# What ends at once is told of one by one, and asked about together.
_GATHERED_S = 0.02


class Ahead:
    """Asks rewards that wait for something else, a judge or processes, about completions as they end.

    It takes those whose value of a completion depends on no other (`Reward.by_row`), and asks them in a thread, about
    all that have ended since it asked last. What is not asked about when the values are wanted is left to whoever
    scores all; so is what raises, so that errors are said in one place.
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        self._rewards = [reward for reward in rewards if reward.by_row]
        self._waiting: dict[Hashable, Samples] = {}
        self._asking: dict[Hashable, Samples] = {}
        self._running = False
        self._values: dict[str, dict[Hashable, Scored | Failure]] = {reward.name: {} for reward in self._rewards}
        self._changed = threading.Condition()  # held while one of the above is read or changed

    @property
    def asks(self) -> bool:
        """Whether any reward is asked ahead."""
        return bool(self._rewards)

    def add(self, name: Hashable, sample: Samples) -> None:
        """Takes a completion; there is to be a reward that is asked ahead.

        Args:
            name: what it is asked for by.
            sample: of one row.
        """
        with self._changed:
            self._waiting[name] = sample
            if not self._running:
                self._running = True
                threading.Thread(target=self._ask, name="rewards ahead", daemon=True).start()

    def knows(self, names: Sequence[Hashable]) -> bool:
        """Says whether `values` has nothing to wait for, of what was added of these completions."""
        with self._changed:
            return all(name not in self._waiting and name not in self._asking for name in names)

    def values(self, names: Sequence[Hashable]) -> Early:
        """Waits for what is being asked about these completions, and hands out the values there are, once.

        Args:
            names: of the completions, in the order in which the values count them; those that wait are not asked about.
        """
        with self._changed:
            for name in names:
                self._waiting.pop(name, None)
            self._changed.wait_for(lambda: self._asking.keys().isdisjoint(names))
            return {
                reward: {place: of_names.pop(name) for place, name in enumerate(names) if name in of_names}
                for reward, of_names in self._values.items()
            }

    def leave(self) -> None:
        """Asks about nothing more: the rest of what it was told of is not drawn any more."""
        with self._changed:
            self._waiting.clear()

    def _ask(self) -> None:
        """Asks until nothing waits."""
        while True:
            time.sleep(_GATHERED_S)
            with self._changed:
                self._asking, self._waiting = self._waiting, {}
                if not self._asking:
                    self._running = False
                    return
            found = self._asked(list(self._asking), _joined(list(self._asking.values())))
            with self._changed:
                for reward, values in found.items():
                    self._values[reward].update(values)
                self._asking = {}
                self._changed.notify_all()

    def _asked(self, names: Sequence[Hashable], samples: Samples) -> dict[str, dict[Hashable, Scored | Failure]]:
        """Returns what each reward gives; nothing of one that raises, which is left to whoever scores all."""
        found = {}
        for reward in self._rewards:
            if reward.time_limit is not None:
                samples = replace(samples, deadline=time.monotonic() + reward.time_limit)
            with contextlib.suppress(Exception):
                found[reward.name] = dict(zip(names, checked(reward.function(samples), len(samples)), strict=True))
        return found


def _joined(parts: Sequence[Samples]) -> Samples:
    """Returns rows of one step as one batch, each a group of its own."""
    first = parts[0]
    return replace(
        first,
        prompts=[each for part in parts for each in part.prompts],
        completions=[each for part in parts for each in part.completions],
        questions=[each for part in parts for each in part.questions],
        token_lengths=[each for part in parts for each in part.token_lengths],
        token_ids=[each for part in parts for each in part.token_ids or ()] if first.token_ids is not None else None,
        num_generations=1,
    )

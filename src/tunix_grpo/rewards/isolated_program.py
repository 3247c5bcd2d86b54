"""Calls a user's reward function: a program of its own, run by `isolated.py`."""

import sys
from typing import Any

from tunix_grpo import workers
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.calling import outcomes
from tunix_grpo.rewards.custom import load_function
from tunix_grpo.rewards.isolated import unpacked
from tunix_grpo.rewards.user_function import UserFunction
from tunix_grpo.rewards.values import to_json


class Answer:
    """Loads the function at the first question, and calls it at all others."""

    def __init__(self) -> None:
        """Begins without a function."""
        self._reward: Reward | None = None

    def __call__(self, question: dict[str, Any]) -> object:
        """Returns the values of samples as `to_json` writes them."""
        if self._reward is None:
            place = question["place"]
            sys.path[:] = [*sys.path, *(each for each in question["sys_path"] if each not in sys.path)]
            function = load_function(place["path"], place["function"], place["setting"])
            called = UserFunction(function, per=place["per"], messages=place["messages"])
            self._reward = Reward("isolated", 1.0, called, unit="group" if called.unit == "group" else "completion")
            return None
        made = outcomes(self._reward, unpacked(question["samples"]))
        return to_json([value._replace(cause=None) if hasattr(value, "cause") else value for value in made])


if __name__ == "__main__":
    workers.serve(Answer())

"""A user's function in processes of its own, which are killed and replaced when it hangs or crashes."""

import base64
import pickle
import sys
from collections.abc import Mapping
from dataclasses import replace

from tunix_grpo.files import Json
from tunix_grpo.rewards.base import Failure, Samples, Scored
from tunix_grpo.rewards.user_function import UserFunction
from tunix_grpo.rewards.values import from_json
from tunix_grpo.workers import NoReplyError, WorkerPool

PROGRAM = "tunix_grpo.rewards.isolated_program"


class IsolatedFunction:
    """Calls a user's function in workers: the parts of a batch side by side, each until the deadline."""

    def __init__(self, function: UserFunction, place: Mapping[str, Json], workers: int) -> None:
        """
        Args:
            function: the same function here, which says what a call gets.
            place: the arguments with which `isolated_program` loads it.
            workers: processes, 1 or more.
        """
        self._function = function
        self._pool = WorkerPool(PROGRAM, workers, first={"place": dict(place), "sys_path": list(sys.path)})

    def __call__(self, samples: Samples) -> list[Scored | Failure]:
        """Returns a value per completion, or why there is none."""
        parts = list(self._function.parts(samples))
        questions: list[Json] = [{"samples": _packed(samples.rows(rows))} for rows in parts]
        replies = self._pool.ask_all(questions, samples.deadline)
        return [
            value
            for rows, reply in zip(parts, replies, strict=True)
            for value in ([_failure(reply)] * len(rows) if isinstance(reply, NoReplyError) else from_json(reply))
        ]


def _packed(samples: Samples) -> str:
    """Returns samples as text; data sets hold values that JSON does not know."""
    task: object = None  # no function of a user's is given it
    return base64.b64encode(pickle.dumps(replace(samples, task=task, deadline=None))).decode()


def unpacked(text: str) -> Samples:
    """Returns what was packed."""
    return pickle.loads(base64.b64decode(text))


def _failure(reply: NoReplyError) -> Failure:
    if reply.kind != "error":
        return Failure("timeout", f"took too long ({reply})")
    return Failure("error", f"gave no reply ({reply})")

"""What every reward is made of, and how a failure of foreign code is reported."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from tunix_grpo.errors import UserError, one_line

RewardFunction = Callable[..., Sequence[float]]


class RewardError(UserError, RuntimeError):
    """Says which reward function failed, on which completion, and how."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward function with its weight in the total.

    Attributes:
        name: its name in metrics and in completions.jsonl.
        weight: factor in the total; 0 only records it.
        function: (prompts, completions, questions, task) -> one number per completion.
    """

    name: str
    weight: float
    function: RewardFunction


class Reporting:
    """Turns whatever foreign code raises, `exit()` included, into an error that names the code."""

    def __init__(self, make_error: Callable[[str], Exception]) -> None:
        """Takes the function that makes the error, from a line on what was raised and where."""
        self.make_error = make_error

    def __enter__(self) -> None:
        """Begins the foreign code."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raises the error that names the code, if there is anything to report."""
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, UserError):
            raise self.make_error(describe_error(error)) from error


def describe_error(error: BaseException) -> str:
    """Returns the error's type, message and place in one line."""
    kind, message = type(error).__name__, one_line(error)
    text = f"{kind}: {message}" if message != kind else kind
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames:  # its message has the place
        return text
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})"

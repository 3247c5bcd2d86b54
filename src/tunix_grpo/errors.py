"""Errors that a user can act on: the doors print them without a traceback."""

from collections.abc import Mapping, Sequence

_LONGEST_LINE = 300  # characters


class UserError(Exception):
    """Says in one sentence what is wrong and what to do about it; the program exits with code 1."""

    exit_code = 1


class ConfigError(UserError):
    """Lists everything that is wrong with the settings; the program exits with code 2."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        """Keeps the problems, one sentence each, in `self.problems`."""
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = "".join(f"\n  {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} settings are wrong:{lines}")


class NoRoomError(UserError):
    """Says that memory ran out, and what needs less."""


class NoStepError(UserError):
    """Ends a run whose parameters are those of no step: between two updates of one, or different on its hosts."""


class NotContinued(UserError):
    """Refuses to go on with a checkpoint in silence; a door that knows the command shows those that do what is meant.

    Attributes:
        ways: what may be meant -> the settings that do it, to be given beside the others.
    """

    def __init__(self, message: str, ways: Mapping[str, Sequence[str]]) -> None:
        """Takes the sentence and the ways out."""
        super().__init__(message)
        self.ways = ways


def one_line(error: BaseException) -> str:
    """Returns what an error says in one line of at most 300 characters; its type's name where it says nothing."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return shortened(text, _LONGEST_LINE)


def shortened(text: str, longest: int) -> str:
    """Returns a text, cut behind so many characters where it has more."""
    return text if len(text) <= longest else f"{text[:longest]}..."

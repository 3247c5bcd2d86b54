"""A group of completions for a person: the question, the best and the worst completion, and what they are worth.

Text of a model may hold anything. It reaches a terminal or a log with everything written out that could move a cursor,
change a colour, turn the direction of a line or hide: `\\x1b` for escape, `\\u202e` for right-to-left.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tunix_grpo.console.output import encodable

_LONGEST = 600  # characters of a text that are shown, from its beginning and its end
_MOST_LINES = 12  # likewise
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # what Unicode calls control, format, surrogate, unassigned, ...


@dataclasses.dataclass(frozen=True)
class ShownCompletion:
    """A completion.

    Attributes:
        label: what it is in its group, such as `best`.
        worth: its rewards and length, in words.
        text: as the model wrote it.
    """

    label: str
    worth: str
    text: str


@dataclasses.dataclass(frozen=True)
class ShownGroup:
    """A question and some of its completions.

    Attributes:
        title: which group it is.
        question: as the task asks it.
        answer: the gold answer.
        completions: from the best to the worst.
    """

    title: str
    question: str
    answer: str
    completions: Sequence[ShownCompletion]

    def lines(self) -> list[str]:
        """Returns plain lines, for a log or a pipe."""
        rows = list(self._rows())
        width = max(len(label) for label, _ in rows)
        return [self.title, *(f"  {label:<{width}}  {line}".rstrip() for label, line in rows)]

    def drawn(self) -> Group:
        """Returns what rich draws on a terminal, folded to its width."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="cyan", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, line in self._rows():
            grid.add_row(Text(f"  {label}"), Text(encodable(line)))
        return Group(Text(self.title, style="bold"), grid)

    def _rows(self) -> Iterator[tuple[str, str]]:
        """Yields label and line; a line that goes on with the one before it has no label."""
        for label, text in (("question", self.question), ("answer", self.answer)):
            for place, line in enumerate(excerpt(text)):
                yield (label if place == 0 else "", line)
        for completion in self.completions:
            yield completion.label, completion.worth
            for line in excerpt(completion.text):
                yield "", line


def visible(text: str) -> str:
    """Returns a text with every character written out that a terminal would obey or hide; line ends stay."""
    return "".join(
        character if character == "\n" or unicodedata.category(character) not in _HIDDEN else _written(character)
        for character in text.replace("\r\n", "\n").replace("\t", "    ")
    )


def excerpt(text: str) -> list[str]:
    """Returns the visible lines of a text; of a long one its beginning and its end, where the answer is."""
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
    lines = visible(text).split("\n")
    if len(lines) > _MOST_LINES:
        half = _MOST_LINES // 2
        lines = [*lines[:half], f"[... {len(lines) - 2 * half:,} lines ...]", *lines[-half:]]
    return lines


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

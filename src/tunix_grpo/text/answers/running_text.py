"""The last number of running text, with all that belongs to it."""

import re
import unicodedata

from tunix_grpo.text.answers import units
from tunix_grpo.text.answers.plain import CURRENCY_SIGNS, plain
from tunix_grpo.text.answers.quantities import read_quantity
from tunix_grpo.text.answers.tokens import COMMAND, NUMBER, WORD, tokens_of
from tunix_grpo.text.answers.values import Reader, Reading
from tunix_grpo.text.answers.widening import joined, widened

LONGEST_TAIL = 1000  # characters before the last digit that are looked at
_LONGEST_REST = 80  # and behind it: brackets that close, a unit

# An end of a sentence, not a factorial.
_EXCLAMATION = re.compile(r"!+(?=\s*$|\s+[^a-z\s])")


_FORMULA = re.compile(r"\$(?=\S)([^$\n]*[^$\s])\$(?![0-9])|\\\(([^\n]+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_RAISED_OR_LOWERED = re.compile(r"[\^_] ?\{?[0-9]+")


def last_number(text: str) -> str | None:
    """Returns the last number of a text as it is written there, with its percent sign, currency or unit.

    It is taken whole: `2 1/2`, `\\frac{1}{2}`, `2^{10}`, `12:45`, `[2, 5)`, `2x + 3`, `1 h 30 min`. Numbers that only
    name something count if there is no other: `step 3`, `x_1`.
    """
    end = max(map(text.rfind, _digits_in(text)), default=-1)
    if end < 0:
        return None
    tail = _EXCLAMATION.sub(".", text[max(0, end - LONGEST_TAIL) : end + _LONGEST_REST])
    formula = _last_formula(tail)
    if formula is not None:
        return formula
    tail = plain(tail)
    tokens = tokens_of(tail)
    reader = Reader(tokens)
    found: tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    index, last = 0, (-1, -1)
    while index < len(tokens):
        reading = reader.value(index) if _may_begin(reader, index) else None
        numbers = reading is not None and any(token.kind == NUMBER for token in tokens[index : reading.end])
        if reading is None or not numbers or reading.end == index:
            index = _after_name(reader, index)
            continue
        first, is_label = _with_prefix(reader, index)
        if is_label and reader.kind(index + 1) == ":" and not reader.glued(index + 2):  # Step 2: 5
            reading = Reading(index + 1, None)
        end = _with_part(reader, _with_unit(reader, reading.end))
        first = joined(reader, last, first, end)
        if reader.text(end).lower() == "is" and reader.text(end + 1).lower() in units.CHANGING_BEHIND:  # 5 is wrong
            end, is_label = end + 2, True
        if is_label:
            label = first, end
        else:
            found = first, end
        last = first, end
        index = reading.end
    if found is None and label is None:
        return None
    first, end = widened(reader, *found) if found is not None else label or (0, 0)
    return tail[tokens[first].start : tokens[end - 1].end]


def _last_formula(tail: str) -> str | None:
    """Returns the formula between signs of mathematics that holds the last number, if it is more than a quantity."""
    *_, found = [None, *_FORMULA.finditer(tail)]
    if found is None or any(map(str.isdigit, tail[found.end() :])):
        return None
    content = found.group(found.lastindex or 1).strip()
    readable = any(read_quantity(side.strip()) for side in plain(content).split("="))
    numbers = any(map(str.isdigit, _RAISED_OR_LOWERED.sub("", content)))
    return content if numbers and not readable else None


def _digits_in(text: str) -> str:
    """Returns the digits and fractions of all scripts that a text has."""
    if text.isascii():
        return "0123456789"
    characters = {*text, *"0123456789"}
    return "".join(
        each for each in characters if each.isdecimal() or unicodedata.name(each, "").startswith("VULGAR FRACTION")
    )


def _may_begin(reader: Reader, index: int) -> bool:
    """Says whether a value of running text can begin at a token."""
    kind, glued = reader.kind(index), reader.glued(index)
    behind = reader.kind(index - 1) if glued else ""
    if kind in ("-", "+"):
        following = reader.kind(index + 1) in (NUMBER, "(") or reader.kind(index + 1) == COMMAND
        return following and reader.glued(index + 1) and behind not in (NUMBER, WORD, ")", "]", "}")
    if kind == NUMBER and behind == "-" and reader.glued(index - 1) and reader.kind(index - 2) == WORD:  # F-16
        return False
    if kind == NUMBER or reader.text(index) in ("\\frac", "\\sqrt"):
        return not (kind == NUMBER and (behind in (WORD, "_", "^") and not _is_currency(reader, index - 1)))
    if kind == "(" and behind in (NUMBER, ")"):  # 2(5)
        return False
    return kind in ("(", "{") and behind not in (WORD, "_", "^", COMMAND, "]") and _opens_number(reader, index)


def _opens_number(reader: Reader, index: int) -> bool:
    """Says whether a bracket holds a value that goes on behind it: `(1/2)^3`, `(-5)`."""
    end = reader.partner.get(index)
    reading = None if end is None else reader.value(index)
    return reading is not None and reading.value is not None


def _is_currency(reader: Reader, index: int) -> bool:
    return units.measure(reader.text(index)) in units.CURRENCIES and len(reader.text(index)) > 1


def _after_name(reader: Reader, index: int) -> int:
    """Returns the index behind a token and what is raised or lowered behind a letter."""
    following = index + 1
    while reader.kind(index) in (WORD, ")", COMMAND) and reader.kind(following) in ("^", "_"):
        following = reader.partner.get(following + 1, following + 1) + 1
    return following


def _with_prefix(reader: Reader, index: int) -> tuple[int, bool]:
    """Returns the first token of a value together with its currency and sign, and whether it only names something."""
    before = reader.kind(index - 1)
    if before in CURRENCY_SIGNS:
        index -= 1
        if reader.kind(index - 1) in ("-", "+") and reader.kind(index - 2) not in (NUMBER, WORD, ")"):
            index -= 1
    word = reader.text(index - 1).lower().replace("'", "")
    if word in ("minus", "negative") and reader.kind(index - 2) != NUMBER:
        return index - 1, False
    if word == "of" and reader.text(index - 2).lower() == "instead":
        return index - 2, True
    is_label = word in units.CHANGING_NEXT or word in units.CHANGING_BEFORE
    return index - is_label, is_label


def _with_part(reader: Reader, end: int) -> int:
    """Returns the end of a value together with `squared`, `thirds` or `and a half` behind it."""
    if reader.text(end).lower() in units.RAISING:
        return end + 1
    words = [reader.text(end + place).lower() for place in range(3)]
    return end + 3 if words[:2] == ["and", "a"] and words[2] in ("half", "quarter", "third") else end


def _with_unit(reader: Reader, end: int) -> int:
    """Returns the end of a value together with a percent sign, a scale or a unit behind it."""
    if reader.kind(end) in ("%", "°") or (reader.kind(end) == COMMAND and reader.glued(end)):  # the last is 2\pi
        return end + 1
    if reader.kind(end) != WORD:
        return end
    word, glued = reader.text(end), reader.glued(end)
    if (glued and word in units.GLUED_SCALES) or word.lower() in units.SCALES:
        return _with_unit(reader, end + 1)
    if units.measure(word) is None:
        return end + 1 if glued else end  # 2x, 5th: no number
    if word.lower() in units.AMBIGUOUS and not glued:
        return end
    return end + 3 if reader.kind(end + 1) == "^" and reader.kind(end + 2) == NUMBER else end + 1

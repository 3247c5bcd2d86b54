"""From a number in running text to the larger expression that it is only a piece of."""

from tunix_grpo.text.answers import units
from tunix_grpo.text.answers.tokens import COMMAND, LINE, NUMBER, WORD, number_of
from tunix_grpo.text.answers.values import Reader

_OPERATORS = ("+", "-", "*", "÷", "/")
_RELATIONS = ("<", ">", "≤", "≥", "≠", "±")
_FUNCTIONS = frozenset({"sin", "cos", "tan", "log", "ln", "exp", "sqrt"})
_MEMBERS = (NUMBER, COMMAND, ",", ";", ".", "^", "_", "∞", "\\", *_OPERATORS)


def widened(reader: Reader, first: int, end: int) -> tuple[int, int]:
    """Returns the tokens of the pair, set, interval, inequality or formula with letters that a number stands in.

    Of numbers alone it is a sum or a range: `12 + 4`, `5-10`. A number in none of them stays as it is, as in `10-5`.
    """
    members = _in_brackets(reader, first, end)
    if members is not None:
        return members
    start, has_letters = _left(reader, first, end)
    stop = _right(reader, end)
    if reader.kind(start - 1) == reader.kind(stop) == "|" and reader.glued(start) and reader.glued(stop):
        return start - 1, stop + 1  # |5|
    is_argument = reader.kind(start - 1) == "(" and reader.kind(stop) == ")" and reader.glued(start - 1)
    if is_argument and reader.kind(start - 2) in (WORD, COMMAND, NUMBER):
        return start - 2, stop + 1  # f(5), 2(5)
    is_larger = has_letters or stop > end or _is_sum(reader, start, first) or _is_range(reader, first)
    return (start, stop) if is_larger else (first, end)


def _is_sum(reader: Reader, start: int, first: int) -> bool:
    """Says whether the terms before a number are added, multiplied or, with spaces, subtracted."""
    return any(
        reader.kind(index) in ("+", "*", "÷") or (reader.kind(index) == "-" and not reader.glued(index))
        for index in range(start + 1, first)
    )


def _is_range(reader: Reader, first: int) -> bool:
    """Says whether a number is the upper end of a range: `5-10`."""
    if reader.kind(first - 1) != "-" or reader.kind(first) != NUMBER or reader.kind(first - 2) != NUMBER:
        return False
    lower, upper = number_of(reader.text(first - 2)), number_of(reader.text(first))
    return reader.glued(first) and lower is not None and upper is not None and lower < upper


def joined(reader: Reader, last: tuple[int, int], first: int, end: int) -> int:
    """Returns the first token of a value together with the value before it, where both are said in one breath.

    `2 and 3`, `x = 2 or x = 3`, `5 to 10`, `5 by 3`, `1, 2.`, `1 hour and 30 minutes`, `1 h 30 min`; not
    `from 5 to 10`, `step 1, 2`.

    Args:
        last: tokens of the value before, with its unit.
    """
    begin = first
    if reader.kind(first - 1) == "=" and _is_letter(reader, first - 2):
        begin = first - 2
    between = reader.text(begin - 1).lower()
    if last[1] == begin - 1 and between in ("and", "or", "by", "x", "*"):
        return last[0]
    if last[1] == begin - 1 and between == "to" and reader.text(last[0] - 1).lower() != "from":
        return last[0]
    ends = reader.kind(end) in ("", LINE) or (reader.kind(end) == "." and reader.kind(end + 1) in ("", LINE))
    if last[1] == begin - 1 and between == "," and ends and reader.kind(last[0]) != WORD:
        return last[0]
    both_measured = all(units.measure(reader.text(place - 1)) is not None for place in (last[1], end))
    return last[0] if both_measured and last[1] == first else first


def _in_brackets(reader: Reader, first: int, end: int) -> tuple[int, int] | None:
    """Returns the brackets around a number that has other members beside it; the two may differ: [2, 5)."""
    start, stop = first - 1, end
    while reader.kind(start) in _MEMBERS or _is_letter(reader, start):
        start -= 1
    while reader.kind(stop) in _MEMBERS or _is_letter(reader, stop):
        stop += 1
    if reader.kind(start) not in ("(", "[", "{") or reader.kind(stop) not in (")", "]", "}"):
        return None
    if not any(reader.kind(index) == "," for index in range(start, stop)):
        return None
    return start - (reader.kind(start - 1) == "\\"), stop + 1


def _left(reader: Reader, first: int, end: int) -> tuple[int, bool]:
    """Returns where the terms before a number begin, and whether there are letters or relations among them."""
    has_letters = False
    while first > 0:
        kind = reader.kind(first - 1)
        if kind in _RELATIONS and not (
            kind == ">" and reader.kind(first - 2) in ("", "line")
        ):  # a quotation in Markdown
            return first - 1, True
        if kind == COMMAND or reader.text(first - 1).lower() in _FUNCTIONS:
            return first - 1, True
        if kind == NUMBER and reader.kind(first - 2) == "_":  # \log_2 8
            return first - 3, True
        term = first - 1 if reader.kind(first) in _OPERATORS else first - 2
        is_operator = reader.kind(term + 1) in _OPERATORS
        opening = next((index for index, partner in reader.partner.items() if partner == term), None)
        if is_operator and opening is not None:  # (x + 1) - 5, 10\sqrt{5} - 5
            term, has_letters = opening - (reader.kind(opening - 1) == COMMAND), True
        elif not is_operator or not (reader.kind(term) == NUMBER or _is_letter(reader, term)):
            return first, has_letters
        has_letters = has_letters or reader.kind(term) == WORD
        while reader.glued(term) and (reader.kind(term - 1) in (NUMBER, "^", "_") or _is_letter(reader, term - 1)):
            term -= 1
            has_letters = has_letters or reader.kind(term) == WORD
        first = term
    return first, has_letters


def _right(reader: Reader, end: int) -> int:
    """Returns where the terms with letters behind a number end."""
    while reader.kind(end) in _OPERATORS and (_is_letter(reader, end + 1) or reader.kind(end + 1) == COMMAND):
        end += 2
    return end


def _is_letter(reader: Reader, index: int) -> bool:
    """Says whether a token is a variable: a small letter that is no word of its own."""
    text = reader.text(index)
    return reader.kind(index) == WORD and len(text) == 1 and text.islower() and text != "a"

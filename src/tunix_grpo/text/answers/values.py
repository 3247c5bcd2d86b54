"""The grammar of a value: which number, ratio or time the tokens of a plain text spell.

    value    = [sign] [currency] term [':' number ...]
    term     = factor {('*' | '÷') factor}    exact only as number * 10^n
    factor   = mixed | atom ['/' atom]
    mixed    = whole fraction                 2 1/2, 2\\frac{1}{2}
    atom     = base ['^' exponent]
    base     = number | \\frac{}{} | \\sqrt[]{} | '(' value ')' | '{' value '}'

What has this form but no exact value within bounds (`\\sqrt{2}`, `2*3`, `9^9^9`, `5!`) is recognised as a whole, so
that no piece of it is taken for a number.
"""

from dataclasses import dataclass
from fractions import Fraction

from tunix_grpo.text.answers.tokens import MAX_EXPONENT, NUMBER, Token, number_of

MAX_BITS = 4096
MAX_DEPTH = 8
MAX_ROOT = 12

_OPENING, _CLOSING = {"(": ")", "[": "]", "{": "}"}, ")]}"


@dataclass(frozen=True, slots=True)
class Reading:
    """A value that was recognised.

    Attributes:
        end: index of the first token after it.
        value: the number; None where it has no exact value, and for ratios.
        terms: the numbers of a ratio or time, with the digits that each was written with; else empty.
    """

    end: int
    value: Fraction | None
    terms: tuple[tuple[Fraction, int], ...] = ()


class Reader:
    """Reads values out of a list of tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        """Finds the partner of every bracket, so that no scan goes over the same tokens twice."""
        self.tokens = tokens
        self.partner: dict[int, int] = {}
        open_brackets: list[int] = []
        for index, token in enumerate(tokens):
            if token.kind in _OPENING:
                open_brackets.append(index)
            elif token.kind in _CLOSING and open_brackets and _OPENING[tokens[open_brackets[-1]].kind] == token.kind:
                self.partner[open_brackets.pop()] = index

    def kind(self, index: int) -> str:
        """Returns the kind of a token, empty after the last one."""
        return self.tokens[index].kind if 0 <= index < len(self.tokens) else ""

    def text(self, index: int) -> str:
        """Returns the text of a token, empty after the last one."""
        return self.tokens[index].text if 0 <= index < len(self.tokens) else ""

    def glued(self, index: int) -> bool:
        """Says whether a token stands right behind the one before it."""
        return 0 < index < len(self.tokens) and self.tokens[index].glued

    def value(self, index: int, depth: int = 0) -> Reading | None:
        """Reads a value that begins at a token; None if none begins there."""
        if depth > MAX_DEPTH:
            return None
        sign = 1
        if self.kind(index) in ("-", "+"):
            sign = -1 if self.kind(index) == "-" else 1
            index += 1
        reading = self._term(index, depth)
        if reading is None:
            return None
        if self.kind(reading.end) == ":" and self.kind(reading.end + 1) == NUMBER:
            return self._ratio(index, reading)
        return Reading(reading.end, None if reading.value is None else sign * reading.value)

    def _ratio(self, index: int, first: Reading) -> Reading:
        """Reads 3:4, 12:45, 1:30:00; `first` is the value before the first colon."""
        exact = first.end == index + 1 and self.kind(index) == NUMBER
        terms, end = [(first.value or Fraction(0), len(self.text(index)))], first.end
        while self.kind(end) == ":" and self.kind(end + 1) == NUMBER:
            value = number_of(self.text(end + 1))
            exact = exact and value is not None
            terms.append((value or Fraction(0), len(self.text(end + 1))))
            end += 2
        return Reading(end, None, tuple(terms) if exact else ())

    def _term(self, index: int, depth: int) -> Reading | None:
        """Reads factors with `*` between them, which also a letter x between numbers is."""
        reading = self._factor(index, depth)
        if reading is None:
            return None
        factors, value = 1, reading.value
        while self._is_product(reading.end):
            ten = self.text(reading.end + 1) == "10" and self.kind(reading.end + 2) == "^"
            following = self._factor(reading.end + 1, depth)
            if following is None:
                break
            factors += 1
            power = following.value if ten and factors == 2 else None
            value = None if value is None or power is None else bounded(value * power)
            reading = following
        return Reading(reading.end, value)

    def _is_product(self, index: int) -> bool:
        if self.kind(index) in ("*", "÷"):
            return True
        between = self.text(index) in ("x", "X") and self.kind(index + 1) == NUMBER
        return between and self.glued(index) == self.glued(index + 1)

    def _factor(self, index: int, depth: int) -> Reading | None:
        """Reads a number, a mixed number or a fraction."""
        reading = self._atom(index, depth)
        if reading is None:
            return None
        fraction = self._mixed_part(index, reading, depth)
        if fraction is not None:
            return fraction
        value, slashes = reading.value, 0
        while self.kind(reading.end) == "/":
            below = self._atom(reading.end + 1, depth)
            if below is None:
                break
            slashes += 1
            value = _quotient(value, below.value) if slashes == 1 else None
            reading = below
        if self.text(reading.end) == "\\sqrt":  # 2\sqrt{3}
            root = self._atom(reading.end, depth)
            return reading if root is None else Reading(root.end, None)
        return Reading(reading.end, value)

    def _mixed_part(self, index: int, whole: Reading, depth: int) -> Reading | None:
        """Reads the fraction of a mixed number behind its whole part: `1/2` after a space, or `\\frac{1}{2}`."""
        if whole.end != index + 1 or self.kind(index) != NUMBER or whole.value is None:
            return None
        start = whole.end
        if self.text(start) == "and" and self.kind(start + 1) == NUMBER:
            start += 1
        if self.text(start) == "\\frac":
            part = self._atom(start, depth)
            if part is None:
                return None
            end, fraction = part.end, part.value
        elif self.kind(start) == NUMBER and self.kind(start + 1) == "/" and self.kind(start + 2) == NUMBER:
            if self.kind(start + 3) == "/" or self.glued(start):
                return Reading(start + 3, None)
            end, fraction = start + 3, _quotient(number_of(self.text(start)), number_of(self.text(start + 2)))
        else:
            return None
        proper = fraction is not None and 0 < fraction < 1 and whole.value.denominator == 1
        return Reading(end, whole.value + fraction if proper and fraction is not None else None)

    def _atom(self, index: int, depth: int) -> Reading | None:
        """Reads a base and what is raised, taken the factorial of or subscripted directly behind it."""
        if self.kind(index) == "-" and self.kind(index - 1) == "/":  # 3/-4
            below = self._base(index + 1, depth)
            return below and Reading(below.end, None if below.value is None else -below.value)
        reading = self._base(index, depth)
        if reading is None:
            return None
        end, value, powers = reading.end, reading.value, 0
        while self.kind(end) in ("^", "_"):
            exponent = self._exponent(end + 1, depth)
            if exponent is None:
                return Reading(self._after_group(end + 1), None)
            powers += 1
            exact = powers == 1 and self.kind(end) == "^"
            value = power(value, exponent.value) if exact else None
            end = exponent.end
        if self.kind(end) == "!" and self.glued(end):
            return Reading(end + 1, None)
        return Reading(end, value)

    def _exponent(self, index: int, depth: int) -> Reading | None:
        if self.kind(index) in ("-", "+") and self.kind(index + 1) == NUMBER:
            number = number_of(self.text(index + 1))
            return Reading(index + 2, -number if number is not None and self.kind(index) == "-" else number)
        return self._base(index, depth)

    def _base(self, index: int, depth: int) -> Reading | None:
        kind, text = self.kind(index), self.text(index)
        if kind == NUMBER:
            if self._is_date(index):
                return Reading(index + 5, None)
            return Reading(index + 1, number_of(text))
        if kind in _OPENING:
            return self._group(index, depth)
        if text == "\\frac":
            above = self._group(index + 1, depth)
            below = None if above is None else self._group(above.end, depth)
            if above is None or below is None:
                return None
            return Reading(below.end, _quotient(above.value, below.value))
        if text == "\\sqrt":
            return self._root(index + 1, depth)
        return None

    def _is_date(self, index: int) -> bool:
        """Says whether numbers with hyphens follow each other: 2024-05-17, 555-123-4567."""
        kinds = [self.kind(index + place) for place in range(1, 5)]
        return kinds == ["-", NUMBER] * 2 and all(self.glued(index + place) for place in range(1, 5))

    def _root(self, index: int, depth: int) -> Reading | None:
        degree: Fraction | None = Fraction(2)
        if self.kind(index) == "[":
            inner = self._group(index, depth)
            if inner is None:
                return None
            index, degree = inner.end, inner.value
        radicand = self._group(index, depth)
        if radicand is None:
            return None
        whole = degree is not None and degree.denominator == 1 and 2 <= degree <= MAX_ROOT
        return Reading(radicand.end, root(radicand.value, int(degree)) if whole and degree is not None else None)

    def _group(self, index: int, depth: int) -> Reading | None:
        """Reads a bracketed value; a group that holds anything else is recognised without a value."""
        end = self.partner.get(index)
        if end is None:
            return None
        inner = self.value(index + 1, depth + 1)
        return Reading(end + 1, inner.value if inner is not None and inner.end == end else None)

    def _after_group(self, index: int) -> int:
        """Returns the index after a group, or after a single token."""
        return self.partner.get(index, min(index, len(self.tokens) - 1)) + 1


def bounded(value: Fraction) -> Fraction | None:
    """Returns a value if it is of a size that can be worked with."""
    return value if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS else None


def power(base: Fraction | None, exponent: Fraction | None) -> Fraction | None:
    """Returns base ** exponent if it is rational and within bounds."""
    if base is None or exponent is None or abs(exponent) > MAX_EXPONENT or exponent.denominator > MAX_ROOT:
        return None
    if base == 0 and exponent <= 0:
        return None
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        return None
    raised = base**exponent.numerator
    return raised if exponent.denominator == 1 else root(raised, exponent.denominator)


def root(radicand: Fraction | None, degree: int) -> Fraction | None:
    """Returns a root that is rational, or None."""
    if radicand is None or (radicand < 0 and degree % 2 == 0) or bounded(radicand) is None:
        return None
    above, below = _whole_root(abs(radicand.numerator), degree), _whole_root(radicand.denominator, degree)
    if above is None or below is None:
        return None
    return Fraction(-above if radicand < 0 else above, below)


def _whole_root(number: int, degree: int) -> int | None:
    """Returns the whole root of a number of at least 0 by bisection, or None if there is none."""
    low, high = 0, 1 << (number.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < number else (low, middle)
    return low if low**degree == number else None


def _quotient(above: Fraction | None, below: Fraction | None) -> Fraction | None:
    if above is None or not below:
        return None
    return bounded(above / below)

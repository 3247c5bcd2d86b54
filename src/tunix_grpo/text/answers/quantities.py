"""From a whole answer to the one quantity that it states: a value, and the words around it."""

import re
import unicodedata
from dataclasses import dataclass, field
from fractions import Fraction

from tunix_grpo.text.answers import units
from tunix_grpo.text.answers.numerals import with_digits
from tunix_grpo.text.answers.plain import CURRENCY_SIGNS
from tunix_grpo.text.answers.tokens import LINE, NUMBER, WORD, Token, tokens_of
from tunix_grpo.text.answers.values import Reader

_PUNCTUATION = frozenset((*".,;:'\"!?*`", LINE))
_VALUE_STARTS = frozenset((NUMBER, "(", "[", "{"))
_VALUE_COMMANDS = frozenset({"\\frac", "\\sqrt"})
_NEGATIVE = frozenset({"minus", "negative"})
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "squared": "^2", "cubed": "^3"}
_LETTER = re.compile(r"[^\W\d_]")
_DECADE = re.compile(r"(?:19[0-9]|20[1-9])0")
_LONGEST_SYMBOL = 4  # letters: a longer word behind a number without a space is a noun, `72apples`


@dataclass(slots=True)
class Quantity:
    """What an answer states.

    Attributes:
        value: the number as written: of `50%` it is 50. None for ratios and times.
        terms: the numbers of a ratio or time with their digits; empty for a number.
        negative: whether a sign or a word for it stands before a currency or the value.
        named: whether words before the value could make a name of it: `Apollo 11`.
        percent: whether a percent sign or word follows.
        measures: measures and currencies, by one name each; `meter^2` is one of its own, and so is `/hour`.
        things: further words behind the number, singular.
    """

    value: Fraction | None = None
    terms: tuple[tuple[Fraction, int], ...] = ()
    negative: bool = False
    named: bool = False
    percent: bool = False
    measures: set[str] = field(default_factory=set)
    things: set[str] = field(default_factory=set)


def read_quantity(text: str) -> Quantity | None:
    """Reads a plain text that states exactly one quantity; None for every other.

    Words, a currency or a sign in words may stand before the value; a scale, units, words and a remark in brackets
    behind it. Words that change what the number says make it no statement of the number.
    """
    tokens = _unwrapped(tokens_of(with_digits(text)))
    reader, quantity = Reader(tokens), Quantity()
    start = _read_before(reader, quantity)
    reading = None if start is None else reader.value(start)
    if reading is None or (reading.value is None and not reading.terms):
        return None
    behind = _Behind(reader, quantity, reading.end)
    if not behind.read():
        return None
    if reading.terms and (quantity.negative or quantity.percent or reader.kind(start or 0) == "-"):
        return None
    quantity.terms = reading.terms
    if reading.value is not None:
        quantity.value = behind.scale * (-reading.value if quantity.negative else reading.value)
    return quantity if not (quantity.percent and quantity.measures & units.CURRENCIES.keys()) else None


def _unwrapped(tokens: list[Token]) -> list[Token]:
    """Returns the tokens without brackets around all of them, and without one at an end that has no partner."""
    first, last = 0, len(tokens)
    partner = Reader(tokens).partner
    if tokens and tokens[0].kind in ("(", "[", "{") and 0 not in partner:
        first = 1
    if tokens and tokens[-1].kind in (")", "]", "}") and last - 1 not in partner.values():
        last -= 1
    while last - first > 2 and partner.get(first) == last - 1:
        first, last = first + 1, last - 1
    return tokens[first:last]


def _read_before(reader: Reader, quantity: Quantity) -> int | None:
    """Notes what stands before the value and returns where that begins; None if there is no such place."""
    words: list[str] = []
    for index, token in enumerate(reader.tokens):
        following = reader.kind(index + 1)
        if token.kind in _VALUE_STARTS or token.text in _VALUE_COMMANDS:
            break
        if token.kind in ("-", "+"):
            if following in CURRENCY_SIGNS:
                quantity.negative ^= token.kind == "-"
            elif following in _VALUE_STARTS or reader.text(index + 1) in _VALUE_COMMANDS:
                if words and (reader.glued(index) or len(words[-1]) == 1):  # x-5, x - 5
                    return None
                break
            elif following != WORD or (index > 0 and not reader.glued(index)):
                return None
        elif token.kind in CURRENCY_SIGNS:
            quantity.measures.add(units.NAMES.get(token.kind, token.kind))
        elif token.kind == WORD:
            if not _note_word_before(reader, index, quantity, words):
                return None
        elif token.kind == "%" and following == NUMBER and reader.glued(index + 1):  # %25
            quantity.percent = True
        elif token.kind not in _PUNCTUATION and token.kind != "≈":
            return None
    else:
        return None
    if words and (words[-1] in units.CHANGING_NEXT or units.CHANGING_BEFORE & set(words)):
        return None
    quantity.named = not units.IDLE.issuperset(words)
    return index


def _note_word_before(reader: Reader, index: int, quantity: Quantity, words: list[str]) -> bool:
    """Notes one word before the value; returns whether the text can still state a quantity."""
    token = reader.tokens[index]
    word = token.text.lower().replace("'", "")
    is_next = reader.kind(index + 1) in _VALUE_STARTS
    if word in _NEGATIVE:
        quantity.negative ^= True
        return units.IDLE.issuperset(words)
    if reader.kind(index + 1) in CURRENCY_SIGNS and reader.glued(index + 1) and len(word) <= 2:  # US$5
        return True
    kind = units.measure(token.text)
    if is_next and kind in units.CURRENCIES and len(word) > 1 and (token.text.isupper() or word == "rs"):  # USD 5
        quantity.measures.add(str(kind))
        return True
    if is_next and (reader.glued(index + 1) or (len(word) == 1 and word not in units.IDLE and _is_symbol(word))):
        return False
    words.append(word)
    return True


class _Behind:
    """Reads what stands behind a value."""

    def __init__(self, reader: Reader, quantity: Quantity, start: int) -> None:
        self.reader, self.quantity, self.start, self.index = reader, quantity, start, start
        self.per, self.power, self.scale = "", "", 1

    def read(self) -> bool:
        """Notes all of it in the quantity; returns whether the text states one."""
        while self.index < len(self.reader.tokens):
            token = self.reader.tokens[self.index]
            if not (self._word(token) if token.kind == WORD else self._sign(token)):
                return False
            self.index += 1
        return True

    def _sign(self, token: Token) -> bool:
        """Notes what is no word: a percent sign, a degree, a currency, a remark in brackets."""
        reader, index = self.reader, self.index
        following = reader.kind(index + 1)
        if token.kind in _PUNCTUATION:
            return True
        if token.kind == "%":
            self.quantity.percent = True
        elif token.kind == "°":
            letter = reader.text(index + 1) if following == WORD else ""
            self.quantity.measures.add(units.NAMES.get(f"°{letter}", "degree"))
            self.index += letter in ("C", "F")
        elif token.kind in CURRENCY_SIGNS:
            self.quantity.measures.add(units.NAMES.get(token.kind, token.kind))
        elif token.kind in "([":
            return self._remark()
        elif token.kind == "/" and following == WORD:
            self.per = "/"
        elif token.kind in ("-", "*"):  # between the words of a unit
            return following == WORD and (index > self.start or reader.glued(index))
        else:
            return False
        return True

    def _remark(self) -> bool:
        end = self.reader.partner.get(self.index)
        if end is None or self.reader.glued(self.index):
            return False
        inside = self.reader.tokens[self.index + 1 : end]
        self.index = end
        return any(_LETTER.match(token.text.lstrip("\\")) for token in inside)

    def _word(self, token: Token) -> bool:
        """Notes one word: a scale, a percent word, a unit, a thing; False if it changes the number."""
        reader, word = self.reader, token.text.lower().replace("'", "")
        first, glued = self.index == self.start, reader.glued(self.index)
        scale = units.GLUED_SCALES.get(token.text) if first and glued else units.SCALES.get(word)
        if scale is not None and (first or self.scale > 1):
            self.scale *= scale
            return True
        if word in ("percent", "pct") or (word == "per" and reader.text(self.index + 1).lower() == "cent"):
            self.quantity.percent = True
            self.index += word == "per"
            return True
        if word == "below" and reader.text(self.index + 1).lower() == "zero":
            self.quantity.negative ^= True
            self.index += 1
            return True
        if first and glued and word == "s" and _DECADE.fullmatch(reader.text(self.index - 1)):
            return False
        kind = units.measure(token.text)
        if first and glued and kind is None and len(word) <= _LONGEST_SYMBOL and _is_symbol(word):  # 2x, 5th
            return False
        if kind is not None and word in units.AMBIGUOUS and reader.kind(self.index + 1) == WORD and not self.per:
            return True  # 72 in total
        if word in _POWERS and (kind is None):
            return self._power_word(word)
        if word in units.CHANGING_BEHIND or (
            len(word) == 1 and kind is None and word not in units.IDLE and _is_symbol(word)
        ):
            return False
        if word == "per":
            self.per = "/"
        elif kind is not None:
            return self._measure(kind)
        elif word not in units.IDLE and word not in ("and", "point", "points"):
            self.quantity.things.add(units.singular(word))
        return True

    def _power_word(self, word: str) -> bool:
        """Notes `square` before a measure, or `squared` behind it."""
        if word.endswith("d"):
            return False
        self.power = _POWERS[word]
        return True

    def _measure(self, kind: str) -> bool:
        """Notes a measure with the power before or behind it."""
        reader, exponent = self.reader, self.power
        following = reader.text(self.index + 1)
        if following == "^":
            end = reader.partner.get(self.index + 2, self.index + 2 + (reader.kind(self.index + 2) == "-"))
            exponent = "".join(token.text for token in reader.tokens[self.index + 1 : end + 1]).strip("{}")
            self.index = end
        elif following in ("2", "3") and reader.glued(self.index + 1):  # m2
            exponent = f"^{following}"
            self.index += 1
        elif following in ("squared", "cubed"):
            exponent = _POWERS[following]
            self.index += 1
        first, *others = kind.split()
        self.quantity.measures |= {f"{self.per}{first}{exponent}", *others}
        self.per, self.power = "", ""
        return True


def _is_symbol(word: str) -> bool:
    """Says whether a short word right behind a number can be a variable: its letters are Latin or Greek."""
    return all(letter.isascii() or unicodedata.name(letter, "").startswith("GREEK") for letter in word)

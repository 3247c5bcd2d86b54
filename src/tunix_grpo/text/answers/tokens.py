"""Cuts a plain text into numbers, words and signs."""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_EXPONENT = 300
_DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]{1,2}")

NUMBER, WORD, COMMAND, LINE = "number", "word", "command", "line"
_TOKEN = re.compile(
    r"(?P<space> *)(?:(?P<number>"
    r"0,[0-9]+(?![0-9]|,)"  # 0,5
    r"|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])(?:\.[0-9]+)?"  # 1,234.5
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9]|,[0-9])(?:\.[0-9]+)?"  # 12,34,567
    r"|(?<![,.(\[{])[0-9]+,[0-9]{1,2}(?![0-9,)\]}\\])"  # 3,14
    r"|[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9/])(?:[.,][0-9]+)?"  # 1 234
    r"|[0-9]{1,3}(?:'[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"  # 1'234
    r"|[0-9]{1,3}(?:_[0-9]{3})+(?![0-9_])(?:\.[0-9]+)?"  # 1_234
    r"|[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])(?:,[0-9]+)?"  # 1.234.567
    r"|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]{1,2}(?![0-9])"  # 1.234,56
    r"|[0-9]+(?:\.[0-9]+)?|(?<![Rr]s)\.[0-9]+"  # Rs.500
    r")(?P<exponent>[eE][+-]?[0-9]+(?![A-Za-z0-9]))?"
    r"|(?P<command>\\[A-Za-z]+)|(?P<word>[^\W\d_]+(?:'[^\W\d_]+)*)|(?P<line>\n)|(?P<other>.))"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, command or single character of a plain text.

    Attributes:
        kind: `NUMBER`, `WORD`, `COMMAND`, `LINE`, or the character itself.
        text: as written, without the space before.
        glued: whether no space stands before it.
        start: index of its first character in the text.
        end: index after its last character.
    """

    kind: str
    text: str
    glued: bool
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Cuts a plain text into tokens."""
    tokens, previous_end = [], -1
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        if kind == "exponent":
            kind = NUMBER
        start = found.end("space")
        word = text[start : found.end()]
        tokens.append(Token(word if kind == "other" else kind, word, start == previous_end, start, found.end()))
        previous_end = found.end()
    return tokens


def number_of(text: str) -> Fraction | None:
    """Returns the value of a number token, or None if its exponent is out of bounds."""
    mantissa, _, exponent = text.lower().partition("e")
    if exponent and abs(int(exponent)) > MAX_EXPONENT:
        return None
    mantissa = re.sub("[ '_]", "", mantissa)
    commas, points = mantissa.count(","), mantissa.count(".")
    if commas and (points > 1 or mantissa.startswith("0,") or 0 <= mantissa.find(".") < mantissa.find(",")):
        mantissa = mantissa.replace(".", "").replace(",", ".")  # 1.234,56
    elif points > 1:
        mantissa = mantissa.replace(".", "")  # 1.234.567
    elif commas == 1 and (" " in text or _DECIMAL_COMMA.fullmatch(mantissa)):
        mantissa = mantissa.replace(",", ".")  # 1 234,56; 3,14
    return Fraction(mantissa.replace(",", "").removesuffix(".")) * Fraction(10) ** int(exponent or 0)

"""From a completion to its answer, and whether two answers are the same.

Completions are untrusted: nothing here evaluates text, every scan is linear in the length, and
numbers are read only from answers of at most `MAX_PARSED_CHARS` characters.

What counts as equal (`answers_match`):

* text: case, surrounding quotes and punctuation, spaces and LaTeX decoration do not matter;
* numbers: by value, exactly for integers: `1,234.50` = `1234.5`, `1/2` = `0.5` = `\\frac{1}{2}`,
  `-5` = `−5`, `1.5e3` = `1500`, `1.5 million` = `1500000`. A comma separates thousands and a point
  decimals, so `1,234` is not `1.234`;
* currency signs are decoration: `$72` = `72`;
* percent is a unit or a hundredth: `50%` = `50` and `50%` = `0.5`, but `50` is not `0.5`;
* words around the only number of the given answer are its unit: `72 apples` = `72`. Where both
  answers have a unit, it must be the same.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from tunix_grpo.text.tags import ANSWER_END, ANSWER_START

MAX_PARSED_CHARS = 1000
MAX_EXPONENT = 300
# Gold answers pass through floating point in JSON files: 0.1 + 0.2 there has to equal 0.3.
TOLERANCE = Fraction(1, 10**9)

BOXED = "\\boxed{"
FINAL_MARK = "####"

_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A sign belongs to the number unless something stands right before it: `10-5` ends in 5.
_SIGN = r"(?<![0-9A-Za-z)\]}])[+-]"
_CURRENCY = "[$€£¥₹]"
_FREE_NUMBER = re.compile(
    rf"(?:{_SIGN})?(?:{_CURRENCY}-?)?(?:{_NUMBER})(?: ?/ ?(?:{_NUMBER}))?"
    r"(?:[eE][+-]?[0-9]+)?(?: ?%)?"
)
_VALUE = re.compile(
    rf"(?P<sign>(?:{_SIGN} ?)?)(?:(?P<whole>[0-9]+) (?=[0-9]+/))?(?P<number>{_NUMBER})"
    rf"(?: ?/ ?(?P<denominator>{_NUMBER}))?(?:[eE](?P<exponent>[+-]?[0-9]+))?(?P<percent> ?%)?"
)
_SEVERAL = re.compile(r"[,;] |\b(?:and|or)\b")
_PUNCTUATION = ".,;:!?'\""
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−‒–﹣－", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
        "°": "",
        "²": "^2",
        "³": "^3",
        "×": "*",
        "·": "*",
        "∕": "/",
        "⁄": "/",
        "％": "%",
        "’": "'",
    }
)
_LATEX = (
    (re.compile(r"\\(?:[!()\[\]]|(?:left|right|big|Big)(?![A-Za-z]))"), ""),
    (re.compile(r"\{,\}|(?<=[0-9])\\[,;] ?(?=[0-9]{3})"), ","),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"\\(?=[%$€£])"), ""),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "*"),
    (re.compile(r"\^ ?(?:\\circ|\{ ?\\circ ?\})(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox) ?\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac ?\{ ?(-?[\w.,]+) ?\} ?\{ ?([\w.,]+) ?\}"), r" \1/\2 "),
    (re.compile(r"\\frac ?([0-9])([0-9])"), r" \1/\2 "),
    (re.compile(r"\\sqrt ?([0-9a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=[0-9]) ?\* ?10 ?\^ ?(?:\{ ?([+-]?[0-9]+) ?\}|([+-]?[0-9]+))"), r"e\1\2"),
)
_SPACE_AT_SYMBOL = re.compile(r" ?([^\w\s'\"]) ?")
_CHOICE = re.compile(r"\(?([a-z])[).:]?")
_WRAPPING = " \t\r\n`'\"*“”"


@dataclass(frozen=True, slots=True)
class Number:
    """A number that was read from an answer.

    Attributes:
        value: the value as written; of `50%` it is 50.
        percent: whether a percent sign follows.
        before: words before the number, lower case.
        unit: words after the number, lower case, without plural s.
    """

    value: Fraction
    percent: bool
    before: str
    unit: str


def extract_answer(completion: str) -> str | None:
    """Returns the final answer that a completion gives, or None if it is blank.

    The first of these that is there counts: the last `<answer>...</answer>` block, an answer tag
    that was never closed, the last `\\boxed{...}`, the rest of the line after the last `####`, the
    last number, the whole text.
    """
    tagged = _tagged(completion)
    if tagged is not None:
        return tagged or None
    boxed = _boxed(completion)
    if boxed is not None:
        return boxed or None
    if FINAL_MARK in completion:
        marked = completion.rpartition(FINAL_MARK)[2].strip().partition("\n")[0].strip()
        if marked:
            return marked
    return _last_number(completion) or completion.strip() or None


def answers_match(given: str, gold: str) -> bool:
    """Says whether a given answer is the gold answer; the module's docstring says what is equal."""
    if given.strip() == gold.strip():
        return bool(gold.strip())
    if max(len(given), len(gold)) > MAX_PARSED_CHARS:
        return False
    given, gold = _plain(given), _plain(gold)
    gold_text = _comparable(gold)
    if gold_text and _comparable(given) == gold_text:
        return True
    gold_number = _parse_number(gold)
    if gold_number is None or gold_number.before:
        return False
    if "=" in given and "=" not in gold and not _SEVERAL.search(given):
        given = given.rpartition("=")[2]
    given_number = _parse_number(given)
    return given_number is not None and _same_number(given_number, gold_number)


def _tagged(completion: str) -> str | None:
    """Returns the text in the last pair of answer tags, or after a tag that was never closed."""
    end = completion.rfind(ANSWER_END)
    start = completion.rfind(ANSWER_START, 0, end) if end >= 0 else -1
    if start < 0:
        start, end = completion.rfind(ANSWER_START), len(completion)
    return None if start < 0 else completion[start + len(ANSWER_START) : end].strip()


def _boxed(completion: str) -> str | None:
    """Returns the content of the last `\\boxed{...}`, nested braces included."""
    start = completion.rfind(BOXED)
    if start < 0:
        return None
    content = completion[start + len(BOXED) :]
    depth = 1
    for brace in re.finditer("[{}]", content[:MAX_PARSED_CHARS]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return content[: brace.start()].strip()
    return content.strip()


def _last_number(text: str) -> str | None:
    """Returns the last number of a text as it is written there."""
    end = max(map(text.rfind, "0123456789"))
    if end < 0:
        return None
    tail = text[max(0, end - MAX_PARSED_CHARS) : end + len(" %") + 1].translate(_CHARACTERS)
    return _FREE_NUMBER.findall(tail)[-1].strip()


def _plain(text: str) -> str:
    """Returns an answer without LaTeX and typographic decoration."""
    boxed = _boxed(text)
    text = (text if boxed is None else boxed).translate(_CHARACTERS)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).strip(_WRAPPING)


def _comparable(text: str) -> str:
    """Returns a plain text in the form in which two texts are compared."""
    text = re.sub(_CURRENCY, "", text.casefold()).strip(_WRAPPING).rstrip(".,;:!?").strip(_WRAPPING)
    choice = _CHOICE.fullmatch(text)
    return choice.group(1) if choice else _SPACE_AT_SYMBOL.sub(r"\1", text)


def _parse_number(text: str) -> Number | None:
    """Returns the only number of a plain text, or None where there is not exactly one."""
    text = re.sub(_CURRENCY, "", text).strip()
    text = re.sub(r" ?\bper ?cent\b", "%", text)
    text = re.sub(r"(?<=[A-Za-z])\^ ?\{?[0-9]\}?", "", text)  # square metres
    text = re.sub(r"(?<=[A-Za-z])/(?=[A-Za-z])", " ", text)  # metres per second
    found = _VALUE.search(text)
    if found is None:
        return None
    before, after = text[: found.start()], text[found.end() :]
    words_before, words = _words(before), _words(after)
    if words_before is None or words is None or after[:1].isalpha():
        return None
    if words and len(words[0]) < 2:  # `2 x` is a product
        return None
    value = _value(found)
    if value is None:
        return None
    if words and words[0] in _SCALES:
        value *= _SCALES[words.pop(0)]
    unit = " ".join(word.removesuffix("s") for word in words)
    return Number(value, found["percent"] is not None, " ".join(words_before), unit)


def _words(text: str) -> list[str] | None:
    """Returns the words of a text in lower case, or None if there is more than words in it."""
    words = [word.strip(_PUNCTUATION).replace("'", "") for word in text.casefold().split()]
    words = [word for word in words if word]
    return words if all(word.isalpha() for word in words) else None


def _value(found: re.Match[str]) -> Fraction | None:
    """Returns the value of a match of `_VALUE`, or None if it has none that can be held."""
    exponent = int(found["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    value = Fraction(found["number"].replace(",", ""))
    if found["denominator"]:
        denominator = Fraction(found["denominator"].replace(",", ""))
        if denominator == 0:
            return None
        value /= denominator
    value = (value + int(found["whole"] or 0)) * Fraction(10) ** exponent
    return -value if "-" in found["sign"] else value


def _same_number(given: Number, gold: Number) -> bool:
    """Compares two numbers, their units and percent signs."""
    if gold.unit and given.unit and given.unit != gold.unit:
        return False
    value, target = given.value, gold.value
    if _equal(value, target):
        return True
    if given.percent and not gold.percent:
        return _equal(value / 100, target)
    if gold.percent and not given.percent:
        return _equal(value, target / 100)
    return False


def _equal(value: Fraction, target: Fraction) -> bool:
    """Compares exactly where both are whole, up to floating point's rounding otherwise."""
    if value.denominator == target.denominator == 1:
        return value == target
    return abs(value - target) <= TOLERANCE * max(abs(value), abs(target))

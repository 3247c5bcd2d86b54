"""Whether two answers are the same."""

import re
from fractions import Fraction

from tunix_grpo.text.answers import units
from tunix_grpo.text.answers.finding import marked_answer
from tunix_grpo.text.answers.plain import CURRENCY_SIGNS, WRAPPING, boxed, plain
from tunix_grpo.text.answers.quantities import Quantity, read_quantity

MAX_PARSED_CHARS = 1000
# Gold answers pass through floating point in JSON files: 0.1 + 0.2 there has to equal 0.3.
TOLERANCE = Fraction(1, 10**9)

_SPACE_AT_SYMBOL = re.compile(r" ?([^\w\s'\"]) ?")
_SPACE_AT_UNIT = re.compile(r"(?<=[0-9]) (?=[^\W\d_])")
_THOUSANDS = re.compile(r"(?<![0-9,.])([0-9]{1,3})((?:,[0-9]{3})+)(?![0-9]|,[0-9])")
_CURRENCY = re.compile(f"[{''.join(sorted(CURRENCY_SIGNS))}]")
_LABEL = re.compile(r"(?:(?:option|choice|answer) )?\(?([a-z])(?:[).:\]]+(?: .*)?| ?- .*| \(.*)?", re.DOTALL)
_SEVERAL = re.compile(r"[,;] |\b(?:and|or)\b")
_RATIO_WORD = re.compile(r"(?<=[0-9]) to (?=[0-9])")
_REASON = re.compile(r"(?:[,;.:]? |[,;.\n] ?)(?:because|since|explanation|reason|note)\b", re.IGNORECASE)
_EXPLAINED = re.compile(
    r"(?:\n|\. | ?— ?| - (?=[A-Za-z]{3}))(?!(?:or|and|no|not|wait|actually|but|sin|cos|tan|log|sqrt)\b)[^\W\d_]{2}",
    re.IGNORECASE,
)
_REMARK = re.compile(r"(?<=\S) (?:\([^()]*[^\W\d_][^()]*\)|\[[^\[\]]*[^\W\d_][^\[\]]*\])[.,;]?$")
_NO_SENTENCE_END = re.compile(r"(?<![0-9!])!+$")
_PAIR = re.compile(r"-?[1-9][0-9]*,-?[0-9]{1,2}")
_SIDE = re.compile(r"[-+*/^(). 0-9A-Za-z]{0,40}")


def answers_match(given: str, gold: str) -> bool:
    """Says whether a given answer is the gold answer; the package's docstring says what is equal."""
    if given.strip() == gold.strip():
        return bool(gold.strip())
    given, gold = _concluded(given), _concluded(gold)
    if max(len(given), len(gold)) > MAX_PARSED_CHARS:
        return False
    given, gold = plain(given), plain(gold)
    if not gold:
        return False
    given, whole = _without_reason(given), given
    gold = _without_reason(gold)
    if _same_text(given, gold) or _same_text(whole, gold) or any(_same_choice(text, gold) for text in (given, whole)):
        return True
    if _PAIR.fullmatch(gold) and "," not in given:
        return False  # two numbers, or one with a decimal comma
    gold_quantity = _stated(gold, given)
    if gold_quantity is None or gold_quantity.named:
        return False
    return any(_same_quantity(quantity, gold_quantity) for quantity in _readings(given, gold))


def _concluded(text: str) -> str:
    """Returns what a text marks as its answer, else the text; a box may stand in the marked part, too."""
    text = marked_answer(text)
    inner = boxed(text, MAX_PARSED_CHARS)
    return text if inner is None else inner


def _without_reason(text: str) -> str:
    """Returns a plain text without an explanation behind the answer."""
    reason = _REASON.search(text)
    if reason is not None and reason.start() > 0:
        text = text[: reason.start()]
    explained = _EXPLAINED.search(text)
    if explained is not None and read_quantity(text[: explained.start()]) is not None:
        text = text[: explained.start()]
    return _REMARK.sub("", text.strip(WRAPPING)).strip(WRAPPING)


def _comparable(text: str) -> str:
    """Returns a plain text in the form in which two texts are compared."""
    text = " ".join(_CURRENCY.sub("", text.casefold()).split()).strip(WRAPPING).rstrip(".,;:?").removeprefix("the ")
    text = _NO_SENTENCE_END.sub("", text).strip(WRAPPING)
    text = re.sub(r"\\(?:qty|middle)(?![a-z])", "", text)
    if text[:1] not in "([{":  # in brackets a comma separates members
        text = _THOUSANDS.sub(lambda found: found.group(1) + found.group(2).replace(",", ""), text)
    return _SPACE_AT_UNIT.sub("", _SPACE_AT_SYMBOL.sub(r"\1", text))


def _same_text(given: str, gold: str) -> bool:
    signs = [set(_CURRENCY.findall(text)) for text in (given, gold)]
    if all(signs) and signs[0] != signs[1]:
        return False
    text = _comparable(gold)
    return bool(text) and _comparable(given) == text


def _same_choice(given: str, gold: str) -> bool:
    """Compares the letters of a choice, such as `B`, `(B)`, `B) 12`, where both answers have one."""
    labels = [_LABEL.fullmatch(" ".join(text.casefold().split()).strip(WRAPPING)) for text in (given, gold)]
    if labels[0] is None or labels[1] is None:
        return False
    bare = any(len(text.strip(WRAPPING + "().:[]")) == 1 for text in (given, gold))
    return bare and labels[0].group(1) == labels[1].group(1)


def _stated(text: str, other: str) -> Quantity | None:
    """Returns the quantity of a gold answer, also of an equation whose left side is a name."""
    sides = [side.strip(WRAPPING) for side in re.split("[=≈]", text)]
    if len(sides) > 1:
        names = [side.split("=")[0].strip(WRAPPING) for side in (text, other) if "=" in side]
        if len(names) == 2 and all(name.isalpha() for name in names) and names[0] != names[1]:
            return None  # x = 5 is not y = 5
        quantity = read_quantity(sides[-1])
        if quantity is not None:
            return quantity
        return read_quantity(sides[0]) if _SIDE.fullmatch(sides[-1]) else None
    return read_quantity(_RATIO_WORD.sub(":", text))


def _readings(given: str, gold: str) -> list[Quantity]:
    """Returns the quantities that a given answer may state: one, or both sides of an approximation."""
    texts = [given]
    if "=" in given and not _SEVERAL.search(given):
        first, _, rest = given.partition("=")
        last = given.rpartition("=")[2]
        texts = [last] if read_quantity(last.strip(WRAPPING)) or not _SIDE.fullmatch(rest) else [first]
    around = [side for side in texts[0].split("≈") if side.strip()]
    if len(around) == 2:
        texts = around
    label = re.match(r"\(?[A-Za-z]\)\.? +(?=[-$0-9\\(])", texts[0])
    if label is not None:
        texts.append(texts[0][label.end() :])
    readings = [read_quantity(_RATIO_WORD.sub(":", text.strip(WRAPPING))) for text in texts]
    return [reading for reading in readings if reading is not None]


def _same_quantity(given: Quantity, gold: Quantity) -> bool:
    """Compares two quantities, their units and percent signs."""
    if not _compatible(given, gold):
        return False
    if gold.terms or given.terms:
        return _same_terms(given, gold)
    if given.value is None or gold.value is None:
        return False
    if _equal(given.value, gold.value):
        return True
    if given.percent and not gold.percent:
        return _equal(given.value / 100, gold.value)
    if gold.percent and not given.percent:
        return _equal(given.value, gold.value / 100)
    return False


def _compatible(given: Quantity, gold: Quantity) -> bool:
    """Says whether what is counted can be the same: a unit may be left out, but not be another one."""
    measures = [{name for name in each.measures if not name.startswith("/")} for each in (given, gold)]
    measures = [own - {"degree"} if len(own) > 1 else own for own in measures]  # degrees Celsius
    rates = [{name for name in each.measures if name.startswith("/")} for each in (given, gold)]
    money = [bool(own & units.CURRENCIES.keys()) for own in measures]
    if all(measures) and measures[0] != measures[1]:
        return False
    if rates[0] != rates[1] and (all(rates) or (all(measures) and not all(money))):
        return False
    if (measures[0] and not measures[1] and gold.things) or (measures[1] and not measures[0] and given.things):
        return False
    counted = gold if given.percent else given
    if given.percent != gold.percent and (counted.things or counted.measures):
        return False
    things = given.things, gold.things
    return not all(things) or things[0] <= things[1] or things[1] <= things[0]


def _same_terms(given: Quantity, gold: Quantity) -> bool:
    """Compares ratios and times: term by term, times of day on the same clock; a ratio with its fraction."""
    if _clock(given) == _clock(gold) and (given.terms or _halves(given)) and (gold.terms or _halves(gold)):
        return True
    if given.terms and gold.terms:
        both_halves = bool(_halves(given) and _halves(gold))
        return not both_halves and [term for term, _ in given.terms] == [term for term, _ in gold.terms]
    if len(gold.terms) != 2 or given.value is None or given.measures:
        return False
    (first, _), (second, digits) = gold.terms
    looks_like_a_time = digits == 2 and second < 60 and first < 25
    return second != 0 and not looks_like_a_time and given.value == first / second


def _halves(quantity: Quantity) -> set[str]:
    return quantity.measures & {"am", "pm"}


def _clock(quantity: Quantity) -> tuple[Fraction, ...]:
    """Returns hours, minutes, ... of a time on a 24-hour clock."""
    terms = [term for term, _ in quantity.terms] or [quantity.value or Fraction(0)]
    half = _halves(quantity)
    if half and terms[0] <= 12:
        terms[0] = terms[0] % 12 + (12 if "pm" in half else 0)
    return tuple(terms if len(terms) > 1 else [*terms, Fraction(0)])


def _equal(value: Fraction, target: Fraction) -> bool:
    """Compares exactly where both are whole, up to floating point's rounding otherwise."""
    if value.denominator == target.denominator == 1:
        return value == target
    return abs(value - target) <= TOLERANCE * max(abs(value), abs(target))

"""Numbers in English words: `seventy-two`, `one hundred and five`, `two thirds`, `two and a half`."""

import re

_WORD = re.compile(r"[A-Za-z]+")
_SMALL = _WORD.findall(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen"""
)
_TENS = _WORD.findall("twenty thirty forty fifty sixty seventy eighty ninety")
_VALUES = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    name + plural: below
    for below, name in enumerate(_WORD.findall("third fourth fifth sixth seventh eighth ninth tenth"), start=3)
    for plural in ("", "s")
}
_FRACTION = re.compile(rf"\b(?:(an?|[0-9]+)[ -])?({'|'.join(_PARTS)})\b", re.IGNORECASE)
_ONE = re.compile(r"\ba(?= (?:hundred|thousand|million|billion)\b)", re.IGNORECASE)
_ORDINAL = re.compile(rf"[0-9]0(?:-(?:first|second)|[- ](?:{'|'.join(_PARTS)}))\b", re.IGNORECASE)
_WHOLE_AND = re.compile(r"(?<=[0-9]) and (?=[0-9]+/[0-9])")
_AND_A_PART = re.compile(rf"(?<=[0-9]) and (?:an? |one )?({'|'.join(_PARTS)})\b", re.IGNORECASE)
_BETWEEN = re.compile(r" |-| and ")


def with_digits(text: str) -> str:
    """Writes the numbers of a text that has none in digits in digits; of any other text only `2 and a half`."""
    if any(map(str.isdigit, text)):
        return _AND_A_PART.sub(lambda found: f" 1/{_PARTS[found.group(1).lower()]}", text)
    whole = _whole_numbers(text)
    return text if _ORDINAL.search(whole) else _WHOLE_AND.sub(" ", _FRACTION.sub(_fraction, whole))


def _whole_numbers(text: str) -> str:
    text = _ONE.sub("one", text)
    pieces: list[str] = []
    last, run = 0, []
    for found in _WORD.finditer(text):
        word = found.group().lower()
        counts = word in _VALUES or (word in _SCALES and bool(run))
        connected = bool(run) and (word == "and" or _BETWEEN.fullmatch(text[run[-1].end() : found.start()]) is not None)
        if run and not (counts and connected and _continues(run, word)) and word != "and":
            pieces += [text[last : run[0].start()], str(_value(run))]
            last, run = run[-1].end(), []
            counts = word in _VALUES
        if counts:
            run.append(found)
    if run:
        pieces += [text[last : run[0].start()], str(_value(run))]
        last = run[-1].end()
    return "".join([*pieces, text[last:]])


def _fraction(found: re.Match[str]) -> str:
    """Returns `2/3` for `2 thirds`, `1/2` for `half`; what may be an ordinal stays: `23 third`, `fifth`."""
    count, part = found.group(1) or "", found.group(2).lower()
    above = int(count) if count.isdigit() else 1
    if (not count and part != "half") or (above == 1) == part.endswith("s"):
        return found.group()
    return f"{above}/{_PARTS[part]}"


def _continues(run: list[re.Match[str]], word: str) -> bool:
    """Says whether a word goes on with a number: after `seventy` come one to nine, after a scale all."""
    before = run[-1].group().lower()
    if word in _SCALES or before in _SCALES:
        return True
    return before in _TENS and 0 < _VALUES[word] < 10


def _value(run: list[re.Match[str]]) -> int:
    total, part = 0, 0
    for found in run:
        word = found.group().lower()
        if word == "hundred":
            part = (part or 1) * 100
        elif word in _SCALES:
            total, part = total + (part or 1) * _SCALES[word], 0
        else:
            part += _VALUES[word]
    return total + part

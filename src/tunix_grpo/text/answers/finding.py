"""Where a completion says its answer. Every scan is linear in the length; only a tail is looked at closely."""

import re

from tunix_grpo.text.answers.plain import boxed, plain
from tunix_grpo.text.answers.quantities import read_quantity
from tunix_grpo.text.answers.running_text import last_number
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START

FINAL_MARK = "####"
MAX_MARKED_CHARS = 1000
_MAX_STATEMENTS = 16  # `answer` this often is looked at, from the end on
_LONGEST_SUBJECT = 60  # characters between `answer` and `is`

_THINKING = re.compile(
    r"< ?(/?) ?(?:seed:)?(?:think|thinking|thoughts?) ?>|\[(/?)THINK\]|(◁/?think▷)|<\|(begin|end)_of_thought\|>",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    rf"answers?(?![A-Za-z]| (?:choice|option|key|format|tag|sheet))"
    rf"(?:[^.!?:=\n]{{0,{_LONGEST_SUBJECT}}}?(?:\b(?:is|are|was|be|equals|becomes)\b|[:=])|[ *_#]*\n)"
    r"(?:[\s:*=_}…]|\.\.+)*",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"(?:[Oo]ption|[Cc]hoice) ?(?: is|:)[\s:*_]*(?=\(?[A-Z](?:[).:*]|\s*$|\s*\n))")
_STATING_WORDS = ("answer", "Answer", "ANSWER", "option", "Option", "choice", "Choice")
_NO_ANSWER = re.compile(
    r"(?:not|correct|right|wrong|incorrect|reasonable|clear|unclear|unknown|as follows|given|known|found|in the)\b",
    re.IGNORECASE,
)
_LOOSE_START = re.compile(r"< ?answer(?: [^<>]{0,40})?>", re.IGNORECASE)
_LOOSE_TAG = re.compile(r"< ?/? ?answer(?: [^<>]{0,40})?>", re.IGNORECASE)
_LOOSE_END = re.compile(r"< ?/ ?answer", re.IGNORECASE)
_DISPLAYED = (("\\[", "\\]"), ("$$", "$$"))
_SENTENCE_END = re.compile(r"[.?](?=[\s\"')*<$]|$)|!(?=[\"')*<$]|\s+[^a-z=+*/\-\s]|\s*$)|\n|<\||</")
_FORMULA = re.compile(r"\$[^$\n]*[^$\s]\$(?![0-9])")
_NUMBERED_HEADING = re.compile(r"[0-9]+[.)] +[A-Za-z]")
_ABBREVIATION = re.compile(
    r"(?:^|[^A-Za-z])(?:approx|rs|ca|no|vs|mr|mrs|dr|st|eq|a\.m|p\.m|u\.s|sq|ft|e\.g|i\.e)$", re.IGNORECASE
)
_CONTINUED = re.compile(
    r"[,;](?! ?[-+($\\]*[0-9\\]| ?(?:and|or)\b)| \((?=[^()]*[A-Za-z])"
    r"| ?[—–] ?(?=[A-Za-z])| - (?=[A-Za-z]{2})| and (?=(?:the|we|that|it|this|I)\b)"
    r"| (?:because|since|as|so|which|where|when|if|after|from|with|for|in|on|at|by)\b"
)


def extract_answer(completion: str) -> str | None:
    """Returns the final answer that a completion gives, or None if it is blank.

    Nothing inside `<think>...</think>` counts. The first of these that is there counts: the last `<answer>...</answer>`
    block that is not empty, an answer tag that was never closed, what `conclusion` finds, the last number with
    its unit, the whole text.
    """
    completion = without_thinking(completion)
    tagged = _tagged(completion)
    if tagged is not None:
        return tagged or None
    marked = conclusion(completion)
    if marked is not None:
        return marked or None
    return last_number(completion) or completion.strip() or None


def marked_answer(text: str) -> str:
    """Returns what a text marks as its answer, in tags or as in `conclusion`, else the text without its thinking."""
    text = without_thinking(text)
    tagged = _tagged(text) if ANSWER_START in text else None
    marked = tagged or conclusion(text)
    return text if marked is None else marked


def conclusion(text: str) -> str | None:
    """Returns what a text marks as its answer, None if nothing is marked.

    The content of the last `\\boxed{...}`; else what follows the last `####` or the last `answer is`, `answer:`,
    whichever comes later. After `####` the rest of the line counts, unless it is the heading of more text.
    """
    content = boxed(text, MAX_MARKED_CHARS)
    if content is not None:
        return content
    stated = _stated(text)
    start = text.rfind(FINAL_MARK)
    if start < 0 or (stated is not None and stated[0] > start):
        return None if stated is None else stated[1]
    line, _, rest = text[start + len(FINAL_MARK) :].strip().partition("\n")
    begins = line.lstrip("*_ ")
    is_heading = rest.strip() and (begins[:1].isalpha() or _NUMBERED_HEADING.match(begins))
    if line and not is_heading:
        return line.strip()
    return None if stated is None else stated[1]


def without_thinking(text: str) -> str:
    """Returns a text without its blocks of thinking; one that is never closed reaches to the end.

    An end without a beginning closes a block that began in the prompt.
    """
    if not any(word in text for word in ("hink", "hought", "THINK", "THOUGHT")):
        return text
    kept, last, inside = [], 0, False
    for tag in _THINKING.finditer(text):
        closing = bool(tag.group(1) or tag.group(2) or (tag.group(3) or "").startswith("◁/"))
        closing |= (tag.group(4) or "").lower() == "end"
        if closing:
            kept = kept if inside else []
            inside, last = False, tag.end()
        elif not inside:
            kept.append(text[last : tag.start()])
            inside = True
    return text if last == 0 and not kept and not inside else "".join([*kept, "" if inside else text[last:]])


def _tagged(completion: str) -> str | None:
    """Returns the text in the last pair of answer tags that is not empty, or after a tag that was never closed."""
    if ANSWER_START not in completion and _LOOSE_START.search(completion):
        completion = _LOOSE_TAG.sub(lambda tag: ANSWER_END if "/" in tag.group() else ANSWER_START, completion)
    limit = len(completion)
    while (end := completion.rfind(ANSWER_END, 0, limit)) >= 0:
        start = completion.rfind(ANSWER_START, 0, end)
        if start < 0:
            break
        begin = start + len(ANSWER_START)
        content = completion[begin : completion.find(ANSWER_END, begin)].strip()
        if content:
            return content
        limit = start
    limit, is_tagged = len(completion), False
    for _ in range(_MAX_STATEMENTS):
        start = completion.rfind(ANSWER_START, 0, limit)
        if start < 0:
            break
        is_tagged = True
        content = _before_cut_tag(completion[start + len(ANSWER_START) : limit].partition(ANSWER_END)[0])
        if content:
            return content
        limit = start
    return "" if is_tagged else None


def _before_cut_tag(text: str) -> str:
    """Returns a text up to a closing tag that is misspelt, or that was cut off at the end: `7</answer`."""
    misspelt = _LOOSE_END.search(text)
    text = (text if misspelt is None else text[: misspelt.start()]).rstrip()
    cut = text.rfind("<")
    return (text[:cut] if cut >= 0 and ANSWER_END.startswith(text[cut:]) else text).strip()


def _stated(text: str) -> tuple[int, str] | None:
    """Returns where and what the last sentence of the form `the answer is ...` says the answer to be."""
    limit, words = len(text), _STATING_WORDS
    for _ in range(_MAX_STATEMENTS):
        places = {word: text.rfind(word, 0, limit) for word in words}
        words = tuple(word for word in words if places[word] >= 0)  # what is not there is not looked for again
        if not words:
            return None
        start = max(places.values())
        limit = start
        here = text[start : start + 2 * _LONGEST_SUBJECT + MAX_MARKED_CHARS]
        found = _STATEMENT.match(here) or _CHOICE.match(here)
        if found is None:
            continue
        answer = _said(text[start + found.end() : start + found.end() + MAX_MARKED_CHARS])
        if answer and not (_NO_ANSWER.match(answer) and not any(map(str.isdigit, answer))):
            return start, answer
    return None


def _said(text: str) -> str:
    """Returns the answer at the beginning of a text: up to the end of its sentence or an explanation."""
    for opening, closing in _DISPLAYED:
        if text.startswith(opening):
            inside, closed, _ = text[len(opening) :].partition(closing)
            if closed:
                return inside.strip()
    end, formula = len(text), _FORMULA.match(text)
    for found in _SENTENCE_END.finditer(text, formula.end() if formula else 0):
        if found.group() == "." and _ABBREVIATION.search(text[max(0, found.start() - 8) : found.start()]):
            continue
        end = found.start()
        break
    sentence = text[:end].strip()
    while sentence.endswith("}") and sentence.count("}") > sentence.count("{"):  # {"answer": 5}
        sentence = sentence[:-1].rstrip()
    cut = _CONTINUED.search(sentence)
    if cut is not None and any(map(str.isdigit, sentence[cut.start() :])):
        short = sentence[: cut.start()].strip()
        if read_quantity(plain(short)) is not None:
            return short
    return sentence

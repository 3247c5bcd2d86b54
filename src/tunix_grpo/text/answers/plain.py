"""From text as models and people write it to plain text: one spelling of digits, signs, markup and LaTeX.

Every substitution is a single pass over the text.
"""

import html
import re
import unicodedata

BOXED = "\\boxed{"
WRAPPING = " \t\r\n`'\"*“”‘’«»•"
CURRENCY_SIGNS = frozenset(chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) == "Sc")

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_INVISIBLE = "\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\ufe0f\ufeff" + "".join(
    map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))
)
# Decoration; marks that call something wrong are none.
_PICTURES = (set(range(0x2600, 0x2776)) | set(range(0x1F300, 0x1FB00))) - set(map(ord, "✕✖✗✘❌❎🚫👎"))
_CHARACTERS = {
    **dict.fromkeys(map(chr, _PICTURES), ""),
    **dict.fromkeys("−‒–‐‑﹣－➖", "-"),
    **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("×✕✖⋅·∙", "*"),
    **dict.fromkeys("∕⁄", "/"),
    **dict.fromkeys("’‘′ʼ", "'"),
    **dict.fromkeys("≅∼≃～", "≈"),
    **dict.fromkeys("→⇒⟹⟶➜", "="),
    **dict.fromkeys("％٪﹪", "%"),
    **dict.fromkeys("ℓ", "L"),
    **dict.fromkeys(_INVISIBLE, ""),
    "…": "...",
    "º": "°",
    "˚": "°",
    "℃": "°C",
    "℉": "°F",
    "：": ":",
    "∶": ":",
    "٫": ".",
    "٬": ",",
    "，": ",",
    "。": ".",
    "．": ".",
    "µ": "μ",
}
# Markup and control tokens that can stand around an answer. A longer name in angle brackets is text.
_MARKUP = re.compile(r"</?(?:b|i|u|em|strong|span|code|mark|font)(?: [^<>]{0,80})?>")
_BREAKS = re.compile(
    r"</?(?:answer|reasoning|s|p|br|div|center|h[1-6]|li|ul|ol|pre|eos|bos|pad|unk|end_of_turn|start_of_turn)"
    r"(?: [^<>]{0,80})?/?>|<\|[^<>|]{1,40}\|>|\[/?(?:INST|EOS)\]"
)
_PAIRED = re.compile(r"<([A-Za-z_]{1,20})>([^<>]*)</\1>")  # <final>72</final>
_HTML = (
    (re.compile(r"<sup>([^<>]{1,20})</sup>"), r"^{\1}"),
    (re.compile(r"<sub>([^<>]{1,20})</sub>"), r"_{\1}"),
)
_LATEX = (
    (re.compile(r"~~[^~\n]*~~"), ""),  # struck out
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|(?:display|text)style|[lL]arge|limits|mathstrut)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:begin|end)\{(?:equation|align(?:ed)?|gather(?:ed)?|split|displaymath)\*?\}"), " "),
    (re.compile(r"\{,\}|,\\!|(?<=[0-9])\\[,;: ] ?(?=[0-9]{3})"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\\\(?:\[[^\[\]]{0,10}\])?"), "\n"),
    (re.compile(r"\\[()\[\],;: ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"\\dots(?![A-Za-z])|\\ldots(?![A-Za-z])"), "..."),
    (re.compile(r"\\(?:textdollar|(?=[%$€£&#_]))"), ""),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z]) ?"), "*"),
    (re.compile(r"\\(?:approx|sim|simeq|cong)(?![A-Za-z])"), "≈"),
    (re.compile(r"\\(?:neq?|not ?=)(?![A-Za-z])"), "≠"),
    (re.compile(r"\\(?:[lg]eq?|[lg]t|[lg]eqslant)(?![A-Za-z])"), "≤"),
    (re.compile(r"\\(?:Rightarrow|rightarrow|implies|to|equiv)(?![A-Za-z])|=>|->"), "="),
    (re.compile(r"\\(?:colon|ratio)(?![A-Za-z])"), ":"),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(r"\\pm(?![A-Za-z]) ?"), "±"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\infty(?![A-Za-z])"), "∞"),
    (re.compile(r"(?:\^ ?)?(?:\\(?:circ|degree)(?![A-Za-z])|\{ ?\\(?:circ|degree) ?\})"), "°"),
)
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt|up|normal)?|math(?:rm|bf|it|sf|tt)|[mhf]box|bm|boldsymbol|emph|underline|boxed"
    r"|operatorname|num|unit|si|ensuremath) ?\{([^{}]*)\}"
)
_MATHEMATICS = (
    (re.compile(r"(?<![A-Za-z])([APap])\. ?([Mm])(?![A-Za-z])\.?"), r"\1\2"),
    (re.compile(r" +(?=[\^_])"), ""),
    (re.compile(r"\\(?:[dtcsx]|nice)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac *([0-9]) *([0-9])(?![0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac *([0-9]) *\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac *\{[^{}]*\}) *([0-9])"), r"\1{\2}"),
    (re.compile(r"\{ *([0-9.]+) *\\over(?![A-Za-z]) *([0-9.]+) *\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?:√|(?<![\\A-Za-z])sqrt) ?\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"√ ?([0-9]+(?:\.[0-9]+)?|[a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"∛ ?([0-9]+)"), r"\\sqrt[3]{\1}"),
    (re.compile(r"(?<=[0-9]) ?\^ ?\{?o\}?(?![A-Za-z0-9])"), "°"),
    (re.compile(r"\\sqrt ?([0-9a-z])"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=[0-9)}]) ?\*\* ?(?=[-+(0-9])"), "^"),
    (re.compile(r"\*\*|__"), ""),
    (re.compile(r"([\^_])\{ *([0-9]+|[A-Za-z]) *\}"), r"\1\2"),
)
# 0.1\overline{6}, 0.(3); its whole part, what does not repeat, and what does.
_REPEATING = re.compile(
    r"(?<![0-9,.])([0-9]{1,12})?\.([0-9]{0,12}?)"
    r"(?:\\(?:overline|bar|dot) ?\{? ?([0-9]{1,12}) ?\}?|\(([0-9]{1,12})\)(?![0-9/*^(!.])|((?:[0-9]\u0305){1,12}))"
)
_TIME_OF_DAY = (
    (re.compile(r"(?<![0-9.])([0-9]{1,2})\.([0-5][0-9])(?= ?[ap]m\b)", re.IGNORECASE), r"\1:\2"),
    (re.compile(r"^\W*(?:12(?::00)? )?noon\W*$", re.IGNORECASE), "12:00 pm"),
    (re.compile(r"^\W*(?:12(?::00)? )?midnight\W*$", re.IGNORECASE), "12:00 am"),
)
# Scripts that put no space between a word and a number.
_UNSPACED = re.compile(r"(?<=[\u0e00-\u0e4e\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])(?=-?[0-9])")
_DOLLARS = re.compile(r"(?<!\\)\$\$?")
_SPACES = re.compile(r"[^\S\n]+")
_BRACES = re.compile("[{}]")


def boxed(text: str, longest: int) -> str | None:
    """Returns the content of the last `\\boxed{...}`, nested braces included; None if there is no box.

    Args:
        longest: characters after the opening brace in which the closing one is looked for.
    """
    start = text.rfind(BOXED)
    if start < 0:
        loose = text.rfind("\\boxed ")
        return None if loose < 0 else text[loose + len("\\boxed ") :].strip().partition(" ")[0].rstrip("$.")
    content = text[start + len(BOXED) :]
    depth = 1
    for brace in _BRACES.finditer(content[:longest]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return content[: brace.start()].strip()
    return content.strip()


def plain(text: str) -> str:
    """Returns a text with one spelling of digits, signs, powers, fractions and roots, and without decoration.

    Lines stay lines. Of LaTeX, `\\frac{}{}`, `\\sqrt{}` and what is not known remain.
    """
    if not text.isascii():
        text = _without_foreign_characters(text)
    text = _SPACES.sub(" ", text)
    if "&" in text:
        text = html.unescape(text).replace("\xa0", " ")
    if "<" in text:
        for pattern, replacement in _HTML:
            text = pattern.sub(replacement, text)
        text = _PAIRED.sub(r" \2 ", _BREAKS.sub("\n", _MARKUP.sub("", text)))
    if "$" in text:
        text = _without_mathematics_signs(text)
    if "." in text:
        text = _REPEATING.sub(_repeating, text)
    if "\\" in text or "~" in text or "{,}" in text or "->" in text or "=>" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        for _ in range(2):  # a text command may stand in another
            text = _TEXT_COMMAND.sub(r" \1 ", text)
    for pattern, replacement in (*_MATHEMATICS, *_TIME_OF_DAY):
        text = pattern.sub(replacement, text)
    return _SPACES.sub(" ", text).strip(WRAPPING)


def _without_foreign_characters(text: str) -> str:
    """Writes digits of all scripts, fractions, powers, signs and spaces in ASCII where ASCII has them."""
    text = re.sub(f"[{_SUPERSCRIPTS}]+⁄[{_SUBSCRIPTS}]+", lambda found: " " + _digits(found.group()), text)
    text = re.sub(f"[⁺⁻]?[{_SUPERSCRIPTS}]+", lambda found: "^{" + _digits(found.group()) + "}", text)
    text = text.translate({ord(character): _ascii(character) for character in set(text) if not character.isascii()})
    return _UNSPACED.sub(" ", text)


def _digits(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(str.maketrans({"⁄": "/", "−": "-"}))


def _repeating(found: re.Match[str]) -> str:
    """Returns the fraction that a decimal with a repeating end is."""
    whole, once = found.group(1) or "0", found.group(2)
    period = (found.group(3) or found.group(4) or found.group(5)).replace("\u0305", "")
    above = int(whole + once + period) - int(whole + once)
    return f"\\frac{{{above}}}{{{'9' * len(period)}{'0' * len(once)}}}"


def _ascii(character: str) -> str:
    """Returns what stands for one character that is not ASCII."""
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    name = unicodedata.name(character, "")
    if name.startswith("VULGAR FRACTION") and len(_digits(character)) > 2:
        return f" {_digits(character)} "
    if name.startswith(("FULLWIDTH", "SMALL ", "MATHEMATICAL ")):
        return unicodedata.normalize("NFKC", character)
    return character


def _without_mathematics_signs(text: str) -> str:
    """Removes the dollar signs that begin and end mathematics; those of amounts stay.

    A sign begins mathematics if no space follows it, and ends it if no space precedes it and no digit follows (the
    rule of Pandoc): `$5 or $6` has amounts, `$5$` is a number.
    """
    pieces, last, opening = [], 0, None
    for sign in _DOLLARS.finditer(text):
        start, end = sign.span()
        if end - start == 2:
            pieces, last = [*pieces, text[last:start], " "], end
            continue
        before, after = text[start - 1 : start], text[end : end + 1]
        if opening is not None and before and not before.isspace() and not after.isdigit() and end - opening > 1:
            pieces, last = [*pieces, text[last:opening], text[opening + 1 : start]], end
            opening = None
        elif after and not after.isspace():
            opening = start
    return "".join([*pieces, text[last:]])

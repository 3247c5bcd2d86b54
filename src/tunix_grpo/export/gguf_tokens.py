"""A tokenizer as llama.cpp reads it: byte-level BPE (`gpt2` there), or BPE of characters as SentencePiece's (`llama`).

llama.cpp knows how text is cut into words by a name, so that only tokenizers that cut as a known one can be written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gguf import TokenType

from tunix_grpo.errors import UserError

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES, _BYTES_OF_WORDS = ("ByteLevel", False, False), ("ByteLevel", False, True)
_DIGITS = ("Digits", True)
_DIGIT, _THREE_DIGITS = (("Split", _WORDS % digits, "Isolated", False) for digits in (r"\p{N}", r"\p{N}{1,3}"))
# How text is cut, and whether whole words need no merges -> what llama.cpp calls it.
_CUTS = {
    ((_BYTES_OF_WORDS,), False): "gpt-2",
    ((_DIGITS, _BYTES_OF_WORDS), False): "smollm",
    ((_DIGIT, _BYTES), False): "qwen2",
    ((_THREE_DIGITS, _BYTES), True): "llama-bpe",
    ((_THREE_DIGITS, _BYTES), False): "dbrx",
}
_SPACE = "\u2581"  # what stands for a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_WAY_OUT = "export with format=merged or format=full, and convert that with llama.cpp's convert_hf_to_gguf.py"


class Vocabulary(NamedTuple):
    """What a GGUF file says of a tokenizer.

    Attributes:
        model: `gpt2` or `llama`.
        pre: how text is cut into words; None for `llama`.
        tokens: one for each row of the embedding.
        types: of them.
        merges: pairs with a space between, the first ones first; None for `llama`.
        scores: of the tokens, the highest first; None for `gpt2`.
        space_prefix: text begins with a space that is not there; None for `gpt2`.
    """

    model: str
    pre: str | None
    tokens: list[str]
    types: list[TokenType]
    merges: list[str] | None
    scores: list[float] | None
    space_prefix: bool | None


def vocabulary(state: Mapping[str, Any], rows: int) -> Vocabulary:
    """Returns what llama.cpp reads in place of a tokenizer.json.

    Args:
        state: the parsed tokenizer.json.
        rows: of the embedding; tokens beyond them are left out, rows without a token are named.

    Raises:
        UserError: llama.cpp has no name for such a tokenizer, or would cut text in another way.
    """
    model = state["model"]
    if model.get("type") != "BPE" or any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")):
        raise _unknown(f"a model of the type {model.get('type')}")
    merges = [tuple(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in model["merges"]]
    if not merges:
        raise _unknown("no merges")
    added = {token["id"]: token for token in state["added_tokens"]}
    steps = _steps(state["pre_tokenizer"])
    if model.get("byte_fallback") and not any(step[0] == "ByteLevel" for step in steps):
        return _of_characters(state, merges, added, rows)
    if state["normalizer"] not in (None, {"type": "NFC"}):  # composed characters are what people write
        raise _unknown(f"the normalizer {state['normalizer'].get('type')}")
    pre = _CUTS.get((steps, bool(model.get("ignore_merges"))))
    if pre is None or model.get("byte_fallback"):
        raise _unknown(f"the pre_tokenizer {[step[:2] for step in steps]}")
    tokens, types = _tokens(model["vocab"], added, rows, model.get("unk_token"))
    return Vocabulary("gpt2", pre, tokens, types, [" ".join(pair) for pair in merges], None, None)


def _unknown(what: str) -> UserError:
    return UserError(f"format=gguf: the tokenizer has {what}, for which llama.cpp has no name known here; {_WAY_OUT}")


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> tuple[tuple, ...]:
    """Returns what a pre_tokenizer does, one thing after another, without what does not change tokens."""
    if pre_tokenizer is None:
        return ()
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return tuple(step for part in pre_tokenizer["pretokenizers"] for step in _steps(part))
    if kind == "ByteLevel":
        return ((kind, pre_tokenizer["add_prefix_space"], pre_tokenizer["use_regex"]),)
    if kind == "Digits":
        return ((kind, pre_tokenizer["individual_digits"]),)
    if kind == "Split":
        pattern = pre_tokenizer["pattern"]
        return (
            (kind, pattern.get("Regex", repr(pattern)), pre_tokenizer["behavior"], bool(pre_tokenizer.get("invert"))),
        )
    if kind == "Metaspace":
        return ((kind, pre_tokenizer["replacement"], pre_tokenizer["prepend_scheme"], pre_tokenizer.get("split")),)
    return ((kind,),)


def _tokens(
    ids: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], rows: int, unknown: str | None
) -> tuple[list[str], list[TokenType]]:
    """Returns the token and its type of every row."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [TokenType.UNUSED] * rows
    for token, number in ids.items():
        if number < rows and not _BYTE.fullmatch(tokens[number]):  # a byte's name before another of the same token
            tokens[number], types[number] = token, TokenType.BYTE if _BYTE.fullmatch(token) else TokenType.NORMAL
    for number, token in added.items():
        if number < rows:
            tokens[number] = token["content"]
            types[number] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    if unknown is not None and ids.get(unknown, rows) < rows:
        types[ids[unknown]] = TokenType.UNKNOWN
    return tokens, types


# --- BPE of characters ---


def _of_characters(
    state: Mapping[str, Any], merges: Sequence[tuple[str, ...]], added: Mapping[int, Mapping[str, Any]], rows: int
) -> Vocabulary:
    """Returns the vocabulary of a tokenizer that was made from SentencePiece's.

    There a pair is merged by the score of what it gives; here scores are the order of the merges.
    """
    model = state["model"]
    tokens, types = _tokens(model["vocab"], added, rows, model.get("unk_token"))
    for number, token in added.items():
        # Text has no such character, its spaces become it only later: the token comes about by merges.
        if number < rows and not token["special"] and _SPACE in token["content"]:
            types[number] = TokenType.NORMAL
    order: dict[str, int] = {}
    for pair in merges:
        order.setdefault("".join(pair), len(order))
    plain = {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    _require_all_merges(plain, merges)
    scores = [-float(order.get(token, len(order))) for token in tokens]
    return Vocabulary("llama", None, tokens, types, None, scores, _space_prefix(state))


def _require_all_merges(plain: set[str], merges: Sequence[tuple[str, ...]]) -> None:
    """Raises UserError where llama.cpp would merge a pair that the tokenizer does not: it merges what gives a token."""
    known = set(merges)
    for token in plain:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in plain and pair[1] in plain and pair not in known:
                raise _unknown(f"no merge of {pair[0]!r} and {pair[1]!r}")


def _space_prefix(state: Mapping[str, Any]) -> bool:
    """Returns whether a space is put in front of every piece of text between special tokens."""
    normalizer = state["normalizer"]
    parts = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer]
    prefixes = {"type": "Prepend", "prepend": _SPACE}
    steps = _steps(state["pre_tokenizer"])
    if steps in ((), (("Split", repr({"String": " "}), "MergedWithPrevious", False),)):
        if parts == [_SPACES]:
            return False
        if parts == [prefixes, _SPACES]:
            return True
    if parts == [None] and len(steps) == 1 and steps[0][:2] == ("Metaspace", _SPACE):
        scheme = steps[0][2]
        if scheme in ("always", "never") and not steps[0][3]:
            return scheme == "always"
    raise _unknown(f"the normalizer {parts} and the pre_tokenizer {[step[:3] for step in steps]}")

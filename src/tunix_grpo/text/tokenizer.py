"""Text to token ids and back, through the model's own tokenizer and chat template.

Three things are settled here, because each of them is a classic way to train on wrong text: a prompt starts with
exactly one BOS if the tokenizer uses one; every token that the model's generation config calls a stop token stops a
completion; the pad token is one that neither stops a completion nor occurs in text.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import read_json
from tunix_grpo.json_fields import Fields

# For base models without a chat template.
PLAIN_QUESTION = "Question: {question}\nAnswer:"
_NAMES_OF_PAD = ("pad", "reserved", "unused", "dummy")
# Without any of these files transformers makes an empty tokenizer for some model types, without a word.
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Tokenizer:
    """A Hugging Face tokenizer with one BOS, all stop tokens, and a pad that text cannot contain.

    Attributes:
        stop_ids: tokens that end a completion, sorted.
    """

    def __init__(self, tokenizer, stop_ids: Sequence[int], vocab_size: int, date: str | None = None):
        """
        Args:
            tokenizer: a transformers tokenizer.
            stop_ids: at least one.
            vocab_size: rows of the model's embedding.
            date: the day, YYYY-MM-DD, that a chat template is told; None is today.
        """
        self._tokenizer = tokenizer
        self._clock = {} if date is None else {"strftime_now": datetime.datetime.fromisoformat(date).strftime}
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self._pad_id = _choose_pad(tokenizer, self.stop_ids, vocab_size)
        plain = tokenizer("a", add_special_tokens=True)["input_ids"]
        self._adds_bos = tokenizer.bos_token_id is not None and plain[:1] == [tokenizer.bos_token_id]

    def encode_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Returns the ids of a conversation up to the place where the model answers.

        With a chat template the template is the format; without one (a base model) it is PLAIN_QUESTION, after the
        system message if there is one.

        Raises:
            UserError: the template cannot write such a conversation.
        """
        return self._encode(self.render_prompt(messages))

    def render_prompt(self, messages: list[dict[str, str]]) -> str:
        """Returns the text that encode_prompt encodes."""
        if self._tokenizer.chat_template is None:
            system = [m["content"] + "\n\n" for m in messages if m["role"] == "system"]
            questions = [PLAIN_QUESTION.format(question=m["content"]) for m in messages if m["role"] == "user"]
            return "".join(system + questions)
        system = [m["content"].strip() for m in messages if m["role"] == "system"]
        try:
            text = self._apply_template(messages)
        except UserError:
            if not system:
                raise
            text = ""
        if all(content in text for content in system):
            return text
        # A template that knows no system role refuses it (Gemma 2) or drops it: the text goes in front of the question.
        return self._apply_template(_without_system(messages))

    def encode(self, text: str) -> list[int]:
        """Returns the ids of text that already holds its special tokens."""
        return self._encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion; special tokens are left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        """Returns a token as the vocabulary writes it."""
        return self._tokenizer.convert_ids_to_tokens(token_id)

    def pad_id(self) -> int:
        """Returns the id that fills rows; a method, as Tunix's tokenizer adapter wants it."""
        return self._pad_id

    def eos_id(self) -> int:
        """Returns the first stop token; Tunix knows only one."""
        return self.stop_ids[0]

    def bos_id(self) -> int | None:
        """Returns the beginning-of-text token, or None."""
        return self._tokenizer.bos_token_id

    def _apply_template(self, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False, **self._clock
            )
        except TemplateError as error:
            raise UserError(f"the tokenizer's chat template does not work ({error})") from error

    def _encode(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._adds_bos and ids[:1] != [self._tokenizer.bos_token_id]:
            ids = [self._tokenizer.bos_token_id, *ids]
        return ids


def load_tokenizer(
    directory: Path, vocab_size: int, generation_directory: Path | None = None, date: str | None = None
) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face directory.

    Args:
        directory: holds tokenizer.json or what transformers can read in its place.
        vocab_size: rows of the model's embedding.
        generation_directory: where generation_config.json is, if not in `directory`.
        date: the day, YYYY-MM-DD, that its chat template is told; None is today.

    Raises:
        UserError: no tokenizer, one that has more tokens than the model, or none of its tokens stops a completion.
    """
    # transformers says at every start that it misses PyTorch; its tokenizers do not.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    way_out = "put tokenizer.json and tokenizer_config.json there, or set model.tokenizer=DIR"
    if not directory.is_dir():
        raise UserError(
            f"model.tokenizer={directory}: no such directory; give that of the tokenizer, model.tokenizer=DIR"
        )
    if not any((directory / name).is_file() for name in _VOCABULARY_FILES):
        raise UserError(f"{directory}: it holds no tokenizer; {way_out}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust library raises it bare
        raise UserError(f"{directory}: no tokenizer can be read from it ({one_line(error)}); {way_out}") from error
    added = set(tokenizer.added_tokens_decoder)  # a property that is built anew at every use
    ordinary = max(i for i in tokenizer.get_vocab().values() if i not in added)
    if ordinary >= vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has a token {ordinary}, but the model has {vocab_size} tokens; "
            "set model.tokenizer to the model's own"
        )
    stop_ids = _stop_ids(tokenizer, [directory, generation_directory or directory])
    if not stop_ids:
        raise UserError(
            f"{directory}: neither generation_config.json nor the tokenizer names an end-of-text token; "
            "give one as eos_token_id in generation_config.json"
        )
    too_high = [i for i in stop_ids if i >= vocab_size]
    if too_high:
        raise UserError(f"{directory}: stop token {too_high[0]} is beyond the model's {vocab_size} tokens")
    return Tokenizer(tokenizer, stop_ids, vocab_size, date)


def model_tokenizer(own: str | None, model_directory: Path, vocab_size: int, date: str | None = None) -> Tokenizer:
    """Loads the tokenizer that `model.tokenizer` names, or the model's own where it is None; `date` is as above."""
    if own is None:
        return load_tokenizer(model_directory, vocab_size, date=date)
    return load_tokenizer(Path(own).expanduser(), vocab_size, model_directory, date)


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system = "".join(m["content"] + "\n\n" for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    return [{**rest[0], "content": system + rest[0]["content"]}, *rest[1:]]


def _stop_ids(tokenizer, directories: list[Path]) -> list[int]:
    """Returns the stop tokens of generation_config.json (or config.json) and the tokenizer's own."""
    ids = set()
    for directory in directories:
        for name in ("generation_config.json", "config.json"):
            file = directory / name
            named = Fields(str(file), read_json(file)).tokens("eos_token_id") if file.is_file() else []
            if named:
                ids |= set(named)
                break
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)


def _choose_pad(tokenizer, stop_ids: tuple[int, ...], vocab_size: int) -> int:
    """Returns the tokenizer's pad token, or a reserved one where that token also means something else."""
    busy = {*stop_ids, tokenizer.bos_token_id}
    own = tokenizer.pad_token_id
    if own is not None and own not in busy and own < vocab_size:
        return own
    template = str(tokenizer.chat_template or "")
    special = {
        i: token.content
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special and i not in busy and i < vocab_size and token.content not in template
    }
    for name in _NAMES_OF_PAD:
        named = [i for i, content in special.items() if name in content.lower()]
        if named:
            return min(named)
    unused = max(tokenizer.get_vocab().values()) + 1
    if unused < vocab_size:
        return unused  # a row of the embedding that no token uses
    if special:
        return max(special)
    raise UserError("the tokenizer has no pad token and no special token to spare: add one to tokenizer_config.json")

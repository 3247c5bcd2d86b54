"""Text to token ids and back, through the model's own tokenizer and chat template.

Three things are settled here, because each of them is a classic way to train on wrong text: a prompt starts with
exactly one BOS if the tokenizer uses one; every token that the model's generation config calls a stop token stops a
completion; the pad token is one that neither stops a completion nor occurs in text.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunix_grpo.errors import UserError, one_line, shortened
from tunix_grpo.text.rendering import Renderer
from tunix_grpo.text.special_tokens import pad_token, stop_tokens
from tunix_grpo.text.tags import TAGS

_SHOWN_CHARS = 60
# Without any of these files transformers makes an empty tokenizer for some model types, without a word.
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Tokenizer:
    """A Hugging Face tokenizer with one BOS, all stop tokens, and a pad that text cannot contain.

    Attributes:
        stop_ids: tokens that end a completion, sorted.
        adds_bos: every text starts with BOS.
    """

    def __init__(
        self,
        tokenizer,
        stop_ids: Sequence[int],
        vocab_size: int,
        variables: Mapping[str, object] | None = None,
        date: str | None = None,
    ):
        """
        Args:
            tokenizer: a transformers tokenizer.
            stop_ids: at least one.
            vocab_size: rows of the model's embedding.
            variables: of the chat template, as `Renderer` takes them.
            date: the day, YYYY-MM-DD, that the template is told; None is today.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._renderer = Renderer(tokenizer, variables, date)
        special = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content
        ]
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
        self.stop_ids = tuple(sorted(set(stop_ids)))
        self._pad_id = pad_token(tokenizer, self.stop_ids, vocab_size)
        plain = self._ids("a", add_special_tokens=True)
        self.adds_bos = tokenizer.bos_token_id is not None and plain[:1] == [tokenizer.bos_token_id]

    def encode_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """Returns the ids of a conversation up to the place where the model answers; see `rendering.py`.

        Raises:
            UserError: the template cannot write such a conversation.
        """
        return self.encode(self.render_prompt(messages))

    def render_prompt(self, messages: list[dict[str, str]]) -> str:
        """Returns the text that encode_prompt encodes; the question is in it."""
        return self._renderer.render(messages)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of text that already holds its special tokens; `unknown_tokens` tells whether all are known.

        Raises:
            UserError: the text is none, as half a surrogate pair is no character.
        """
        return self._with_bos(self._plain_ids(text))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns what `encode` gives for each text, sooner: the tokenizers library is called once.

        Raises:
            UserError: one of the texts is none, or cannot be encoded; the first of these is named.
        """
        try:
            found = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        except BaseException as error:
            if not _is_of_the_library(error):
                raise
            return [self.encode(text) for text in texts]  # it names the text
        return [self._with_bos(ids) for ids in found]

    def encode_completion(self, text: str) -> list[int]:
        """Returns the ids of a completion as the model is to draw it: without BOS, with the token that ends a turn.

        Raises:
            UserError: the text is none, as half a surrogate pair is no character.
        """
        return [*self._plain_ids(text), self.end_id]

    def answer_text(self, content: str) -> str:
        """Returns the completion that says something behind the prompt of a conversation."""
        return self._renderer.answer(content)

    @functools.cached_property
    def end_id(self) -> int:
        """The stop token that ends the model's turn: that of the chat template, else the tokenizer's own."""
        behind = self._plain_ids(self._renderer.turn_end())
        own = [*(token for token in behind if token in self.stop_ids), self._tokenizer.eos_token_id]
        return next((token for token in own if token in self.stop_ids), self.stop_ids[0])

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of a completion, without the tokens that frame texts; see `_frame`."""
        kept = [token for token in map(int, ids) if token not in self._frame]
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def unknown_tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the tokens among ids that the model has no row for; it would read its last row in their place."""
        return [self.token(i) for i in ids if i >= self._vocab_size]

    def special_tokens_in(self, text: str) -> list[str]:
        """Returns the special tokens that a text spells, which the model reads as control tokens, not as words."""
        return self._special.findall(text) if self._special.pattern else []

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

    def chat_template(self) -> str | None:
        """Returns the text of the chat template in use; None for a base model."""
        return self._renderer.template()

    def parts(self) -> dict[str, Any]:
        """Returns what tokenizer.json says of this tokenizer, whatever files it was read from.

        Raises:
            UserError: it is none of the tokenizers library.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            place = self._tokenizer.name_or_path
            raise UserError(f"{place}: its tokenizer has no tokenizer.json; give model.tokenizer=DIR of one that has")
        return json.loads(backend.to_str())

    @functools.cached_property
    def _frame(self) -> frozenset[int]:
        """Holds the special tokens that are no text: stop and pad tokens, BOS and the marks of turns.

        All others are text: some tokenizers make special tokens of the tags that rewards and graders look for. BOS and
        marks stay out because the rewards of runs that go on have not seen them.
        """
        marks = set(self.special_tokens_in(self._renderer.turn_start())) - set(TAGS)
        marks_ids = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.content in marks}
        return frozenset({*self.stop_ids, self._pad_id, *marks_ids, self._tokenizer.bos_token_id} - {None})

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        except BaseException as error:
            if not _is_of_the_library(error):
                raise
            raise UserError(
                f"{self._tokenizer.name_or_path}: its tokenizer cannot encode {shortened(text, _SHOWN_CHARS)!r} "
                f"({one_line(error)}); mend its files, or set model.tokenizer=DIR"
            ) from error

    def _with_bos(self, ids: list[int]) -> list[int]:
        if self.adds_bos and ids[:1] != [self._tokenizer.bos_token_id]:
            ids = [self._tokenizer.bos_token_id, *ids]
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise UserError(
                f"a text holds {half}, half of a character (a surrogate pair): "
                f"{text[max(0, error.start - 20) : error.start + 20]!r}; write the whole one"
            ) from error
        return self._ids(text, add_special_tokens=False)


def load_tokenizer(
    directory: Path,
    vocab_size: int,
    generation_directory: Path | None = None,
    variables: Mapping[str, object] | None = None,
    date: str | None = None,
) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face directory.

    Args:
        directory: holds tokenizer.json or what transformers can read in its place.
        vocab_size: rows of the model's embedding.
        generation_directory: where generation_config.json is, if not in `directory`.
        variables: of the chat template: `task.template_variables`.
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
    except BaseException as error:
        if not _is_of_the_library(error):
            raise
        raise UserError(f"{directory}: no tokenizer can be read from it ({one_line(error)}); {way_out}") from error
    added = set(tokenizer.added_tokens_decoder)  # a property that is built anew at every use
    ordinary = max(i for i in tokenizer.get_vocab().values() if i not in added)
    if ordinary >= vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has a token {ordinary}, but the model has {vocab_size} tokens; "
            "set model.tokenizer to the model's own"
        )
    stop_ids = stop_tokens(tokenizer, [directory, generation_directory or directory])
    if not stop_ids:
        raise UserError(
            f"{directory}: neither generation_config.json nor the tokenizer names an end-of-text token; "
            "give one as eos_token_id in generation_config.json"
        )
    too_high = [i for i in stop_ids if i >= vocab_size]
    if too_high:
        raise UserError(f"{directory}: stop token {too_high[0]} is beyond the model's {vocab_size} tokens")
    return Tokenizer(tokenizer, stop_ids, vocab_size, variables, date)


def model_tokenizer(
    own: str | None,
    model_directory: Path,
    vocab_size: int,
    variables: Mapping[str, object] | None = None,
    date: str | None = None,
) -> Tokenizer:
    """Loads the tokenizer that `model.tokenizer` names, or the model's own where it is None; the rest is as above."""
    if own is None:
        return load_tokenizer(model_directory, vocab_size, variables=variables, date=date)
    return load_tokenizer(Path(own).expanduser(), vocab_size, model_directory, variables, date)


def _is_of_the_library(error: BaseException) -> bool:
    """Says whether a tokenizer raised an error: its Rust part raises Exception itself, and its panics are none."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"

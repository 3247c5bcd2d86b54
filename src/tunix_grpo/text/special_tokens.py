"""Which tokens end a completion, and which one fills rows without meaning anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunix_grpo.errors import UserError
from tunix_grpo.files import read_json
from tunix_grpo.json_fields import Fields

_NAMES_OF_PAD = ("pad", "reserved", "unused", "dummy")


def stop_tokens(tokenizer: Any, directories: list[Path]) -> list[int]:
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


def pad_token(tokenizer: Any, stop_ids: tuple[int, ...], vocab_size: int) -> int:
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

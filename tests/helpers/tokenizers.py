"""Small real tokenizers (bytes, and a few special tokens in front) that reproduce what published ones do."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from tunix_grpo.text.tokenizer import Tokenizer, load_tokenizer

# Gemma 3's form: the template writes BOS itself and puts the system text in front of the question.
TURNS = "{% for m in messages %}<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}<start>model"
SPECIAL = ("<bos>", "<eos>", "<start>", "<end>", "<pad>")


def write_tokenizer(
    folder: Path,
    *,
    special: tuple[str, ...] = SPECIAL,
    template: str | None = TURNS,
    adds_bos: bool = False,
    files: dict[str, dict] | None = None,
    **named: str,
) -> int:
    """Writes a byte tokenizer behind special tokens (ids from 0 in their order) and returns its number of tokens.

    Args:
        adds_bos: the tokenizer puts <bos> in front of every text.
        files: further JSON files, by name.
        named: further keys of tokenizer_config.json, such as pad_token.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: len(special) + index for index, letter in enumerate(letters)}
    vocabulary |= {token: index for index, token in enumerate(special)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(special))
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    if template is not None:
        config["chat_template"] = template
    for name, content in {"tokenizer_config.json": config, **(files or {})}.items():
        (folder / name).write_text(json.dumps(content))
    return made.get_vocab_size()


def made_tokenizer(folder: Path, *, vocab_size: int | None = None, **how) -> Tokenizer:
    size = write_tokenizer(folder, **{"bos_token": "<bos>", "eos_token": "<end>", "pad_token": "<pad>", **how})
    return load_tokenizer(folder, vocab_size or size)


def move_to_the_end(file: Path, token: str) -> None:
    """Gives a token the id behind all others, in place of that other token's id."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary[token], vocabulary[last] = vocabulary[last], vocabulary[token]
    for added in content["added_tokens"]:
        added["id"] = vocabulary[added["content"]]
    content["added_tokens"].sort(key=lambda added: added["id"])
    file.write_text(json.dumps(content))

"""Small real tokenizers (bytes, and a few special tokens in front) that reproduce what published ones do."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

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


# --- as published models have them, but trained here on little text ---

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _words(pattern: str) -> list:
    """Cuts as Qwen's and Llama 3's do."""
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
CUTS = {
    "gpt-2": [_BYTES],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _BYTES],
    "qwen2": _words(WORDS),
    "llama-bpe": _words(WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|")),
    "dbrx": _words(WORDS.replace(r"\p{N}|", r"\p{N}{1,3}|")),
}


def write_trained_tokenizer(folder: Path, cut: str, texts: list[str], size: int, *, adds_bos: bool = False) -> None:
    """Writes a byte-level BPE tokenizer that cuts text as the published ones of that name."""
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizers.Sequence(CUTS[cut])
    made.normalizer = normalizers.NFC() if cut == "qwen2" else None
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    made.train_from_iterator(texts, trainer)
    if adds_bos:
        made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    _write(made, folder)


def write_character_tokenizer(folder: Path, texts: list[str], size: int, *, prefix: bool) -> None:
    """Writes a BPE tokenizer of characters as they are made from SentencePiece's, and tokenizer.model beside it.

    Args:
        prefix: a space is put in front of text, as Llama 2 does; Gemma does not.
    """
    import sentencepiece

    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=size,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        control_symbols=list(SPECIAL[2:]),
        bos_piece="<bos>",
        eos_piece="<eos>",
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    ids = {piece: i for i, piece in enumerate(scores)}
    pairs = [(piece[:cut], piece[cut:]) for piece in ids for cut in range(1, len(piece))]
    special = {*SPECIAL, "<unk>"}
    known = [(a, b) for a, b in pairs if a in ids and b in ids and not special & {a, b, a + b}]
    merges = sorted(known, key=lambda pair: -scores["".join(pair)])
    model = models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    made = tokenizers.Tokenizer(model)
    space = normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space]) if prefix else space
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([*SPECIAL, "<unk>"])
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])])
    _write(made, folder)


def _write(made: tokenizers.Tokenizer, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<end>"}
    config |= {"pad_token": "<pad>", "chat_template": TURNS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))

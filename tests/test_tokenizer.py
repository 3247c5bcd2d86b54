"""Text to token ids: one BOS, all stop tokens, a pad token that means nothing else.

The tokenizers are small real ones (bytes, and a few special tokens in front) that reproduce what published ones do.
"""

import datetime
import json
import os
from pathlib import Path

import pytest

from helpers.tokenizers import SPECIAL, TURNS, made_tokenizer, move_to_the_end, write_tokenizer
from tunix_grpo.errors import UserError
from tunix_grpo.text.tokenizer import load_tokenizer

SYSTEM, QUESTION = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DROPS_SYSTEM = "{% for m in messages if m.role == 'user' %}<start>user\n{{ m.content }}<end>\n{% endfor %}<start>model"


@pytest.mark.parametrize(
    ("template", "adds_bos", "count"),
    [
        ("{{ bos_token }}" + TURNS, True, 1),  # Gemma 3, Llama 3: encoding the text the plain way gives two
        ("{{ bos_token }}" + TURNS, False, 1),
        (TURNS, True, 1),
        (TURNS, False, 0),  # Qwen: the model was trained without
        (None, True, 1),  # a base model
    ],
)
def test_a_prompt_starts_with_one_bos_where_the_model_has_one(template, adds_bos, count, tmp_path):
    tokenizer = made_tokenizer(tmp_path, template=template, adds_bos=adds_bos)
    ids = tokenizer.encode_prompt([SYSTEM, QUESTION])
    assert ids.count(tokenizer.bos_id()) == count
    assert (ids[0] == tokenizer.bos_id()) == bool(count)


def test_the_plain_way_gives_two_bos(tmp_path):
    """Why encode_prompt does not leave BOS to the tokenizer."""
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path, template="{{ bos_token }}" + TURNS, adds_bos=True, bos_token="<bos>")
    stock = AutoTokenizer.from_pretrained(tmp_path)
    text = stock.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=False)
    assert stock(text)["input_ids"][:3] == [0, 0, SPECIAL.index("<start>")]


# As Llama 3.2, Granite and SmolLM3 write it.
DATED = "{{ strftime_now('%d %b %Y, %H:%M') }}\n" + TURNS


def test_a_template_that_writes_the_date_is_told_one(tmp_path):
    size = write_tokenizer(tmp_path, template=DATED, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    text = load_tokenizer(tmp_path, size, date="2026-01-31").render_prompt([QUESTION])
    assert text == "31 Jan 2026, 00:00\n<start>user\n2+2?<end>\n<start>model"
    undated = load_tokenizer(tmp_path, size).render_prompt([QUESTION])
    today = datetime.date.today()
    yesterday = today - datetime.timedelta(days=1)  # midnight may be now
    assert undated[:11] in (today.strftime("%d %b %Y"), yesterday.strftime("%d %b %Y"))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TURNS, "<start>system\nBe brief.<end>\n<start>user\n2+2?<end>\n<start>model"),
        (REFUSES_SYSTEM + TURNS, "<start>user\nBe brief.\n\n2+2?<end>\n<start>model"),  # Gemma 2
        (DROPS_SYSTEM, "<start>user\nBe brief.\n\n2+2?<end>\n<start>model"),
        (None, "Be brief.\n\nQuestion: 2+2?\nAnswer:"),
    ],
    ids=["system role", "refuses it", "drops it", "base model"],
)
def test_the_system_message_reaches_the_prompt(template, text, tmp_path):
    tokenizer = made_tokenizer(tmp_path, template=template)
    assert tokenizer.render_prompt([SYSTEM, QUESTION]) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (REFUSES_SYSTEM + TURNS, "<start>user\n2+2?<end>\n<start>model"),
        (None, "Question: 2+2?\nAnswer:"),
    ],
)
def test_a_question_alone(template, text, tmp_path):
    assert made_tokenizer(tmp_path, template=template).render_prompt([QUESTION]) == text


def test_a_template_that_fails_is_a_sentence(tmp_path):
    tokenizer = made_tokenizer(tmp_path, template="{{ raise_exception('needs tools') }}")
    for messages in ([QUESTION], [SYSTEM, QUESTION]):
        with pytest.raises(UserError, match=r"chat template does not work \(needs tools\)"):
            tokenizer.render_prompt(messages)


def test_special_tokens_of_the_prompt_are_single_ids_and_leave_no_text(tmp_path):
    tokenizer = made_tokenizer(tmp_path)
    ids = tokenizer.encode_prompt([QUESTION])
    assert ids[0] == SPECIAL.index("<start>")
    assert ids.count(SPECIAL.index("<end>")) == 1
    assert tokenizer.decode(ids) == "user\n2+2?\nmodel"
    assert tokenizer.decode(tokenizer.encode("π = 3,14 €")) == "π = 3,14 €"
    assert tokenizer.token(3) == "<end>"


def test_texts_that_are_encoded_together_have_the_ids_of_each(tmp_path):
    tokenizer = made_tokenizer(tmp_path)
    texts = [tokenizer.render_prompt([QUESTION]), "π = 3,14 €", "", "<bos>7 <end>"]
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_all([]) == []
    with pytest.raises(UserError, match=r"a text holds \\ud83d.*What \\ud83d"):
        tokenizer.encode_all([*texts, "What \ud83d?", "\udc00"])


@pytest.mark.parametrize(
    ("special", "named", "spare_rows", "pad"),
    [
        (SPECIAL, {"pad_token": "<pad>"}, 0, "<pad>"),
        # SmolLM2: pad is the end-of-turn token; a token that neither the template nor the text uses is taken.
        (("<bos>", "<end>", "<start>", "<file>", "<repo>"), {"pad_token": "<end>"}, 0, "<repo>"),
        # Qwen: pad is the other stop token; one that says what it is for comes first.
        (("<bos>", "<eos>", "<end>", "<start>", "<vision_pad>", "<zzz>"), {"pad_token": "<eos>"}, 0, "<vision_pad>"),
        # Llama 3: no pad token, but reserved ones; the lowest, so that it does not depend on how many there are.
        (
            ("<bos>", "<eos>", "<end>", "<start>", "<reserved_0>", "<reserved_1>"),
            {"pad_token": None},
            0,
            "<reserved_0>",
        ),
        # No special token to spare, but rows of the embedding that no token uses: the first of them.
        (("<bos>", "<eos>", "<end>", "<start>"), {"pad_token": "<eos>"}, 3, None),
        # A pad token that somebody added behind the last row of the embedding.
        (("<bos>", "<eos>", "<end>", "<start>", "<spare>"), {"pad_token": "[added]"}, -1, "<spare>"),
    ],
    ids=["own", "pad is end of turn", "pad is end of text", "reserved", "unused row", "beyond the model"],
)
def test_pad_means_nothing_else(special, named, spare_rows, pad, tmp_path):
    generation = {"generation_config.json": {"eos_token_id": [1, special.index("<end>")]}}
    if named["pad_token"] == "[added]":
        special = (*special, "[added]")
    how = {"bos_token": "<bos>", "eos_token": "<end>"} | {k: v for k, v in named.items() if v is not None}
    size = write_tokenizer(tmp_path, special=special, files=generation, **how)
    if named["pad_token"] == "[added]":  # moved from the front to the end
        move_to_the_end(tmp_path / "tokenizer.json", "[added]")
    tokenizer = load_tokenizer(tmp_path, size + spare_rows)
    expected = size if pad is None else special.index(pad)
    assert tokenizer.pad_id() == expected
    assert tokenizer.pad_id() not in (*tokenizer.stop_ids, tokenizer.bos_id())
    assert tokenizer.pad_id() not in tokenizer.encode_prompt([SYSTEM, QUESTION])


def test_no_token_to_spare_is_a_sentence(tmp_path):
    special = ("<bos>", "<end>", "<start>")
    with pytest.raises(UserError, match="no pad token and no special token to spare"):
        made_tokenizer(tmp_path, special=special, pad_token="<end>")


@pytest.mark.parametrize(
    ("files", "stop_ids"),
    [
        ({}, (3,)),  # the tokenizer's own alone
        ({"generation_config.json": {"eos_token_id": [1, 3]}}, (1, 3)),
        ({"generation_config.json": {"eos_token_id": 1}}, (1, 3)),
        ({"config.json": {"model_type": "llama", "eos_token_id": [1, 2]}}, (1, 2, 3)),
        ({"generation_config.json": {}, "config.json": {"model_type": "llama", "eos_token_id": 2}}, (2, 3)),
        (  # generation_config.json is the newer word
            {"generation_config.json": {"eos_token_id": 1}, "config.json": {"model_type": "llama", "eos_token_id": 2}},
            (1, 3),
        ),
    ],
)
def test_every_named_stop_token_stops(files, stop_ids, tmp_path):
    tokenizer = made_tokenizer(tmp_path, files=files)
    assert tokenizer.stop_ids == stop_ids
    assert tokenizer.eos_id() == stop_ids[0]


def test_a_tokenizer_of_its_own_takes_the_models_stop_tokens_too(tmp_path):
    size = write_tokenizer(tmp_path / "tokenizer", eos_token="<end>")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert load_tokenizer(tmp_path / "tokenizer", size, tmp_path).stop_ids == (1, 3)


def broken(folder: Path, what: str) -> None:
    """Writes a directory from which no tokenizer can be used."""
    write_tokenizer(folder, eos_token="<end>")
    tokenizer_json = folder / "tokenizer.json"
    if what == "no directory":
        folder.rename(folder.with_name("elsewhere"))
    elif what == "no tokenizer":
        tokenizer_json.unlink()
    elif what == "no tokenizer, gemma":  # transformers makes one of five tokens then
        tokenizer_json.unlink()
        (folder / "tokenizer_config.json").unlink()
        (folder / "config.json").write_text('{"model_type": "gemma3_text", "eos_token_id": 1}')
    elif what == "cut off":
        tokenizer_json.write_text(tokenizer_json.read_text()[:1000])
    elif what == "unknown kind":
        tokenizer_json.write_text(json.dumps({**json.loads(tokenizer_json.read_text()), "model": {"type": "Other"}}))
    elif what == "damaged generation config":
        (folder / "generation_config.json").write_text("{")
    elif what == "no stop token":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    elif what == "stop token beyond the model":
        (folder / "generation_config.json").write_text('{"eos_token_id": 999}')
    elif what == "stop token below 0":
        (folder / "generation_config.json").write_text('{"eos_token_id": -1}')
    elif what == "stop token as text":
        (folder / "generation_config.json").write_text('{"eos_token_id": ["1"]}')


@pytest.mark.parametrize(
    ("what", "vocab_size", "words"),
    [
        ("no directory", 300, r"model\.tokenizer=.*: no such directory"),
        (
            "no tokenizer",
            300,
            "holds no tokenizer; put tokenizer.json and tokenizer_config.json there, or set",
        ),
        ("no tokenizer, gemma", 300, "holds no tokenizer; put"),
        ("cut off", 300, r"no tokenizer can be read from it \(.*\); put tokenizer.json"),
        ("unknown kind", 300, r"no tokenizer can be read from it \(.*\); put tokenizer.json"),
        ("damaged generation config", 300, "generation_config.json: not valid JSON"),
        ("no stop token", 300, "names an end-of-text token; give one as eos_token_id"),
        ("stop token beyond the model", 300, "stop token 999 is beyond the model's 300 tokens"),
        (
            "stop token below 0",
            300,
            r"generation_config.json: eos_token_id=-1 is not a token id of at least 0, or a list",
        ),
        ("stop token as text", 300, r'generation_config.json: eos_token_id=\["1"\] is not a token id'),
        ("another model's", 200, "has a token 260, but the model has 200 tokens; set model.tokenizer"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(what, vocab_size, words, tmp_path):
    folder = tmp_path / "model"
    broken(folder, what)
    with pytest.raises(UserError, match=words) as caught:
        load_tokenizer(folder, vocab_size)
    assert "\n" not in str(caught.value)


def test_more_special_tokens_than_the_model_has_rows_are_fine(tmp_path):
    """Gemma 3's text models: the tokenizer knows an image token that they have no row for."""
    size = write_tokenizer(tmp_path, special=(*SPECIAL, "<image>"), eos_token="<end>", pad_token="<pad>")
    move_to_the_end(tmp_path / "tokenizer.json", "<image>")
    assert load_tokenizer(tmp_path, size - 1).pad_id() == SPECIAL.index("<pad>")


@pytest.mark.skipif("TUNIX_GRPO_SMOLLM2" not in os.environ, reason="TUNIX_GRPO_SMOLLM2=DIR names no SmolLM2 model")
def test_smollm2():
    directory = Path(os.environ["TUNIX_GRPO_SMOLLM2"])
    tokenizer = load_tokenizer(directory, json.loads((directory / "config.json").read_text())["vocab_size"])
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.render_prompt([SYSTEM, QUESTION]) == text
    assert tokenizer.stop_ids == (2,)  # <|im_end|>, which the file calls pad too
    assert tokenizer.pad_id() not in (0, 1, 2)
    assert tokenizer.encode_prompt([SYSTEM, QUESTION])[0] == 1

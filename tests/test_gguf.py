"""GGUF files: what is in them, by the package's own reader, and what llama.cpp makes of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.models import load, write_model
from helpers.tokenizers import (
    CUTS,
    SPECIAL,
    TURNS,
    made_tokenizer,
    write_character_tokenizer,
    write_trained_tokenizer,
)
from tunix_grpo.errors import UserError
from tunix_grpo.export.gguf_file import read_gguf, write_gguf
from tunix_grpo.export.gguf_model import architecture
from tunix_grpo.export.gguf_tokens import vocabulary
from tunix_grpo.export.modelfile import modelfile, read_turns
from tunix_grpo.model.saving import uniform_dtypes, write_weights
from tunix_grpo.text.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 300
# What llama.cpp has a form for: name of the variant -> what differs from it.
WRITTEN = {
    "llama": {},
    "llama-llama3-rope": {"num_hidden_layers": 2},
    "llama-linear-rope": {"num_hidden_layers": 2},
    "qwen2": {"num_hidden_layers": 2, "head_dim": 8},
    "qwen3-tied": {"num_hidden_layers": 2},
    "gemma3": {"query_pre_attn_scalar": 16},
    "gemma3-mqa": {"query_pre_attn_scalar": 16},
}


def made(variant: str, folder: Path, **changes):
    """Returns a small random model with an adapter that does something."""
    write_model(variant, folder, **{"vocab_size": VOCAB_SIZE, **WRITTEN.get(variant, {}), **changes})
    model = load(folder, lora_rank=2)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32), model.trained)
    return dataclasses.replace(model, trained=moved)


def write(model, file: Path, dtype: str = "float32") -> dict:
    """Writes a file with a tokenizer that ends answers with <eos> and <end>, and returns its tensors by name."""
    words = file.parent / "words"
    write_trained_tokenizer(words, "gpt-2", ["What is this?"], 264, adds_bos=True)
    (words / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    tokenizer = load_tokenizer(words, VOCAB_SIZE)
    write_gguf(file, model, tokenizer, name="small", dtype=dtype)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def exported(model, folder: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of the Hugging Face export, in float32."""
    folder.mkdir()
    dtypes = uniform_dtypes(model.spec, np.dtype(np.float32))
    write_weights(
        folder, model.spec, model.array, model.trained, lora_scale=model.lora_scale, dtypes=dtypes, shard_bytes=10**9
    )
    return load_file(folder / "model.safetensors")


NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "model.layers.1.self_attn.v_proj.weight": "blk.1.attn_v.weight",
    "model.layers.1.self_attn.o_proj.weight": "blk.1.attn_output.weight",
    "model.layers.0.mlp.gate_proj.weight": "blk.0.ffn_gate.weight",
    "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
}


@pytest.mark.parametrize(
    ("variant", "rotated", "offset"), [("llama", True, 0), ("qwen2", False, 0), ("gemma3", False, 1)]
)
def test_tensors_are_those_of_the_export(variant, rotated, offset, tmp_path):
    model = made(variant, tmp_path / "base")
    ours, theirs = write(model, tmp_path / "model.gguf"), exported(model, tmp_path / "out")
    assert len(ours) == len(theirs)
    for name, other in NAMES.items():
        wanted = theirs[name] + np.float32(offset if "norm" in name else 0)
        np.testing.assert_array_equal(ours[other].data, wanted, err_msg=name)
    heads, width = model.spec.num_heads, model.spec.head_dim
    rows = np.arange(heads * width)
    if rotated:  # number i of the first half of a head is followed by number i of the second half
        rows = [
            head * width + half * width // 2 + i for head in range(heads) for i in range(width // 2) for half in (0, 1)
        ]
    np.testing.assert_array_equal(
        ours["blk.0.attn_q.weight"].data, theirs["model.layers.0.self_attn.q_proj.weight"][rows]
    )


@pytest.mark.parametrize("variant", WRITTEN)
def test_what_is_read_back_is_the_trained_model(variant, tmp_path):
    model = made(variant, tmp_path / "base")
    write(model, tmp_path / "model.gguf")
    wanted = exported(model, tmp_path / "out")
    for leaf, arrays in read_gguf(tmp_path / "model.gguf", model):
        for name, array in zip(leaf.names, arrays, strict=True):
            stored = wanted[name].T if leaf.is_projection and array.ndim == 2 else wanted[name]
            # One is added to Gemma's norms, and taken off again.
            np.testing.assert_allclose(array, stored, rtol=0, atol=2e-7 if "norm" in name else 0, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "kind", "number"),
    [("float16", np.float16, 1), ("bfloat16", jnp.bfloat16, 32), ("float32", np.float32, 0)],
)
def test_matrices_are_rounded_once_and_vectors_not(dtype, kind, number, tmp_path):
    model = made("llama", tmp_path / "base", num_hidden_layers=2)
    tensors = write(model, tmp_path / "model.gguf", dtype)
    wanted = exported(model, tmp_path / "out")
    for name, other in NAMES.items():
        stored = tensors[other]
        if "norm" in name:
            np.testing.assert_array_equal(stored.data, wanted[name])
        else:
            numbers = gguf.quants.dequantize(stored.data, stored.tensor_type)
            np.testing.assert_array_equal(numbers, wanted[name].astype(kind).astype(np.float32))
    assert fields(tmp_path / "model.gguf")["general.file_type"] == number


def test_a_number_beyond_float16_is_refused(tmp_path):
    model = made("llama", tmp_path / "base", num_hidden_layers=1)
    large = jax.tree.map(lambda leaf: leaf * 1e4, model.trained)
    with pytest.raises(UserError, match="numbers beyond float16; give dtype=bfloat16"), np.errstate(over="ignore"):
        write(dataclasses.replace(model, trained=large), tmp_path / "model.gguf", "float16")


def fields(file: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def test_numbers_and_tokenizer_are_in_the_file(tmp_path):
    model = made("gemma3", tmp_path / "base")
    write(model, tmp_path / "model.gguf")
    found = fields(tmp_path / "model.gguf")
    numbers = {
        "block_count": 7,
        "context_length": 512,
        "embedding_length": 32,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.sliding_window": 5,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    }
    assert {key: found[f"gemma3.{key}"] for key in numbers} == numbers
    assert found["gemma3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    words = {
        "model": "gpt2",
        "pre": "gpt-2",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "eot_token_id": 3,
        "padding_token_id": 4,
        "add_bos_token": True,
        "add_eos_token": False,
    }
    assert {key: found[f"tokenizer.ggml.{key}"] for key in words} == words
    assert found["tokenizer.chat_template"] == TURNS
    assert (found["general.architecture"], found["general.name"]) == ("gemma3", "small")
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == VOCAB_SIZE  # a name for each row, also where there is no token
    assert tokens[:5] == list(SPECIAL) and types[:5] == [gguf.TokenType.CONTROL] * 5
    assert (tokens[-1], types[-1]) == (f"[PAD{VOCAB_SIZE - 1}]", gguf.TokenType.UNUSED)


def test_frequencies_of_llama3_are_those_of_transformers(tmp_path):
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tensors = write(made("llama-llama3-rope", tmp_path / "base"), tmp_path / "model.gguf")
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](AutoConfig.from_pretrained(tmp_path / "base"), "cpu")
    plain = 5e5 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / tensors["rope_freqs.weight"].data, scaled.numpy(), rtol=1e-6)
    assert tensors["rope_freqs.weight"].data.max() > 1


@pytest.mark.parametrize(
    ("variant", "changes", "words"),
    [
        ("gemma3-query-scale", {}, "query_pre_attn_scalar of 24, only of 16"),
        (
            "gemma3",
            {"query_pre_attn_scalar": 16, "layer_types": ["full_attention"] * 6 + ["sliding_attention"]},
            "every 6th",
        ),
        ("qwen2", {"head_dim": 16}, "4 heads of 16 numbers beside a hidden_size of 32"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}, "sliding windows"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(variant, changes, words, tmp_path):
    write_model(variant, tmp_path / "base", **changes)
    with pytest.raises(UserError, match=words):
        architecture(load(tmp_path / "base").spec)


def test_a_family_of_your_own_is_refused(tmp_path):
    write_model("llama", tmp_path / "base", num_hidden_layers=1)
    spec = dataclasses.replace(load(tmp_path / "base").spec, family="mine.py:MINE")
    with pytest.raises(UserError, match="model.family=mine.py:MINE, only gemma3, llama, qwen2, qwen3"):
        architecture(spec)


# --- the tokenizer ---

TEXTS = [page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))[:4]]


@pytest.mark.parametrize("cut", CUTS)
def test_the_cut_into_words_is_known_by_its_form(cut, tmp_path):
    write_trained_tokenizer(tmp_path, cut, TEXTS[:1], 280)
    found = vocabulary(json.loads((tmp_path / "tokenizer.json").read_text()), 290)
    assert (found.model, found.pre, len(found.tokens), found.scores) == ("gpt2", cut, 290, None)
    assert found.merges and all(merge.count(" ") == 1 for merge in found.merges)


@pytest.mark.parametrize("prefix", [False, True])
def test_a_vocabulary_of_characters_has_scores_in_the_order_of_sentencepiece(prefix, tmp_path):
    import sentencepiece

    write_character_tokenizer(tmp_path, TEXTS, 600, prefix=prefix)
    found = vocabulary(json.loads((tmp_path / "tokenizer.json").read_text()), 610)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert (found.model, found.pre, found.merges, found.space_prefix) == ("llama", None, None, prefix)
    assert found.scores is not None
    plain = [i for i, kind in enumerate(found.types) if kind == gguf.TokenType.NORMAL and len(found.tokens[i]) > 1]
    assert len(plain) > 100
    assert sorted(plain, key=lambda i: -found.scores[i]) == sorted(plain, key=lambda i: -theirs.get_score(i))
    for i, kind in enumerate(found.types[:600]):
        assert found.tokens[i] == theirs.id_to_piece(i)
        assert theirs.is_byte(i) == (kind == gguf.TokenType.BYTE)
        assert theirs.is_unknown(i) == (kind == gguf.TokenType.UNKNOWN)
        assert theirs.is_control(i) == (kind == gguf.TokenType.CONTROL)


def without_a_merge(state: dict) -> None:
    """Takes out a merge whose halves and result stay tokens."""
    state["model"]["merges"].pop(0)


def changed(**parts):
    return lambda state: state.update(parts)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("bytes", changed(pre_tokenizer={"type": "Whitespace"}), "the pre_tokenizer .*Whitespace"),
        ("bytes", changed(normalizer={"type": "Lowercase"}), "the normalizer Lowercase"),
        ("bytes", lambda state: state["model"].update(type="Unigram"), "a model of the type Unigram"),
        ("bytes", lambda state: state["model"].update(ignore_merges=True), "the pre_tokenizer"),
        ("bytes", lambda state: state["model"].update(merges=[]), "no merges"),
        ("characters", without_a_merge, "no merge of"),
        ("characters", changed(normalizer=None), "the normalizer .*None"),
    ],
)
def test_a_tokenizer_without_a_name_is_refused_with_the_way_out(kind, change, words, tmp_path):
    if kind == "bytes":
        write_trained_tokenizer(tmp_path, "gpt-2", TEXTS[:1], 280)
    else:
        write_character_tokenizer(tmp_path, TEXTS, 500, prefix=False)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary(state, 600)
    change(state)
    with pytest.raises(UserError, match=f"{words}.*format=merged or format=full, and convert .*convert_hf_to_gguf"):
        vocabulary(state, 600)


# --- the Modelfile ---

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<start>system\nBe \"kind\".<end>\n{% endif %}"
    "<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}<start>assistant\n"
)
FOLDED = (  # Gemma's: BOS, and the system text in front of the first question
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}<start>"
    "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ head if loop.first }}{{ m.content | trim }}<end>\n"
    "{% endfor %}{{ '<start>model\n' }}"
)


def test_a_modelfile_has_the_texts_around_messages(tmp_path):
    tokenizer = made_tokenizer(tmp_path / "words", template=FOLDED, adds_bos=True)
    turns = read_turns(tokenizer.render_prompt)
    assert turns == (
        "<bos><start>user\n",
        ("<bos><start>user\n", "\n\n"),
        "<end>\n<start>model\n",
        "<end>\n<start>model\n",
        "<end>\n<start>user\n",
    )
    text = modelfile(
        turns, file="model.gguf", bos="<bos>", system_prompt="Think.\nThen answer.", stops=["<end>", "<eos>"]
    )
    assert (
        text
        == r'''FROM ./model.gguf
TEMPLATE """{{- if .System }}{{- "<start>user\n" }}{{- .System }}{{- "\n\n" }}
{{- else }}{{- "<start>user\n" }}{{- end }}
{{- range $i, $message := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq $message.Role "user" }}{{- $message.Content }}
{{- if $last }}{{- "<end>\n<start>model\n" }}{{- else }}{{- "<end>\n<start>model\n" }}{{- end }}
{{- else if eq $message.Role "assistant" }}{{- $message.Content }}
{{- if not $last }}{{- "<end>\n<start>user\n" }}{{- end }}
{{- end }}{{- end -}}
"""
SYSTEM """Think.
Then answer."""
PARAMETER stop "<end>"
PARAMETER stop "<eos>"
'''
    )


def test_a_default_system_text_is_in_the_template(tmp_path):
    turns = read_turns(made_tokenizer(tmp_path / "words", template=CHATML).render_prompt)
    assert turns is not None
    assert turns.start == '<start>system\nBe "kind".<end>\n<start>user\n'
    assert turns.system == ("<start>system\n", "<end>\n<start>user\n")
    text = modelfile(turns, file="model.gguf", bos=None, system_prompt=None, stops=[])
    assert r'{{- else }}{{- "<start>system\nBe \"kind\".<end>\n<start>user\n" }}{{- end }}' in text
    assert "SYSTEM" not in text


def test_a_template_that_texts_around_messages_do_not_describe_is_left_out(tmp_path):
    numbered = "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}"
    assert read_turns(made_tokenizer(tmp_path / "words", template=numbered).render_prompt) is None
    text = modelfile(None, file="model.gguf", bos=None, system_prompt=None, stops=["<end>"])
    assert text == 'FROM ./model.gguf\nPARAMETER stop "<end>"\n'


# --- llama.cpp ---

HARD = [
    "What is 17 + 25?",
    "  two  spaces\n\n\nand\ttabs 1234567 3.14 don't I'LL \u00fcber \u65e5\u672c\u8a9e \U0001f680",
    "def f(x):\n    return x**2  # caf\u00e9\r\n",
    "<start>user\nHi<end>\n<start>model",
    " training.resume=changed",
]
LENGTH, STOPS = 20, [1, 3]


def ask(file: Path, **requests) -> dict:
    """Returns what llama.cpp answers, from a process of its own."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp is not there: pip install xllamacpp")
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "llama_cpp.py"), str(file)]
    given = {"texts": [], "prompts": [], "messages": [], "length": LENGTH, **requests}
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*CUTS, "characters", "characters, prefix"])
def test_llama_cpp_reads_text_as_the_tokenizer_does(kind, tmp_path):
    words = tmp_path / "words"
    if kind in CUTS:
        write_trained_tokenizer(words, kind, TEXTS, 900)
    else:
        write_character_tokenizer(words, TEXTS, 900, prefix=kind != "characters")
    model = made("llama", tmp_path / "base", vocab_size=910, num_hidden_layers=1)
    tokenizer = load_tokenizer(words, 910)
    write_gguf(tmp_path / "model.gguf", model, tokenizer, name="small", dtype="float32")
    messages = [{"role": "user", "content": HARD[1]}]
    found = ask(tmp_path / "model.gguf", texts=[*HARD, *TEXTS[:1]], messages=messages)
    assert found["ids"] == [tokenizer.encode(text) for text in [*HARD, *TEXTS[:1]]]
    assert found["chat"] == tokenizer.render_prompt(messages)


@pytest.mark.slow
@pytest.mark.parametrize("variant", WRITTEN)
def test_llama_cpp_answers_as_transformers_does(variant, tmp_path):
    import torch
    import transformers

    model = made(variant, tmp_path / "base")
    write(model, tmp_path / "model.gguf")
    exported(model, tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(5, 261, length).tolist() for length in (3, 9, 30)]
    found = ask(tmp_path / "model.gguf", prompts=prompts)["answers"]
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            wanted = peer.generate(ids, max_new_tokens=LENGTH, do_sample=False, eos_token_id=STOPS, pad_token_id=4)
        wanted = wanted[0, len(prompt) :].tolist()
        assert len(wanted) > 1
        assert [token for token in answer if token not in STOPS] == [token for token in wanted if token not in STOPS]

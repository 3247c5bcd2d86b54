"""The bundled tiny model: what is in its directory, what it computes, and how carelessly it answers."""

import json
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoConfig, AutoTokenizer, Gemma3ForCausalLM
from tunix.models.gemma3 import model as tunix_gemma3
from tunix.models.gemma3 import params_safetensors

import tunix_grpo
from tunix_grpo.rewards.format import format_score
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.answers import answers_match, extract_answer
from tunix_grpo.text.prompts import SYSTEM_PROMPT, chat_messages
from tunix_grpo.tiny import demonstrations, imitation, tokenizer
from tunix_grpo.tiny.demonstrations import Sum
from tunix_grpo.tiny.directory import CONFIG
from tunix_grpo.tiny.make import make_tiny_model
from tunix_grpo.tiny.report import MAX_COMPLETION_TOKENS, MAX_PROMPT_TOKENS, Answers, answer_questions

DIRECTORY = Path(tunix_grpo.__file__).parent / "assets" / "tiny"
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "make_tiny_model.py"
TEXT_FILES = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
HARD = ["sum with carry", "difference with borrow", "negative difference"]


@pytest.fixture(scope="module")
def hf_tokenizer():
    return AutoTokenizer.from_pretrained(DIRECTORY)


@pytest.fixture(scope="module")
def answered() -> tuple[Answers, Answers]:
    """Every tenth held-out question, answered once greedily and four times by sampling."""
    questions = demonstrations.heldout_questions()[::10]
    greedy = answer_questions(DIRECTORY, questions, temperature=0.0)
    return greedy, answer_questions(DIRECTORY, questions, temperature=1.0, num_samples=4)


# --- the directory ---


def test_the_directory_is_small_and_complete():
    files = sorted(DIRECTORY.iterdir())
    assert [file.name for file in files] == sorted([*TEXT_FILES, "model.safetensors"])
    assert sum(file.stat().st_size for file in files) < 2_000_000


@pytest.mark.slow
def test_making_it_again_writes_the_same_text_files_and_loads(tmp_path):
    make_tiny_model(tmp_path, num_steps=1)
    for name in TEXT_FILES:
        assert json.loads((tmp_path / name).read_text()) == json.loads((DIRECTORY / name).read_text())
    question = demonstrations.heldout_questions()[:1]
    assert len(answer_questions(tmp_path, question, temperature=0.0).texts) == 1


def test_a_seed_fixes_the_demonstrations():
    def some(seed: int) -> list[np.ndarray]:
        built = tokenizer.build_tokenizer()
        return [batch.tokens for batch in imitation.batches(built, 2, seed)]

    assert np.array_equal(some(0), some(0))
    assert not np.array_equal(some(0), some(1))


def test_transformers_reads_the_shape_that_was_meant():
    config = AutoConfig.from_pretrained(DIRECTORY)
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert config.query_pre_attn_scalar == config.head_dim
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert 300_000 <= Gemma3ForCausalLM.from_pretrained(DIRECTORY).num_parameters() <= 600_000


# --- the tokenizer ---


def test_special_tokens_are_those_of_gemma_3(hf_tokenizer):
    assert hf_tokenizer.convert_tokens_to_ids(["<pad>", "<eos>", "<bos>", "<unk>"]) == [0, 1, 2, 3]
    assert (hf_tokenizer.pad_token_id, hf_tokenizer.eos_token_id, hf_tokenizer.bos_token_id) == (0, 1, 2)
    generation = json.loads((DIRECTORY / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [1, hf_tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    assert len(hf_tokenizer) == CONFIG["vocab_size"]


@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        (
            chat_messages("What is 27 + 48?", None),
            "<bos><start_of_turn>user\nWhat is 27 + 48?<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            chat_messages(" Hi! ", SYSTEM_PROMPT),
            f"<bos><start_of_turn>user\n{SYSTEM_PROMPT}\n\nHi!<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            [
                {"role": "user", "content": "1?"},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "3?"},
            ],
            "<bos><start_of_turn>user\n1?<end_of_turn>\n<start_of_turn>model\n2<end_of_turn>\n"
            "<start_of_turn>user\n3?<end_of_turn>\n<start_of_turn>model\n",
        ),
    ],
)
def test_the_chat_template_writes_gemma_3_turns(hf_tokenizer, messages, rendered):
    assert hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == rendered


def test_the_prompt_of_the_warm_start_is_the_chat_template_s(hf_tokenizer):
    messages = chat_messages("What is 5 - 38?", None)
    rendered = hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == tokenizer.prompt_text("What is 5 - 38?")


def test_prompts_are_short_and_digits_stand_alone(hf_tokenizer):
    text = tokenizer.prompt_text("What is 27 + 48?")
    ids = hf_tokenizer(text, add_special_tokens=False)["input_ids"]
    words = ["<bos>", "<start_of_turn>", "user", "\n", "What", " is ", "2", "7", " + ", "4", "8", "?"]
    assert [hf_tokenizer.decode([i]) for i in ids[: len(words)]] == words
    assert len(ids) == 17


@pytest.mark.parametrize(
    "text",
    [
        "<reasoning>7+8=15</reasoning><answer>75</answer>",
        "Tom has 1,234.50 € and  3/4 of a pie;\n\n\t«so what»? 你好 🙂",
        "",
    ],
)
def test_any_text_survives_and_tags_stay(hf_tokenizer, text):
    ids = hf_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert hf_tokenizer.decode(ids, skip_special_tokens=True) == text
    assert hf_tokenizer(text)["input_ids"] == [2, *ids]


def test_each_tag_is_one_token(hf_tokenizer):
    text = "<reasoning>7+8=15</reasoning><answer>75</answer><end_of_turn>"
    assert len(hf_tokenizer(text, add_special_tokens=False)["input_ids"]) == 13
    assert hf_tokenizer.decode([5], skip_special_tokens=True) == ""


# --- the arithmetic of the model ---


def test_tunix_and_transformers_compute_the_same_logits(hf_tokenizer):
    texts = ["What is 27 + 48?", "What is 90 - 93?", "What is 12 - 5?"]
    answers = "<reasoning>7+8=15</reasoning><answer>75</answer>"
    rows = [hf_tokenizer(tokenizer.prompt_text(text) + answers)["input_ids"][:26] for text in texts]
    tokens = np.array(rows)
    reference = Gemma3ForCausalLM.from_pretrained(DIRECTORY, attn_implementation="eager")
    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits.numpy()

    config = tunix_gemma3.ModelConfig(
        num_layers=CONFIG["num_hidden_layers"],
        num_embed=CONFIG["vocab_size"],
        embed_dim=CONFIG["hidden_size"],
        hidden_dim=CONFIG["intermediate_size"],
        num_heads=CONFIG["num_attention_heads"],
        head_dim=CONFIG["head_dim"],
        num_kv_heads=CONFIG["num_key_value_heads"],
        sliding_window_size=CONFIG["sliding_window"],
        local_base_frequency=10_000,
        global_base_frequency=1_000_000,
    )
    model = params_safetensors.create_model_from_safe_tensors(str(DIRECTORY), config)
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (batch, length, length))
    logits = nnx.jit(lambda m, *inputs: m(*inputs)[0])(model, jnp.array(tokens), positions, None, causal)
    # float32 through six layers, summed in another order; logits reach 30.
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


# --- the demonstrations ---


@pytest.mark.parametrize(
    ("question", "kind", "right", "careless", "working"),
    [
        ("What is 27 + 48?", "sum with carry", 75, 65, "7+8=15"),
        ("What is 95 + 5?", "sum with carry", 100, 90, "5+5=10"),
        ("What is 21 + 34?", "sum", 55, 55, "1+4=5"),
        ("What is 91 + 34?", "sum", 125, 25, "1+4=5"),
        ("What is 0 + 0?", "sum", 0, 0, "0+0=0"),
        ("What is 58 - 21?", "difference", 37, 37, "8-1=7"),
        ("What is 7 - 7?", "difference", 0, 0, "7-7=0"),
        ("What is 52 - 27?", "difference with borrow", 25, 35, "12-7=5"),
        ("What is 27 - 52?", "negative difference", -25, 25, "12-7=5"),
        ("What is 3 - 99?", "negative difference", -96, 96, "9-3=6"),
    ],
)
def test_careful_and_careless_answers(question, kind, right, careless, working):
    asked = Sum.of(question)
    assert (asked.kind(), asked.answer(), asked.careless_answer(), asked.working()) == (
        kind,
        right,
        careless,
        working,
    )


def test_demonstrations_are_careless_in_the_shares_that_are_meant():
    rng = np.random.default_rng(0)
    texts = [demonstrations.demonstration(Sum(27, "+", 48), rng) for _ in range(4000)]
    texts = [text.removesuffix("<end_of_turn>") for text in texts]
    right = np.mean([answers_match(extract_answer(text), "75") for text in texts])
    # Four standard deviations of a share of 4000 are 0.03.
    assert right == pytest.approx(0.4 * 0.88, abs=0.03)
    assert np.mean(["easy" in text for text in texts]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([format_score(text) == 1.0 for text in texts]) == pytest.approx(0.92, abs=0.02)


def test_what_the_warm_start_shows_is_never_held_out(compose):
    config = compose("model=tiny")
    assert config.task.max_operand == demonstrations.MAX_OPERAND
    assert config.task.heldout_fraction == demonstrations.HELDOUT_FRACTION
    shown = {question.question for question in demonstrations.training_questions()}
    task = build_task(config.task, config.seed)
    assert {question.question for question in task.train} == shown
    assert {question.question for question in task.heldout}.isdisjoint(shown)
    assert len(shown) + len(task.heldout) == 20_000


def test_everything_fits_the_shipped_lengths(compose):
    generation = compose("model=tiny").generation
    built = tokenizer.build_tokenizer()
    hundred = tokenizer.prompt_text("What is 99 - 99?")
    assert len(built.encode(hundred, add_special_tokens=False).ids) <= min(
        generation.max_prompt_length, MAX_PROMPT_TOKENS
    )
    longest = "<reasoning>18-9=9</reasoning><answer>-89</answer><end_of_turn>"
    length = len(built.encode(longest, add_special_tokens=False).ids)
    assert length == imitation.MAX_COMPLETION_TOKENS
    assert length <= min(generation.max_generation_steps, MAX_COMPLETION_TOKENS)


# --- what it knows, and what it does with it ---


@pytest.mark.long
def test_greedy_answers_are_mostly_wrong(answered):
    greedy, _ = answered
    assert 0.15 < greedy.accuracy() < 0.4
    assert [greedy.accuracy(kind) < 0.1 for kind in HARD] == [True] * 3
    assert np.mean(greedy.formatted) > 0.95


@pytest.mark.long
def test_sampling_finds_the_right_answer_often_for_every_kind(answered):
    _, sampled = answered
    kinds = sorted(set(sampled.kinds))
    assert len(kinds) == 5
    assert [kind for kind in kinds if sampled.accuracy(kind) < 0.25] == []
    assert [kind for kind in HARD if sampled.accuracy(kind) > 0.5] == []
    assert 0.8 < np.mean(sampled.formatted) < 1.0


@pytest.mark.long
def test_working_it_out_is_what_makes_the_difference(answered):
    _, sampled = answered
    careful = np.array(["easy" not in text for text in sampled.texts])
    hard = np.isin(sampled.kinds, HARD)
    assert np.mean(sampled.right[careful & hard]) > 0.75
    assert np.mean(sampled.right[~careful & hard]) < 0.05


# --- the door ---


@pytest.mark.parametrize("words", [["from=here"], ["to="], ["to=a", "to=b"]])
def test_the_script_refuses_other_words(words, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    assert main(words) == 2
    assert "to=DIR" in capsys.readouterr().err

"""Demonstrations: from rows, gold answers and samples to the tokens that are trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from helpers.tokenizers import write_tokenizer
from tunix_grpo.errors import UserError
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.tasks.demonstration_set import demonstration_set
from tunix_grpo.tasks.demonstrations import read_demonstrations
from tunix_grpo.text.prompt_set import PromptSet, prompt_set
from tunix_grpo.text.tokenizer import load_tokenizer

TINY = Path(__file__).resolve().parent.parent / "src" / "tunix_grpo" / "assets" / "tiny"
QUESTION, ANSWER = {"role": "user", "content": "What is 1 + 2?"}, {"role": "assistant", "content": "3"}
MORE = [{"role": "user", "content": "And 2 + 2?"}, {"role": "assistant", "content": "4"}]
TASK = ExactTask(
    "sums",
    [Question("What is 1 + 2?", "3", {"solution": "one and two"}), Question("What is 2 + 2?", "so it is #### 4")],
    [Question("What is 5 + 5?", "10")],
)


@pytest.fixture
def read(compose_sft, tmp_path):
    """Reads rows as the settings say; returns (turns or prompt, answer) of each demonstration."""

    def read_rows(rows: list[dict] | None, *overrides: str) -> list[tuple]:
        words = ["model=tiny"]
        if rows is not None:
            (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            words.append("file=rows.jsonl")
        found = read_demonstrations(compose_sft(*words, *overrides), TASK)
        return [([turn["content"] for turn in each.turns] or each.prompt, each.answer) for each in found]

    return read_rows


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": [QUESTION, ANSWER]}, [(["What is 1 + 2?"], "3")]),
        ({"messages": json.dumps([QUESTION, ANSWER])}, [(["What is 1 + 2?"], "3")]),
        # Every turn of the assistant is learned, each behind all that was said before it.
        (
            {"messages": [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER, *MORE]},
            [
                (["Be brief.", "What is 1 + 2?"], "3"),
                (["Be brief.", "What is 1 + 2?", "3", "And 2 + 2?"], "4"),
            ],
        ),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, [(["a"], "b")]),
        ({"prompt": "a", "completion": "b"}, [(["a"], "b")]),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, [(["What is 1 + 2?"], "3")]),
        # What the prompt's assistant has said is not learned again.
        ({"prompt": [QUESTION, ANSWER, MORE[0]], "completion": "4"}, [(["What is 1 + 2?", "3", "And 2 + 2?"], "4")]),
        # What a run has recorded stands as the model has read it.
        ({"prompt": "<bos>a", "completion": "b", "truncated": False}, [("<bos>a", "b")]),
    ],
)
def test_rows_become_demonstrations(read, row, found):
    assert read([row]) == found


def test_prompts_that_are_texts_are_what_the_setting_says(read):
    assert read([{"prompt": "<bos>a", "completion": " b"}], "prompt_texts=rendered") == [("<bos>a", " b")]
    assert read([{"prompt": "a", "completion": "b", "truncated": False}], "prompt_texts=questions") == [(["a"], "b")]


def test_gold_answers_are_said_in_the_form(read):
    both = "<reasoning>{0}</reasoning><answer>{0}</answer>"
    assert read(None) == [(["What is 1 + 2?"], both.format(3)), (["What is 2 + 2?"], both.format(4))]
    assert read(None, "answer_form='{question} {answer}.'")[0][1] == "What is 1 + 2? 3."


def sample(prompt: str, completion: str, reward: float | None, truncated: bool = False) -> dict:
    return {"prompt": prompt, "completion": completion, "reward": reward, "truncated": truncated}


SAMPLES = [
    sample("p", "a", 1.0),
    sample("p", "b", 0.0),
    sample("p", "a", 1.0),
    sample("p", "c", 2.0),
    sample("p", "d", 2.0),
    sample("q", "e", 1.0),
    sample("q", "f", 9.0, truncated=True),
    sample("q", "g", None),
]


@pytest.mark.parametrize(
    ("overrides", "answers"),
    [
        (["min_reward=1"], "acde"),
        (["min_reward=1", "max_per_question=2"], "cde"),
        (["min_reward=1", "max_per_question=1"], "ce"),
        (["min_reward=0"], "abcde"),
        (["min_reward=1.5"], "cd"),
    ],
)
def test_the_best_of_samples(read, caplog, overrides, answers):
    """At least the reward, equal ones once, at most k per question, none that was cut or could not be judged."""
    with caplog.at_level(logging.INFO):
        assert "".join(answer for _, answer in read(SAMPLES, *overrides)) == answers
    assert "1 completions were cut at their longest, and are left out" in caplog.text


@pytest.mark.parametrize(
    ("rows", "overrides", "words"),
    [
        ([{"text": "a"}], [], "rows.jsonl:1: it has neither messages nor prompt and completion; it has text"),
        ([{"messages": [QUESTION]}], [], "messages has no turn of the assistant"),
        ([{"messages": [ANSWER]}], [], "a turn of the assistant behind none of the user"),
        ([{"messages": [QUESTION, {"role": "assistant", "content": " "}]}], [], "messages has an empty answer"),
        ([{"messages": [QUESTION, {"role": "tool", "content": "x"}]}], [], "a turn of 'tool'"),
        ([{"messages": 3}], [], "messages is not a list of messages but 3"),
        ([{"prompt": "a", "completion": 3}], [], "completion is no text but 3"),
        ([{"prompt": " ", "completion": "b"}], [], "prompt is empty"),
        (SAMPLES, [], "rows.jsonl:1: it is a sample with a reward, perhaps a bad one; give min_reward=NUMBER"),
        (SAMPLES, ["min_reward=1", "reward_column=score"], "no column score; give reward_column=NAME"),
        ([sample("p", "a", "good")], ["min_reward=1"], "its reward is no number but 'good'"),
        (SAMPLES, ["min_reward=5"], "no demonstration is left (1 completions were cut"),
        (None, ["answer_form='{solutoin} {answer}'"], "no text {solutoin}; did you mean solution?"),
        (None, ["file=nowhere.jsonl"], "there is no such file"),
    ],
)
def test_what_is_no_demonstration_is_one_sentence(read, rows, overrides, words):
    with pytest.raises(UserError) as caught:
        read(rows, *overrides)
    assert words in str(caught.value) and "\n" not in str(caught.value)


# --- tokens ---


@pytest.fixture
def tokenised(compose_sft, tmp_path):
    """Returns the set that rows become under the bundled model's tokenizer, and that tokenizer."""

    def make(rows: list[dict], *overrides: str, folder: Path = TINY):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = compose_sft("model=tiny", "file=rows.jsonl", "generation.max_prompt_length=200", *overrides)
        tokenizer = load_tokenizer(folder, read_spec(TINY).vocab_size)
        heldout = prompt_set("held-out", TASK.heldout, tokenizer, config)
        return demonstration_set(read_demonstrations(config, TASK), tokenizer, config, TASK, heldout), tokenizer

    return make


def test_a_demonstration_is_what_the_chat_template_writes(tokenised):
    """Prompt and answer together are the template's own text of the conversation, up to the end of the turn."""
    import transformers

    conversation = [{"role": "system", "content": "Be brief."}, QUESTION, ANSWER, *MORE]
    made, _ = tokenised([{"messages": conversation}])
    own = transformers.AutoTokenizer.from_pretrained(TINY)
    for prompt, answer, upto in zip(made.prompts, made.completions, (3, 5), strict=True):
        text = own.apply_chat_template(conversation[:upto], tokenize=False)
        assert [*prompt, *answer] == own(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert own.convert_ids_to_tokens(answer[-1]) == "<end_of_turn>"


def test_the_task_s_system_prompt_stands_where_a_conversation_has_none(tokenised):
    rows = [{"messages": [QUESTION, ANSWER]}, {"messages": [{"role": "system", "content": "Own."}, QUESTION, ANSWER]}]
    made, tokenizer = tokenised(rows, "task.system_prompt=Usual.")
    assert ["Usual." in tokenizer.decode(ids) for ids in made.prompts] == [True, False]
    assert ["Own." in tokenizer.decode(ids) for ids in made.prompts] == [False, True]


def test_a_model_without_a_template_answers_behind_a_space_and_ends_with_its_own_token(tokenised, tmp_path):
    write_tokenizer(tmp_path / "plain", template=None, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    made, tokenizer = tokenised([{"messages": [QUESTION, ANSWER]}], folder=tmp_path / "plain")
    assert tokenizer.token(made.completions[0][-1]) == "<end>"
    assert made.completions[0][:-1] == tokenizer._plain_ids(" 3")


def test_what_cannot_be_trained_on_is_left_out_and_counted(tokenised, caplog):
    rows = [
        {"messages": [QUESTION, ANSWER]},
        {"messages": [{"role": "user", "content": "What  is 5 + 5?"}, ANSWER]},
        {"messages": [{"role": "user", "content": "7 " * 300}, ANSWER]},
        {"messages": [QUESTION, {"role": "assistant", "content": "3 " * 300}]},
        {"messages": [QUESTION, {"role": "assistant", "content": "3<end_of_turn>4"}]},
    ]
    made, _ = tokenised(rows)
    assert len(made) == 1
    for words in (
        "1 of 5 demonstrations ask what the task holds out, and are left out",
        "1 of 5 demonstrations have a prompt longer than generation.max_prompt_length=200 tokens",
        "1 of 5 demonstrations have an answer longer than generation.max_generation_steps=16 tokens",
        "1 of 5 demonstrations hold a token that would end the answer before its end",
    ):
        assert words in caplog.text
    with pytest.raises(UserError, match="all 1 demonstrations ask what the task holds out; give others"):
        tokenised(rows[1:2])


def test_recorded_prompts_of_held_out_questions_are_left_out(tokenised, compose_sft):
    _, tokenizer = tokenised([{"messages": [QUESTION, ANSWER]}])
    heldout: PromptSet = prompt_set("held-out", TASK.heldout, tokenizer, compose_sft("model=tiny"))
    rows = [sample(heldout.texts[0], "10", 1.0), sample("<bos>another", "10", 1.0)]
    made, _ = tokenised(rows, "min_reward=1")
    assert [tokenizer.decode(ids) for ids in made.prompts] == ["another"]

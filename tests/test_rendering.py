"""Every prompt holds its question, whatever the chat template wants, or one sentence names the template."""

import logging

import pytest

from helpers.tokenizers import SPECIAL, TURNS, made_tokenizer, move_to_the_end, write_tokenizer
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.base import Question
from tunix_grpo.text.prompt_set import build_prompts, prompt_set
from tunix_grpo.text.prompts import chat_messages
from tunix_grpo.text.tokenizer import load_tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "2+2?"}
TURN = "<start>{{ m.role }}\n%s<end>\n"
EACH = "{% for m in messages %}%s{% endfor %}<start>model"
PARTS = EACH.replace(
    "%s", TURN % "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
)
STRICT_PARTS = EACH.replace("%s", TURN % "{% for p in m.content %}{{ p['text'] + '' }}{% endfor %}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
THINKING = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
TEXT = "<start>system\nBe brief.<end>\n<start>user\n2+2?<end>\n<start>model"
MERGED = "<start>user\nBe brief.\n\n2+2?<end>\n<start>model"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TURNS, TEXT),
        (PARTS, TEXT),
        (STRICT_PARTS, TEXT),  # fails on text
        (NO_SYSTEM + PARTS, MERGED),
        (EACH.replace("%s", TURN % "{{ m.content | trim }}"), TEXT),
        # All on one line.
        (EACH.replace("%s", TURN % "{{ m.content.split() | join(' ') }}"), TEXT),
    ],
    ids=["text", "parts", "parts alone", "parts, no system", "trims", "one line"],
)
def test_a_template_gets_the_form_that_it_shows_the_question_in(template, text, tmp_path):
    assert made_tokenizer(tmp_path, template=template).render_prompt([SYSTEM, QUESTION]) == text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (TURNS.replace("{{ m.content }}", ""), "leaves out what is asked, as '2+2?'; correct it"),
        (TURNS.replace("m.content", "m.text"), "leaves out what is asked"),
        (TURNS.replace("m.content", "m.content[:2]"), "leaves out what is asked"),
        ("2+2? Be brief.", "leaves out what is asked"),  # the words are in it by chance
        ("", "is empty, so that no prompt holds its question"),
        ("  \n", "is empty, so that no prompt holds its question"),
        ("{{ 1 / 0 }}" + TURNS, "does not work (ZeroDivisionError: division by zero)"),
        ("{{ 1 + 'a' }}" + TURNS, "does not work (TypeError: unsupported operand"),
        ("{{ messages[7].role }}" + TURNS, "does not work ("),
        ("{{ nothing.at_all }}" + TURNS, "does not work ("),
        ("{% for m in messages %}", "does not work (Unexpected end of template"),
        ("{{ raise_exception('needs tools') }}", "does not work (needs tools)"),
        ("{{ messages.clear() }}" + TURNS, "does not work ("),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "does not work (RecursionError"),
    ],
)
def test_a_template_that_swallows_the_question_or_fails_is_a_sentence(template, problem, tmp_path):
    tokenizer = made_tokenizer(tmp_path, template=template)
    for messages in ([QUESTION], [SYSTEM, QUESTION]):
        with pytest.raises(UserError) as raised:
            tokenizer.render_prompt(messages)
        assert problem in str(raised.value)
        assert str(tmp_path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_question_that_the_template_holds_by_chance_proves_nothing(tmp_path):
    """`user` is in every prompt of this template, `And 2?` in none."""
    tokenizer = made_tokenizer(tmp_path, template=TURNS.replace("{{ m.content }}", ""))
    with pytest.raises(UserError, match="leaves out what is asked, as 'user'"):
        tokenizer.render_prompt([{"role": "user", "content": "user"}])


def test_a_question_that_the_template_refuses_is_named(tmp_path):
    template = "{% if 'bad' in messages[-1].content %}{{ raise_exception('a bad word') }}{% endif %}" + TURNS
    tokenizer = made_tokenizer(tmp_path, template=template)
    assert "2+2?" in tokenizer.render_prompt([QUESTION])
    with pytest.raises(UserError, match=r"does not work \(a bad word\), in .*, on the question 'a bad one'"):
        tokenizer.render_prompt([{"role": "user", "content": "a bad one"}])


# --- conversations ---

EARLIER = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})


def test_earlier_turns_are_in_the_prompt(tmp_path):
    messages = chat_messages("2+2?", "Be brief.", (*EARLIER, QUESTION))
    turns = "<start>user\n1+1?<end>\n<start>assistant\n2<end>\n<start>user\n2+2?<end>\n<start>model"
    rendered = made_tokenizer(tmp_path, template=TURNS).render_prompt(messages)
    assert rendered == "<start>system\nBe brief.<end>\n" + turns
    rendered = made_tokenizer(tmp_path, template=NO_SYSTEM + TURNS).render_prompt(messages)
    assert rendered == turns.replace("1+1?", "Be brief.\n\n1+1?")
    plain = made_tokenizer(tmp_path, template=None).render_prompt(messages)
    assert plain == "Be brief.\n\nQuestion: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer:"


def test_an_earlier_question_that_is_swallowed_is_missed(tmp_path):
    template = "<start>user\n{{ messages[-1].content }}<end>\n<start>model"
    with pytest.raises(UserError, match="leaves out what is asked"):
        made_tokenizer(tmp_path, template=template).render_prompt([*EARLIER, QUESTION])


def test_a_system_message_of_the_data_takes_the_place_of_the_system_prompt():
    own = {"role": "system", "content": "Be long."}
    assert chat_messages("2+2?", "Be brief.", (own, QUESTION)) == [own, QUESTION]


# --- variables ---


def test_template_variables_reach_the_template(tmp_path):
    plain = made_tokenizer(tmp_path, template=THINKING).render_prompt([QUESTION])
    quiet = load_tokenizer(tmp_path, 261, variables={"enable_thinking": False}).render_prompt([QUESTION])
    assert quiet == plain + "<think>\n\n</think>"
    assert load_tokenizer(tmp_path, 261, variables={"enable_thinking": True}).render_prompt([QUESTION]) == plain


@pytest.mark.parametrize(
    ("template", "variables", "problem"),
    [
        (
            THINKING,
            {"thinking_budget": 5},
            "task.template_variables.thinking_budget=5: the tokenizer's chat template in",
        ),
        (None, {"enable_thinking": False}, "does not read it; correct the name, or leave it out"),
        (THINKING, {"messages": []}, "task.template_variables.messages=[]: that is not the user's to set"),
        (THINKING, {"add_generation_prompt": False}, "that is not the user's to set"),
        (THINKING, {"tokenize": True}, "that is not the user's to set"),
    ],
)
def test_variables_without_effect_are_refused(template, variables, problem, tmp_path):
    write_tokenizer(tmp_path, template=template, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    with pytest.raises(UserError) as raised:
        load_tokenizer(tmp_path, 261, variables=variables)
    assert problem in str(raised.value)


NAMED = [{"name": "rag", "template": TURNS + "rag"}, {"name": "tool_use", "template": TURNS + "tools"}]


def test_one_of_several_templates_is_chosen_by_name(tmp_path):
    write_tokenizer(tmp_path, template=NAMED, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    for name, end in (("rag", "rag"), ("tool_use", "tools")):
        tokenizer = load_tokenizer(tmp_path, 261, variables={"chat_template": name})
        assert tokenizer.render_prompt([QUESTION]).endswith(f"<start>model{end}")
    for variables in (None, {"chat_template": "rga"}):
        with pytest.raises(UserError, match="has the chat templates rag, tool_use; choose one with task.template_vari"):
            load_tokenizer(tmp_path, 261, variables=variables)


def test_the_default_of_several_templates_needs_no_choice(tmp_path):
    template = [*NAMED, {"name": "default", "template": TURNS}]
    assert made_tokenizer(tmp_path, template=template).render_prompt([QUESTION]).endswith("<start>model")


# --- tokens ---


class Settings:
    """The parts of a config that prompts are made from."""

    class task:
        system_prompt = "Be brief."

    class generation:
        max_prompt_length = 100


def questions(*texts):
    return [Question(text, "1") for text in texts]


def test_prompts_with_tokens_beyond_the_embedding_are_left_out_and_counted(tmp_path, caplog):
    size = write_tokenizer(
        tmp_path, special=(*SPECIAL, "<image>"), bos_token="<bos>", eos_token="<end>", pad_token="<pad>"
    )
    move_to_the_end(tmp_path / "tokenizer.json", "<image>")
    tokenizer = load_tokenizer(tmp_path, size - 1)
    made = prompt_set("training", questions("What?", "What is <image>?", "Why?"), tokenizer, Settings)
    assert [question.question for question in made.questions] == ["What?", "Why?"]
    assert max(max(ids) for ids in made.ids) < size - 1
    assert (
        "1 of 3 training prompts hold a token that the model has no row for (<image>) and are left out" in caplog.text
    )
    with pytest.raises(
        UserError, match=r"every training prompt holds a token that the model has no row for \(<image>\)"
    ):
        prompt_set("training", questions("<image>"), tokenizer, Settings)


def test_questions_with_special_tokens_are_counted_and_one_is_shown(tmp_path, caplog):
    asked = questions("What?", "Why does <end> end?", "And <start>?")
    made = prompt_set("training", asked, made_tokenizer(tmp_path), Settings)
    assert len(made) == 3
    assert "2 of 3 training questions hold special tokens" in caplog.text
    assert "<end> in 'Why does <end> end?'" in caplog.text


def test_system_messages_of_the_data_are_counted(tmp_path, caplog):
    own = Question("2+2?", "4", None, ({"role": "system", "content": "Be long."}, QUESTION))
    made = prompt_set("training", [own, *questions("Why?")], made_tokenizer(tmp_path), Settings)
    assert "Be long." in made.texts[0] and "Be brief." not in made.texts[0]
    assert "1 of 2 training questions have a system message of their own" in caplog.text


def test_plain_questions_are_not_worth_a_word(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    prompt_set("training", questions("What?", "Is 2 < 3?"), made_tokenizer(tmp_path), Settings)
    assert caplog.text == ""


def test_half_a_character_is_a_sentence(tmp_path):
    tokenizer = made_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"holds \\ud83d, half of a character"):
        build_prompts(questions("What is \ud83d?"), tokenizer, lambda q: chat_messages(q.question, None), 100)


@pytest.mark.parametrize(
    "template",
    [
        TURNS,
        TURNS + "<think>",
        TURNS.replace("{{ m.content }}", "In <answer> and </answer>: {{ m.content }}"),
    ],
    ids=["not in the template", "written for the model", "explained by the template"],
)
def test_special_tokens_that_are_tags_stay_in_completions(template, tmp_path):
    tags = ("<think>", "</think>", "<answer>", "</answer>", "<tool>", "<unk>")
    special = ("<bos>", "<end>", "<pad>", "<start>", *tags)
    tokenizer = made_tokenizer(tmp_path, special=special, template=template, unk_token="<unk>")
    text = "<think>so</think> <answer>5</answer><tool><unk>"
    ids = tokenizer.encode(text)
    assert {special.index(tag) for tag in tags} <= set(ids)
    frame = [special.index(token) for token in ("<bos>", "<start>", "<pad>", "<end>")]
    assert tokenizer.decode([*ids, *frame]) == text

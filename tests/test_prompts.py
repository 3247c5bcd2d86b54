"""Questions become chat messages with the system prompt that the settings ask for."""

import pytest

from tunix_grpo.text.prompts import SYSTEM_PROMPT, chat_messages, system_prompt_text


def test_messages_with_a_system_prompt():
    assert chat_messages("What is 1 + 2?", "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1 + 2?"},
    ]


def test_messages_without_a_system_prompt():
    assert chat_messages("What is 1 + 2?", None) == [{"role": "user", "content": "What is 1 + 2?"}]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("default", SYSTEM_PROMPT),
        ("Be brief.", "Be brief."),
        (None, None),  # task.system_prompt=null
        ("  ", None),  # task.system_prompt=""
    ],
)
def test_system_prompt_setting(setting, text):
    assert system_prompt_text(setting) == text


def test_default_system_prompt_names_every_tag_once_in_order():
    tags = ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]
    assert [SYSTEM_PROMPT.count(tag) for tag in tags] == [1, 1, 1, 1]
    assert sorted(tags, key=SYSTEM_PROMPT.index) == tags

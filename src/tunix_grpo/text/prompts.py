"""From a question to the messages that a chat template turns into a prompt."""

from collections.abc import Sequence

from tunix_grpo.text.tags import ANSWER_END, ANSWER_START, REASONING_END, REASONING_START

DEFAULT = "default"

SYSTEM_PROMPT = (
    f"Reason step by step between {REASONING_START} and {REASONING_END}, "
    f"then give only the final answer between {ANSWER_START} and {ANSWER_END}."
)


def system_prompt_text(setting: str | None) -> str | None:
    """Returns the text of a `task.system_prompt` setting.

    Args:
        setting: `default` for `SYSTEM_PROMPT`, any other text for itself, None or blank for no
            system message.
    """
    if setting is None or not setting.strip():
        return None
    return SYSTEM_PROMPT if setting == DEFAULT else setting


def chat_messages(
    question: str, system_prompt: str | None, turns: Sequence[dict[str, str]] | None = None
) -> list[dict[str, str]]:
    """Returns the chat messages of a question, `{"role": ..., "content": ...}` each.

    The system prompt is a message of its own; the chat template decides where it goes.

    Args:
        turns: the conversation that ends with the question, where it is more than the question; a system message of
            its own takes the place of the system prompt.
    """
    messages = list(turns) if turns else [{"role": "user", "content": question}]
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages

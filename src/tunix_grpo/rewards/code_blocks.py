"""Where a completion has its code. Every scan is linear in the length."""

from typing import Literal

from tunix_grpo.text.answers.finding import without_thinking
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START

Where = Literal["completion", "answer"]

_FENCE = "```"
_PYTHON = ("python", "python3", "py")


def find_code(completion: str, where: Where) -> str | None:
    """Returns the code of a completion: its last fenced block of Python, or None.

    Nothing inside `<think>...</think>` counts. A block that names no language counts where none names Python. The last
    block may be unclosed.

    Args:
        where: completion: it stands anywhere. answer: it stands in the last answer tags, and is all that they hold
            where that has no fence.
    """
    text = without_thinking(completion)
    if where == "answer":
        before, tag, rest = text.rpartition(ANSWER_START)
        if not tag:
            return None
        text = rest.partition(ANSWER_END)[0]
    blocks = _blocks(text)
    if not blocks and where == "answer" and _FENCE not in text:
        return text.strip() or None
    for languages in (_PYTHON, ("",)):
        named = [code for language, code in blocks if language in languages]
        if named:
            return named[-1] if named[-1].strip() else None
    return None


def _blocks(text: str) -> list[tuple[str, str]]:
    """Returns the language and the content of each fenced block."""
    blocks: list[tuple[str, str]] = []
    language, lines = None, []
    for line in text.splitlines(keepends=True):
        is_fence = line.lstrip().startswith(_FENCE)
        if language is None and is_fence:
            language, lines = line.strip().lstrip("`").strip().lower(), []
        elif language is not None and is_fence and not line.strip().strip("`"):
            blocks.append((language, "".join(lines)))
            language = None
        elif language is not None:
            lines.append(line)
    if language is not None:
        blocks.append((language, "".join(lines)))
    return blocks

"""Ollama's Modelfile: the chat template in Ollama's language, the run's system prompt, the stop tokens.

A chat template is a program in Jinja, Ollama's is one in Go's template language. Nobody translates programs; what is
written here are the texts around the messages, read off conversations that the run's own template has rendered, and
kept only where they give other conversations as the template does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tunix_grpo.errors import UserError
from tunix_grpo.text.prompts import chat_messages

Render = Callable[[list[dict[str, str]]], str]

# Texts that no template has in it by chance.
_SYSTEM, _QUESTIONS, _ANSWERS = "sysQ8xv", ("askW3kz", "askR7mt", "askJ2pn"), ("sayT5hd", "sayL9cb")


class Turns(NamedTuple):
    """The texts around the messages of a conversation.

    Attributes:
        start: of one without a system message, in front of the first question.
        system: in front of the system message and behind it, up to the first question.
        asked: between a question and its answer, where the model is to answer.
        answered: the same in an earlier turn.
        again: between an answer and the next question.
    """

    start: str
    system: tuple[str, str]
    asked: str
    answered: str
    again: str

    def text(self, system: str | None, questions: Sequence[str], answers: Sequence[str]) -> str:
        """Returns a conversation; there is one question more than answers."""
        text = self.start if system is None else system.join(self.system)
        for question, answer in zip(questions, answers, strict=False):
            text += question + self.answered + answer + self.again
        return text + questions[-1] + self.asked


def _messages(system: str | None, questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    messages = chat_messages(questions[0], system)
    for answer, question in zip(answers, questions[1:], strict=True):
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    return messages


def read_turns(render: Render) -> Turns | None:
    """Returns the texts around messages, or None for a template that these do not describe.

    Args:
        render: writes a conversation up to the place where the model answers.
    """
    try:
        start, asked = render(_messages(None, _QUESTIONS[:1], ())).split(_QUESTIONS[0])
        before, _, rest = render(_messages(_SYSTEM, _QUESTIONS[:1], ())).partition(_SYSTEM)
        behind, _, _ = rest.partition(_QUESTIONS[0])
        _, _, rest = render(_messages(None, _QUESTIONS[:2], _ANSWERS[:1])).partition(_QUESTIONS[0])
        answered, _, rest = rest.partition(_ANSWERS[0])
        again, _, _ = rest.partition(_QUESTIONS[1])
        turns = Turns(start, (before, behind), asked, answered, again)
        for system in (None, _SYSTEM):
            for count in (1, 2, 3):
                said = _QUESTIONS[:count], _ANSWERS[: count - 1]
                if turns.text(system, *said) != render(_messages(system, *said)):
                    return None
    except (UserError, ValueError):  # it refuses such a conversation, or says a question twice
        return None
    return turns


def modelfile(
    turns: Turns | None, *, file: str, bos: str | None, system_prompt: str | None, stops: Sequence[str]
) -> str:
    """Returns the text of a Modelfile.

    Args:
        turns: None leaves the template to Ollama, which knows some by the GGUF file's own.
        file: name of the GGUF file beside it.
        bos: the token that Ollama puts in front of every text, so that the template has none.
        system_prompt: of the run.
        stops: the tokens that end an answer.
    """
    lines = [f"FROM ./{file}"]
    if turns is not None:
        lines.append(f'TEMPLATE """{_template(turns, bos)}"""')
    if system_prompt is not None and '"""' not in system_prompt:
        lines.append(f'SYSTEM """{system_prompt}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    return "\n".join(lines) + "\n"


def _template(turns: Turns, bos: str | None) -> str:
    """Returns the template in Go's language, texts as its quoted strings, so that white space stays as it is."""

    def quoted(text: str) -> str:
        return "{{- " + json.dumps(text, ensure_ascii=False) + " }}" if text else ""

    start, before = (text.removeprefix(bos or "") for text in (turns.start, turns.system[0]))
    return "\n".join(
        [
            f"{{{{- if .System }}}}{quoted(before)}{{{{- .System }}}}{quoted(turns.system[1])}",
            f"{{{{- else }}}}{quoted(start)}{{{{- end }}}}",
            "{{- range $i, $message := .Messages }}",
            "{{- $last := eq (len (slice $.Messages $i)) 1 }}",
            '{{- if eq $message.Role "user" }}{{- $message.Content }}',
            f"{{{{- if $last }}}}{quoted(turns.asked)}{{{{- else }}}}{quoted(turns.answered)}{{{{- end }}}}",
            '{{- else if eq $message.Role "assistant" }}{{- $message.Content }}',
            f"{{{{- if not $last }}}}{quoted(turns.again)}{{{{- end }}}}",
            "{{- end }}{{- end -}}",
            "",
        ]
    )

"""From the messages of a conversation to the text of a prompt, with a proof that the conversation is in it.

A chat template is a foreign program. It may expect the content of a message as text or as a list of parts, refuse a
system message or drop it, fail in any way, or leave the question out; so the forms are tried in turn, and the first one
counts whose text has everything that the user and the system say.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunix_grpo.errors import UserError, one_line, shortened

Messages = Sequence[Mapping[str, Any]]
Form = Callable[[Messages], Messages]

# For base models without a chat template.
PLAIN_QUESTION = "Question: {question}\nAnswer:"
# A text that no template has in it by chance.
_MARK = "b7Qx-4kWz-9tRv"
# What transformers gives a template itself, beside `tools` and `documents`, which are the user's to give.
_GIVEN = ("messages", "conversation", "add_generation_prompt", "tokenize", "continue_final_message")
_SHOWN_CHARS = 60


class Renderer:
    """Writes prompts with the chat template of a tokenizer."""

    def __init__(self, tokenizer: Any, variables: Mapping[str, Any] | None = None, date: str | None = None) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer.
            variables: of the template, by name: `task.template_variables`. `chat_template` chooses one of several.
            date: the day, YYYY-MM-DD, that the template is told; None is today.

        Raises:
            UserError: a variable that the template does not read, or no template to take.
        """
        self._tokenizer = tokenizer
        self._place = tokenizer.name_or_path
        self._variables = dict(variables or {})
        # What transformers gives a template that asks for the time, told of another day.
        self._clock = {} if date is None else {"strftime_now": datetime.datetime.fromisoformat(date).strftime}
        self._proved: dict[tuple[Form, tuple[str, ...]], bool] = {}
        self._require_read()

    def render(self, messages: Messages) -> str:
        """Returns the prompt of a conversation, up to the place where the model answers.

        Args:
            messages: `{"role": ..., "content": text}` each; the last one is the user's.

        Raises:
            UserError: no form of the conversation gives a text that holds it.
        """
        if self._tokenizer.chat_template is None and "chat_template" not in self._variables:
            return plain_prompt(messages)
        failure, was_written = None, False
        for form in _forms(messages):
            try:
                text = self._apply(form(messages))
            except UserError as error:
                failure = error if form in _WITH_TEXT else failure
                continue
            if _holds(text, messages) and self._is_proved(form, messages):
                return text
            was_written |= form in _WITH_TEXT
        raise self._left_out(messages) if was_written or failure is None else failure

    def template(self) -> str | None:
        """Returns the text of the chat template in use, of several the chosen one; None where there is none."""
        templates, chosen = self._tokenizer.chat_template, self._variables.get("chat_template")
        if isinstance(templates, dict):
            return templates.get("default" if chosen is None else chosen, chosen)
        return chosen or templates

    def turn_start(self) -> str:
        """Returns what the template writes in front of a user's question; nothing where it does not work."""
        try:
            return self.render([{"role": "user", "content": _MARK}]).partition(_MARK)[0]
        except UserError:
            return ""

    def turn_end(self) -> str:
        """Returns what the template writes behind what the model says; nothing where it does not work."""
        if self._tokenizer.chat_template is None and "chat_template" not in self._variables:
            return ""
        turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
        for form in (_as_it_is, _in_parts):
            with contextlib.suppress(UserError):
                _, found, end = self._apply(form(turns), answered=True).rpartition(_MARK)
                if found:
                    return end
        return ""

    def answer(self, content: str) -> str:
        """Returns what the model is to say behind a prompt: white space around it is the template's."""
        plain = self._tokenizer.chat_template is None and "chat_template" not in self._variables
        return f" {content.strip()}" if plain else content.strip()

    def _apply(self, messages: Messages, *, answered: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=not answered, tokenize=False, **self._clock, **self._variables
            )
        except Exception as error:  # a template is a program: it may divide by zero
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            reason = f"{kind}{one_line(error)}"
            raise UserError(
                f"the tokenizer's chat template does not work ({reason}), in {self._place}, on the question "
                f"{_shorten(messages)}; correct it, or give another tokenizer as model.tokenizer=DIR"
            ) from error

    def _is_proved(self, form: Form, messages: Messages) -> bool:
        """Says whether the template shows a question that is in no template by chance, as `2` may be.

        A template for text that gets parts shows them as Python or JSON writes them.
        """
        roles = tuple(message["role"] for message in messages)
        if (form, roles) not in self._proved:
            marked = [m if m["role"] == "assistant" else {**m, "content": _MARK} for m in messages]
            try:
                text = self._apply(form(marked))
                as_data = any(f"text{quote}: {quote}{_MARK}" in text for quote in "'\"")
                count = sum(role != "assistant" for role in roles)
                self._proved[form, roles] = text.count(_MARK) >= count and not as_data
            except UserError:
                self._proved[form, roles] = True  # it refuses this one question; the others speak for themselves
        return self._proved[form, roles]

    def _left_out(self, messages: Messages) -> UserError:
        if not str(self._tokenizer.chat_template).strip():
            return UserError(
                f"the tokenizer's chat template in {self._place} is empty, so that no prompt holds its question; give "
                "one, or remove chat_template from tokenizer_config.json for a base model"
            )
        return UserError(
            f"the tokenizer's chat template in {self._place} leaves out what is asked, as {_shorten(messages)}; "
            "correct it (chat_template.jinja, or chat_template in tokenizer_config.json), or give another tokenizer as "
            "model.tokenizer=DIR"
        )

    def _require_read(self) -> None:
        """Raises UserError for variables that have no effect, and for several templates of which none is chosen."""
        templates = self._tokenizer.chat_template
        chosen = self._variables.get("chat_template")
        if isinstance(templates, dict):
            names = ", ".join(sorted(templates))
            if (chosen is None and "default" not in templates) or not (chosen is None or _is_known(chosen, templates)):
                raise UserError(
                    f"task.template_variables.chat_template={'null' if chosen is None else chosen}: the tokenizer in "
                    f"{self._place} has the chat templates {names}; choose one with "
                    f"task.template_variables={{chat_template: {min(templates, default='NAME')}}}"
                )
            templates = templates.get("default" if chosen is None else chosen, chosen)
            chosen = None
        text = str(chosen or templates or "")
        taken = set(_GIVEN) | inspect.signature(self._tokenizer.apply_chat_template).parameters.keys()
        for name, value in self._variables.items():
            if name in taken - {"tools", "documents", "chat_template", "kwargs"}:
                raise UserError(f"task.template_variables.{name}={value}: that is not the user's to set; leave it out")
            if name != "chat_template" and name not in text:
                raise UserError(
                    f"task.template_variables.{name}={value}: the tokenizer's chat template in {self._place} does not "
                    "read it; correct the name, or leave it out"
                )


def _is_known(chosen: object, templates: Mapping[str, str]) -> bool:
    """Says whether a choice is one of several templates, or a template itself."""
    return chosen in templates or "{" in str(chosen)


def plain_prompt(messages: Messages) -> str:
    """Returns the prompt of a model without a chat template: PLAIN_QUESTION, behind the system message if any."""
    texts = []
    for message in messages:
        content = message["content"]
        if message["role"] == "user":
            texts.append(PLAIN_QUESTION.format(question=content))
        else:
            texts.append(f" {content}\n\n" if message["role"] == "assistant" else f"{content}\n\n")
    return "".join(texts)


# --- the forms of a conversation ---


def _as_it_is(messages: Messages) -> Messages:
    return messages


def _in_parts(messages: Messages) -> Messages:
    """Returns the messages with their content in parts, as templates of models that see pictures want it."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _without_system(messages: Messages) -> Messages:
    """Returns the messages with the system text in front of the first question.

    Some templates know no system role: they refuse it (Gemma 2) or drop it.
    """
    system = "".join(message["content"] + "\n\n" for message in messages if message["role"] == "system")
    first, *rest = (message for message in messages if message["role"] != "system")
    return [{**first, "content": system + first["content"]}, *rest]


def _without_system_in_parts(messages: Messages) -> Messages:
    return _in_parts(_without_system(messages))


# What most templates are written for: where one of these is refused, that is the error to show.
_WITH_TEXT = (_as_it_is, _without_system)


def _forms(messages: Messages) -> list[Form]:
    """Returns the forms of a conversation in the order in which they are tried."""
    has_system = any(message["role"] == "system" for message in messages)
    return [_as_it_is, _in_parts, *([_without_system, _without_system_in_parts] if has_system else [])]


def _holds(text: str, messages: Messages) -> bool:
    """Says whether a prompt holds what system and user say, white space aside.

    What the assistant said is left to the template: many cut its reasoning out.
    """
    words = " ".join(text.split())
    return all(" ".join(m["content"].split()) in words for m in messages if m["role"] != "assistant")


def _shorten(messages: Messages) -> str:
    content = messages[-1]["content"]
    return shortened(repr(content if isinstance(content, str) else content[0]["text"]), _SHOWN_CHARS)

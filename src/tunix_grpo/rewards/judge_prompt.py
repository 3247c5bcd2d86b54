"""What a judge is asked: a text file with the names of what is filled in, in braces."""

import string
from collections.abc import Mapping
from pathlib import Path

from tunix_grpo.config.rules import BUNDLED
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.tasks.base import Question

_ASSETS = Path(__file__).parent.parent / "assets" / "prompts"
_MAX_BYTES = 1 << 20
_FIXED = ("prompt", "question", "completion", "answer")


class JudgePrompt:
    """A template that has been checked.

    Attributes:
        columns: of the data, beside question and answer, that it names.
    """

    def __init__(self, path: str) -> None:
        """Reads a file: `{completion}`, `{question}`, `{answer}`, `{prompt}` and columns of the data; `{{` is a brace.

        Args:
            path: of the file, or `bundled:NAME`, one of the package's.

        Raises:
            UserError: it cannot be read, or is no such template.
        """
        about = f"reward.judge.prompt_file={path}"
        file = _ASSETS / f"{path.removeprefix(BUNDLED)}.txt" if path.startswith(BUNDLED) else Path(path)
        try:
            with file.open("rb") as stream:
                text = stream.read(_MAX_BYTES + 1).decode("utf-8")
        except OSError as error:
            raise UserError(
                f"{about}: cannot be read ({error.strerror or one_line(error)}); give a text file"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{about}: is no UTF-8 text ({one_line(error)}); save it as UTF-8") from error
        if len(text) > _MAX_BYTES:
            raise UserError(f"{about}: has more than {_MAX_BYTES} bytes; give a text file")
        self._pieces = _pieces(text, about)
        names = [name for _, name in self._pieces if name is not None]
        if "completion" not in names:
            raise UserError(f"{about}: does not say where the completion stands; write {{completion}} there")
        self.columns = tuple(dict.fromkeys(name for name in names if name not in _FIXED))

    def filled(self, prompt: str, completion: str, question: Question) -> str:
        """Returns the text for a completion. Braces in what is filled in mean nothing."""
        fixed = {"prompt": prompt, "question": question.question, "completion": completion, "answer": question.answer}
        values: Mapping[str, object] = {**(question.extra or {}), **fixed}
        return "".join(literal + _text(values.get(name) if name else None) for literal, name in self._pieces)


def _pieces(text: str, about: str) -> list[tuple[str, str | None]]:
    """Returns a template as texts, each with the name that follows it."""
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise UserError(f"{about}: {one_line(error)}; a brace that is meant as such is written twice, {{{{") from error
    for _, name, form, conversion in parsed:
        if name is not None and (form or conversion or not name.isidentifier()):
            shown = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}}}"
            raise UserError(
                f"{about}: {shown} is no name of a column; write {{completion}} or such, and a brace that is meant "
                "as such twice, {{"
            )
    return [(literal, name) for literal, name, _, _ in parsed]


def _text(value: object) -> str:
    return "" if value is None else str(value)

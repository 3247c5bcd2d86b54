"""A page as one file: the charting library, our own style and programs, and data that no browser takes for anything.

Nothing that a model or a user has written stands in the page as text: it is packed, and the programs show it as text.
A Content-Security-Policy lets run only the programs whose digests it lists, and forbids every request.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file
from tunix_grpo.record.report.packing import packed

_ASSETS = Path(__file__).parent.parent.parent / "assets"
_CHARTS = _ASSETS / "uplot" / "uPlot.iife.min.js"
_STYLES = (_ASSETS / "uplot" / "uPlot.min.css", _ASSETS / "report" / "page.css")
_SHARED = ("data.js", "text.js", "elements.js", "charts.js", "look.js")
PROGRAMS = {
    "run": (*_SHARED, "numbers.js", "filter.js", "groups.js", "run.js"),
    "compare": (*_SHARED, "numbers.js", "compare.js"),
}
"""The programs of each kind of page, in the order in which they need each other."""


def write_page(output: Path, kind: str, head: Mapping[str, object], chunks: Mapping[str, Sequence[str]]) -> None:
    """Writes a page, whole or not at all.

    Args:
        output: the file.
        kind: one of PROGRAMS.
        head: what is read when the page opens.
        chunks: name -> packed pieces, each read when it is shown.

    Raises:
        OSError: the disk refuses it.
    """
    with whole_file(output) as written:
        written.write_text(page(kind, head, chunks), "utf-8")


@contextlib.contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Makes the folder of a page, and turns an error of the disk into a sentence."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or one_line(error)}); give output=FILE"
        ) from error


def page(kind: str, head: Mapping[str, object], chunks: Mapping[str, Sequence[str]]) -> str:
    """Returns the text of a page; see `write_page`."""
    styles = [file.read_text("utf-8") for file in _STYLES]
    programs = [file.read_text("utf-8") for file in (_CHARTS, *(_ASSETS / "report" / name for name in PROGRAMS[kind]))]
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_digest, programs))}",
            f"style-src {' '.join(map(_digest, styles))}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    data = [_data("head-0", packed(head))]
    data += [_data(f"{name}-{place}", piece) for name, pieces in chunks.items() for place, piece in enumerate(pieces)]
    return Template((_ASSETS / "report" / "page.html").read_text("utf-8")).substitute(
        policy=policy,
        styles="\n".join(f"<style>{style}</style>" for style in styles),
        data="\n".join(data),
        programs="\n".join(f"<script>{program}</script>" for program in programs),
    )


def _digest(content: str) -> str:
    """Returns what a policy calls the content of an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _data(name: str, content: str) -> str:
    return f"<script type='text/plain' id='{name}'>{content}</script>"

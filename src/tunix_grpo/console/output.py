"""Standard output and the log files: where the lines that a person reads go, and what happens when they cannot."""

import io
import logging
import os
import sys

from rich.console import Console

from tunix_grpo.errors import one_line

logger = logging.getLogger(__name__)

# What a terminal obeys, or what turns the order of letters around: escape codes as a model may write them.
_COMMANDS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_VISIBLE = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _COMMANDS if chr(code) not in "\t\n"
}


class LastingOutput(io.TextIOWrapper):
    """A standard stream that outlives its reader: `| head` that has seen enough, a closed terminal, a full disk.

    The first error of the system sends all that follows to nowhere. The log files are told, and standard error too
    where it was not the reader who left.

    Attributes:
        lost: that error, or None.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Takes the place of a stream that has a file descriptor."""
        stream.flush()
        super().__init__(
            stream.buffer,
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self.lost: OSError | None = None

    def write(self, text: str, /) -> int:
        """Writes text, to nowhere once the stream is lost."""
        try:
            return super().write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Writes out what is held back, to nowhere once the stream is lost."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())  # what is held back would fail again when Python ends
        os.close(nowhere)
        what = f"what is printed goes to nowhere from here on ({one_line(error)})"
        to_log_files([f"{what}; this log has the rest"])
        if not isinstance(error, BrokenPipeError) and self is sys.stdout:
            print(f"warning: {what}", file=sys.stderr)


class LogFile(logging.FileHandler):
    """A log file that a full disk does not turn into a traceback for every line: the first loss is a warning."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, in which nothing commands the terminal of whoever reads the log."""
        return visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Says once, on standard error, that lines are lost."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not getattr(self, "_has_warned", False):
            self._has_warned = True
            print(f"warning: {self.baseFilename} cannot be written ({one_line(error)})", file=sys.stderr)


def keep_output() -> None:
    """Lets the program outlive whoever reads its standard output and standard error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Those of a notebook or a test are of other kinds, and have their reader in this process.
        if type(stream) is io.TextIOWrapper:
            setattr(sys, name, LastingOutput(stream))


def lost_output() -> OSError | None:
    """Returns why what is printed on standard output goes to nowhere; None where it arrives."""
    return sys.stdout.lost if isinstance(sys.stdout, LastingOutput) else None


def on_terminal() -> bool:
    """Says whether standard output is a terminal that can redraw a line, whatever the environment says of colours."""
    return sys.stdout.isatty() and not Console(file=sys.stdout).is_dumb_terminal


def visible(text: str) -> str:
    """Returns a text in which what a terminal would obey is shown: ESC as \\x1b. Lines and tabs stay."""
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def encodable(text: str) -> str:
    """Returns a text with a question mark for what the encoding of standard output lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def print_lines(lines: list[str]) -> None:
    """Prints plain lines; what the terminal's encoding lacks becomes a question mark."""
    sys.stdout.write(encodable(visible("".join(f"{line}\n" for line in lines))))
    sys.stdout.flush()


def log_handlers() -> list[logging.Handler]:
    """Returns the handlers of this package's logger and of the loggers above it."""
    handlers: list[logging.Handler] = []
    current: logging.Logger | None = logger
    while current is not None:
        handlers += current.handlers
        current = current.parent if current.propagate else None
    return handlers


def to_log_files(lines: list[str]) -> None:
    """Adds plain lines to every log file that `logging` has open."""
    if not logger.isEnabledFor(logging.INFO):
        return
    for line in lines:
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None)
        for handler in log_handlers():
            if isinstance(handler, logging.FileHandler) and record.levelno >= handler.level:
                handler.handle(record)

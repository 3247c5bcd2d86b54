"""Standard output and the log files: where the lines that a person reads go."""

import logging
import sys

from rich.console import Console

logger = logging.getLogger(__name__)


def on_terminal() -> bool:
    """Says whether standard output is a terminal that can redraw a line, whatever the environment says of colours."""
    return sys.stdout.isatty() and not Console(file=sys.stdout).is_dumb_terminal


def print_lines(lines: list[str]) -> None:
    """Prints plain lines; what the terminal's encoding lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
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

"""Programs on a terminal that a test reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path


def run_on_terminal(program: str, log_file: Path, width: int, **environment: str) -> str:
    """Runs Python code on a pseudo-terminal, with a path as its argument; gives everything that it wrote there."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(log_file)],
        stdin=child,
        stdout=child,
        stderr=child,
        env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        | {"TERM": "xterm-256color", **environment},
    )
    os.close(child)
    output = b""
    try:
        while chunk := os.read(parent, 65536):
            output += chunk
    except OSError:
        pass  # Linux says EIO when the last writer is gone
    os.close(parent)
    assert process.wait() == 0
    return output.decode()


def visible_lines(output: str) -> list[str]:
    """What stays on the screen line by line: control sequences removed, overwritten text too."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    return [line.rpartition("\r")[2].rstrip() for line in plain.replace("\r\n", "\n").split("\n")]

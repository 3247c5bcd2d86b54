"""Finds out, by trying, what the sandbox cannot forbid on this machine."""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence

from tunix_grpo.sandbox.running import Job, Sandbox, SandboxError

# What a system may be unable to limit -> what a program can then do.
UNLIMITED = {
    "files": "reading and changing files of yours",
    "network": "using the network",
    "processes": "starting processes that stay, and ending yours",
}
_ATTEMPTS = """
import json, os, socket
asked = json.loads(input())
could = []
def attempt(name, action):
    try:
        action()
    except BaseException:
        return
    could.append(name)
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
attempt("files", lambda: open(asked["file"]).close())
attempt("files", lambda: open(asked["file"] + ".new", "w").close())
attempt("files", lambda: open(f"/proc/{asked['pid']}/environ").close())
attempt("network", lambda: socket.create_connection(("127.0.0.1", asked["port"]), 1))
attempt("processes", lambda: os.kill(asked["pid"], 0))
attempt("fork", fork)
print(json.dumps(could))
"""


def find_unlimited(sandbox: Sandbox) -> list[str]:
    """Returns the keys of UNLIMITED that a program in the sandbox could do.

    Raises:
        SandboxError: nothing can be run in it.
    """
    if sys.platform != "linux":
        raise SandboxError(f"programs can be run in safety on Linux only, and this is {sys.platform}")
    printed: list[str] = []

    def keep(place: int, output: str) -> bool:
        printed.append(output)
        return True

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        file = os.path.join(folder, "file")
        with open(file, "w") as written:
            written.write("secret")
        asked = {"file": file, "pid": os.getpid(), "port": server.getsockname()[1]}
        outcome = sandbox.run(Job(code=_ATTEMPTS, inputs=[json.dumps(asked)], is_right=keep, count=1))
    if outcome is None or not printed:
        raise SandboxError(
            f"a program of a few lines cannot be run in the sandbox: it ended by {outcome and outcome.ends[0]!r}"
        )
    could = set(json.loads(printed[0]))
    if "fork" in could and "namespaces" not in outcome.means:  # there, what was started ends with them
        could.add("processes")
    return [name for name in UNLIMITED if name in could]


def require_limits(sandbox: Sandbox, allowed: Sequence[str], setting: str) -> None:
    """Checks that the system limits all that it is not allowed to leave open.

    Args:
        allowed: keys of UNLIMITED.
        setting: that gives them, for the error.

    Raises:
        SandboxError: it does not, or nothing can be run.
    """
    missing = [name for name in find_unlimited(sandbox) if name not in allowed]
    if missing:
        told = " nor from ".join(UNLIMITED[name] for name in missing)
        raise SandboxError(
            f"this system cannot keep a program that the model wrote from {told}; run where user namespaces, or "
            f"seccomp and Landlock, are allowed, or accept it: {setting}=[{','.join([*allowed, *missing])}]"
        )

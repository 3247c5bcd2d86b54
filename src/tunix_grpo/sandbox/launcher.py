"""The process that the run starts for one job: builds the walls, watches over what is in them, and clears up.

It never reads what the tests expect. It ends, with all that it started, when the run closes its standard input.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time

from tunix_grpo.sandbox import kernel, room
from tunix_grpo.sandbox.confine import THREADS, UID, Place
from tunix_grpo.sandbox.supervisor import Supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    from typing import Any

_WATCH_S = 0.05
_GRACE_S = 1.0  # for the supervisor, which ends a job in time by itself
_MOST_FILES = 4096
MEMORY, DISK, PROCESSES, TIMEOUT = "memory", "disk", "processes", "timeout"


def main() -> None:
    """Runs the job whose first line stands on standard input."""
    job = json.loads(_line(0))
    kernel.adopt_orphans()
    folder, stopped = None, None
    try:
        pid = _in_namespaces(job) if "namespaces" in job["means"] else None
        if pid is None:
            folder = os.path.join(job["folder"], f"tunix-grpo-sandbox-{os.urandom(8).hex()}")
            os.mkdir(folder, 0o700)
            pid = _beside(job, folder)
        kernel.hide_memory()
        stopped = _watch(job, pid, folder)
    finally:
        _end_all()
        if folder is not None:
            _remove(folder)
    if stopped is not None:
        os.write(1, json.dumps({"stopped": stopped}).encode() + b"\n")


def _in_namespaces(job: dict[str, Any]) -> int | None:
    """Starts the supervisor as the first process of new namespaces; returns None where the system forbids that."""
    told, telling = os.pipe()
    going, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        os.close(go)
        _become_walls(job, telling, going)
    os.close(telling)
    os.close(going)
    try:
        if os.read(told, 1):
            as_nobody = _map_users(pid)
            os.write(go, b"n" if as_nobody else b"s")
            if os.read(told, 1):
                return pid
    except OSError:
        pass  # what cannot be had is found missing by whoever needs it
    finally:
        os.close(told)
        os.close(go)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _become_walls(job: dict[str, Any], telling: int, going: int) -> None:
    """Makes this process the one that holds the namespaces; does not return."""
    try:
        kernel.end_with_parent(signal.SIGKILL)
        kernel.unshare(kernel.NAMESPACES)
        os.write(telling, b"u")
        answer = os.read(going, 1)
        os.close(going)
        pid = os.fork()
        if pid == 0:
            kernel.end_with_parent(signal.SIGKILL)
            root = room.build_root(job["disk_bytes"])
            kernel.hide_memory()
            os.write(telling, b"r")
            os.close(telling)
            _supervise(job, Place(job["means"], root, "/" + room.WORK, as_nobody=answer == b"n"))
        os.close(telling)
        os.close(0)
        os.close(1)
        os.waitpid(pid, 0)
    finally:
        os._exit(0)


def _map_users(pid: int) -> bool:
    """Gives the namespace of a process its users; returns whether there is one beside the run's own.

    Only root may give it another one. A limit on processes does not bind root itself.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        try:
            _write(f"/proc/{pid}/uid_map", f"0 0 1\n{UID} {UID} 1\n")
            _write(f"/proc/{pid}/gid_map", f"0 0 1\n{UID} {UID} 1\n")
            return True
        except OSError:
            pass  # not the root of the whole machine, or without the right to it
    _write(f"/proc/{pid}/setgroups", "deny")
    if not _read(f"/proc/{pid}/uid_map").strip():
        _write(f"/proc/{pid}/uid_map", f"{uid} {uid} 1\n")
    _write(f"/proc/{pid}/gid_map", f"{gid} {gid} 1\n")
    return False


def _beside(job: dict[str, Any], folder: str) -> int:
    """Starts the supervisor without namespaces."""
    pid = os.fork()
    if pid == 0:
        kernel.hide_memory()
        kernel.adopt_orphans()
        _supervise(job, Place(job["means"], None, folder, as_nobody=False))
    return pid


def _supervise(job: dict[str, Any], place: Place) -> None:
    try:
        Supervisor(job, place, sys.stdin.buffer, sys.stdout.buffer).run()
    except BrokenPipeError:
        pass  # the run does not listen any more
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(0)


def _watch(job: dict[str, Any], pid: int, folder: str | None) -> str | None:
    """Waits for the supervisor; returns what the job was stopped for, None if it came to its end."""
    deadline = time.monotonic() + job["timeout_s"] + _GRACE_S
    poll = select.poll()
    poll.register(0, 0)  # only whether the run has closed it
    step = 0.002
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if poll.poll(step * 1000):
            return None
        step = min(step * 1.5, _WATCH_S)
        if time.monotonic() > deadline:
            return TIMEOUT
        if stopped := _exceeded(job, folder):
            return stopped
    return None


def _exceeded(job: dict[str, Any], folder: str | None) -> str | None:
    """Returns which limit the processes of a job exceed together, None if they keep to all."""
    pids = _descendants()
    threads = resident = 0
    for pid in pids:
        fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if fields:
            threads += int(fields[17])
            resident += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    if threads > THREADS + len(pids):
        return PROCESSES
    if resident > 2 * job["memory_bytes"]:  # of the program and of its judge
        return MEMORY
    return DISK if folder is not None and _size(folder) > job["disk_bytes"] else None


def _descendants() -> list[int]:
    """Returns the process ids of all that this process started, and what they started."""
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            waiting += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
        found.append(pid)
    return found[1:]


def _end_all() -> None:
    """Ends all that this process started, and waits for it."""
    while pids := _descendants():
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _size(folder: str) -> int:
    """Returns the bytes in a folder; of too many files more than any limit."""
    total = count = 0
    for path, _, files in os.walk(folder):
        for file in files:
            count += 1
            try:
                total += os.lstat(os.path.join(path, file)).st_blocks * 512
            except OSError:
                continue
        count += 1
        if count > _MOST_FILES:
            return 1 << 62
    return total


def _remove(folder: str) -> None:
    """Removes a folder with all that is in it, whatever its rights."""
    for path, folders, _ in os.walk(folder):  # from the top down, so that what is closed opens before it is walked
        for name in folders:
            if not stat.S_ISLNK(os.lstat(os.path.join(path, name)).st_mode):
                os.chmod(os.path.join(path, name), 0o700)
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(path, name))
        for name in folders:
            inner = os.path.join(path, name)
            (os.unlink if os.path.islink(inner) else os.rmdir)(inner)
    os.rmdir(folder)


def _line(file: int) -> bytes:
    """Returns a line of a file, and reads nothing behind it."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(file, 1 << 16)  # the run sends nothing more before it hears of the program's start
        if not data:
            raise SystemExit(0)
        line += data
    return line


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)

"""Takes from a process, for good, what a program that nobody has read must not have."""

import os
import resource
import signal
import sys

from tunix_grpo.sandbox import kernel, room, syscalls

UID = 65534  # inside the namespaces of a run that root started: nobody
THREADS = 64
_FILES, _STACK_BYTES = 64, 64 << 20


class Place:
    """Where confined processes run, and by which means they are kept there.

    Attributes:
        root: the new root folder; None where there are no namespaces.
        work: the folder that they may write in, as they see it.
        as_nobody: whether they get another user than the run's.
        means: namespaces, seccomp, landlock: those that are wanted, that the system has, and that add to each other.
    """

    def __init__(self, wanted: list[str], root: str | None, work: str, as_nobody: bool) -> None:
        """Notes where, and finds out what the system offers of the means that are wanted."""
        self.root, self.work, self.as_nobody = root, work, as_nobody
        offered = {
            "namespaces": root is not None,
            "seccomp": syscalls.known_here(),
            "landlock": root is None and kernel.landlock_version() > 0,
        }
        self.means = [name for name in wanted if offered[name]]


def confine(place: Place, *, memory_bytes: int, file_bytes: int, cpu_s: int) -> None:
    """Confines this process, which a fork has just made; only open files stay as they are.

    Args:
        memory_bytes: of address space.
        file_bytes: that a file may hold.
        cpu_s: seconds of computing, of all threads together.
    """
    os.setsid()
    os.umask(0o022)
    if place.root is not None:
        os.chroot(place.root)
    os.chdir(place.work)
    _limit(memory_bytes, file_bytes, cpu_s, "namespaces" in place.means and _counts_apart())
    if place.as_nobody:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    kernel.drop_capabilities()
    if "landlock" in place.means:
        room.keep_to(place.work)
    if "seccomp" in place.means:
        kernel.install_filter(syscalls.filter_program(os.getpid(), file_changes="landlock" not in place.means))
    _clean(place.work)


def _limit(memory_bytes: int, file_bytes: int, cpu_s: int, own_count: bool) -> None:
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_STACK: _STACK_BYTES,
    }
    if own_count:  # elsewhere the run's own processes count, too
        wanted[resource.RLIMIT_NPROC] = THREADS
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _counts_apart() -> bool:
    """Says whether the kernel counts a user's processes in each user namespace apart, as it does from 5.14 on."""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 14)


def _clean(work: str) -> None:
    """Makes the interpreter look as if it had just started in its folder."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # errors of a call rather than the end
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update({"HOME": work, "TMPDIR": work})
    sys.argv[:] = ["solution.py"]
    sys.path[:] = [path for path in sys.path if path.startswith(sys.base_prefix)]
    sys.dont_write_bytecode = True

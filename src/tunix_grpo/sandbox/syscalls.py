"""The system calls that a confined process may not make, as a filter for the kernel (seccomp).

No other process, no socket, no signal to others, no look into others, no privilege, no memory that no limit counts.
Threads may be made, and everything that works on the process itself.
"""

import errno
import os
import struct

# name -> its number on x86_64 and on aarch64, None where there is none
_FORBIDDEN = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# Changes of files that Landlock does not look at.
_FILE_CHANGES = {
    "truncate": (76, 45),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_KILL, _TGKILL, _PRLIMIT = (62, 129), (234, 131), (302, 261)
_FCNTL = (72, 25)
_SIGNAL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX
_CLONE_THREAD = 0x00010000

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, name for the kernel
_X32 = 0x40000000  # numbers from here on are another interface of x86_64

# Instructions, and where the kernel keeps what they look at.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_ALLOW, _KILL_PROCESS, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def known_here() -> bool:
    """Says whether the numbers of this machine's system calls are known."""
    return os.uname().machine in _ARCHITECTURES


def filter_program(pid: int, *, file_changes: bool) -> bytes:
    """Returns the filter for a process.

    Args:
        pid: of the process, which may send signals to itself.
        file_changes: whether rights, owners and times of files may be changed.
    """
    column, architecture = _ARCHITECTURES[os.uname().machine]
    refuse = _step(_RETURN, _ERROR | errno.EPERM)
    allow = _step(_RETURN, _ALLOW)
    parts = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, 0, 1),
        refuse,
    ]
    for numbers in (_FORBIDDEN | ({} if file_changes else _FILE_CHANGES)).values():
        if numbers[column] is not None:
            parts += _when(numbers[column], refuse)
    parts += _when(_CLONE3[column], _step(_RETURN, _ERROR | errno.ENOSYS))  # libraries then use clone
    parts += _when(_CLONE[column], _step(_LOAD, _FIRST), _step(_ANY_BIT, _CLONE_THREAD, 1, 0), refuse, allow)
    for numbers in (_KILL, _TGKILL):
        parts += _when(numbers[column], _step(_LOAD, _FIRST), _step(_EQUAL, pid, 1, 0), refuse, allow)
    own = [_step(_EQUAL, 0, 2, 0), _step(_EQUAL, pid, 1, 0)]
    parts += _when(_PRLIMIT[column], _step(_LOAD, _FIRST), *own, refuse, allow)
    owners = [_step(_EQUAL, command, len(_SIGNAL_OWNERS) - place, 0) for place, command in enumerate(_SIGNAL_OWNERS)]
    parts += _when(_FCNTL[column], _step(_LOAD, _SECOND), *owners, allow, refuse)
    return b"".join([*parts, allow])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Returns an instruction; the last two say how many instructions to skip."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(number: int | None, *steps: bytes) -> list[bytes]:
    """Returns steps that are taken for one system call; each way through them returns."""
    return [_step(_EQUAL, number or 0, 0, len(steps)), *steps]

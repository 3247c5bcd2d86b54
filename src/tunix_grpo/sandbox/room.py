"""The folders that a confined program sees: those of Python, read-only, and an empty one of limited size."""

import os
import sys

from tunix_grpo.sandbox import kernel

WORK = "tmp"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LIBRARIES = (
    "/lib",
    "/lib64",
    "/lib32",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/nix/store",
)
_SETTINGS = ("/etc/ld.so.cache", "/etc/localtime")
# An empty folder of the system, or one that Python does not lie in, becomes the place of the new root.
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/tmp")
_KEPT_FLAGS = (
    (os.ST_NOSUID, kernel.MS_NOSUID),
    (os.ST_NODEV, kernel.MS_NODEV),
    (os.ST_NOEXEC, kernel.MS_NOEXEC),
    (os.ST_NOATIME, kernel.MS_NOATIME),
    (os.ST_NODIRATIME, kernel.MS_NODIRATIME),
    (os.ST_RELATIME, kernel.MS_RELATIME),
)

# Landlock's kinds of access, by bit.
_READ_FILE, _WRITE_FILE, _READ_FOLDER, _TRUNCATE = 1 << 2, 1 << 1, 1 << 3, 1 << 14
_EXECUTE, _MAKE_DEVICES = 1 << 0, 1 << 6 | 1 << 11  # character and block devices
_KINDS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def readable() -> list[str]:
    """Returns the files and folders that Python needs, the real place of each once."""
    own = [os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib")]
    places = [path for path in (*_LIBRARIES, *own) if os.path.isdir(path)]
    return list(dict.fromkeys(places + [path for path in _SETTINGS if os.path.isfile(path)]))


def build_root(size_bytes: int) -> str:
    """Builds a root folder that holds what is `readable` and a folder to write in; returns its path.

    To be called in new namespaces, where nobody else sees it and which it goes with.

    Args:
        size_bytes: that may be written in all.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    sources = readable()
    inside = [os.path.realpath(path) for path in sources]
    root = next(
        place for place in _PLACES if os.path.isdir(place) and not any(path.startswith(place + "/") for path in inside)
    )
    kernel.mount("none", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in (*sources, *_DEVICES):
        _show(path, root + path)
    work = os.path.join(root, WORK)
    os.mkdir(work)
    kernel.mount(
        "none",
        work,
        "tmpfs",
        kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
        f"size={size_bytes},nr_inodes=4096,mode=1777",
    )
    kernel.mount("none", root, None, kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    return root


def _show(path: str, target: str) -> None:
    """Shows a file or folder at another place, read-only."""
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, target, None, kernel.MS_BIND | kernel.MS_REC)
    is_device = path in _DEVICES
    flags = os.statvfs(target).f_flag
    kept = sum(mount_flag for flag, mount_flag in _KEPT_FLAGS if flags & flag)
    added = kernel.MS_NOSUID if is_device else kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_RDONLY
    kernel.mount("none", target, None, kernel.MS_REMOUNT | kernel.MS_BIND | kept | added)


def keep_to(work: str) -> None:
    """Lets this process read what is `readable`, write in one folder, and touch no other file, for good."""
    version = min(kernel.landlock_version(), max(_KINDS_OF_VERSION))
    every = (1 << _KINDS_OF_VERSION[version]) - 1
    allowed = {path: _READ_FILE | _READ_FOLDER if os.path.isdir(path) else _READ_FILE for path in readable()}
    allowed |= {path: (_READ_FILE | _WRITE_FILE | _TRUNCATE) & every for path in _DEVICES}
    allowed[work] = every & ~(_EXECUTE | _MAKE_DEVICES)
    kernel.restrict_files(every, allowed)

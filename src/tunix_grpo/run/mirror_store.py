"""The place of a run's copies, as fsspec reaches it: a bucket, or a folder of another disk."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fsspec.core
from fsspec.implementations.local import LocalFileSystem

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.run.places import ACTOR, SWEEPS
from tunix_grpo.run.step_files import MANIFEST, step_fault

_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # what brings the driver of an address
_PROBE = ".probe"


class StoreError(Exception):
    """Says in words why a place did not do what it was asked for."""


class Store:
    """The copies at an address, which lie there as in a checkpoint folder.

    Attributes:
        address: as it was given.
        setting: the same with its key.
    """

    def __init__(self, address: str):
        """
        Raises:
            UserError: there is no driver for such an address, or it wants credentials.
        """
        self.address, self.setting = address, f"training.mirror={address}"
        self._files, self._root = _opened(address)

    def is_folder(self, folder: Path) -> bool:
        """Says whether it is a folder of this machine, by whatever name."""
        return isinstance(self._files, LocalFileSystem) and Path(self._root).resolve() == folder.resolve()

    def steps(self) -> list[int]:
        """Returns the steps of which there is something, whole or not, in order."""
        with _reasons():
            try:
                paths = self._files.ls(f"{self._root}/{ACTOR}", detail=False)
            except FileNotFoundError:
                return []
        names = (str(path).rstrip("/").rpartition("/")[2] for path in paths)
        return sorted(int(name) for name in names if name.isdigit())

    def manifest(self, step: int) -> bytes | None:
        """Returns the manifest of a step; None where it is not whole."""
        return self.read(f"{ACTOR}/{step}/{MANIFEST}")

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file, None where there is none."""
        with _reasons():
            try:
                content = self._files.cat_file(f"{self._root}/{name}")
                return content if isinstance(content, bytes) else content.encode()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, whole where the place has whole files only, as buckets do."""
        with _reasons():
            self._files.pipe_file(f"{self._root}/{name}", content)

    def get(self, step: int, manifest: bytes, folder: Path) -> str | None:
        """Brings a step into a folder; returns what is wrong with it there, or None; reads every byte."""
        folder.mkdir(parents=True)
        names = _names(manifest)
        if names is None:
            return f"{MANIFEST} is damaged"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _reasons(), contextlib.suppress(FileNotFoundError):  # which `step_fault` finds out
                self._files.get_file(f"{self._root}/{ACTOR}/{step}/{name}", str(folder / name))
        (folder / MANIFEST).write_bytes(manifest)
        return step_fault(folder)

    def put(self, step: int, manifest: bytes, folder: Path) -> None:
        """Copies the files of a step that `manifest` names, not the manifest itself."""
        for name in _names(manifest) or ():
            with _reasons():
                self._files.put_file(str(folder / name), f"{self._root}/{ACTOR}/{step}/{name}")

    def confirm(self, step: int, manifest: bytes) -> None:
        """Makes a step count."""
        self.write(f"{ACTOR}/{step}/{MANIFEST}", manifest)

    def delete(self, step: int) -> None:
        """Deletes a step, so that it does not count from the first moment on."""
        place = f"{self._root}/{ACTOR}/{step}"
        with _reasons(), contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{place}/{MANIFEST}")
        with _reasons(), contextlib.suppress(FileNotFoundError):
            self._files.rm(place, recursive=True)

    def try_to_write(self) -> None:
        """Writes a file and deletes it."""
        with _reasons(), tempfile.NamedTemporaryFile() as file:
            self._files.put_file(file.name, f"{self._root}/{_PROBE}")
            self._files.rm_file(f"{self._root}/{_PROBE}")


def free_mirror(address: str) -> str:
    """Returns an address with nothing behind it, beside the given one; for a job of a sweep, beside all."""
    base = address.rstrip("/").partition(f"/{SWEEPS}/")[0]
    files, root = _opened(base)
    if "://" in base and "/" not in root.strip("/"):  # a bucket: beside it are those of others
        base, root = f"{base}/run", f"{root}/run"
    numbers = itertools.count(2)
    return next(f"{base}-{number}" for number in numbers if not _exists(files, f"{root}-{number}"))


def _exists(files: fsspec.AbstractFileSystem, path: str) -> bool:
    """Says whether there is something; not where the place does not say, which the start with it finds out."""
    try:
        with _reasons():
            return files.exists(path)
    except StoreError:
        return False


def _opened(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Returns what reaches an address, and the path that it has there."""
    scheme, setting = address.partition("://")[0], f"training.mirror={address}"
    try:
        # The listings would not show what others write; and the settings of another place are not to be these.
        files, path = fsspec.core.url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        way_out = "" if extra is None else f"; run pip install 'tunix-grpo[{extra}]'"
        raise UserError(f"{setting}: its driver is not installed ({one_line(error)}){way_out}") from error
    except Exception as error:  # a driver's own: a wrong key, a file of credentials that is damaged
        raise UserError(
            f"{setting}: cannot be used ({one_line(error)}); give training.mirror=gs://BUCKET/FOLDER, "
            "s3://BUCKET/FOLDER or a folder, and the credentials for it"
        ) from error
    if isinstance(files, LocalFileSystem):
        files = LocalFileSystem(auto_mkdir=True)
    return files, path.rstrip("/")


def _names(manifest: bytes) -> list[str] | None:
    """Returns the files of a step; None where the manifest is damaged, or names files that are not below the step."""
    try:
        names = list(dict(json.loads(manifest)))
    except (ValueError, TypeError, RecursionError):
        return None
    inside = all(
        name and not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in names
    )
    return names if inside else None


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns the error of a driver into a `StoreError`: each has its own kinds."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        if isinstance(error, FileNotFoundError) and " " not in reason:  # gcsfs says no more than the address
            reason = f"{reason} does not exist"
        raise StoreError(reason) from error

"""Copies of a run's checkpoints elsewhere, in a bucket or on another disk, for machines that are taken back.

What lies there is a checkpoint folder as `places.py` names it. A step there counts when its manifest is there, which is
written last and deleted first. All that is asked of the place goes through fsspec, which knows files and buckets.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.mirror_store import Store, StoreError
from tunix_grpo.run.places import ACTOR, HISTORY, UNFINISHED
from tunix_grpo.run.step_files import MANIFEST, SavedFiles, step_fault

_log = logging.getLogger(__name__)
_TRY = "see that there is such a bucket and that the credentials are for it, or leave out training.mirror"


@contextlib.contextmanager
def mirrored(address: str | None, checkpoints: Checkpoints, hosts: Hosts = ALONE) -> Iterator[Mirror]:
    """Gives the mirror of a run, and brings it up to date at the end of the block, however a run ends there.

    A second Ctrl-C waits for nothing; a run that is refused leaves both sides as they were.

    Args:
        address: where the copies are; None: nowhere.

    Raises:
        UserError: the address cannot be used; at the end: the copies are behind.
    """
    with hosts.together():
        mirror = Mirror(address, checkpoints, hosts)
    try:
        yield mirror
    except UserError as error:
        mirror.end_with(error)
        raise
    mirror.complete()


class Mirror:
    """What a run does with its mirror; nothing where it has none. The first host of several does all of it."""

    def __init__(self, address: str | None, checkpoints: Checkpoints, hosts: Hosts = ALONE):
        self._checkpoints, self._hosts = checkpoints, hosts
        self._files = SavedFiles(checkpoints.folder)
        self._history = checkpoints.folder / HISTORY
        self._store = Store(address) if address is not None and hosts.is_first else None
        if self._store is not None and self._store.is_folder(checkpoints.folder):
            raise UserError(f"{self._store.setting}: is checkpoint_dir itself; give another folder, or a bucket")
        self._is_kept, self._is_ending = False, False
        self._fetched: list[int] = []
        self._history_before: bytes | None = None
        self._known: set[int] = set()  # steps that were there at the start, or that this run has copied
        self._there: dict[int, bytes | None] = {}  # manifests that are there, as far as they have been read
        self._logged: bytes | None = None  # what was logged, as it is there
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def fetch(self, newest: int) -> bool:
        """Brings the whole steps here that are newer than the newest valid one here; says whether there are any.

        Raises:
            UserError: the mirror cannot be read, or the disk refuses it.
        """
        with self._hosts.together():
            if self._store is not None:
                try:
                    self._fetch(self._store, newest)
                except (StoreError, OSError) as error:
                    self._fetched.clear()  # what has arrived stays
                    raise UserError(f"{self._store.setting}: cannot be read ({one_line(error)}); {_TRY}") from error
                finally:
                    shutil.rmtree(self._files.folder / UNFINISHED, ignore_errors=True)
        return self._hosts.agree(bool(self._fetched))

    def keep(self) -> None:
        """Is called when the run has not been refused: what was fetched stays, and copies may be made.

        Raises:
            UserError: the mirror cannot be written to.
        """
        with self._hosts.together():
            if self._store is not None:
                try:
                    self._store.try_to_write()
                except StoreError as error:
                    raise UserError(f"{self._store.setting}: cannot be written to ({error}); {_TRY}") from error
        self._is_kept = True

    def update(self) -> None:
        """Brings the mirror up to date in a thread beside training; a copy that fails is said, and tried again."""
        if self._store is None:
            return
        if self._thread is None:  # of a kind that a process does not wait for when it ends
            self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
            self._thread.start()
        self._asked.put(None)

    def complete(self) -> None:
        """Brings the mirror up to date and waits for that.

        Raises:
            UserError: it is behind.
        """
        with self._hosts.together():
            behind = self._last_try() if self._is_kept else None
            if behind is not None:
                raise UserError(behind)

    def end_with(self, error: UserError) -> None:
        """Does what is left to do where an error ends the run: its sentence stands."""
        if self._store is None:
            return
        if not self._is_kept:
            self._take_back()
        elif self._hosts.is_known(error) and (behind := self._last_try()) is not None:
            _log.warning("%s", behind)

    # --- from there to here ---

    def _fetch(self, store: Store, newest: int) -> None:
        self._known = set(store.steps())
        self._there = {step: store.manifest(step) for step in sorted(self._known) if step > newest}
        newer = {step: manifest for step, manifest in self._there.items() if manifest is not None}
        self._logged = store.read(HISTORY)
        if newer and self._logged is not None:
            self._history_before = _content(self._history)
            self._put_history(self._logged)
        # In order: where this is cut off, the next start fetches the rest.
        for step, manifest in newer.items():
            unfinished = self._files.folder / UNFINISHED / str(step)
            fault = store.get(step, manifest, unfinished)
            if fault is None:
                self._checkpoints.take_in(unfinished, step)
                self._fetched.append(step)
            else:
                self._there[step] = None  # to be copied anew
                _log.warning("%s/%s/%d is not usable (%s); it is passed over", store.address, ACTOR, step, fault)
        if self._fetched:
            _log.info("fetched from %s: step %s", store.address, ", ".join(map(str, self._fetched)))

    def _take_back(self) -> None:
        """Removes what was fetched."""
        for step in self._fetched:
            shutil.rmtree(self._files.root / str(step), ignore_errors=True)
        if self._fetched and self._logged is not None:
            if self._history_before is None:
                self._history.unlink(missing_ok=True)
            else:
                self._put_history(self._history_before)

    def _put_history(self, content: bytes) -> None:
        with whole_file(self._history) as file:
            file.write_bytes(content)

    # --- from here to there ---

    def _work(self) -> None:
        while True:
            self._asked.get()
            if self._is_ending:
                return
            reason = self._reason_behind(logging.DEBUG)
            if reason is not None:
                assert self._store is not None
                _log.warning(
                    "%s: the last checkpoint could not be copied (%s); training goes on, and the next save tries again",
                    self._store.setting,
                    reason,
                )

    def _last_try(self) -> str | None:
        """Brings the mirror up to date when nothing is saved any more; returns a sentence where it is behind."""
        if self._store is None:
            return None
        if self._thread is not None:
            self._is_ending = True
            self._asked.put(None)
            self._thread.join()  # what it copies is not begun anew
        reason = self._reason_behind(logging.INFO)
        if reason is None:
            return None
        return (
            f"{self._store.setting}: the copies are behind ({reason}); all checkpoints are in {self._files.root}, and "
            "the same command again completes the copies"
        )

    def _reason_behind(self, level: int) -> str | None:
        """Brings the mirror up to date; returns why that failed, or None."""
        assert self._store is not None
        try:
            self._push(self._store, level)
        except (StoreError, OSError) as error:
            self._there.clear()  # who knows what has arrived
            self._logged = None
            return one_line(error)
        return None

    def _push(self, store: Store, level: int) -> None:
        there = store.steps()
        if foreign := sorted(set(there) - self._known):
            raise StoreError(f"step {foreign[-1]} there is not of this run: another one copies to the same place")
        for step in reversed(self._files.steps()):  # the newest is worth most
            folder = self._files.root / str(step)
            manifest = _content(folder / MANIFEST)
            if step not in self._there:
                self._there[step] = store.manifest(step) if step in there else None
            if manifest is None or manifest == self._there[step] or step_fault(folder) is not None:
                continue
            _log.log(level, "copying step %d to %s", step, store.address)
            self._known.add(step)
            if step in there:
                store.delete(step)
            self._there[step] = None
            try:
                store.put(step, manifest, folder)
            except StoreError:
                if step_fault(folder, read=False) is None:
                    raise
                continue  # it is being deleted here, which is no error
            if _content(folder / MANIFEST) == manifest:  # else it is gone, or another one took its place
                store.confirm(step, manifest)
                self._there[step] = manifest
        here = self._files.steps()
        for step in there:
            if here and step < here[-1] and step not in here:
                store.delete(step)
                self._there.pop(step, None)
        logged = _content(self._history) or b""
        logged = logged[: logged.rfind(b"\n") + 1]  # without a line that is being written
        if logged and logged != self._logged:
            store.write(HISTORY, logged)
            self._logged = logged


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None

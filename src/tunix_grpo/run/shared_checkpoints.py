"""The checkpoints of a run on several hosts: Orbax writes on all of them, the first one does what must be done once.

Lock, leftovers, manifest and deletion are the first one's; the files are read for their digests by who wrote them.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import orbax.checkpoint as ocp

from tunix_grpo.errors import UserError
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError, SavedSteps, flat_leaves
from tunix_grpo.run.failed_saves import quiet_failures, system_reason
from tunix_grpo.run.places import UNFINISHED
from tunix_grpo.run.step_files import file_digests, names_of_files, write_manifest

_LONGEST_LOOK_S = 10.0  # until a network disk shows what another host has written
_WRITER = re.compile(r"process_(\d+)")  # in the names of Orbax's files


def open_checkpoints(checkpoint_dir: str, max_to_keep: int | None, hosts: Hosts) -> Checkpoints:
    """Opens a folder for the processes of a cluster, as `Checkpoints` does for one.

    Raises:
        UserError: it cannot be written to, another run does so, or not all processes see the same folder.
    """
    if hosts.count == 1:
        return Checkpoints(checkpoint_dir, max_to_keep)
    return SharedCheckpoints(checkpoint_dir, max_to_keep, hosts)


class SharedCheckpoints(Checkpoints):
    """The checkpoints of one folder that all processes of a cluster see; all call its methods together."""

    def __init__(self, checkpoint_dir: str | Path, max_to_keep: int | None, hosts: Hosts):
        SavedSteps.__init__(self, checkpoint_dir)
        self._hosts, self._own = hosts, None
        with hosts.together():
            if hosts.is_first:
                self._own = Checkpoints(checkpoint_dir, max_to_keep)
        self._require_shared(checkpoint_dir)

    def close(self) -> None:
        """Lets other runs write to the folder."""
        if self._own is not None:
            self._own.close()

    def another(self, folder: Path) -> Checkpoints:
        """Opens another folder for the same processes."""
        return SharedCheckpoints(folder, None, self._hosts)

    def latest_valid(self) -> int | None:
        """Returns the newest step whose files are whole; the first process reads them."""
        step = self._hosts.broadcast(None if self._own is None else self._own.latest_valid())
        assert step is None or isinstance(step, int)
        return step

    def save(
        self, step: int, params: object, optimizer: object, run: Mapping[str, object], best: Sequence[int] = ()
    ) -> None:
        """Saves one step, whole or not at all; see `Checkpoints.save`."""
        is_there = False
        if self._own is not None:
            is_there = self._own.is_saved(step)
        if self._hosts.agree(is_there):
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(flat_leaves(params)),
            optimizer=ocp.args.StandardSave(flat_leaves(optimizer)),
            run=ocp.args.JsonSave(run),
        )
        unfinished = self.folder / UNFINISHED / str(step)
        with quiet_failures():
            try:
                self._checkpointer.save(unfinished, args=items)
            except (OSError, ValueError) as error:  # as in `Checkpoints`; the others may wait for this one for ever
                raise _not_saved(self.root / str(step), error) from error
        digests = self._digests(unfinished)
        with self._hosts.together():
            if self._own is not None:
                try:
                    write_manifest(unfinished, digests)
                    self._own.move_in(unfinished, step, best)
                except OSError as error:
                    raise _not_saved(self.root / str(step), error) from error

    def _digests(self, folder: Path) -> dict[str, str]:
        """Returns the sha256 of every file of a step, by name."""
        listed = self._hosts.broadcast(list(names_of_files(folder)) if self._own is not None else None)
        assert isinstance(listed, list)
        names = list(map(str, listed))
        own = [name for name in names if self._writer(name) == self._hosts.index]
        digests: dict[str, str] = {}
        with self._hosts.together():
            try:
                digests = file_digests(folder, own)
            except OSError as error:
                raise _not_saved(self.root / folder.name, error) from error
        parts: list = self._hosts.gather(dict(digests))
        return {name: digest for part in parts for name, digest in part.items()}

    def _writer(self, name: str) -> int:
        found = _WRITER.search(name)
        return int(found[1]) % self._hosts.count if found else 0

    def _require_shared(self, asked: str | Path) -> None:
        """Lets the first process write a file, and the others look for it."""
        probe = self.folder / str(self._hosts.broadcast(f".seen_by_all.{secrets.token_hex(8)}"))
        try:
            with self._hosts.together():
                if self._own is not None:
                    _write_empty(probe)
            with self._hosts.together():
                if not _appears(probe):
                    raise UserError(
                        f"checkpoint_dir={asked}: this host does not see what host 0 writes there; give a folder on a "
                        "disk that all hosts share with checkpoint_dir=DIR"
                    )
        except UserError:
            self._remove(probe)
            self.close()
            raise
        self._remove(probe)

    def _remove(self, probe: Path) -> None:
        if self._own is not None:
            probe.unlink(missing_ok=True)


def _write_empty(file: Path) -> None:
    try:
        file.write_text("")
    except OSError as error:
        raise _not_saved(file, error) from error


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _LONGEST_LOOK_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _not_saved(folder: Path, error: Exception) -> NotSavedError:
    return NotSavedError(
        f"{folder}: the checkpoint could not be written ({system_reason(error)}); make room and start the same "
        "command again"
    )

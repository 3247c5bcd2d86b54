"""The checkpoints of a run on several hosts: Orbax writes on all of them, the first one does what must be done once.

Lock, leftovers, manifest and deletion are the first one's; the files are read for their digests by who wrote them.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunix_grpo.console.output import to_log_files
from tunix_grpo.errors import UserError
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError, SavedSteps, items_of
from tunix_grpo.run.failed_saves import quiet_failures, system_reason
from tunix_grpo.run.leaves import flat_leaves
from tunix_grpo.run.places import UNFINISHED
from tunix_grpo.run.replicas import require_equal
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
        self._hosts, self._own, self._outcome = hosts, None, None
        self._failure: NotSavedError | None = None
        self._is_asked_for = True
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

    def take_in(self, unfinished: Path, step: int) -> None:
        """Takes in a step; called by the first process alone."""
        assert self._own is not None
        self._own.take_in(unfinished, step)

    def latest_valid(self) -> int | None:
        """Returns the newest step whose files are whole; the first process reads them."""
        step = self._hosts.broadcast(None if self._own is None else self._own.latest_valid())
        assert step is None or isinstance(step, int)
        return step

    def start(
        self, step: int, params: object, optimizer: object, run: Mapping[str, object], best: Sequence[int] = ()
    ) -> None:
        """Saves one step while training waits; `finish` says how that went.

        Raises:
            NotSavedError: Orbax could not write on this host. The others may wait for it for ever, so that there is no
                going on.
            NoStepError: the hosts hold different parameters.
        """
        self._is_asked_for = False
        if self._hosts.agree(self._own is not None and self._own.holds(step, run)):
            return
        digest = require_equal(params, self._hosts)
        to_log_files([f"step {step}: what hosts share of the parameters is equal on all, sha256 {digest}"])
        items = items_of(flat_leaves(params), flat_leaves(optimizer), run)
        unfinished = self.folder / UNFINISHED / str(step)
        with quiet_failures():
            try:
                self._checkpointer.save(unfinished, args=items)
            except (OSError, ValueError) as error:  # as in `Checkpoints`
                raise self._not_saved(step, system_reason(error)) from error
        digests = self._digests(step, unfinished)
        if digests is not None:
            self._move_in(step, unfinished, digests, best)

    def ended(self) -> bool:
        """Says whether there is a save whose outcome nobody has asked for yet."""
        return not self._is_asked_for

    def finish(self) -> bool:
        """Returns False where the outcome of the last save has been asked for already.

        Raises:
            NotSavedError: it has failed; all processes say the same.
        """
        failure, self._failure = self._failure, None
        is_new, self._is_asked_for = not self._is_asked_for, True
        if failure is not None:
            raise failure
        return is_new

    def _move_in(self, step: int, unfinished: Path, digests: Mapping[str, str], best: Sequence[int]) -> None:
        reason = None
        if self._own is not None:
            try:
                write_manifest(unfinished, digests)
                self._own.move_in(unfinished, step, best)
            except OSError as error:
                reason = system_reason(error)
        self._compare(step, reason)

    def _digests(self, step: int, folder: Path) -> dict[str, str] | None:
        """Returns the sha256 of every file of a step, by name; None where a process cannot read its own."""
        listed: list = self._hosts.gather(list(names_of_files(folder)) if self._own is not None else None)
        own = [name for name in listed[0] if self._writer(name) == self._hosts.index]
        digests: dict[str, str] = {}
        reason = None
        try:
            digests = file_digests(folder, own)
        except OSError as error:
            reason = system_reason(error)
        if not self._compare(step, reason):
            return None
        parts: list = self._hosts.gather(dict(digests))
        return {name: digest for part in parts for name, digest in part.items()}

    def _compare(self, step: int, reason: str | None) -> bool:
        """Says whether all have done their part; keeps why not for `finish`."""
        reasons = self._hosts.gather(reason)
        failed = next((f"{why} on host {host}" for host, why in enumerate(reasons) if why is not None), None)
        if failed is not None:
            self._failure = self._hosts.known(self._not_saved(step, failed))
        return failed is None

    def _not_saved(self, step: int, reason: str) -> NotSavedError:
        return NotSavedError.of(self.root / str(step), reason)

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
        raise NotSavedError(f"{file}: cannot be written ({system_reason(error)})") from error


def _appears(file: Path) -> bool:
    deadline = time.monotonic() + _LONGEST_LOOK_S
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True

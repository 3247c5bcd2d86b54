"""Replies of a service, kept in files by what was asked: the same question is never asked twice."""

import hashlib
import json
import logging
from pathlib import Path

from tunix_grpo.errors import UserError, one_line
from tunix_grpo.files import whole_file

_log = logging.getLogger(__name__)


class ReplyCache:
    """A folder with a file for every reply; any of them may be deleted at any time."""

    def __init__(self, folder: Path, setting: str) -> None:
        """Makes the folder.

        Args:
            setting: the key that names the folder.

        Raises:
            UserError: it cannot be written to.
        """
        self._folder, self._setting, self._complained = folder, setting, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(folder / "trial") as file:
                file.touch()
            (folder / "trial").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{self._problem(error)}; choose another folder, or null for no cache") from error

    def get(self, asked: bytes) -> str | None:
        """Returns the reply to a question; None where there is none, or none that can be read."""
        try:
            reply = json.loads(self._file(asked).read_bytes())["reply"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, asked: bytes, reply: str) -> None:
        """Keeps a reply; a disk that refuses it is one warning."""
        file = self._file(asked)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as written:
                written.write_text(json.dumps({"reply": reply}))
        except OSError as error:
            if not self._complained:
                _log.warning("%s; replies are not kept, and are asked for again in another run", self._problem(error))
            self._complained = True

    def _file(self, asked: bytes) -> Path:
        name = hashlib.sha256(asked).hexdigest()
        return self._folder / name[:2] / f"{name}.json"

    def _problem(self, error: OSError) -> str:
        return f"{self._setting}={self._folder}: cannot be written ({error.strerror or one_line(error)})"

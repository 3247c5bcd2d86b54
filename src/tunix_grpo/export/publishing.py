"""Puts a folder in its place, whole or not at all, and on the hub."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunix_grpo.errors import UserError

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_log = logging.getLogger(__name__)


def require_replaceable(to: Path, *, overwrite: bool, own_files: re.Pattern[str], mark: str) -> None:
    """Checks that nothing is lost when a folder is replaced.

    Args:
        overwrite: an earlier export may be replaced.
        own_files: names of the files that an export writes.
        mark: text in an export's README.md.

    Raises:
        UserError: something is there that may not be replaced.
    """
    if not to.exists():
        return
    if not overwrite:
        raise UserError(f"to={to} exists already; give another folder, or overwrite=true to replace an earlier export")
    if not to.is_dir():
        raise UserError(f"to={to} is a file; give a folder")
    files = sorted(path.name for path in to.iterdir())
    foreign = [name for name in files if not own_files.fullmatch(name) or not (to / name).is_file()]
    if foreign:
        raise UserError(f"to={to} holds {foreign[0]}, which no export wrote; overwrite=true replaces exports only")
    card = to / "README.md"
    if files and not (card.is_file() and mark in card.read_text()):
        raise UserError(f"to={to} is not an export of this program; overwrite=true replaces exports only")


@contextlib.contextmanager
def in_place_of(to: Path) -> Iterator[Path]:
    """Gives a folder to write to, which takes the place of `to` if all goes well, and vanishes otherwise."""
    folder = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    old = to.with_name(f".{to.name}.{os.getpid()}.old")
    try:
        folder.mkdir(parents=True)
        yield folder
        if to.exists():
            to.rename(old)
        try:
            folder.rename(to)
        except OSError:
            if old.exists():
                old.rename(to)
            raise
    except OSError as error:
        raise UserError(f"to={to}: cannot be written ({error.strerror or error}); choose another folder") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def require_repository(name: str) -> None:
    """Raises UserError if a name cannot be a repository's."""
    if not _REPOSITORY.fullmatch(name):
        raise UserError(f"push={name}: not of the form OWNER/NAME")


def push(folder: Path, repository: str) -> None:
    """Uploads a folder to the hub; a new repository is private.

    Raises:
        UserError: no network, no login, or no right to write there; the folder stays.
    """
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        url = api.upload_folder(repo_id=repository, folder_path=folder).repo_url
    except errors.LocalTokenNotFoundError as error:
        raise UserError(
            f"push={repository}: log in with `hf auth login` first (or set HF_TOKEN); {_later(folder, repository)}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise UserError(
            f"push={repository}: the hub refused ({_reason(error)}); {_later(folder, repository)}"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"push={repository}: the hub cannot be reached ({_reason(error)}); {_later(folder, repository)}"
        ) from error
    _log.info("uploaded: %s", url)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _later(folder: Path, repository: str) -> str:
    return f"{folder} is written, `hf upload {repository} {folder}` uploads it later"

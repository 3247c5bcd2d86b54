"""Uploads an exported folder to the Hugging Face hub."""

import logging
import re
from pathlib import Path

from tunix_grpo.errors import UserError, one_line

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_log = logging.getLogger(__name__)


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
            f"push={repository}: the hub refused ({one_line(error)}); {_later(folder, repository)}"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise UserError(
            f"push={repository}: the hub cannot be reached ({one_line(error)}); {_later(folder, repository)}"
        ) from error
    _log.info("uploaded: %s", url)


def _later(folder: Path, repository: str) -> str:
    return f"{folder} is written, `hf upload {repository} {folder}` uploads it later"

"""Where a model's directory comes from: a path, the package itself, Kaggle, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from tunix_grpo.config import ModelConfig
from tunix_grpo.config.rules import BUNDLED
from tunix_grpo.errors import UserError, one_line
from tunix_grpo.hub_cache import remove_damaged

_ASSETS = Path(__file__).parent.parent / "assets"
_KAGGLE_ID = re.compile(r"(?:\w[\w.-]*/){3}\w[\w.-]*(?:/[1-9]\d*)?")
_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja")
_WAY_OUT = "download it elsewhere and give its folder as model.path=DIR"
_log = logging.getLogger(__name__)


def resolve_directory(config: ModelConfig) -> Path:
    """Returns the local directory of a model: its path, the bundled one, or a (cached) download.

    Raises:
        UserError: no such directory, no network, a gated or unknown model; one sentence that says what to do.
    """
    if config.path is not None:
        if config.path.startswith(BUNDLED):
            return _ASSETS / config.path.removeprefix(BUNDLED)
        directory = Path(config.path).expanduser()
        if not directory.is_dir():
            raise UserError(
                f"model.path={config.path}: no such directory; give a Hugging Face model directory, model.path=DIR"
            )
        return directory
    if config.kaggle_id is not None:
        return _from_kaggle(config.kaggle_id)
    if config.hub_id is None:
        raise UserError(
            "model.path, model.kaggle_id and model.hub_id are all null; set model.path=DIR or model.hub_id=OWNER/NAME"
        )
    if config.random_weights:
        return _shapes(config.hub_id)
    return _from_hub(config.hub_id, config.revision)


def config_directory(config: ModelConfig) -> Path:
    """Returns a folder with a model's config.json; what it takes to load the weights is not fetched.

    Raises:
        UserError: see `resolve_directory`.
    """
    if config.path is not None or config.kaggle_id is not None or config.hub_id is None:
        return resolve_directory(config)
    if (folder := _shapes_folder(config.hub_id)).is_dir():
        return folder
    return _from_hub(config.hub_id, config.revision, ["config.json"])


def _shapes_folder(hub_id: str) -> Path:
    return _ASSETS / "shapes" / hub_id.replace("/", "--")


def _shapes(hub_id: str) -> Path:
    """Returns a bundled folder that holds nothing but the config.json of a known model: enough for random weights."""
    folder = _shapes_folder(hub_id)
    if not folder.is_dir():
        known = ", ".join(sorted(path.name.replace("--", "/") for path in folder.parent.iterdir()))
        raise UserError(
            f"model.random_weights=true: the shapes of model.hub_id={hub_id} are not known here; known are {known}; "
            "give a folder with its config.json as model.path=DIR"
        )
    return folder


def _from_hub(hub_id: str, revision: str | None, patterns: Sequence[str] = _FILES) -> Path:
    import httpx
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # the user reads how a download ends, not each retry
    begun = time.time()
    try:
        folder = Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise UserError(
            f"model.hub_id={hub_id} is gated: accept its terms on https://huggingface.co/{hub_id}, then log in with "
            "`hf auth login` (or set HF_TOKEN)"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"model.hub_id={hub_id}{at} does not exist on the hub, or needs a login (`hf auth login`)"
        ) from error
    except errors.HFValidationError as error:
        raise UserError(f"model.hub_id={hub_id!r} is not a hub id of the form OWNER/NAME") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"model.hub_id={hub_id} could not be downloaded (no network?); {_WAY_OUT}") from error
    except httpx.HTTPError as error:  # it broke off again and again; each try has gone on where the last one ended
        raise UserError(
            f"model.hub_id={hub_id} could not be downloaded ({one_line(error)}); start the same command again, which "
            f"keeps the files that have arrived, or {_WAY_OUT}"
        ) from error
    except ValueError as error:  # a file's name leads out of the folder
        raise UserError(f"model.hub_id={hub_id} cannot be stored ({one_line(error)}); take another model") from error
    if (damaged := remove_damaged(folder, begun)) is not None:
        raise UserError(
            f"model.hub_id={hub_id}: {damaged.name} arrived damaged and is removed; start the same command again"
        )
    return folder


# --- Kaggle ---


def _from_kaggle(kaggle_id: str) -> Path:
    """Returns kagglehub's folder of a model; without a network, a version that was downloaded before.

    That is the version that `kaggle_id` names, or else the newest.
    """
    import requests

    if not _KAGGLE_ID.fullmatch(kaggle_id):
        raise _not_an_id(kaggle_id)
    with _quiet_kagglehub():
        import kagglehub
        from kagglehub import exceptions
        from kagglehub.handle import parse_model_handle

        handle = parse_model_handle(kaggle_id)
        try:
            handle.framework_enum()
        except ValueError as error:
            raise _not_an_id(kaggle_id) from error
        try:
            with _files_inside(kaggle_id):
                return Path(kagglehub.model_download(kaggle_id)).absolute()
        except requests.HTTPError as error:
            raise _refused(kaggle_id, error.response.status_code if error.response is not None else 0) from error
        except (exceptions.UnauthenticatedError, exceptions.CredentialError) as error:
            raise _refused(kaggle_id, 401) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            cached = None if handle.is_versioned() else _newest_cached(kaggle_id)
            if cached is None:
                raise _not_downloaded(kaggle_id, "no network?") from error
        except exceptions.DataCorruptionError as error:
            raise _not_downloaded(kaggle_id, "a file arrived damaged") from error
        except (
            exceptions.BackendError,
            exceptions.ColabEnvironmentError,
            exceptions.KaggleEnvironmentError,
            exceptions.NotFoundError,
            OSError,
            ValueError,  # kaggle.json is not valid, or the archive is of another kind
        ) as error:
            raise _not_downloaded(kaggle_id, one_line(error)) from error
    _log.warning("Kaggle cannot be reached; reading %s, which was downloaded earlier", cached)
    return cached


@contextlib.contextmanager
def _files_inside(kaggle_id: str) -> Iterator[None]:
    """Refuses a model that has a file whose name leads out of its folder: kagglehub 1.0 would write there."""
    from kagglehub import http_resolver

    listed = http_resolver._list_model_files

    def checked(*given: Any) -> tuple[list[str], bool]:
        files, are_more = listed(*given)
        outside = [name for name in files if PurePath(name).is_absolute() or ".." in PurePath(name).parts]
        if outside:
            raise UserError(f"model.kaggle_id={kaggle_id} cannot be stored (it has a file {outside[0]!r}); {_WAY_OUT}")
        return files, are_more

    http_resolver._list_model_files = checked
    try:
        yield
    finally:
        http_resolver._list_model_files = listed


def _not_an_id(kaggle_id: str) -> UserError:
    return UserError(
        f"model.kaggle_id={kaggle_id!r} is not of the form OWNER/MODEL/FRAMEWORK/VARIATION (a /VERSION may follow), "
        "such as google/gemma-3/transformers/gemma-3-1b-it"
    )


def _refused(kaggle_id: str, status: int) -> UserError:
    """Returns the error for an answer of Kaggle that is no success.

    Kaggle may refuse every request about a model that is not open to everybody.
    """
    page = f"https://www.kaggle.com/models/{kaggle_id}"
    if status in (401, 403):
        return UserError(
            f"model.kaggle_id={kaggle_id} is not open to you: accept its licence on {page}, and log in with the token "
            "of https://www.kaggle.com/settings, in KAGGLE_API_TOKEN or in ~/.kaggle/kaggle.json"
        )
    if status == 404:
        return UserError(f"model.kaggle_id={kaggle_id} does not exist on Kaggle; look at {page}")
    return _not_downloaded(kaggle_id, f"Kaggle answers {status}")


def _not_downloaded(kaggle_id: str, reason: str) -> UserError:
    return UserError(f"model.kaggle_id={kaggle_id} could not be downloaded ({reason}); {_WAY_OUT}")


def _newest_cached(kaggle_id: str) -> Path | None:
    """Returns the folder of the newest version that kagglehub has downloaded in full, if any."""
    from kagglehub.cache import Cache
    from kagglehub.handle import parse_model_handle

    cache, handle = Cache(), parse_model_handle(kaggle_id)
    versions = Path(cache.get_path(handle)).parent.glob("[0-9]*.complete")
    for version in sorted((int(file.stem) for file in versions), reverse=True):
        if (folder := cache.load_from_cache(handle.with_version(version))) is not None:
            return Path(folder).absolute()
    return None


@contextlib.contextmanager
def _quiet_kagglehub() -> Iterator[None]:
    """Keeps kagglehub off standard output, which is for answers, and its progress bars on terminals only.

    It takes the standard output of its first import for its messages.
    """
    with contextlib.ExitStack() as muted:
        muted.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            muted.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield

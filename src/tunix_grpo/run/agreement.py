"""What the processes of a cluster settle at the start: whose run folder counts, and that all are told the same."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunix_grpo import __version__
from tunix_grpo.config import Config
from tunix_grpo.config.secrets import without_secrets
from tunix_grpo.console.output import LogFile, log_handlers
from tunix_grpo.files import Json
from tunix_grpo.hosts.cluster import Hosts

LOGS = "hosts"  # in the run's folder: a log for every process but the first
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "google-tunix", "qwix", "transformers", "numpy")
# Of the settings, what may differ between hosts: where each finds things, and which of them it is.
_OWN = ("output_dir", "checkpoint_dir", "training.checkpoint_dir", "training.mirror", "jax_cache", "distributed")


def settled(config: Config, hosts: Hosts) -> Config:
    """Returns the settings with the folders of the first process, after all have compared theirs.

    From here on every other process writes its log into `<run folder>/hosts/<index>.log`, and nothing else: what Hydra
    has made for it elsewhere is removed, and its standard output is closed.

    Raises:
        UserError: they were started with different settings or versions.
    """
    if hosts.count == 1:
        return config
    own = Path(config.output_dir)
    folders = hosts.broadcast([config.output_dir, config.checkpoint_dir])
    assert isinstance(folders, list)
    run, checkpoints = map(str, folders)
    if not hosts.is_first:
        _log_into(Path(run, LOGS, f"{hosts.index}.log"), own, Path(run))
    facts = dict(_flat("", without_secrets(dataclasses.asdict(config))))
    facts |= {f"the version of {name}": version for name, version in versions().items()}
    facts["the version of python"] = platform.python_version()
    hosts.require_same(facts, "start all processes with the same command and the same packages")
    training = dataclasses.replace(config.training, checkpoint_dir=checkpoints)
    return dataclasses.replace(config, output_dir=run, checkpoint_dir=checkpoints, training=training)


def versions() -> dict[str, Json]:
    """Returns the versions of this package and of those that decide what is computed."""
    found: dict[str, Json] = {"tunix-grpo": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # taken from a folder that is no installation
            continue
    return found


def _flat(prefix: str, value: object) -> Iterator[tuple[str, Json]]:
    if any(prefix == key or prefix.startswith(f"{key}.") for key in _OWN):
        return
    if isinstance(value, Mapping):
        for name, inside in value.items():
            yield from _flat(f"{prefix}.{name}".lstrip("."), inside)
    else:
        yield prefix, value if isinstance(value, None | bool | int | float | str) else str(value)


def _log_into(file: Path, own: Path, run: Path) -> None:
    """Moves the log of this process to a file, and takes it off the terminal.

    Args:
        own: the folder that Hydra has made for this process.
        run: that of the first one, which may be the same.
    """
    package = logging.getLogger(__name__.partition(".")[0])
    formatter = None
    for handler in log_handlers():
        for logger in (package, logging.getLogger()):
            logger.removeHandler(handler)
        if isinstance(handler, logging.FileHandler):
            formatter = handler.formatter
            handler.close()
            if own != run:
                Path(handler.baseFilename).unlink(missing_ok=True)
    if own != run:
        shutil.rmtree(own / ".hydra", ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds something else
            own.rmdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = LogFile(file)
    kept.setFormatter(formatter)
    logging.getLogger().addHandler(kept)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)

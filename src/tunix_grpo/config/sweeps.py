"""Where the jobs of a sweep keep their checkpoints."""

import hashlib
import re
from collections.abc import Collection, Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser

from tunix_grpo.config.course import decides_the_course
from tunix_grpo.config.loading import ALIASES

_LONGEST = 120  # characters; file systems allow 255 bytes
_DIGEST_BYTES = 6


def fixed_keys(words: Iterable[str]) -> set[str]:
    """Returns the keys that a command line of a sweep gives one value."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return {override.get_key_element().lstrip("+~") for override in parsed if not override.is_sweep_override()}


def job_name(job: Iterable[str], fixed: Collection[str]) -> str:
    """Returns the name of the folder in which a job of a sweep keeps its checkpoints.

    It has what the sweeper chose for the job, whatever that is, and then of the rest what decides what is learned: the
    same sweep goes on, also with more steps, another interval or another tracker. What a folder cannot be called
    becomes a dash, long names are cut; then, and where only the case of letters tells names apart, a digest ends the
    name. It is empty where nothing tells the job apart.

    Args:
        job: the job's overrides as Hydra's sweeper made them.
        fixed: the keys that were the same for all jobs.
    """
    varied, common = [], []
    for word in job:
        key = word.partition("=")[0].lstrip("+")
        if key not in fixed and key != "training.checkpoint_dir":
            varied.append(_shown(word.lstrip("+")))
        elif decides_the_course(key):
            common.append(_shown(word.lstrip("+")))
    text = ",".join(sorted(varied) + sorted(common))
    name = re.sub(r"[^\w.=,+-]", "-", text, flags=re.ASCII)[:_LONGEST]
    if name == text.lower():
        return name
    return f"{name}-{hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()}"


def _shown(word: str) -> str:
    """Returns a word with the short form of its key, where it has one."""
    short = word.removeprefix("training.")
    return short if short.partition("=")[0] in ALIASES else word

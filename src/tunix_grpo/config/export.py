"""The settings of `scripts/export.py`; their values are in `conf/export.yaml`."""

from dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.loading import Loader


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """What is written out, from which step of which run, and where to."""

    run: str = rules.path(hint="give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of the run, with its config.yaml."""
    step: str = rules.words_or_count("latest", "best")
    """A saved step, or latest, or best: the saved step with the highest eval/accuracy."""
    to: str = rules.path(hint="give the folder to write")
    """Folder that is written."""
    format: str = rules.choice("merged", "adapter", "full")
    """merged: a whole model; adapter: a PEFT adapter; full: a whole model, of a run without LoRA."""
    dtype: str = rules.choice("auto", "float32", "bfloat16")
    """Type of the tensors of a whole model; auto is that of the base model's file, or the run's if it is wider."""
    push: str | None = rules.text(hint="give OWNER/NAME, or null")
    """Hub id that the folder is uploaded to; null uploads nothing."""
    checkpoint_dir: str | None = rules.path(hint="give a folder, or null for the one that the run has written to")
    """Folder of the run's checkpoints, where they have moved; null is the one that the run has written to."""
    overwrite: bool
    """Replaces an earlier export in `to`."""
    device: str = rules.choice("cuda", "cpu", "tpu", "auto")
    """Where the logits for the check are computed."""
    jax_cache: str | None = rules.path(hint="give a folder, or null for none")
    """Folder of compiled programs, shared by all runs; null keeps none."""


load = Loader(schema=ExportConfig, checks=())

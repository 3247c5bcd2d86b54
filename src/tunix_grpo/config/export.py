"""The settings of `scripts/export.py`; their values are in `conf/export.yaml`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from tunix_grpo.config import rules
from tunix_grpo.config.loading import Loader
from tunix_grpo.config.rules import GROUP, Device, Flag, Name, NameOrReference, Path, Step


@dataclass(kw_only=True, slots=True, config=GROUP)
class MovedModel:
    """Where the files of the run's model are now; null is where they were in training."""

    path: Path | None = rules.hint("give a Hugging Face directory, or null for the run's own")
    """Hugging Face directory of the base model; null is where it was in training."""
    tokenizer: Path | None = rules.hint("give a directory, or null for the run's own")
    """Directory of the tokenizer; null is where it was in training."""
    family: NameOrReference | None = rules.hint("give FILE.py:NAME, or null for the run's own")
    """FILE.py:NAME of a family of your own; null is where it was in training."""
    run: Path | None = rules.hint("give a run's folder, or null for the run's own")
    """Folder of the run that the run started from, as model.run in training; null is where it was in training."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class ExportConfig:
    """What is written out, from which step of which run, and where to."""

    run: Path = rules.hint("give a run's folder, such as outputs/tunix-grpo/2026-01-31/12-00-00")
    """Folder of the run, with its config.yaml."""
    step: Step
    """A saved step, or latest, or best: the saved step with the highest evaluation.metric."""
    to: Path = rules.hint("give the folder to write")
    """Folder that is written."""
    format: Literal["merged", "adapter", "full", "gguf"]
    """merged: a whole model; adapter: a PEFT adapter; full: a whole model, of a run without LoRA; gguf: a whole model
    for llama.cpp and Ollama."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Type of the tensors of a whole model; auto is that of the base model's file, or the run's if it is wider; float16
    for gguf, whose vectors are always float32."""
    push: Name | None = rules.hint("give OWNER/NAME, or null")
    """Hub id that the folder is uploaded to; null uploads nothing."""
    checkpoint_dir: Path | None = rules.hint("give a folder, or null for the one that the run has written to")
    """Folder of the run's checkpoints, where they have moved; null is the one that the run has written to."""
    overwrite: Flag
    """Replaces an earlier export in `to`."""
    device: Device
    """Where the logits for the check are computed."""
    jax_cache: Path | None = rules.hint("give a folder, or null for none")
    """Folder of compiled programs, shared by all runs; null keeps none."""
    model: MovedModel


load = Loader(schema=ExportConfig)

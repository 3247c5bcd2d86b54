"""The README.md of an exported model: where it comes from, how it scores, how it is loaded, how it was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import yaml

from tunix_grpo import __version__
from tunix_grpo.config import Config, RunConfig
from tunix_grpo.run.saved_runs import SavedRun

MARK = "Written by `scripts/export.py` of tunix-grpo"
# What says something about the machine or its user, not about the model.
_PRIVATE = ("checkpoint_dir", "mirror", "output_dir", "jax_cache", "tracker", "device")
_COLUMNS = {"eval/accuracy": "accuracy", "eval/reward": "reward", "eval/truncated": "truncated"}
_LOADING = {
    "model": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```""",
    "adapter": """\
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{place}", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("{place}")
```""",
    "gguf": """\
```
llama-cli -m {place}/model.gguf
cd {place} && ollama create {name} -f Modelfile && ollama run {name}
```""",
}
_LIBRARIES = {"model": "transformers", "adapter": "peft", "gguf": "gguf"}


def model_card(run: SavedRun, step: int, *, place: str, kind: str, check: str) -> str:
    """Returns the text of README.md.

    Args:
        step: that was exported.
        place: hub id, or folder, that the model is loaded from.
        kind: of the files: `model`, `adapter` of PEFT, or `gguf`.
        check: a sentence on what reading the files back has shown.
    """
    model = run.config.model
    base = _base(run.config)
    name = place.rpartition("/")[2]
    what = "A LoRA adapter for" if kind == "adapter" else "A model made from"
    parts = [
        _front_matter(run.config, kind),
        f"# {name}",
        f"{what} {base}, {_training(run.config)}, {step} steps"
        + (f", LoRA of rank {model.lora_rank}." if model.lora_rank is not None else ", all weights."),
        "## Scores",
        _scores(run, step),
        "## Loading",
        _LOADING[kind].format(place=place, name=name),
        "## Settings",
        f"```yaml\n{yaml.safe_dump(portable(dataclasses.asdict(run.config)), sort_keys=False).strip()}\n```",
        f"{MARK} {__version__}. {check}",
    ]
    return "\n\n".join(parts) + "\n"


def _training(config: RunConfig) -> str:
    if isinstance(config, Config):
        return f"trained with GRPO on the task `{config.task.name}`"
    return f"trained on demonstrations for the task `{config.task.name}`"


def portable(settings: Mapping[str, object]) -> dict[str, object]:
    """Returns the settings without what belongs to one machine: of a path, only the last part stays."""
    kept: dict[str, object] = {}
    for key, value in settings.items():
        if key in _PRIVATE:
            continue
        if isinstance(value, dict):
            value = portable(value)
        elif isinstance(value, str) and value.startswith("/"):
            value = Path(value).name
        kept[key] = value
    return kept


def _base(config: RunConfig) -> str:
    model = config.model
    if model.path is not None:
        return f"`{model.name}`"
    if model.kaggle_id is not None:
        return f"[{model.kaggle_id}](https://www.kaggle.com/models/{model.kaggle_id})"
    at = f" at revision `{model.revision}`" if model.revision else ""
    return f"[{model.hub_id}](https://huggingface.co/{model.hub_id}){at}"


def _front_matter(config: RunConfig, kind: str) -> str:
    """Returns what the hub reads of a card."""
    content: dict[str, object] = {"library_name": _LIBRARIES[kind]}
    if config.model.path is None and config.model.kaggle_id is None:
        content["base_model"] = config.model.hub_id
    way = "grpo" if isinstance(config, Config) else "sft"
    content |= {"pipeline_tag": "text-generation", "tags": [way, "tunix-grpo"]}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _scores(run: SavedRun, step: int) -> str:
    """Returns a table of the first evaluation, the exported step's, the best one's and the last."""
    judged = run.judged()
    if not judged:
        return "The run recorded no evaluation."
    best = max(judged, key=lambda s: (judged[s], s))
    shown = sorted({min(judged), best, max(judged)} | ({step} & set(judged)))
    rows = ["| step | " + " | ".join(_COLUMNS.values()) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for number in shown:
        values = (run.metrics[number].get(key) for key in _COLUMNS)
        cells = ["" if value is None else f"{value:.3f}" for value in values]
        mark = " (this model)" if number == step else ""
        rows.append(f"| {number}{mark} | " + " | ".join(cells) + " |")
    intro = f"Greedy answers to at most {run.config.evaluation.num_questions} held-out questions:"
    return intro + "\n\n" + "\n".join(rows)

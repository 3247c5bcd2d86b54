"""How far the logits of exports are from those of the trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tunix_grpo.export.checking import logits
from tunix_grpo.export.exporting import QUESTIONS
from tunix_grpo.model.model import Model
from tunix_grpo.text.prompts import chat_messages
from tunix_grpo.text.tokenizer import load_tokenizer


def export_distances(model: Model, merged: Path, adapter: Path) -> dict[str, dict[str, float]]:
    """Returns how far float32 logits are from those of the base model with the adapter in float64, per kind of text.

    `merged` and `adapter` are read by transformers and PEFT, `ours` is the trained `model`; `merged, float64` is
    transformers in float64, which shows what rounding the merged weights to float32 does.
    """
    import peft
    import torch
    import transformers

    tokenizer = load_tokenizer(merged, model.spec.vocab_size, merged)
    texts = {
        "questions": [tokenizer.encode(question) for question in QUESTIONS],
        "chat prompts": [tokenizer.encode_prompt(chat_messages(question, None)) for question in QUESTIONS],
    }

    def theirs(folder: Path, dtype: torch.dtype, with_adapter: bool) -> dict[str, np.ndarray]:
        module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        if with_adapter:
            module = peft.PeftModel.from_pretrained(module, adapter).to(dtype)
        with torch.no_grad():
            return {
                kind: np.concatenate([module.eval()(torch.tensor([row])).logits[0].numpy() for row in rows])
                for kind, rows in texts.items()
            }

    exact = theirs(model.directory, torch.float64, with_adapter=True)
    weights = model.decoder_weights()
    read = {
        "merged": theirs(merged, torch.float32, with_adapter=False),
        "adapter": theirs(model.directory, torch.float32, with_adapter=True),
        "ours": {kind: logits(model, weights, rows) for kind, rows in texts.items()},
        "merged, float64": theirs(merged, torch.float64, with_adapter=False),
    }
    return {
        kind: {name: float(np.abs(logits[kind] - exact[kind]).max()) for name, logits in read.items()} for kind in texts
    }

"""Small random models of every family, as transformers writes them: what the parity tests compare with."""

from __future__ import annotations

import copy
import types
from pathlib import Path

import jax
import numpy as np

from tunix_grpo.model.model import Model, load_model

SHAPES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# Every variant that changes the arithmetic: name -> (transformers' config class, what differs from SHAPES).
VARIANTS = {
    "llama": ("LlamaConfig", {"rope_theta": 5e5, "tie_word_embeddings": False}),
    "llama-tied-mha": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-llama3-rope": ("LlamaConfig", {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE}),
    "llama-linear-rope": ("LlamaConfig", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True, "rope_theta": 1e6}),
    "qwen2-untied": ("Qwen2Config", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", {"rope_theta": 5e6}),
    "qwen3-tied": ("Qwen3Config", {"rope_theta": 1e6, "tie_word_embeddings": True}),
    "gemma3": ("Gemma3TextConfig", {"sliding_window": 5, "rope_parameters": GEMMA_ROPE}),
    "gemma3-mqa": ("Gemma3TextConfig", {"sliding_window": 4, "num_key_value_heads": 1}),
    "gemma3-mha": ("Gemma3TextConfig", {"sliding_window": 4, "num_key_value_heads": 4}),
    "gemma3-query-scale": ("Gemma3TextConfig", {"sliding_window": 64, "query_pre_attn_scalar": 24}),
}


def one_device_mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))


def write_model(variant: str, folder: Path, **shapes):
    """Writes a random model of a variant, and returns transformers' own (float32, on the CPU)."""
    import torch
    import transformers

    kind, changes = VARIANTS[variant]
    # A copy: transformers writes what it completes into the values that it is given.
    config = getattr(transformers, kind)(**copy.deepcopy({**SHAPES, **changes, **shapes}))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else 0.15 * noise)
    model.save_pretrained(folder)
    return model


def model_config(**changes):
    """Returns what load_model reads of ModelConfig."""
    values = {
        "dtype": "float32",
        "lora_rank": None,
        "lora_alpha": 8.0,
        "lora_target_modules": "all",
        "quantization": None,
        "random_weights": False,
        "family": None,
    }
    return types.SimpleNamespace(**{**values, **changes})


def load(folder: Path, **changes) -> Model:
    return load_model(model_config(**changes), folder, one_device_mesh(), 0)

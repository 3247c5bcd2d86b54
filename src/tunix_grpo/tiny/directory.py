"""The tiny model's shape, and its Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.files import Json
from tunix_grpo.model.layout import LeafTree, flattened, leaves
from tunix_grpo.tiny.tokenizer import BOS, CHAT_TEMPLATE, END_OF_TURN, EOS, PAD, SPECIAL_TOKENS, UNK, VOCAB_SIZE

CONFIG: dict[str, Json] = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": SPECIAL_TOKENS.index(BOS),
    "dtype": "float32",
    "eos_token_id": [SPECIAL_TOKENS.index(EOS), SPECIAL_TOKENS.index(END_OF_TURN)],
    "final_logit_softcapping": None,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "pad_token_id": SPECIAL_TOKENS.index(PAD),
    "query_pre_attn_scalar": 16,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": VOCAB_SIZE,
}


def write_directory(directory: Path, tokenizer: Tokenizer, spec: DecoderSpec, params: LeafTree) -> None:
    """Writes a Hugging Face model directory."""
    directory.mkdir(parents=True, exist_ok=True)
    trained = flattened(params)
    arrays = {
        name: np.ascontiguousarray(array)
        for leaf in leaves(spec)
        for name, array in zip(leaf.names, leaf.save(np.asarray(trained[leaf.path])), strict=True)
    }
    save_file(arrays, directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    stops = {key: CONFIG[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    files = {
        "config.json": CONFIG,
        "generation_config.json": stops | {"do_sample": True},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "unk_token": UNK,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONFIG["max_position_embeddings"],
            "chat_template": CHAT_TEMPLATE,
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")

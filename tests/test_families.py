"""Every family: its table against Tunix and qwix, its config.json against transformers; and one of the user's own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import qwix
import torch
import transformers
from flax import nnx

from helpers.models import LLAMA3_ROPE, SHAPES, VARIANTS, model_config, one_device_mesh
from tunix_grpo.decoder.forward import forward, head_logits, text_positions
from tunix_grpo.decoder.spec import DecoderSpec, Rope
from tunix_grpo.errors import UserError
from tunix_grpo.model.config_json import spec_from_config
from tunix_grpo.model.layout import leaves
from tunix_grpo.model.lora import target_pattern
from tunix_grpo.model.model import load_model
from tunix_grpo.model.tunix_modules import abstract_module

TYPES = {
    "gemma3_text": transformers.Gemma3TextConfig,
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


def spec_of(variant: str) -> DecoderSpec:
    kind, changes = copy.deepcopy(VARIANTS[variant])  # transformers writes into what it is given
    return spec_from_config(getattr(transformers, kind)(**{**SHAPES, **changes}).to_dict())


# --- the table ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_names_every_leaf_of_tunixs_module(variant):
    spec = spec_of(variant)
    state = nnx.to_flat_state(nnx.state(abstract_module(spec), nnx.Param))
    assert {leaf.path: leaf.shape for leaf in leaves(spec)} == {path: variable.shape for path, variable in state}


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_become_leaves_and_leaves_files(variant):
    rng = np.random.default_rng(0)
    for leaf in leaves(spec_of(variant)):
        arrays = [rng.standard_normal(leaf.file_shape) for _ in leaf.names]
        loaded = leaf.load(arrays)
        assert loaded.shape == leaf.shape
        for one, other in zip(arrays, leaf.save(loaded), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma3", "gemma3-mha"])
def test_adapters_hang_where_qwix_hangs_them(variant):
    spec = spec_of(variant)
    graph, state = nnx.split(abstract_module(spec))
    provider = qwix.LoraProvider(module_path=target_pattern("all", spec), rank=3, alpha=1.0)

    def adapted(state: nnx.State) -> nnx.Module:
        module = nnx.merge(graph, state)
        return qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **module.get_model_input())

    traced = nnx.state(nnx.eval_shape(adapted, state), nnx.LoRAParam)
    ours = {}
    for leaf in leaves(spec):
        if leaf.is_projection:
            (inputs, outputs), (path_a, path_b) = leaf.adapter_shapes, leaf.adapter_paths
            ours |= {path_a: (*inputs, 3), path_b: (3, *outputs)}
    assert ours == {path: variable.shape for path, variable in nnx.to_flat_state(traced)}


# --- config.json, as transformers completes it ---


@pytest.mark.parametrize("model_type", TYPES)
def test_what_config_json_leaves_out_is_what_transformers_says(model_type):
    whole = TYPES[model_type]().to_dict()
    spec = spec_from_config({"model_type": model_type})
    assert spec == spec_from_config(whole)
    sizes = {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.embed_dim,
        "intermediate_size": spec.hidden_dim,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_head,
    }
    assert {key: whole[key] for key in sizes} == sizes
    assert spec.head_dim == whole.get("head_dim", whole["hidden_size"] // whole["num_attention_heads"])


NULLS = [
    ("llama", {"head_dim": None}),
    ("llama", {"num_key_value_heads": None}),
    ("qwen2", {"num_key_value_heads": None}),
    ("qwen3", {"num_key_value_heads": None}),
    ("qwen2", {"sliding_window": None, "use_sliding_window": True}),
    ("qwen3", {"rope_scaling": None}),
    ("gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}),
    ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e6}}}),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    (
        "gemma3_text",
        {"rope_theta": 2e6, "rope_local_base_freq": 2e4, "rope_scaling": {"rope_type": "linear", "factor": 2}},
    ),
    ("llama", {"rope_theta": 5e5, "rope_scaling": {**LLAMA3_ROPE, "original_max_position_embeddings": 7}}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 8}),
]


@pytest.mark.parametrize(("model_type", "changes"), NULLS)
def test_forms_that_transformers_completes_itself(model_type, changes):
    """Both readings of a file are the same: ours of the file, ours of what transformers makes of it."""
    config = {**SHAPES, **changes}
    completed = TYPES[model_type](**copy.deepcopy(config)).to_dict()
    assert spec_from_config({"model_type": model_type, **config}) == spec_from_config(completed)


def test_a_llama3_rope_without_its_length_takes_that_of_the_model():
    rope = {key: value for key, value in LLAMA3_ROPE.items() if key != "original_max_position_embeddings"}
    spec = spec_from_config({"model_type": "llama", **SHAPES, "rope_scaling": rope})
    assert spec.ropes[0] == Rope(theta=1e4, factor=8.0, llama3=(1.0, 4.0, 512))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_attention_heads": "4"},
            'num_attention_heads="4" is not a whole number of at least 1; correct it',
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 is not a whole number of at least 1"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000 is more than 10000; correct it"),
        ({"text_config": "small"}, 'text_config="small" is not an object'),
        ({"hidden_size": 32.5}, "hidden_size=32.5 is not a whole number"),
        ({"vocab_size": None}, "vocab_size=null is not a whole number"),
        ({"vocab_size": True}, "vocab_size=true is not a whole number"),
        ({"rope_theta": None}, "rope_theta=null is not a number above 0"),
        ({"rms_norm_eps": "1e-6"}, 'rms_norm_eps="1e-6" is not a number above 0'),
        ({"rope_scaling": "linear"}, 'rope_scaling="linear" is not an object'),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing; give a number above 0"),
        (
            {"rope_scaling": {"rope_type": ["linear"]}},
            r'rope_scaling.rope_type=\["linear"\] is not supported; supported',
        ),
        ({"hidden_act": ["silu"]}, r'hidden_act=\["silu"\] is not supported; supported are silu, gelu_pytorch_tanh'),
        ({"tie_word_embeddings": "false"}, 'tie_word_embeddings="false" is not true or false'),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
        ({"head_dim": 15}, "head_dim=15 makes heads of 15 numbers"),
        ({"head_dim": None, "hidden_size": 33}, "hidden_size=33 is not a multiple of num_attention_heads=4"),
        ({"model_type": "qwen3", "head_dim": None}, "head_dim=null is not a whole number of at least 1"),
        ({"model_type": "gemma3_text", "head_dim": None}, "head_dim=null is not a whole number"),
        ({"model_type": "gemma3_text", "num_key_value_heads": None}, "num_key_value_heads=null is not a whole number"),
        (
            {"model_type": "gemma3_text", "sliding_window": None},
            "sliding_window=null is no window, but some layers use",
        ),
        (
            {"model_type": "gemma3_text", "layer_types": ["full_attention"]},
            r"is not a list of 7 words, each one of slid",
        ),
        ({"model_type": "gemma3_text", "hidden_activation": "gelu"}, 'hidden_activation="gelu" is not supported; supp'),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0.5 is not supported \(only 1 is\)"),
        ({"model_type": ["llama"]}, r'model_type=\["llama"\] is not supported'),
    ],
)
def test_a_wrong_value_is_one_sentence(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        spec_from_config({"model_type": "llama", **SHAPES, **changes})
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


def test_what_stands_beside_the_kinds_of_layers_is_named(caplog):
    spec = spec_from_config(
        {"model_type": "gemma3_text", **SHAPES, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    )
    assert {rope.theta for rope in spec.ropes} == {1e6, 1e4}
    assert "full attention has rope_theta=1e+06" in caplog.text


# --- a family of the user's own ---

GRANITE = """
import dataclasses

from tunix_grpo.model.families.llama import LLAMA


def read(fields):
    spec = LLAMA.read(fields)
    return dataclasses.replace(
        spec,
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        attention_scale=fields.number("attention_multiplier", 1.0),
    )


OWN = dataclasses.replace(LLAMA, model_types=("granite",), read=read)
"""


@pytest.fixture
def granite(tmp_path) -> tuple[Path, torch.nn.Module]:
    """A random model of a type that is none of ours: a Llama with two factors more."""
    factors = {"embedding_multiplier": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 1.0}
    sizes = {name: size for name, size in SHAPES.items() if name != "head_dim"}
    config = transformers.GraniteConfig(**sizes, **factors, logits_scaling=1.0, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + 0.15 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "own.py").write_text(GRANITE)
    return tmp_path / "model", model


def test_a_family_from_a_file_has_the_logits_of_transformers(granite, tmp_path):
    folder, theirs = granite
    with pytest.raises(UserError, match='model_type="granite" is not supported; .*model.family=FILE.py:NAME adds one'):
        load_model(model_config(), folder, one_device_mesh(), 0)
    model = load_model(model_config(family=f"{tmp_path}/own.py:OWN", lora_rank=2), folder, one_device_mesh(), 0)
    tokens = np.random.default_rng(0).integers(0, 97, (2, 9)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    valid = jnp.ones(tokens.shape, bool)
    weights = model.decoder_weights()
    hidden, _ = forward(model.spec, weights, tokens, text_positions(valid), valid)
    assert np.abs(np.asarray(head_logits(weights, hidden)) - expected).max() < 1e-4  # as test_decoder.py has it
    assert np.abs(expected).max() > 1
    changed = dataclasses.replace(model.spec, embedding_scale=1.0)
    other, _ = forward(changed, weights, tokens, text_positions(valid), valid)
    assert np.abs(np.asarray(other - hidden)).max() > 0.1


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("lama", "model.family=lama: there is no such family; give one of gemma3, qwen2, qwen3, llama, FILE.py:NAME"),
        ("nowhere.py:OWN", "model.family=nowhere.py:OWN: there is no such file; give a Python file"),
        ("own.py:MINE", "model.family=own.py:MINE: there is no such family in own.py"),
        ("own.py:read", "model.family=own.py:read: read is not a Family but function; give one of gemma3"),
        ("broken.py:OWN", r"broken.py:OWN cannot be run: ZeroDivisionError: division by zero \(.*broken.py:1\)"),
    ],
)
def test_a_family_that_is_not_there_is_one_sentence(family, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(GRANITE)
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match=words) as caught:
        spec_from_config({"model_type": "granite"}, family)
    assert "\n" not in str(caught.value)


def test_matrices_have_the_sizes_of_their_roles():
    """Hand-computed for one layer of Gemma: N x H = 64, K x H = 32, D = 32, F = 48."""
    shapes = {
        leaf.path[-2]: (leaf.matrix_shape, leaf.shape) for leaf in leaves(spec_of("gemma3")) if leaf.is_projection
    }
    assert shapes == {
        "q_einsum": ((32, 64), (4, 32, 16)),
        "kv_einsum": ((32, 32), (2, 2, 32, 16)),
        "attn_vec_einsum": ((64, 32), (4, 16, 32)),
        "gate_proj": ((32, 48), (32, 48)),
        "up_proj": ((32, 48), (32, 48)),
        "down_proj": ((48, 32), (48, 32)),
    }

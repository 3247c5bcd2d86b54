"""Hugging Face directories into modules: every form of storage, every fault by name; LoRA and full fine-tuning."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from safetensors.numpy import save_file

from helpers.kaggle_server import TOKEN, KaggleServer, serving
from helpers.models import SHAPES, load, model_config, one_device_mesh
from tunix_grpo.errors import UserError
from tunix_grpo.model.config_json import spec_from_config
from tunix_grpo.model.layout import PROJECTIONS
from tunix_grpo.model.layout import leaves as layout_leaves
from tunix_grpo.model.loading import random_weights
from tunix_grpo.model.lora import target_pattern
from tunix_grpo.model.model import Model, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.model.tunix_modules import module_with

SMALL = {**SHAPES, "num_hidden_layers": 2, "sliding_window": 4}
LLAMA = {"model_type": "llama", **SMALL, "tie_word_embeddings": False}
GEMMA = {"model_type": "gemma3_text", **SMALL}
MULTIMODAL = {"model_type": "gemma3", "text_config": GEMMA, "vision_config": {"hidden_size": 8}}
Arrays = dict[str, np.ndarray]


def arrays_of(config: dict) -> Arrays:
    """Returns random float32 tensors of all names that a model has."""
    numbers = np.random.default_rng(0)
    return {
        name: numbers.standard_normal(leaf.file_shape, np.float32)
        for leaf in layout_leaves(spec_from_config(config))
        for name in leaf.names
    }


def write(folder: Path, config: dict, arrays: Arrays, *, files: int = 1, index: bool = True) -> Path:
    """Writes a model directory, the tensors dealt out to several files; returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(arrays, folder / "model.safetensors")
        return folder
    weight_map = {}
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        mine = dict(list(arrays.items())[number::files])
        save_file(mine, folder / name)
        weight_map |= dict.fromkeys(mine, name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def leaves(model: Model) -> dict[tuple, jax.Array]:
    """Returns all leaves of Tunix's module by path, without adapters."""
    return {leaf.path: model.array(leaf) for leaf in layout_leaves(model.spec)}


def adapters(model: Model) -> dict[tuple, jax.Array]:
    return traverse_util.flatten_dict(model.trained)


def equal(one: Model, other: Model) -> bool:
    first, second = leaves(one), leaves(other)
    assert first.keys() == second.keys()
    return all(np.array_equal(first[path], second[path]) for path in first)


# --- forms of storage ---


def test_leaves_are_the_stored_tensors_in_tunixs_layout(tmp_path):
    arrays = arrays_of(LLAMA)
    loaded = leaves(load(write(tmp_path / "llama", LLAMA, arrays)))
    query = arrays["model.layers.1.self_attn.q_proj.weight"]  # [heads * H, D]
    np.testing.assert_array_equal(loaded["layers", 1, "attn", "q_proj", "w"], query.T.reshape(32, 4, 16))
    np.testing.assert_array_equal(loaded["lm_head", "w"], arrays["lm_head.weight"].T)

    arrays = arrays_of(GEMMA)
    loaded = leaves(load(write(tmp_path / "gemma", GEMMA, arrays)))
    value = arrays["model.layers.0.self_attn.v_proj.weight"]  # [kv heads * H, D]
    stacked = loaded["layers", 0, "attn", "kv_einsum", "w"]
    np.testing.assert_array_equal(stacked[1], value.reshape(2, 16, 32).swapaxes(1, 2))
    np.testing.assert_array_equal(
        loaded["layers", 1, "post_ffw_norm", "scale"], arrays["model.layers.1.post_feedforward_layernorm.weight"]
    )


@pytest.mark.parametrize(
    "how", [{"files": 3}, {"files": 3, "index": False}], ids=["shards and index", "shards without index"]
)
def test_shards_equal_one_file(how, tmp_path):
    arrays = arrays_of(LLAMA)
    one = load(write(tmp_path / "one", LLAMA, arrays))
    assert equal(one, load(write(tmp_path / "many", LLAMA, arrays, **how)))


def test_files_beside_the_model_are_not_read(tmp_path):
    """consolidated.safetensors holds the same model under other names, adapter_model.safetensors another one."""
    arrays = arrays_of(LLAMA)
    folder = write(tmp_path, LLAMA, arrays)
    before = load(folder)
    save_file({"tok_embeddings.weight": arrays["lm_head.weight"]}, folder / "consolidated.safetensors")
    assert equal(before, load(folder))


def prefixed(arrays: Arrays, old: str, new: str) -> Arrays:
    return {name.replace(old, new, 1): array for name, array in arrays.items()}


VISION = {
    "model.vision_tower.vision_model.embeddings.patch_embedding.weight": np.ones((2, 2), np.float32),
    "vision_tower.vision_model.post_layernorm.bias": np.ones(2, np.float32),
    "model.multi_modal_projector.mm_input_projection_weight": np.ones((2, 2), np.float32),
    "multi_modal_projector.mm_soft_emb_norm.weight": np.ones(2, np.float32),
}


@pytest.mark.parametrize(
    ("config", "stored"),
    [
        (GEMMA, lambda arrays: arrays | {"lm_head.weight": arrays["model.embed_tokens.weight"]}),
        (MULTIMODAL, lambda arrays: prefixed(arrays, "model.", "language_model.model.") | VISION),
        (MULTIMODAL, lambda arrays: prefixed(arrays, "model.", "model.language_model.") | VISION),
        (
            MULTIMODAL,
            lambda arrays: (
                prefixed(arrays, "model.", "language_model.model.")
                | {"language_model.lm_head.weight": arrays["model.embed_tokens.weight"]}
            ),
        ),
    ],
    ids=["tied head stored too", "multimodal, old names", "multimodal, new names", "multimodal, tied head stored too"],
)
def test_the_text_model_is_found_under_every_name(config, stored, tmp_path):
    arrays = arrays_of(GEMMA)
    plain = load(write(tmp_path / "plain", GEMMA, arrays))
    other = load(write(tmp_path / "other", config, stored(arrays)))
    assert plain.spec == other.spec
    assert equal(plain, other)


def test_the_single_file_wins_over_a_stale_index_which_is_named(tmp_path, caplog):
    """As in transformers; the shards are those of an older model."""
    write(tmp_path / "older", LLAMA, {name: array + 1 for name, array in arrays_of(LLAMA).items()}, files=2)
    folder = write(tmp_path / "older", LLAMA, arrays_of(LLAMA))
    assert equal(load(folder), load(write(tmp_path / "new", LLAMA, arrays_of(LLAMA))))
    assert "model.safetensors is read, as transformers does; not read: model-00001-of-00002.safetensors" in caplog.text
    assert "model.safetensors.index.json" in caplog.text


def test_a_shard_that_the_index_does_not_name_is_stale(tmp_path, caplog):
    arrays = arrays_of(LLAMA)
    folder = write(tmp_path / "many", LLAMA, arrays, files=2)
    save_file({"model.norm.weight": arrays["model.norm.weight"] + 1}, folder / "model-00003-of-00003.safetensors")
    assert equal(load(folder), load(write(tmp_path / "one", LLAMA, arrays)))
    assert "not read: model-00003-of-00003.safetensors" in caplog.text


def test_the_index_says_which_of_two_files_holds_a_tensor(tmp_path):
    arrays = arrays_of(LLAMA)
    folder = write(tmp_path / "many", LLAMA, arrays, files=2)
    file = folder / "model-00002-of-00002.safetensors"
    first = next(iter(arrays))  # in the first file
    save_file({first: arrays[first] + 1} | dict(list(arrays.items())[1::2]), file)
    assert equal(load(folder), load(write(tmp_path / "one", LLAMA, arrays)))


def test_a_tensor_in_two_files_without_an_index_is_refused(tmp_path):
    arrays = arrays_of(LLAMA)
    folder = write(tmp_path, LLAMA, arrays, files=2, index=False)
    save_file({"model.norm.weight": arrays["model.norm.weight"]}, folder / "other.safetensors")
    with pytest.raises(UserError, match=r"norm\.weight is in model-\S+ and in other\.safetensors; remove the stale"):
        load(folder)


QUANTIZED = {
    "bitsandbytes": {"model.layers.0.self_attn.q_proj.weight.absmax": np.ones(8, np.float32)},
    "bitsandbytes, 8 bits": {"model.layers.0.self_attn.q_proj.SCB": np.ones(8, np.float32)},
    "gptq": {"model.layers.0.self_attn.q_proj.qweight": np.ones((4, 64), np.int32)},
    "awq": {"model.layers.0.self_attn.q_proj.qzeros": np.ones((4, 8), np.int32)},
    "fp8": {"model.layers.0.self_attn.q_proj.weight_scale_inv": np.ones((1, 1), np.float32)},
    "compressed-tensors": {"model.layers.0.self_attn.q_proj.weight_packed": np.ones((4, 4), np.int32)},
    "another": {"model.layers.0.self_attn.q_proj.weight": np.ones((64, 32), np.uint8)},
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_quantized_upload_is_told_what_to_do(method, tmp_path):
    write(tmp_path, {**LLAMA, "quantization_config": {"quant_method": method}}, arrays_of(LLAMA) | QUANTIZED[method])
    with pytest.raises(UserError) as raised:
        load(tmp_path)
    assert str(raised.value).startswith(
        f"{tmp_path}: the weights are quantized by {method} (model.layers.0.self_attn.q"
    )
    assert "take the model's upload in full precision: model.quantization=nf4" in str(raised.value)


def test_a_note_on_quantization_beside_whole_weights_is_nothing(tmp_path):
    """Merged adapters keep the note of the base that they were trained on."""
    noted = {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}}
    assert equal(
        load(write(tmp_path / "a", noted, arrays_of(LLAMA))), load(write(tmp_path / "b", LLAMA, arrays_of(LLAMA)))
    )


@pytest.mark.parametrize(
    "kind", [ml_dtypes.bfloat16, np.float16, np.float64, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
)
def test_a_file_of_any_float_type_is_read_exactly(kind, tmp_path):
    arrays = {name: array.astype(kind) for name, array in arrays_of(LLAMA).items()}
    half = load(write(tmp_path / "half", LLAMA, arrays))
    whole = {name: array.astype(np.float32) for name, array in arrays.items()}
    assert equal(half, load(write(tmp_path / "whole", LLAMA, whole)))
    assert {leaf.dtype for leaf in leaves(half).values()} == {jnp.dtype(jnp.float32)}


LOADING = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp
from helpers.models import SHAPES, one_device_mesh
from tunix_grpo.model import config_json, loading, placing

def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key + ":"))

folder = Path(sys.argv[1])
spec = config_json.read_spec(folder)
small = config_json.spec_from_config({"model_type": "llama", **SHAPES, "num_hidden_layers": 2})
placing.place_stacks(small, loading.random_weights(small, 0), one_device_mesh(), jnp.dtype("float32"))
# jax and its compiler are in memory now
kept = []
for dtype in ("bfloat16", "float32"):
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = megabytes("VmRSS")
    kept.append(placing.place_stacks(spec, loading.stored_weights(spec, folder), one_device_mesh(), jnp.dtype(dtype)))
    leaves = jax.block_until_ready(jax.tree.leaves(kept[-1]))
    print(json.dumps([sum(leaf.nbytes for leaf in leaves) / 1e6, megabytes("VmHWM") - before]))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process needed at most")
def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    """Whole files that stay mapped, or leaves that stay on the host, would make it 1.5 copies and more.

    What is above one copy (seen: 1.12 to 1.22) is a leaf in its forms and the small programs that write it among the
    other layers: about 60 MB, whatever the size of the model. The C library gives every block back at once here: what
    it would keep depends on how threads meet (1.28 to 1.37 were seen).
    """
    shapes = {"vocab_size": 8000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 7}
    config = {**LLAMA, **shapes, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
    names = [(name, leaf.file_shape) for leaf in layout_leaves(spec_from_config(config)) for name in leaf.names]
    write(tmp_path, config, {name: np.ones(shape, ml_dtypes.bfloat16) for name, shape in names}, files=2)
    found = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(found)} | given_back
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    for copy, peak in map(json.loads, done.stdout.splitlines()):
        assert copy > 240
        assert peak <= 1.35 * copy


# --- faults ---


def without(*names: str):
    return lambda arrays: {name: array for name, array in arrays.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("model.norm.weight"), r"tensor model\.norm\.weight missing from the weights"),
        (without("lm_head.weight"), r"tensor lm_head\.weight missing"),  # not tied
        (
            lambda arrays: {n: a for n, a in arrays.items() if ".layers.1." not in n},
            r"tensors model\.layers\.1\.input_layernorm.weight, \S+, \S+ and 6 more missing",
        ),
        (
            lambda arrays: arrays | {"model.layers.0.self_attn.q_norm.weight": np.ones(16, np.float32)},
            r"tensor model\.layers\.0\.self_attn\.q_norm\.weight not part of a llama model",
        ),
        (
            lambda arrays: arrays | {"model.norm.weight": np.ones(31, np.float32)},
            r"model\.safetensors: model\.norm\.weight has shape \[31\], but config\.json promises \[32\]",
        ),
    ],
    ids=["missing", "head missing", "many missing", "extra", "misshapen"],
)
def test_tensors_that_do_not_fit_config_json_are_named(change, words, tmp_path):
    write(tmp_path, LLAMA, change(arrays_of(LLAMA)))
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def damage(folder: Path, what: str) -> None:
    file = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    if what == "cut off":
        file.write_bytes(file.read_bytes()[:-1000])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "pickle":
        file.rename(folder / "pytorch_model.bin")
    elif what == "no weights":
        file.unlink()
    elif what == "shard missing":
        file.unlink()
        index.write_text('{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}')
    elif what == "damaged index":
        file.unlink()
        index.write_text("{")
    elif what == "index without map":
        file.unlink()
        index.write_text("{}")
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "damaged config":
        (folder / "config.json").write_text('{"model_type": "llama", ')
    elif what == "unknown model type":
        (folder / "config.json").write_text('{"model_type": "mamba"}')
    elif what == "config is a list":
        (folder / "config.json").write_text("[]")
    elif what == "config is binary":
        (folder / "config.json").write_bytes(b"\xff\xfe{}")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("cut off", r"model\.safetensors: not a whole safetensors file \(.*\); download it again"),
        ("empty", r"model\.safetensors: not a whole safetensors file"),
        ("pickle", r"pytorch_model\.bin is a pickle, which can run code, and is not read; convert"),
        ("no weights", r"no \*\.safetensors file; model\.path wants a Hugging Face model directory"),
        ("shard missing", r"model-00001-of-00002\.safetensors named by model\.safetensors\.index\.json is missing"),
        ("damaged index", r"model\.safetensors\.index\.json: not valid JSON"),
        ("index without map", r"model\.safetensors\.index\.json: it has no weight_map"),
        ("no config", r"config\.json is missing; model\.path wants a Hugging Face model directory"),
        ("damaged config", r"config\.json: not valid JSON"),
        ("unknown model type", r'/config\.json: model_type="mamba" is not supported; supported are gemma3'),
        ("config is a list", r"config\.json: not a JSON object"),
        ("config is binary", r"config\.json: not valid JSON"),
    ],
)
def test_a_damaged_directory_is_one_sentence(what, words, tmp_path):
    write(tmp_path, LLAMA, arrays_of(LLAMA))
    damage(tmp_path, what)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


# --- where the directory is ---


def where(**changes):
    values = {"path": None, "kaggle_id": None, "hub_id": None, "revision": None, "random_weights": False}
    return types.SimpleNamespace(**{**values, **changes})


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_directory(where(path=str(tmp_path / "model"), hub_id="a/b")) == tmp_path / "model"
    assert resolve_directory(where(path="~/model")) == tmp_path / "model"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (where(path="/nowhere/at/all"), "model.path=/nowhere/at/all: no such directory; give a Hugging Face"),
        (where(), "model.path, model.kaggle_id and model.hub_id are all null; set model.path=DIR or model.hub_id=O"),
        (where(hub_id="not an id"), "model.hub_id='not an id' is not a hub id of the form OWNER/NAME"),
        (
            where(hub_id="nobody/nothing"),  # HF_HUB_OFFLINE is set for all tests
            "model.hub_id=nobody/nothing could not be downloaded .*; download it elsewhere and give its folder as mod",
        ),
        (
            where(hub_id="nobody/nothing", random_weights=True),
            "the shapes of model.hub_id=nobody/nothing are not known",
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_one_sentence(config, words):
    with pytest.raises(UserError, match=words) as caught:
        resolve_directory(config)
    assert "\n" not in str(caught.value)


def test_no_network_is_the_same_sentence():
    """A hub that does not answer, in a process that has not been told that it is offline."""
    program = (
        "import sys, types; from tunix_grpo.model.sources import resolve_directory\n"
        "assert 'kagglehub' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
        "resolve_directory(types.SimpleNamespace(path=None, kaggle_id=None, hub_id='nobody/nothing', revision=None,"
        " random_weights=False))"
    )
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment = kept | {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "tunix_grpo.errors.UserError: model.hub_id=nobody/nothing could not be downloaded (no network?); "
        "download it elsewhere and give its folder as model.path=DIR"
    )


# --- Kaggle ---

KAGGLE_ID = "tester/small-llama/transformers/1b.it"


@pytest.fixture
def kaggle(tmp_path, monkeypatch) -> Iterator[KaggleServer]:
    """A Kaggle that has version 3 of the model in tmp_path / model."""
    write(tmp_path / "model", LLAMA, arrays_of(LLAMA), files=2)
    with serving(tmp_path / "model", 3, tmp_path, monkeypatch) as server:
        yield server


def test_a_kaggle_model_is_downloaded_once(kaggle, tmp_path, monkeypatch, capfd):
    """Then it is read again without a word to Kaggle; nothing of it all is on the terminal."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)  # only then kagglehub says that it is old
    config = where(kaggle_id=f"{KAGGLE_ID}/3", hub_id="nobody/nothing")
    directory = resolve_directory(config)
    assert directory == tmp_path / "cache" / "models" / KAGGLE_ID / "3"
    assert equal(load(directory), load(tmp_path / "model"))
    files = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(file.name for file in directory.iterdir()) == [*files, "model.safetensors.index.json"]
    assert sorted(kaggle.calls) == [*["DownloadModelInstanceVersion"] * 4, "ListModelInstanceVersionFiles"]
    kaggle.calls.clear()
    assert resolve_directory(config) == directory
    assert kaggle.calls == []
    assert resolve_directory(where(path=str(tmp_path / "model"), kaggle_id=KAGGLE_ID)) == tmp_path / "model"
    assert capfd.readouterr() == ("", "")


def test_without_a_version_it_is_the_newest(kaggle, tmp_path):
    folder = tmp_path / "cache" / "models" / KAGGLE_ID
    assert resolve_directory(where(kaggle_id=KAGGLE_ID)) == folder / "3"
    kaggle.version = 12
    assert resolve_directory(where(kaggle_id=KAGGLE_ID)) == folder / "12"
    assert resolve_directory(where(kaggle_id=f"{KAGGLE_ID}/3")) == folder / "3"


def test_without_a_network_a_downloaded_version_is_read(kaggle, tmp_path, caplog):
    for kaggle.version in (9, 10):
        resolve_directory(where(kaggle_id=KAGGLE_ID))
    folder = tmp_path / "cache" / "models" / KAGGLE_ID
    (folder / "11").mkdir()  # of a download that was cut off
    kaggle.stop()
    assert resolve_directory(where(kaggle_id=f"{KAGGLE_ID}/9")) == folder / "9"
    assert resolve_directory(where(kaggle_id=KAGGLE_ID)) == folder / "10"
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message == f"Kaggle cannot be reached; reading {folder / '10'}, which was downloaded earlier"
    with pytest.raises(UserError, match=f"model.kaggle_id={KAGGLE_ID}/11 could not be downloaded .no network"):
        resolve_directory(where(kaggle_id=f"{KAGGLE_ID}/11"))


def test_a_gated_kaggle_model_needs_a_token(kaggle, tmp_path, monkeypatch):
    kaggle.status = 403
    config = where(kaggle_id=KAGGLE_ID)
    with pytest.raises(UserError) as caught:
        resolve_directory(config)
    assert str(caught.value) == (
        f"model.kaggle_id={KAGGLE_ID} is not open to you: accept its licence on "
        f"https://www.kaggle.com/models/{KAGGLE_ID}, and log in with the token of https://www.kaggle.com/settings, "
        "in KAGGLE_API_TOKEN or in ~/.kaggle/kaggle.json"
    )
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert resolve_directory(config).name == "3"


def trouble(kaggle: KaggleServer, home: Path, what: str) -> None:
    if what.isdigit():
        kaggle.status = int(what)
    elif what == "gone":
        kaggle.stop()
    elif what == "damaged":
        kaggle.damaged = True
    elif what == "no key":
        (home / ".kaggle").mkdir()
        (home / ".kaggle" / "kaggle.json").write_text('{"username": "me"}')


@pytest.mark.parametrize(
    ("what", "kaggle_id", "words"),
    [
        ("malformed", "tester/small-llama", "='tester/small-llama' is not of the form OWNER/MODEL/FRAMEWORK/VARIATION"),
        ("malformed", f"{KAGGLE_ID}/new", "is not of the form"),
        ("malformed", f"../../{KAGGLE_ID}", "is not of the form"),
        ("malformed", "tester/small-llama/abacus/1b", "is not of the form .*, such as google/gemma-3/transformers/gem"),
        ("gone", KAGGLE_ID, r" could not be downloaded \(no network\?\); download it elsewhere and give its folder"),
        ("gone", f"{KAGGLE_ID}/3", r" could not be downloaded \(no network\?\); download it elsewhere"),
        ("401", KAGGLE_ID, " is not open to you: accept its licence on https://www.kaggle.com/models/tester/small-l"),
        ("404", KAGGLE_ID, " does not exist on Kaggle; look at https://www.kaggle.com/models/tester/small-llama/tra"),
        ("500", KAGGLE_ID, r" could not be downloaded \(Kaggle answers 500\); download it elsewhere"),
        ("damaged", KAGGLE_ID, r" could not be downloaded \(a file arrived damaged\); download it elsewhere"),
        ("no key", KAGGLE_ID, r" could not be downloaded \(.*kaggle.json is missing 'key' key\); download it"),
    ],
)
def test_a_kaggle_model_that_cannot_be_had_is_one_sentence(what, kaggle_id, words, kaggle, tmp_path, capfd):
    trouble(kaggle, tmp_path, what)
    with pytest.raises(UserError, match=words) as caught:
        resolve_directory(where(kaggle_id=kaggle_id, hub_id="nobody/nothing"))
    assert str(caught.value).startswith(f"model.kaggle_id={kaggle_id!r}" if what == "malformed" else "model.kaggle_id=")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_kaggle_files_of_another_framework_are_named(kaggle, tmp_path):
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "tokenizer.model").write_bytes(b"")
    directory = resolve_directory(where(kaggle_id="tester/small-llama/flax/1b"))
    with pytest.raises(UserError, match=r"flax/1b/3: config.json is missing; model.path wants a Hugging Face model d"):
        load(directory)


# --- random weights ---


@pytest.mark.parametrize("config", [LLAMA, GEMMA, {"model_type": "qwen2", **SMALL}], ids=lambda c: c["model_type"])
def test_random_weights_are_those_of_the_seed(config):
    spec = spec_from_config(config)
    one, same, other = (
        {leaf.path: leaf.of_decoder(arrays) for leaf, arrays in random_weights(spec, seed)} for seed in (5, 5, 6)
    )
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, same[path])
        if leaf.ndim > 1:
            assert not np.array_equal(leaf, other[path])
            assert np.std(leaf) == pytest.approx(0.02, rel=0.15)  # of 1,000 numbers and more
        else:  # norms do nothing at first, biases add nothing
            is_plain_scale = "norm" in str(path) and config["model_type"] != "gemma3_text"
            assert np.unique(leaf).tolist() == [1.0 if is_plain_scale else 0.0]


# --- what is trained ---


def random_model(config: dict, folder: Path, *, seed: int = 0, **changes):
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(model_config(random_weights=True, **changes), folder, one_device_mesh(), seed)


ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
GEMMA_ATTENTION = {"q_einsum", "kv_einsum", "attn_vec_einsum"}
MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("config", "targets", "adapted"),
    [
        (LLAMA, "attention", ATTENTION),
        (LLAMA, "mlp", MLP),
        (LLAMA, "all", ATTENTION | MLP),
        (LLAMA, r".*layers.*(q|v)_proj", {"q_proj", "v_proj"}),
        (GEMMA, "all", GEMMA_ATTENTION | MLP),
        (GEMMA, "attention", GEMMA_ATTENTION),
    ],
)
def test_targets(config, targets, adapted, tmp_path):
    found = adapters(random_model(config, tmp_path, lora_rank=2, lora_target_modules=targets))
    expected = {("layers", layer, name, kind) for layer in (0, 1) for name in adapted for kind in "ab"}
    assert {(*path[:2], path[3], path[4][-1]) for path in found} == expected


def test_one_layer_alone_by_a_pattern(tmp_path):
    found = adapters(random_model(LLAMA, tmp_path, lora_rank=2, lora_target_modules=".*1/mlp.*"))
    assert {path[1] for path in found} == {1}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ("embeddings", "matches no module of a llama model"),
        (".*lm_head", "matches lm_head, but only the linear layers of attention and MLP can have an adapter"),
        (".*", "matches embedder, but only"),
        ("(", "is neither attention, mlp, all nor a regular expression"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused(targets, words, tmp_path):
    with pytest.raises(UserError, match=words):
        random_model(LLAMA, tmp_path, lora_rank=2, lora_target_modules=targets)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_starts_as_nothing_from_its_seed(dtype, tmp_path):
    """A from (seed, place), B zero, both float32 whatever the model computes in."""
    one, same, other = (
        adapters(random_model(GEMMA, tmp_path, seed=seed, lora_rank=4, dtype=dtype)) for seed in (1, 1, 2)
    )
    seen = set()
    for path, leaf in one.items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, same[path])
        if path[-1].endswith("_b"):
            assert not leaf.any()
            continue
        bound = (6 / np.prod(leaf.shape[:-1])) ** 0.5  # He, uniform
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert not np.array_equal(leaf, other[path])
        seen.add(np.asarray(leaf).tobytes())
    assert len(seen) == len(one) / 2  # each place has numbers of its own


def test_a_model_with_adapters_shares_the_base_with_its_reference(tmp_path):
    model = random_model(LLAMA, tmp_path, lora_rank=4, lora_alpha=12.0, dtype="bfloat16")
    weights = model.decoder_weights()
    for stack, base in zip(weights["stacks"], model.reference["stacks"], strict=True):
        assert stack.keys() == base.keys()
        assert all(stack[role]["w"] is base[role]["w"] for role in PROJECTIONS)
        assert {"a", "b"} & base["q"].keys() == set() and {"a", "b"} < stack["q"].keys()
    assert {leaf.dtype for leaf in jax.tree.leaves(model.reference)} == {jnp.dtype(jnp.bfloat16)}
    assert model.frozen is model.reference
    assert model.lora_scale == 3.0


def test_full_fine_tuning_has_a_reference_of_its_own(tmp_path):
    model = random_model(LLAMA, tmp_path, dtype="float32")
    reference = dataclasses.replace(model, trained={})
    before = {path: np.asarray(leaf) for path, leaf in leaves(reference).items()}
    assert equal(model, reference)
    moved = dataclasses.replace(model, trained=jax.tree.map(lambda leaf: leaf + 1.0, model.trained))
    for path, leaf in leaves(dataclasses.replace(moved, trained={})).items():
        np.testing.assert_array_equal(leaf, before[path])
        np.testing.assert_array_equal(leaves(moved)[path], before[path] + 1.0)
    assert (model.frozen, model.lora_scale) == ({}, 0.0)


def test_full_fine_tuning_trains_float32_and_computes_in_bfloat16(tmp_path):
    model = random_model(LLAMA, tmp_path, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.trained)} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(model.reference)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(model.decoder_weights())} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("config", [LLAMA, {**GEMMA, "num_hidden_layers": 7}], ids=lambda c: c["model_type"])
def test_weights_that_stay_and_weights_that_train_are_put_together_alike(config, tmp_path):
    """Layers of one kind in one array, whoever stacked them: the loader once, or a program of full fine-tuning."""
    model = random_model(config, tmp_path, dtype="float32")
    once, in_program = model.reference, jax.jit(lambda trained: model.decoder_weights(trained))(model.trained)
    assert jax.tree.structure(once) == jax.tree.structure(in_program)
    for one, other in zip(jax.tree.leaves(once), jax.tree.leaves(in_program), strict=True):
        np.testing.assert_array_equal(one, other)
    counts = [stack["q"]["w"].shape[:2] for stack in once["stacks"]]
    assert counts == ([(2, 1)] if config is LLAMA else [(1, 5), (1, 1), (1, 1)])


def after_adam(parameter: jax.Array, updates: int) -> jax.Array:
    """Returns a parameter after updates of 3e-6 each, all in one direction."""
    optimizer = optax.adam(3e-6)

    def update(carry, _):
        parameter, state = carry
        change, state = optimizer.update(jnp.ones_like(parameter), state)
        return (optax.apply_updates(parameter, change), state), None

    return jax.jit(lambda p: jax.lax.scan(update, (p, optimizer.init(p)), length=updates)[0][0])(parameter)


def test_parameters_move_at_rl_learning_rates_and_stock_ones_do_not(tmp_path):
    """Stock Tunix keeps parameters in the model's bfloat16, where an update of 3e-6 is rounded away."""
    model = random_model(LLAMA, tmp_path, dtype="bfloat16")
    place = ("layers", 0, "mlp", "down_proj", "kernel")
    # The reference is in the dtype that Tunix loads a model in.
    ours, stock = leaves(model)[place], leaves(dataclasses.replace(model, trained={}))[place]
    large = np.abs(np.asarray(ours)) > 0.004  # a bfloat16 there is 3e-5 or more from the next
    assert large.mean() > 0.8
    assert np.array_equal(after_adam(stock, 100)[large], stock[large])
    moved = after_adam(ours, 100)
    np.testing.assert_allclose(ours - moved, 3e-4, rtol=0.01)
    # What is computed with is rounded to bfloat16, and follows once the sum of updates is large enough.
    assert np.mean(moved.astype(jnp.bfloat16) != stock) > 0.9


def test_stock_adapters_follow_the_models_dtype_and_ours_do_not(tmp_path):
    import qwix

    model = random_model({**LLAMA, "num_hidden_layers": 1}, tmp_path, lora_rank=2, dtype="bfloat16")
    base = module_with(model.spec, leaves(model))
    provider = qwix.LoraProvider(module_path=target_pattern("attention", model.spec), rank=2, alpha=2.0)
    stock = nnx.eval_shape(lambda: qwix.apply_lora_to_model(base, provider, rngs=nnx.Rngs(0), **base.get_model_input()))
    kinds = {variable.dtype for _, variable in nnx.to_flat_state(nnx.state(stock, nnx.LoRAParam))}
    assert kinds == {jnp.dtype(jnp.bfloat16)}


# --- several devices ---

DIVIDED = """
import json, sys
from pathlib import Path
import jax, numpy as np
from helpers.models import model_config, one_device_mesh
from tunix_grpo.model.layout import leaves
from tunix_grpo.model.model import load_model

mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("fsdp", "tp"))
found = {}
for folder in map(Path, sys.argv[1:]):
    for kind, changes in {"lora": {"lora_rank": 2}, "full": {}, "nf4": {"lora_rank": 2, "quantization": "nf4"}}.items():
        config = model_config(random_weights=True, **changes)
        one, four = (load_model(config, folder, place, 0) for place in (one_device_mesh(), mesh))
        for leaf in leaves(one.spec):
            np.testing.assert_allclose(one.array(leaf), four.array(leaf), rtol=1e-6)
        for stack, role in [(0, "q"), (0, "k"), (0, "o"), (0, "down")]:
            w = four.reference["stacks"][stack][role]["w"]
            specs = {str(tuple(part.sharding.spec)) for part in jax.tree.leaves(w) if part.ndim == 4}
            found[f"{folder.name} {kind} {role}"] = sorted(specs)
    found[f"{folder.name} embed"] = str(tuple(four.reference["embed"].sharding.spec))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_stack_is_divided_as_tunix_divides_its_layers(tmp_path):
    """Two by two devices: inputs over fsdp and heads over tp, or the reverse; what does not divide stays whole."""
    folders = []
    for name, config in (("llama", LLAMA), ("gemma", {**GEMMA, "num_key_value_heads": 1})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        folders.append(str(tmp_path / name))
    found = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    devices = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    flags = {"PYTHONPATH": os.pathsep.join(found), "XLA_FLAGS": devices}
    command = [sys.executable, "-c", DIVIDED, *folders]
    done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, check=True)
    specs = json.loads(done.stdout)
    inwards, outwards = "(None, None, 'fsdp', 'tp')", "(None, None, 'tp', 'fsdp')"
    for kind in ("lora", "full"):
        assert specs[f"llama {kind} q"] == specs[f"llama {kind} k"] == specs[f"gemma {kind} q"] == [inwards]
        assert specs[f"llama {kind} o"] == specs[f"gemma {kind} o"] == specs[f"llama {kind} down"] == [outwards]
        assert specs[f"gemma {kind} k"] == ["(None, None, 'fsdp', None)"]  # one head cannot be divided
    assert inwards in specs["llama nf4 q"] and outwards in specs["llama nf4 o"]

"""Exports, loaded by transformers and PEFT: they give the logits of the model that was trained.

The models are small random ones of every family; their adapters are made large, so that a mistake in them shows.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from helpers.exports import export_distances
from helpers.kaggle_server import serving
from helpers.models import SHAPES, one_device_mesh, write_model
from helpers.tokenizers import TURNS, write_tokenizer, write_trained_tokenizer
from tunix_grpo.config import Config
from tunix_grpo.config.export import ExportConfig, MovedModel
from tunix_grpo.errors import UserError
from tunix_grpo.export import exporting
from tunix_grpo.export.checking import compare, logits
from tunix_grpo.export.exporting import export
from tunix_grpo.export.upload import push
from tunix_grpo.files import whole_folder
from tunix_grpo.model import saving
from tunix_grpo.model.model import Model, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.record.run_config import write_config
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.identity import model_identity
from tunix_grpo.run.saved_runs import choose_step, open_run

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("llama", "llama-tied-mha", "qwen2", "qwen3", "gemma3", "gemma3-mha")
VOCAB_SIZE = 300  # the tokenizer's bytes and special tokens, and some to spare
TOKENS = np.random.default_rng(0).integers(5, VOCAB_SIZE - 1, (3, 20))  # the last one may stand for an image
# Between two implementations in float32, of logits of about 30.
CLOSE = 1e-4


def write_base(variant: str, folder: Path, **shapes) -> None:
    """Writes a model directory, tokenizer included."""
    write_model(variant, folder, num_hidden_layers=2, vocab_size=VOCAB_SIZE, **shapes)
    write_tokenizer(folder, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")


@dataclasses.dataclass
class Run:
    """A run as training leaves it, its model beside it."""

    folder: Path
    config: Config
    model: Model

    def logits(self) -> np.ndarray:
        """Returns [3, 20, V] of TOKENS, with the trained weights."""
        params = self.model.decoder_weights()
        return logits(self.model, params, TOKENS).reshape(3, 20, -1)

    def save(self, step: int) -> None:
        """Saves the model's trained parameters as a step."""
        trained = self.model.trained
        checkpoints = Checkpoints(self.config.checkpoint_dir, None)
        identity = model_identity(self.config, self.model.directory)
        checkpoints.save(step, trained, {"count": jnp.zeros(())}, {"identity": identity})
        checkpoints.close()


@pytest.fixture
def make_run(compose, tmp_path) -> Callable[..., Run]:
    """Makes a run on the model in tmp_path / base: `make_run("model.lora_rank=4")`; its step 2 is saved."""

    def make(*overrides: str, moved_by: float = 0.1) -> Run:
        folder = tmp_path / "run"
        config = compose(
            "model=hf",
            f"model.path={tmp_path / 'base'}",
            "model.lora_rank=4",
            "model.lora_alpha=6",
            "device=cpu",
            f"checkpoint_dir={tmp_path / 'checkpoints'}",
            *overrides,
        )
        write_config(config, folder)
        model = load_model(config.model, resolve_directory(config.model), one_device_mesh(), config.seed)
        rng = np.random.default_rng(1)
        moved = jax.tree.map(lambda leaf: leaf + moved_by * rng.standard_normal(leaf.shape, np.float32), model.trained)
        run = Run(folder, config, dataclasses.replace(model, trained=moved))
        run.save(2)
        return run

    return make


def request(tmp_path: Path, **changes) -> ExportConfig:
    """Returns the settings of an export from tmp_path / run to tmp_path / out."""
    values = {
        "run": str(tmp_path / "run"),
        "to": str(tmp_path / "out"),
        "step": "latest",
        "format": "merged",
        "dtype": "auto",
        "push": None,
        "checkpoint_dir": None,
        "model": MovedModel(path=None, tokenizer=None, family=None, run=None),
        "overwrite": False,
        "device": "cpu",
        "jax_cache": None,
    }
    return ExportConfig(**{**values, **changes})


def transformers_logits(folder: Path, adapter: Path | None = None) -> np.ndarray:
    """Returns [3, 20, V] of TOKENS, by transformers, in float32."""
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor(TOKENS)).logits.numpy()


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_and_adapter_give_the_trained_logits(variant, make_run, tmp_path):
    write_base(variant, tmp_path / "base")
    run = make_run()
    ours = run.logits()
    assert np.abs(ours - transformers_logits(tmp_path / "base")).max() > 1.0  # the adapter does something
    check = export(request(tmp_path))
    assert check.difference < CLOSE
    np.testing.assert_allclose(transformers_logits(tmp_path / "out"), ours, rtol=0, atol=CLOSE)
    check = export(request(tmp_path, to=str(tmp_path / "adapter"), format="adapter"))
    assert check.difference < CLOSE
    written = transformers_logits(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_allclose(written, ours, rtol=0, atol=CLOSE)


@pytest.mark.parametrize(("variant", "kind"), [("qwen2-untied", "full"), ("gemma3", "full"), ("gemma3-mha", "merged")])
def test_full_gives_the_trained_logits(variant, kind, make_run, tmp_path):
    write_base(variant, tmp_path / "base")
    run = make_run("model.lora_rank=null")
    export(request(tmp_path, format=kind))
    np.testing.assert_allclose(transformers_logits(tmp_path / "out"), run.logits(), rtol=0, atol=CLOSE)


@pytest.mark.parametrize(
    ("variant", "targets", "expected"),
    [
        ("qwen3", "mlp", ["down_proj", "gate_proj", "up_proj"]),
        ("gemma3", ".*kv_einsum", ["k_proj", "v_proj"]),
        ("gemma3-mha", "attention", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("llama", r"layers/1/.*q_proj", ["model.layers.1.self_attn.q_proj"]),
    ],
)
def test_an_adapter_names_what_was_trained(variant, targets, expected, make_run, tmp_path):
    write_base(variant, tmp_path / "base")
    run = make_run(f"model.lora_target_modules='{targets}'")
    export(request(tmp_path, format="adapter"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == expected
    assert (config["r"], config["lora_alpha"]) == (4, 6)
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    written = transformers_logits(tmp_path / "base", tmp_path / "out")
    np.testing.assert_allclose(written, run.logits(), rtol=0, atol=CLOSE)


def write_multimodal(folder: Path) -> None:
    """Writes a whole multimodal Gemma 3, vision tower and larger vocabulary included."""
    import torch
    import transformers

    kind = {**SHAPES, "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "sliding_window": 4}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**kind),
        vision_config=transformers.SiglipVisionConfig(**vision, image_size=28, patch_size=14),
        mm_tokens_per_image=4,
        image_token_index=VOCAB_SIZE - 1,
    )
    torch.manual_seed(0)
    model = transformers.Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")


def test_of_a_multimodal_model_the_text_model_is_written(make_run, tmp_path):
    write_multimodal(tmp_path / "base")
    run = make_run()
    export(request(tmp_path))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("gemma3_text", ["Gemma3ForCausalLM"])
    assert "vision_config" not in config
    np.testing.assert_allclose(transformers_logits(tmp_path / "out"), run.logits(), rtol=0, atol=CLOSE)
    export(request(tmp_path, to=str(tmp_path / "adapter"), format="adapter"))
    written = transformers_logits(tmp_path / "base", tmp_path / "adapter")
    np.testing.assert_allclose(written, run.logits(), rtol=0, atol=CLOSE)


BF16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "dtype", "matrices", "norms"),
    [
        (["model.dtype=bfloat16"], "auto", BF16, F32),  # the file's own
        (["device=cuda"], "auto", BF16, F32),
        (["model.dtype=float32"], "auto", F32, F32),  # what was computed in float32 is not rounded
        (["device=cpu"], "auto", F32, F32),
        (["model.dtype=float32"], "bfloat16", BF16, BF16),
        (["model.dtype=bfloat16"], "float32", F32, F32),
    ],
)
def test_tensors_are_rounded_once_to_the_type_of_the_file(overrides, dtype, matrices, norms, make_run, tmp_path):
    write_base("qwen3", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    stored = {
        name: array if "norm" in name else array.astype(ml_dtypes.bfloat16) for name, array in load_file(file).items()
    }
    save_file(stored, file, metadata={"format": "pt"})
    held = make_run(*overrides).model.dtype  # a model that computes in bfloat16 has rounded the file already
    export(request(tmp_path, dtype=dtype))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == matrices.name
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {array.dtype for name, array in written.items() if "norm" in name} == {norms}
    assert {array.dtype for name, array in written.items() if "norm" not in name} == {matrices}
    export(request(tmp_path, to=str(tmp_path / "adapter"), format="adapter"))
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    changed = 0
    for name, array in written.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        merged = stored[name].astype(held).astype(np.float32)
        if f"{module}.lora_A.weight" in adapter:
            merged += 1.5 * (adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"])
            changed += 1
        np.testing.assert_array_equal(array, merged.astype(array.dtype), err_msg=name)
    assert changed == 2 * 7


def test_a_change_that_rounding_loses_is_told(make_run, tmp_path, caplog):
    write_base("qwen3", tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    save_file({name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(file).items()}, file)
    run = make_run("model.dtype=bfloat16")
    small = jax.tree.map(lambda leaf: leaf * 1e-3, run.model.trained)
    run.model = dataclasses.replace(run.model, trained=small)
    run.save(4)
    export(request(tmp_path))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("rounding loses ")
    assert warning.endswith("% of what training changed; dtype=float32 or format=adapter keeps all of it")


def test_large_models_are_cut_into_files(make_run, tmp_path, monkeypatch):
    write_base("llama", tmp_path / "base")
    run = make_run()
    monkeypatch.setattr(exporting, "SHARD_BYTES", 40_000)
    export(request(tmp_path))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    arrays = {file.name: load_file(file) for file in files}
    assert index["weight_map"] == {name: file for file, some in arrays.items() for name in some}
    assert index["metadata"]["total_size"] == sum(a.nbytes for some in arrays.values() for a in some.values())
    assert all(sum(a.nbytes for a in some.values()) <= 40_000 for some in arrays.values())
    np.testing.assert_allclose(transformers_logits(tmp_path / "out"), run.logits(), rtol=0, atol=CLOSE)


def test_random_weights_can_be_exported(make_run, tmp_path):
    write_base("qwen2", tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").unlink()
    run = make_run("model.random_weights=true")
    export(request(tmp_path))
    np.testing.assert_allclose(transformers_logits(tmp_path / "out"), run.logits(), rtol=0, atol=CLOSE)


def test_the_folder_is_complete(make_run, tmp_path):
    """Tokenizer, generation config with the stop tokens of training, card with settings and scores, nothing private."""
    write_base("gemma3", tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").write_text(
        '{"eos_token_id": 1, "temperature": 0.6, "use_cache": false}'
    )
    config = tmp_path / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_cache": False}))
    run = make_run("tracker.entity=someone")
    rows = [(0, 0.25), (1, 0.75), (2, 0.5), (3, 0.5)]
    lines = [json.dumps({"step": step, "eval/accuracy": score, "eval/reward": 1.0}) + "\n" for step, score in rows]
    (run.folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 4, "eval/accu')
    check = export(request(tmp_path))
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    # <eos> of generation_config.json and <end> of the tokenizer
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [1, 3], "temperature": 0.6}
    assert json.loads((out / "config.json").read_text())["use_cache"] is True  # false makes generation slow
    card = (out / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "| 0 | 0.250 | 1.000 |  |\n| 1 | 0.750 | 1.000 |  |\n| 2 (this model) | 0.500 | 1.000 |  |\n| 3 |" in text
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["optimizer"] == dataclasses.asdict(run.config.optimizer)
    assert settings["model"]["path"] == "base"
    assert str(tmp_path) not in text
    assert 'from_pretrained("out", dtype="auto")' in text
    assert "someone" not in text
    assert str(check) in text


@pytest.mark.long
def test_a_gguf_export_is_complete(make_run, tmp_path, monkeypatch):
    """One file, a Modelfile with the run's prompt and stop tokens, a card; a strange tokenizer leaves nothing."""
    write_base("llama", tmp_path / "base")
    make_run("task.system_prompt=Think.")
    with pytest.raises(UserError, match="the tokenizer has no merges, for which llama.cpp has no name"):
        export(request(tmp_path, format="gguf"))
    assert not (tmp_path / "out").exists()
    write_trained_tokenizer(tmp_path / "base", "gpt-2", ["What is this?"], 264)
    check = export(request(tmp_path, format="gguf"))
    assert 1e-4 < check.difference <= check.allowed  # float16
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == ["Modelfile", "README.md", "model.gguf"]
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf" and lines[1].startswith('TEMPLATE """{{- if .System }}{{- "<start>system')
    # config.json's end of text, and the tokenizer's
    assert lines[-3:] == ['SYSTEM """Think."""', 'PARAMETER stop "<start>"', 'PARAMETER stop "<end>"']
    card = (out / "README.md").read_text()
    assert "library_name: gguf" in card and "llama-cli -m out/model.gguf" in card
    export(request(tmp_path, format="gguf", dtype="float32", overwrite=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="format=gguf: gguf is not installed; run pip install 'tunix-grpo.gguf.'"):
        export(request(tmp_path, format="gguf", overwrite=True))
    assert (out / "model.gguf").is_file()


@pytest.mark.parametrize("variant", ["gemma3", "llama-tied-mha"])
def test_an_export_carries_what_converters_read(variant, make_run, tmp_path):
    """llama.cpp's wants the tokenizer's own files, the architecture, and every row of the embedding."""
    base, out = tmp_path / "base", tmp_path / "out"
    write_base(variant, base)
    carried = {
        "tokenizer.model": b"\x0a\x0e\x0a\x05<unk>",
        "chat_template.jinja": TURNS.encode(),
        "special_tokens_map.json": b'{"bos_token": "<bos>"}',
        "added_tokens.json": b'{"<start>": 2}',
    }
    for name, content in carried.items():
        (base / name).write_bytes(content)
    make_run()
    export(request(tmp_path))
    assert {name: (out / name).read_bytes() for name in carried} == carried
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (out, base))
    assert config["architectures"] == own["architectures"] and config["vocab_size"] == own["vocab_size"]
    tables = [load_file(folder / "model.safetensors")["model.embed_tokens.weight"] for folder in (out, base)]
    assert tables[0].shape[0] == VOCAB_SIZE  # rows that no token uses included
    np.testing.assert_array_equal(*tables)


def test_a_base_from_kaggle_is_linked_and_found_where_it_lies(make_run, tmp_path, monkeypatch):
    """PEFT loads a base from the hub or a folder: the adapter names the folder that Kaggle's files were put into."""
    write_base("llama", tmp_path / "base")
    kaggle_id = "tester/small-llama/transformers/1b"
    with serving(tmp_path / "base", 3, tmp_path, monkeypatch):
        run = make_run("model.path=null", f"model.kaggle_id={kaggle_id}", "model.hub_id=nobody/nothing")
        export(request(tmp_path, format="adapter"))
    out = tmp_path / "out"
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "cache" / "models" / kaggle_id / "3")
    assert config.get("revision") is None
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in yaml.safe_load(front)
    assert f"adapter for [{kaggle_id}](https://www.kaggle.com/models/{kaggle_id}), trained" in text
    written = transformers_logits(Path(config["base_model_name_or_path"]), out)
    np.testing.assert_allclose(written, run.logits(), rtol=0, atol=CLOSE)


def scored(folder: Path, scores: dict[int, float]) -> None:
    lines = [json.dumps({"step": step, "eval/accuracy": score}) + "\n" for step, score in scores.items()]
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_steps_are_chosen_among_those_that_are_saved(make_run, tmp_path, caplog):
    write_base("llama", tmp_path / "base")
    run = make_run()
    for step in (4, 6, 10):
        run.save(step)
    scored(run.folder, {0: 0.9, 2: 0.5, 4: 0.7, 6: 0.7, 8: 1.0})
    opened = open_run(run.folder)
    assert choose_step(opened, "latest") == 10
    assert choose_step(opened, "best") == 6
    assert choose_step(opened, "2") == 2
    (tmp_path / "checkpoints" / "actor" / "6" / "manifest.json").unlink()
    (tmp_path / "checkpoints" / "actor" / "10" / "manifest.json").unlink()
    assert choose_step(opened, "best") == 4
    assert choose_step(opened, "latest") == 4
    assert "6 is not usable (it was not finished: no manifest.json)" in caplog.text
    with pytest.raises(UserError, match="step=10: .* is not usable .*; choose another of steps 2, 4, 6, 10"):
        choose_step(opened, "10")
    scored(run.folder, {0: 0.9, 8: 1.0})
    with pytest.raises(UserError, match="step=best: no saved step was evaluated .*holds steps 2, 4, 6, 10"):
        choose_step(open_run(run.folder), "best")


def test_everything_of_a_run_may_have_moved(make_run, tmp_path):
    """The base model, its tokenizer, which is a folder of its own here, the checkpoints and the run itself."""
    write_base("llama", tmp_path / "base")
    (tmp_path / "words").mkdir()
    for file in [*(tmp_path / "base").glob("tokenizer*")]:
        file.rename(tmp_path / "words" / file.name)
    make_run(f"model.tokenizer={tmp_path / 'words'}")
    export(request(tmp_path, to=str(tmp_path / "before")))
    for name in ("base", "words", "checkpoints", "run"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")

    changes: dict = {"run": str(tmp_path / "moved-run")}
    moved = {"path": None, "tokenizer": None, "family": None, "run": None}
    for key, place, words in (
        ("checkpoint_dir", "checkpoints", "holds no checkpoint; if they have moved, give checkpoint_dir=DIR"),
        ("path", "base", "model.path=.*/base: no such directory; give .*, model.path=DIR"),
        ("tokenizer", "words", "model.tokenizer=.*/words: no such directory; give .*, model.tokenizer=DIR"),
    ):
        with pytest.raises(UserError, match=words):
            export(request(tmp_path, **changes))
        if key == "checkpoint_dir":
            changes[key] = str(tmp_path / f"moved-{place}")
        else:
            moved[key] = str(tmp_path / f"moved-{place}")
            changes["model"] = MovedModel(**moved)
    export(request(tmp_path, **changes))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "before" / name).read_bytes()


def test_bad_requests_are_one_sentence_and_leave_nothing(make_run, tmp_path):
    write_base("llama", tmp_path / "base")
    run = make_run()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    cases = [
        ({"run": str(tmp_path / "nowhere")}, "nowhere: no such folder; give the folder of a run"),
        ({"run": str(tmp_path / "empty")}, "empty: it holds no config.yaml; give the folder of a run"),
        ({"step": "3"}, "step=3 was not saved; .* holds step 2$"),
        ({"checkpoint_dir": str(tmp_path / "empty")}, "holds no checkpoint; if they have moved"),
        ({"format": "full"}, "trained an adapter; give format=merged or format=adapter"),
        ({"to": str(tmp_path / "empty")}, "empty exists already; give another folder, or overwrite=true"),
        ({"to": str(tmp_path / "base"), "overwrite": True}, "is not an export of this program"),
        ({"to": str(tmp_path / "run"), "overwrite": True}, "holds config.yaml, which no export wrote"),
        ({"to": str(tmp_path / "file"), "overwrite": True}, "file is a file; give a folder"),
        ({"to": str(tmp_path / "file" / "out")}, "cannot be written"),
        ({"push": "no-owner"}, "push=no-owner: not of the form OWNER/NAME"),
    ]
    for changes, words in cases:
        with pytest.raises(UserError, match=words) as caught:
            export(request(tmp_path, **changes))
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.iterdir()) == before
    model = dataclasses.replace(run.config.model, dtype="bfloat16")
    write_config(dataclasses.replace(run.config, model=model), run.folder)
    with pytest.raises(UserError, match=r'belongs to another run than .* \(model.dtype: "auto" -> "bfloat16"\)'):
        export(request(tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_is_replaced_when_asked_and_whole(make_run, tmp_path, monkeypatch):
    write_base("llama", tmp_path / "base")
    run = make_run()
    export(request(tmp_path))
    run.save(4)
    with pytest.raises(UserError, match="exists already"):
        export(request(tmp_path))
    again = request(tmp_path, overwrite=True)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with monkeypatch.context() as patched:  # one matrix is written transposed
        own = saving._pairs_of
        patched.setattr(saving, "_pairs_of", lambda *arguments: [(a, -b) for a, b in own(*arguments)])
        with pytest.raises(UserError, match="the written files do not give the trained model"):
            export(again)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    export(again)
    assert "4 steps" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes.txt, which no export wrote"):
        export(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "checkpoints", "out", "run"]


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    rename = Path.rename

    def failing(self, target):
        if self.name.endswith(".tmp"):
            raise OSError("the disk went away")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(UserError, match="cannot be written .the disk went away."),
        whole_folder(tmp_path / "out", "to") as new,
    ):
        (new / "new").write_text("new")
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize(
    ("difference", "dtype", "good"),
    [
        (9e-4, "float32", True),
        (1.1e-3, "float32", False),
        (0.9, "bfloat16", True),
        (1.1, "bfloat16", False),
        (float("nan"), "bfloat16", False),
    ],
)
def test_a_difference_is_measured_by_the_largest_logit(difference, dtype, good):
    trained = np.array([[10.0, -3.0]])
    written = trained + np.array([[0.0, difference]])
    if good:
        assert compare(trained, written, {dtype}).difference == pytest.approx(difference)
    else:
        with pytest.raises(UserError, match="do not give the trained model"):
            compare(trained, written, {dtype, "float32"})


def test_pushing_without_a_network_keeps_the_export(make_run, tmp_path):
    write_base("llama", tmp_path / "base")
    make_run()
    with pytest.raises(
        UserError, match="push=me/model: the hub cannot be reached .*`hf upload me/model .*out` uploads it later"
    ) as caught:
        export(request(tmp_path, push="me/model"))
    assert "\n" not in str(caught.value)
    assert 'from_pretrained("me/model"' in (tmp_path / "out" / "README.md").read_text()


def test_pushing_uploads_the_folder(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    class Api:
        def create_repo(self, name, **how):
            calls.append((name, how))

        def upload_folder(self, **what):
            calls.append(what)
            return huggingface_hub.CommitInfo(
                commit_url="https://huggingface.co/me/model/commit/1", commit_message="", commit_description="", oid="1"
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    push(tmp_path, "me/model")
    assert calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        {"repo_id": "me/model", "folder_path": tmp_path},
    ]


# --- real processes ---


def program(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / "export.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run=nowhere", "to=out"], 1, "nowhere: no such folder"),
        (["to=out"], 2, "run: has no value"),
        (["run=.", "to=out", "format=ggml"], 2, "format=ggml: must be one of merged, adapter, full, gguf"),
        (["run=.", "to=out", "step=newest"], 2, "step=newest: must be one of latest, best or a number"),
        (["run=.", "to=out", "overwrte=true"], 2, "overwrte=true: unknown setting; did you mean overwrite?"),
    ],
)
def test_bad_command_lines(words, code, message, tmp_path):
    done = program(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help(tmp_path):
    done = program("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "format: merged" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_of_the_bundled_model_from_start_to_end(run_training, tmp_path, jax_cache):
    small = ["training.num_batches=2", "training.micro_batch_size=2", "grpo.num_generations=2", "tracker.wandb=false"]
    few = ["evaluation.num_questions=4", "tracker.tensorboard=false", "model=tiny", "device=cpu"]
    places = ["hydra.run.dir=run", "checkpoint_dir=ck", f"jax_cache={jax_cache}"]
    trained = run_training(*small, *few, *places)
    assert trained.returncode == 0, trained.stderr
    done = program("run=run", "to=out", "step=best", "device=cpu", f"jax_cache={jax_cache}", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    check, written = done.stdout.splitlines()
    assert check.startswith("Read back, its logits differ from the trained model's by at most ")
    assert written == f"written: {tmp_path / 'out'} (merged, step 2, 1.2 MB)"

    import transformers

    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template is not None
    assert {file.name for file in tmp_path.iterdir()} == {"run", "ck", "out"}


# --- a real model ---


@pytest.mark.slow
@pytest.mark.skipif("TUNIX_GRPO_SMOLLM2" not in os.environ, reason="TUNIX_GRPO_SMOLLM2 is not set")
@pytest.mark.timeout(900)
def test_an_export_of_smollm2_is_the_trained_model(make_run, tmp_path):
    """In float64 the files give the trained logits; in float32 ours are as close to those as transformers' are.

    Real weights have activations of thousands at the first token: transformers' own float32 logits are 1e-4 off.
    """
    base = Path(os.environ["TUNIX_GRPO_SMOLLM2"])
    run = make_run(f"model.path={base}", "model.dtype=float32", moved_by=1e-3)
    export(request(tmp_path))
    export(request(tmp_path, to=str(tmp_path / "adapter"), format="adapter"))
    for distances in export_distances(run.model, tmp_path / "out", tmp_path / "adapter").values():
        assert distances["merged, float64"] < CLOSE
        assert distances["ours"] <= 1.5 * max(distances["merged"], distances["adapter"])

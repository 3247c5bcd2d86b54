"""What comes from a model, from data or from a download is data: it is not run, it writes nowhere, it commands nobody.

And what is secret is in no file that a run leaves.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pytest

from helpers import kaggle_server
from helpers.dangerous import dangers
from helpers.hub_server import hub_of
from helpers.searching import files_with
from helpers.service import Answer, said, serving
from helpers.tokenizers import write_tokenizer
from tunix_grpo.console.output import visible
from tunix_grpo.errors import UserError
from tunix_grpo.model.files import stored_tensors
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.record.tensorboard import _to_markdown
from tunix_grpo.record.tracker import CompletionRecord
from tunix_grpo.tasks.expressions import is_antiderivative
from tunix_grpo.text.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    ROOT / "run_training.py",
    *(file for part in ("src", "scripts") for file in sorted((ROOT / part).rglob("*.py"))),
]

# --- nothing is run ---

# What runs data by its kind, and why it may: file -> what stands there -> the reason.
ALLOWED = {
    "sandbox/candidate.py": {
        "compile": "the model's program, in the sandbox",
        "exec": "the model's program, in the sandbox",
    },
    "sandbox/judge.py": {
        "compile": "the data's tests, in a process of the sandbox",
        "exec": "the data's tests, in a process of the sandbox",
        "import_module": "of names that are written there",
    },
    "config/plugins.py": {"import_module": "of the tables in this file; a user's file is named by the user"},
    "config/composing.py": {"_target_": "is read, to know which sweeper Hydra was told to take"},
    "record/trackio.py": {"import_module": "trackio, which may not be installed"},
    "rewards/custom.py": {"import_module": "a module that the user names in reward.custom.function"},
    "model/tunix_modules.py": {"import_module": "of names that are written in model/families"},
    "tasks/math_verify_program.py": {"import_module": "math_verify, in a process of its own"},
    "rewards/isolated.py": {"pickle": "from this process to its own worker, which answers in JSON"},
    "tasks/gym_entries.py": {"pickle": "between two processes of ours, in a folder that is private to the user"},
    "tasks/make_entries.py": {"pickle": "between two processes of ours, in a folder that is private to the user"},
    "tasks/expressions.py": {
        "literal_eval": "reads literals, runs nothing",
        "parse_expr": "of what is_formula has read as arithmetic",
    },
    "text/tokenizer.py": {"trust_remote_code=False": "says no"},
}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("eval(text)", ["eval"]),
        ("import builtins\nbuiltins.exec(text)", ["exec"]),
        ("run = eval", ["eval"]),
        ("import pickle as p", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("from sympy import sympify", ["sympify"]),
        ("sympy.parsing.parse_expr(text)", ["parse_expr"]),
        ("from hydra.utils import instantiate", ["hydra.utils.instantiate", "instantiate"]),
        ("import hydra\nhydra.utils.call(cfg)", ["hydra.utils.call"]),
        ("cfg['_target_']", ["_target_"]),
        ("cfg._target_", ["_target_"]),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", ["trust_remote_code=True"]),
        ("np.load(file)", ["np.load"]),
        ("subprocess.run(words, shell=True)", ["shell=True"]),
        ("os.system(text)", ["os.system"]),
        ("yaml.load(text)", ["yaml.load"]),
        ("json.loads(text); re.compile(text); yaml.safe_load(text); evaluate(text)", []),
    ],
)
def test_the_search_finds_what_runs_data(source, found):
    assert sorted({each.name for each in dangers(source)}) == found


def test_nothing_runs_data_beside_the_places_that_may():
    found = {}
    for file in FILES:
        for each in dangers(file.read_text()):
            found.setdefault(str(file.relative_to(ROOT)).removeprefix("src/tunix_grpo/"), set()).add(each.name)
    assert found == {file: set(places) for file, places in ALLOWED.items()}


def test_no_arithmetic_is_not_parsed_by_sympy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_antiderivative("x**2", "x", "2*x")
    assert not is_antiderivative("__import__('os').system('touch X')", "x", "2*x")
    assert not (tmp_path / "X").exists()


EVIL = "import pathlib\npathlib.Path({!r}).touch()\nclass Evil:\n    pass\n"


def test_code_in_a_model_directory_is_not_run(tmp_path):
    """Neither by transformers' auto_map, nor as what a template asks for."""
    write_tokenizer(tmp_path, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    (tmp_path / "evil.py").write_text(EVIL.format(str(tmp_path / "X")))
    for name in ("tokenizer_config.json", "config.json"):
        file = tmp_path / name
        content = json.loads(file.read_text()) if file.exists() else {"model_type": "llama"}
        content["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil"}
        content["chat_template"] = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}"
        file.write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path, 300)
    with pytest.raises(UserError, match="unsafe"):
        tokenizer.render_prompt([{"role": "user", "content": "What is 1 + 1?"}])
    assert not (tmp_path / "X").exists()


# --- a download writes nowhere else ---


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/../../x.safetensors", "..", ""])
def test_an_index_names_files_beside_it(tmp_path, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"outside")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(UserError, match="is no name of a file beside it; download the model again") as caught:
        stored_tensors(tmp_path / "model")
    assert "\n" not in str(caught.value)


RESOLVE = """
import sys, types
from tunix_grpo.errors import UserError
from tunix_grpo.model.sources import resolve_directory
names = {"path": None, "kaggle_id": None, "hub_id": "some/model", "revision": None, "random_weights": False}
try:
    print(resolve_directory(types.SimpleNamespace(**names)))
except UserError as error:
    print("error:", error)
"""


@pytest.mark.parametrize("name", ["../../../../evil.json", "/tmp/evil-absolute.json"])
def test_a_hub_cannot_name_a_file_outside(tmp_path, name):
    with hub_of({"config.json": b"{}", name: b"{}"}) as hub:
        environment = hub.environment(tmp_path / "a" / "home")
        done = subprocess.run([sys.executable, "-c", RESOLVE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("error: model.hub_id=some/model cannot be stored (Invalid filename")
    assert list(tmp_path.rglob("evil*")) == [] and not Path("/tmp/evil-absolute.json").exists()


@pytest.mark.parametrize("name", ["../../../evil.json", "/tmp/evil-absolute.json"])
def test_kaggle_cannot_name_a_file_outside(tmp_path, monkeypatch, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evil.json").write_text("{}")
    with kaggle_server.serving(tmp_path / "model", 3, tmp_path / "deep" / "home", monkeypatch) as server:
        answer = server.answer

        def hostile(call: str, request: dict):
            if call == "ListModelInstanceVersionFiles":
                return {"files": [{"name": "config.json"}, {"name": name}], "nextPageToken": ""}
            return "/files/evil.json" if call == "DownloadModelInstanceVersion" else answer(call, request)

        server.answer = hostile
        with pytest.raises(UserError, match="model.kaggle_id=a/b/transformers/c cannot be stored"):
            resolve_directory(
                SimpleNamespace(path=None, kaggle_id="a/b/transformers/c", hub_id=None, random_weights=False)
            )
    outside = [file for file in tmp_path.rglob("*evil*") if file.parent.name != "model"]
    assert outside == [] and not Path("/tmp/evil-absolute.json").exists()


# --- nothing commands a terminal or a page ---

COMMANDS = "\x1b]0;owned\x07\x1b[2J\x9b31m\rover\x00\u202egnp"
HOSTILE = f"{COMMANDS}<script>alert(1)</script>\n# big\n\n<img src=x onerror=alert(1)>\ttab"


def test_what_a_terminal_would_obey_is_shown(capsys):
    shown = visible(HOSTILE)
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
    assert shown.startswith("\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x0dover\\x00\\u202egnp<script>")
    assert visible("äöü 你好 مرحبا 🎉\r\nx") == "äöü 你好 مرحبا 🎉\nx"


def test_completions_are_code_on_tensorboard_s_page():
    """Its plugin makes HTML of Markdown, and takes out what is not harmless."""
    from tensorboard import plugin_util

    record = CompletionRecord(1, HOSTILE, HOSTILE, HOSTILE, {"format": 1.0}, 1.0, 0.5, 7, truncated=False)
    page = plugin_util.markdown_to_safe_html(_to_markdown(record))
    assert "<script" not in page and "<img" not in page and "<h1" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3
    assert page.count("\\x1b[2J") == 3 and "\x1b" not in page


# --- secrets ---

CANARIES = {
    "WANDB_API_KEY": "c0ffee0123456789c0ffee0123456789c0ffee01",
    "HF_TOKEN": "hf_canaryCanaryCanaryCanaryCanary12",
    "JUDGE_KEY": "sk-canary-of-the-judge-0123456789",
    "KAGGLE_KEY": "canary9876543210canary9876543210",
}
GIVEN = "canary-on-the-command-line"


def test_the_search_looks_into_what_is_compressed(tmp_path):
    text = b"before canary-0123456789 behind" * 3
    kinds = {"plain": text, "gzip": b"??" + gzip.compress(text), "zlib": b"??" + zlib.compress(text) + b"??"}
    kinds["zstd"] = b"??" + pyarrow.compress(text, codec="zstd", asbytes=True) + b"??"
    kinds["none"] = zlib.compress(b"nothing")
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("inside", gzip.compress(text))
    assert [file.name for file in files_with(tmp_path, "canary-0123456789")] == ["gzip", "plain", "zip", "zlib", "zstd"]


@pytest.mark.long
def test_no_secret_is_in_any_file_that_a_run_leaves(tmp_path, two_layer_model, jax_cache):
    """Of training with all trackers and a judge that repeats its key, of its export; what they print neither."""
    run, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    own = {"HOME": str(home), "WANDB_MODE": "offline", "WANDB_CONSOLE": "wrap", **CANARIES}
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"} | own

    def answer(asked) -> Answer:
        if len(service.asked) % 2:
            return said(f"Your key is {CANARIES['JUDGE_KEY']}. Score: 5")
        return Answer({"error": f"no such key: {CANARIES['JUDGE_KEY']}"}, 400)

    with serving(answer) as service:
        done = [
            subprocess.run(
                [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
            )
            for words in (
                [
                    ROOT / "run_training.py",
                    *("model=tiny", *two_layer_model, "task=arithmetic", "task.num_questions=40", "device=cpu"),
                    *("training.num_batches=2", "training.micro_batch_size=2", "grpo.num_generations=2"),
                    *("training.log_interval_steps=1", "generation.max_generation_steps=16"),
                    *("evaluation.num_questions=2", f"jax_cache={jax_cache}"),
                    *(f"hydra.run.dir={run}", f"checkpoint_dir={run}/checkpoints", "reward=[format,judge]"),
                    *(f"reward.judge.base_url={service.address}/v1", "reward.judge.model=referee"),
                    *("reward.judge.api_key_env=JUDGE_KEY", "reward.judge.retries=0", "reward.judge.on_error=zero"),
                    *(f"reward.judge.cache_dir={tmp_path}/replies", f"+notes.service_token='{GIVEN}'"),
                    "+notes.copied=${oc.env:HF_TOKEN}",
                ],
                [ROOT / "scripts" / "export.py", f"run={run}", f"to={tmp_path}/exported", f"jax_cache={jax_cache}"],
            )
        ]
        assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
        assert len(service.asked) > 4
    printed = "".join(each.stdout + each.stderr for each in done)
    kinds = ("wandb/*/*.wandb", "tensorboard/*", "checkpoints/actor/2/*/*", ".hydra/*.yaml", "train.log", "config.yaml")
    assert all(list(run.glob(kind)) for kind in kinds) and (tmp_path / "exported" / "README.md").exists()
    for name, secret in {**CANARIES, "given": GIVEN}.items():
        assert files_with(tmp_path, secret) == [], name
        assert secret not in printed, name
    assert "service_token: '***'" in (run / "config.yaml").read_text()
    assert "JUDGE_KEY" in (run / "config.yaml").read_text()  # the name of the variable is no secret

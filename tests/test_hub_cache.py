"""Downloads that break off, or arrive damaged: gone on with, compared with the hub's sha256, or one sentence."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.hub_server import SHA, HubServer, hub_of

MODEL = """
import sys, types
from tunix_grpo.errors import UserError
from tunix_grpo.model.sources import resolve_directory
names = {"path": None, "kaggle_id": None, "hub_id": "some/model", "revision": None, "random_weights": False}
try:
    print(resolve_directory(types.SimpleNamespace(**names)))
except UserError as error:
    print("error:", error)
"""
DATA = """
from tunix_grpo.errors import UserError
from tunix_grpo.tasks.gsm8k import build_gsm8k
columns = {"question_column": "question", "answer_column": "answer"}
rest = {"heldout_fraction": 0.1, "num_questions": None, "grader": "number", "grader_timeout_s": 5.0, "seed": 1}
try:
    task = build_gsm8k(path=None, dataset="some/gsm8k", **columns, **rest)
    print(len(task.train), len(task.heldout))
except UserError as error:
    print("error:", error)
"""
PIECE = 10 << 20  # bytes that huggingface_hub writes at once: what it has of a file that is cut is whole pieces
BIG = bytes(range(256)) * ((2 * PIECE + PIECE // 2) // 256)
WEIGHTS = "model.safetensors"
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""
TRAIN = "train-00000-of-00001.parquet"


def table(first: int, count: int) -> bytes:
    numbers = range(first, first + count)
    columns = {"question": [f"What is {n} + 1?" for n in numbers], "answer": [f"it is #### {n + 1}" for n in numbers]}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def asked(program: str, hub: HubServer, home: Path) -> str:
    """Returns what the program prints, whose hub is this one; it is no traceback."""
    done = subprocess.run(
        [sys.executable, "-c", program], env=hub.environment(home), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.long
def test_a_model_that_breaks_off_is_gone_on_with(tmp_path):
    """Three times; the pieces that have arrived are not asked for again."""
    with hub_of({"config.json": b"{}", WEIGHTS: BIG}) as hub:
        hub.cuts[WEIGHTS] = [PIECE + 1000, PIECE + 1000, 5]
        folder = asked(MODEL, hub, tmp_path)
    assert hub.ranges(WEIGHTS) == [None, f"bytes={PIECE}-", f"bytes={2 * PIECE}-", f"bytes={2 * PIECE}-"]
    assert folder.endswith(f"snapshots/{SHA}")
    assert Path(folder, WEIGHTS).read_bytes() == BIG


@pytest.mark.long
def test_a_model_that_breaks_off_for_good_is_a_sentence_and_the_next_start_gets_it(tmp_path):
    with hub_of({"config.json": b"{}", WEIGHTS: BIG[:5000]}) as hub:
        hub.cuts[WEIGHTS] = [1000] * 50
        said = asked(MODEL, hub, tmp_path)
        assert said.startswith("error: model.hub_id=some/model could not be downloaded (peer closed connection")
        assert "start the same command again, which keeps the files that have arrived, or download it" in said
        hub.cuts.clear()
        hub.asked.clear()
        folder = asked(MODEL, hub, tmp_path)
        assert Path(folder, WEIGHTS).read_bytes() == BIG[:5000]
        assert hub.ranges("config.json") == []  # it was there


def test_a_model_that_arrives_damaged_is_removed_and_got_again(tmp_path):
    with hub_of({"config.json": b"{}", WEIGHTS: BIG[:5000]}) as hub:
        hub.damaged = {WEIGHTS}
        said = asked(MODEL, hub, tmp_path)
        again = "arrived damaged and is removed; start the same command again"
        assert said == f"error: model.hub_id=some/model: {WEIGHTS} {again}"
        hub.damaged = set()
        folder = asked(MODEL, hub, tmp_path)
    assert Path(folder, WEIGHTS).read_bytes() == BIG[:5000]


@pytest.mark.long
@pytest.mark.parametrize("how", [pytest.param("cut for good", marks=pytest.mark.slow), "damaged"])
def test_a_data_set_that_does_not_arrive_is_a_sentence_and_the_next_start_gets_it(tmp_path, how):
    files = {
        "README.md": CARD.encode(),
        f"main/{TRAIN}": table(0, 50),
        f"main/{TRAIN.replace('train', 'test')}": table(90, 20),
    }
    with hub_of(files) as hub:
        if how == "damaged":
            hub.damaged = {f"main/{TRAIN}"}
        else:
            hub.cuts[f"main/{TRAIN}"] = [500] * 50
        said = asked(DATA, hub, tmp_path)
        wanted = (
            f"{TRAIN} arrived damaged" if how == "damaged" else "could not be loaded from the Hugging Face hub (peer"
        )
        assert said.startswith("error: task.dataset=some/gsm8k") and wanted in said
        assert "\n" not in said
        hub.damaged = set()
        hub.cuts.clear()
        assert asked(DATA, hub, tmp_path) == "50 20"


def test_a_data_set_that_is_a_script_is_not_run(tmp_path):
    with hub_of({"gsm8k.py": f"open({str(tmp_path / 'X')!r}, 'w')".encode()}) as hub:
        said = asked(DATA, hub, tmp_path / "home")
    assert said.startswith(
        "error: task.dataset=some/gsm8k could not be loaded from the Hugging Face hub (Dataset scripts"
    )
    assert not (tmp_path / "X").exists()

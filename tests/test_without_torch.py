"""Programs that need no torch do not load it where it is installed, and code of the user's own can have it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tunix_grpo
from tunix_grpo.text.tokenizer import load_tokenizer

TINY = Path(tunix_grpo.__file__).parent / "assets" / "tiny"


def lines_of(program: str, *words: str) -> list[str]:
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


PARTS = """
import sys
from importlib.util import find_spec
from pathlib import Path
from tunix_grpo.record.tensorboard import TensorBoardTracker
from tunix_grpo.text.tokenizer import load_tokenizer
from tunix_grpo.without_torch import load_libraries

tracker = TensorBoardTracker(Path(sys.argv[1]), num_completions=1, resume_step=0)
tracker.log_metrics(1, {"reward": 0.5})
tracker.close()
print("torch" in sys.modules)
load_libraries({"path": None})
print(load_tokenizer(Path(sys.argv[2]), 1000).encode("What is 2 + 3?"))
print("torch" in sys.modules)
print(find_spec("torch") is not None)
"""


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_tensorboard_and_tokenizers_do_without_torch(tmp_path: Path):
    ids = load_tokenizer(TINY, 1000).encode("What is 2 + 3?")
    assert lines_of(PARTS, str(tmp_path), str(TINY)) == ["False", str(ids), "False", "True"]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 0.5)]


LOADED = """
import sys
from tunix_grpo.without_torch import load_libraries
load_libraries({"path": sys.argv[1]})
print("transformers" in sys.modules)
"""


@pytest.mark.parametrize("words", [("rewards.py",), ("null", "-m"), ("null", "--multirun")])
def test_transformers_is_left_alone_where_code_of_the_user_may_want_its_models(words: tuple[str, ...]):
    assert lines_of(LOADED, *words) == ["False"]

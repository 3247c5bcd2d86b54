"""Programs that need no torch do not load it where it is installed, and code of the user's own can have it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tunix_grpo
from tunix_grpo.config.overrides import normalise
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.text.tokenizer import load_tokenizer

CONF = Path(__file__).resolve().parent.parent / "conf"
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
load_libraries(own_code=False)
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
load_libraries(own_code=True)
print("transformers" in sys.modules)
"""


def test_transformers_is_left_alone_where_code_of_the_user_may_want_its_models():
    assert lines_of(LOADED) == ["False"]


# All that settings can name in one file; the package only looks the names up.
OWN_FILE = """
def build(*, seed: int): ...
def length(completions): ...
class Tracker: ...
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["checkpoint_dir=runs/own.py"], False),
        (["model.family={file}:FAMILY"], True),
        (["task.name={file}:build"], True),
        (["tracker.custom={file}:Tracker"], True),
        (["grpo.advantage={file}:length"], True),
        (["grpo.ratio={file}:length"], True),
        (["reward.custom.path={file}", "reward.custom.function=length"], True),
        (["+reward.own.function={file}:length", "+reward.own.weight=1"], True),
    ],
)
def test_code_of_the_user_runs_where_a_setting_names_it(tmp_path: Path, compose, words: list[str], expected: bool):
    file = tmp_path / "own.py"
    file.write_text(OWN_FILE)
    config = compose(*normalise([word.format(file=file) for word in words]))
    assert may_run_own_code(config) == expected


SWEEP = """
import sys
from pathlib import Path
from tunix_grpo.cli import run
from tunix_grpo.config import load
from tunix_grpo.config.own_code import may_run_own_code

run(lambda config: print("answer", may_run_own_code(config)), config_dir=Path(sys.argv.pop(1)), load=load)
"""


@pytest.mark.parametrize(("words", "answers"), [([], ["answer False"]), (["-m"], ["answer True"])])
def test_code_of_the_user_may_run_in_another_job_of_a_sweep(tmp_path: Path, words: list[str], answers: list[str]):
    folders = [f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep"]
    lines = lines_of(SWEEP, str(CONF), *words, *folders)
    assert [line for line in lines if line.startswith("answer")] == answers

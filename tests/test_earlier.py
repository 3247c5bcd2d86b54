"""A run folder that is used again: nothing in it is lost, and no two runs are mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tunix_grpo.config import Config
from tunix_grpo.record.earlier import make_room
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.trackers import build_trackers
from tunix_grpo.run.places import HISTORY


@pytest.fixture
def log(compose, tmp_path) -> Callable[..., Config]:
    """Logs rewards as one start of a run does, in tmp_path / "run" or another folder."""

    def log_steps(checkpoints: str, rewards: dict[int, float], resume_step: int = 0, folder: str = "run") -> Config:
        config = compose("model=tiny", "tracker.wandb=false", f"checkpoint_dir={tmp_path / checkpoints}")
        config.output_dir = str(tmp_path / folder)
        with build_trackers(config, resume_step=resume_step) as record:
            write_config(config, config.output_dir)
            for step, reward in rewards.items():
                record.log_metrics(step, {"reward": reward})
        return config

    return log_steps


def rewards(file: Path) -> dict[int, float]:
    return {row["step"]: row["reward"] for row in map(json.loads, file.read_text().splitlines())}


def test_another_run_s_record_is_moved_aside_whole(log, tmp_path, caplog):
    """Its TensorBoard files too: two runs in one folder of them are drawn as one line."""
    for number, checkpoints in enumerate(("a", "b", "c")):
        log(checkpoints, {1: float(number)})
    run = tmp_path / "run"
    assert rewards(run / "metrics.jsonl") == {1: 2.0}
    for number in (1, 2):
        earlier = run / "earlier" / str(number)
        assert rewards(earlier / "metrics.jsonl") == {1: number - 1.0}
        assert {path.name for path in earlier.iterdir()} == {
            "metrics.jsonl",
            "completions.jsonl",
            "config.yaml",
            "tensorboard",
            "report.html",
        }
        assert len(list((earlier / "tensorboard").iterdir())) == 1
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert caplog.messages[0] == f"{run} holds the record of another run, which is now in {run}/earlier/1"


def test_the_same_run_goes_on_in_its_folder(log, tmp_path, caplog):
    log("a", {1: 0.1, 2: 0.2, 3: 0.3})
    log("a", {3: 0.3, 4: 0.4}, resume_step=2)
    for file in (tmp_path / "run" / "metrics.jsonl", tmp_path / "a" / HISTORY):
        assert rewards(file) == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    (tmp_path / "moved").mkdir()
    for name in ("run", "a"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    log("moved/a", {5: 0.5}, resume_step=4, folder="moved/run")
    assert rewards(tmp_path / "moved" / "run" / "metrics.jsonl") == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    assert caplog.messages == []


def test_a_restart_in_a_new_folder_continues_the_history(log, tmp_path):
    log("a", {1: 0.1, 2: 0.2, 3: 0.3})
    log("a", {3: 0.3, 4: 0.4}, resume_step=2, folder="second")
    assert rewards(tmp_path / "second" / "metrics.jsonl") == {3: 0.3, 4: 0.4}
    assert rewards(tmp_path / "a" / HISTORY) == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


def test_a_resumed_run_does_not_take_over_another_run_s_folder(log, tmp_path):
    log("a", {1: 0.1, 2: 0.2})
    log("b", {1: 1.0, 2: 2.0}, folder="other")
    log("b", {3: 3.0}, resume_step=2)
    assert rewards(tmp_path / "run" / "metrics.jsonl") == {3: 3.0}
    assert rewards(tmp_path / "run" / "earlier" / "1" / "metrics.jsonl") == {1: 0.1, 2: 0.2}


def test_a_run_that_starts_anew_keeps_what_was_logged(log, tmp_path):
    """Its checkpoints were deleted by hand, or it was killed before the first."""
    log("a", {1: 0.1})
    log("a", {1: 0.9})
    for folder, name in ((tmp_path / "run", "metrics.jsonl"), (tmp_path / "a", HISTORY)):
        assert rewards(folder / name) == {1: 0.9}
        assert rewards(folder / "earlier" / "1" / name) == {1: 0.1}


def test_a_run_of_a_version_without_history_goes_on(log, tmp_path):
    """Its config.yaml says which checkpoints it has; what it logged becomes the beginning of the history."""
    log("a", {1: 0.1, 2: 0.2, 3: 0.3})
    (tmp_path / "a" / HISTORY).unlink()
    log("a", {3: 0.3}, resume_step=2)
    assert rewards(tmp_path / "run" / "metrics.jsonl") == {1: 0.1, 2: 0.2, 3: 0.3}
    assert rewards(tmp_path / "a" / HISTORY) == {1: 0.1, 2: 0.2, 3: 0.3}
    (tmp_path / "a" / HISTORY).unlink()
    (tmp_path / "run" / "config.yaml").write_text("[")
    log("a", {4: 0.4}, resume_step=3)
    assert rewards(tmp_path / "run" / "earlier" / "1" / "metrics.jsonl") == {1: 0.1, 2: 0.2, 3: 0.3}


@pytest.mark.parametrize("content", [b"", b'{"step": 1, "rew'], ids=["empty", "half a line"])
def test_a_record_without_a_line_is_not_kept(content, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    make_room(tmp_path, tmp_path / "a" / HISTORY, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]

"""Whole trainings in two processes with two devices each, over the loopback address: `make cluster-test`."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from helpers import cluster
from helpers.cluster import record, steps, wait_until
from tunix_grpo.programs.differences import _saved_arrays
from tunix_grpo.run.step_files import SavedFiles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 20
WORDS = (
    "model=tiny",
    "task=arithmetic",
    "task.num_questions=300",
    "device=cpu",
    f"training.num_batches={STEPS}",
    "training.micro_batch_size=1",
    "training.save_interval_steps=1",
    "training.max_to_keep=1",
    "training.eval_interval_steps=10",
    "training.log_interval_steps=1",
    "grpo.num_generations=4",
    "optimizer.learning_rate=1e-3",
    "evaluation.num_questions=8",
    "evaluation.batch_size=8",
    "tracker.wandb=false",
    "tracker.report=false",
    "checkpoint_dir=checkpoints",
)
# Notes every completion that it scores, and raises on a host in a step where it is told to.
REWARD = """
import os, pathlib
import jax

def counted(completions, step, **columns):
    host = jax.process_index()
    with open(f"scored_{host}.txt", "a") as file:
        file.writelines(f"{step} {host}\\n" for _ in completions)
    if os.environ.get("FAIL") == f"{host} {step}":
        raise ValueError("no idea")
    return [len(text) % 7 + os.getpid() % 3 for text in completions]
"""
GO_ON = "the last checkpoint is whole, and the same command goes on from it"


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def saved_bytes(folder: Path) -> dict[str, bytes]:
    """Returns the arrays of the last step by name."""
    return {name: array.tobytes() for name, array in _saved_arrays(SavedFiles(folder / "checkpoints"), STEPS)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    with cluster.cluster(folder, *WORDS) as processes:
        ended = [process.ended() for process in processes]
    assert [code for code, _ in ended] == [0, 0], ended
    return folder


def test_two_processes_do_what_one_does(unbroken, tmp_path):
    """One record of both, and the numbers of one process with as many devices but for rounding."""
    process = cluster.start(tmp_path, list(WORDS), 0, 1, 0, devices=4)
    assert process.ended()[0] == 0
    (metrics, completions), (metrics_of_one, completions_of_one) = record(unbroken), record(tmp_path)
    assert [row["completion"] for row in completions] == [row["completion"] for row in completions_of_one]
    assert len(metrics) == len(metrics_of_one)
    for row, row_of_one in zip(metrics, metrics_of_one, strict=True):
        row.pop("sampling/sampling_logp_difference/max", None)  # of rounding itself
        row.pop("sampling/sampling_logp_difference/mean", None)
        wanted = {name: row_of_one[name] for name in row}
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-6)  # as for several devices of one process
    assert cluster.compilations(unbroken) <= cluster.compilations(tmp_path) + 5
    assert [path.name for path in sorted(unbroken.glob("run*"))] == ["run"]
    assert [path.name for path in (unbroken / "run" / "hosts").iterdir()] == ["1.log"]
    assert len(list((unbroken / "run" / "tensorboard").iterdir())) == 1
    logs = unbroken / "run" / "train.log", unbroken / "run" / "hosts" / "1.log"
    first, second = (re.findall("step ([0-9]+): .* sha256 ([0-9a-f]{64})", log.read_text()) for log in logs)
    assert first == second and [int(step) for step, _ in first] == list(range(1, STEPS + 1))
    assert [path.name for path in (unbroken / "checkpoints" / "actor").iterdir()] == [str(STEPS)]
    # What the second process prints is nothing that the first one says.
    assert "/20  reward " in (unbroken / "output_0.txt").read_text()
    assert "reward" not in (unbroken / "output_1.txt").read_text()


@pytest.mark.parametrize("lost", [0, 1])
def test_lost_and_stopped_processes(unbroken, tmp_path, lost):
    """A kill -9 of one, then a SIGTERM to one: all end, go on, and come to where the unbroken run came."""
    with cluster.cluster(tmp_path, *WORDS) as processes:
        wait_until(lambda: 4 in steps(tmp_path), processes)
        processes[lost].popen.kill()
        begun = time.monotonic()
        code, text = processes[1 - lost].ended()
        assert time.monotonic() - begun < cluster.TIMEOUT_S + 10
    assert code == 1
    last = text.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith(GO_ON)
    assert "Traceback" not in text
    with cluster.cluster(tmp_path, *WORDS) as processes:
        wait_until(lambda: 8 in steps(tmp_path), processes)
        processes[lost].popen.send_signal(signal.SIGTERM)
        ended = [process.ended() for process in processes]
    assert [code for code, _ in ended] == [143, 143], ended
    assert not any(errors(text) for _, text in ended)
    with cluster.cluster(tmp_path, *WORDS) as processes:
        ended = [process.ended() for process in processes]
    assert [code for code, _ in ended] == [0, 0], ended
    assert record(tmp_path) == record(unbroken)
    assert saved_bytes(tmp_path) == saved_bytes(unbroken)


def test_another_number_of_processes_goes_on(unbroken, tmp_path):
    """From two to one with as many devices, and back: all three go on with the same completions."""
    folders = [tmp_path / name for name in ("two", "one")]
    for folder in folders:
        shutil.copytree(unbroken, folder)
    more = [*WORDS, f"training.num_batches={STEPS + 2}", "scheduler=constant", "training.resume=changed"]
    assert cluster.start(folders[1], more, 0, 1, 0, devices=4).ended()[0] == 0
    with cluster.cluster(folders[0], *more) as processes:
        assert [process.ended()[0] for process in processes] == [0, 0]
    (metrics, completions), (metrics_of_one, completions_of_one) = map(record, folders)
    assert completions[-32:] == completions_of_one[-32:]
    assert completions[-1]["step"] == STEPS + 2
    for row, row_of_one in zip(metrics[-3:], metrics_of_one[-3:], strict=True):
        for name in row.keys() - {"sampling/sampling_logp_difference/max", "sampling/sampling_logp_difference/mean"}:
            assert row[name] == pytest.approx(row_of_one[name], rel=1e-4, abs=1e-6), name
    back = [*more, f"training.num_batches={STEPS + 4}"]
    with cluster.cluster(folders[1], *back) as processes:
        assert [process.ended()[0] for process in processes] == [0, 0]
    assert record(folders[1])[1][-1]["step"] == STEPS + 4


def test_a_reward_that_fails_on_one_host_ends_all_in_one_sentence(tmp_path, monkeypatch):
    """And a reward that differs between hosts is no fault: each completion is scored once."""
    (tmp_path / "rewards.py").write_text(REWARD)
    own = ("reward.custom.path=rewards.py", "reward.custom.function=counted", "training.first_look=off")
    monkeypatch.setenv("FAIL", "1 3")
    with cluster.cluster(tmp_path, *WORDS, *own, "evaluation.before_training=false") as processes:
        ended = [process.ended() for process in processes]
    assert [code for code, _ in ended] == [1, 1], ended
    (sentence,) = errors(ended[0][1])
    assert sentence.startswith("error: step 3: host 1: reward counted raised ValueError: no idea (")
    assert " on the completion '" in sentence
    assert errors(ended[1][1]) == []
    assert not any("Traceback" in text for _, text in ended)
    scored = [(tmp_path / f"scored_{host}.txt").read_text().split("\n") for host in range(2)]
    assert [sum(line.startswith(("1 ", "2 ")) for line in lines) for lines in scored] == [16, 16]
    assert [path.name for path in (tmp_path / "checkpoints" / "actor").iterdir()] == ["2"]


def test_processes_that_were_started_differently_are_refused(tmp_path):
    with cluster.cluster(tmp_path, *WORDS, own={1: ["grpo.beta=0.5"]}) as processes:
        ended = [process.ended() for process in processes]
    assert [code for code, _ in ended] == [1, 1], ended
    assert errors(ended[0][1]) == [
        "error: grpo.beta is 0.08 on host 0 and 0.5 on host 1; start all processes with the same command and the same "
        "packages"
    ]
    assert not (tmp_path / "checkpoints").exists()

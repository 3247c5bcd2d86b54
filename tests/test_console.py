"""What a person sees: tables, the bar on a terminal, plain lines elsewhere."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.terminal import run_on_terminal, visible_lines
from tunix_grpo.console import (
    Progress,
    closing_summary,
    format_bytes,
    format_clock,
    format_count,
    format_duration,
    format_percent,
    start_table,
)

# A small run with a bar: it logs, prints and evaluates while the bar is up.
PROGRAM = """
import logging, sys
from tunix_grpo.console import Progress, start_table

handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(sys.argv[1])]
logging.basicConfig(level=logging.INFO, handlers=handlers, format="%(levelname)s - %(message)s")
start_table([("device", "cpu [2 cores]"), ("model", "tiny")], "tunix-grpo")
with Progress(30) as progress:
    progress.update(0, {"eval/accuracy": 0.43})
    for step in range(1, 31):
        logged = step % 10 == 0
        progress.update(step, {"reward": step / 100, "kl": 0.002} if logged else None)
        if step == 20:
            logging.getLogger("train").info("saved checkpoint 20")
            print("printed by a reward function")
progress.update(31, {"reward": 9.0})
logging.getLogger("train").info("after the bar")
"""


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """A log file as Hydra opens one: a handler of the root logger."""
    path = tmp_path / "train.log"
    handler = logging.FileHandler(path)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield path
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (format_count, 0, "0"),
        (format_count, 3738, "3,738"),
        (format_count, 999_999, "999,999"),
        (format_count, 268_098_176, "268.1 M"),
        (format_count, 27_000_000_000, "27.0 B"),
        (format_bytes, 0, "0 B"),
        (format_bytes, 999, "999 B"),
        (format_bytes, 1_572_864, "1.6 MB"),
        (format_bytes, 80e9, "80.0 GB"),
        (format_bytes, 2.5e12, "2.5 TB"),
        (format_duration, 0.354, "0.35 s"),
        (format_duration, 9.999, "10 s"),
        (format_duration, 42.4, "42 s"),
        (format_duration, 59.7, "1:00"),
        (format_duration, 83.2, "1:23"),
        (format_duration, 7384, "2:03:04"),
        (format_duration, 93784, "1 d 2:03:04"),
        (format_clock, 4.6, "0:05"),
        (format_clock, 3599.6, "1:00:00"),
        (format_percent, 0.6534, "65.3%"),
        (format_percent, 1, "100.0%"),
    ],
)
def test_numbers_are_shown_for_people(function, value: float, shown: str):
    assert function(value) == shown


def test_plain_table_is_aligned_and_reaches_the_log_once(capsys: pytest.CaptureFixture[str], log_file: Path):
    start_table([("device", "cpu [bold]"), ("total steps", "300")], "tunix-grpo")

    expected = "tunix-grpo\n  device       cpu [bold]\n  total steps  300\n"
    assert capsys.readouterr().out == expected
    assert log_file.read_text() == expected


def test_stream_handlers_do_not_repeat_what_is_printed(capsys: pytest.CaptureFixture[str]):
    root = logging.getLogger()
    handler = logging.StreamHandler(sys.stdout)
    root.addHandler(handler)
    try:
        start_table([("device", "cpu")], "tunix-grpo")
    finally:
        root.removeHandler(handler)

    assert capsys.readouterr().out == "tunix-grpo\n  device  cpu\n"


def test_plain_progress_has_one_line_per_logged_step(capsys: pytest.CaptureFixture[str], log_file: Path):
    clock = Clock()
    with Progress(300, clock=clock) as progress:
        progress.update(0, {"eval/accuracy": 0.43, "eval/reward": 0.5})
        clock.now_s += 40  # the first step compiles
        progress.update(1, {"reward": 0.5, "kl": 0.0, "loss": 0.00014, "grad_norm": 1.0})
        for step in range(2, 12):
            clock.now_s += 2
            progress.update(step, {"reward": 0.712, "kl": 0.0031} if step == 11 else None)
        clock.now_s += 10
        progress.update(11, {"eval/accuracy": 0.653, "eval/hard/accuracy": 0.25, "eval/hard/truncated": 0.5})
    progress.update(12, {"reward": 1.0})

    expected = (
        "step   0/300  accuracy 43.0%\n"
        "step   1/300  reward 0.500  accuracy 43.0%  kl 0.0000  loss 0.0001  40 s/step  "
        "left 3:19:20\n"
        "step  11/300  reward 0.712  accuracy 43.0%  kl 0.0031  loss 0.0001  2.00 s/step  "
        "left 9:38\n"
        "step  11/300  accuracy 65.3%  hard 25.0%\n"
    )
    assert capsys.readouterr().out == expected
    assert log_file.read_text() == expected


def test_resumed_progress_measures_its_own_steps(capsys: pytest.CaptureFixture[str]):
    clock = Clock()
    with Progress(110, first_step=101, clock=clock) as progress:
        for step in (101, 102, 103):
            clock.now_s += 5
            progress.update(step, {"reward": 0.5})

    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "step 103/110  reward 0.500  5.00 s/step  left 0:35"


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (0.43, 0.922, "43.0% before, 92.2% after (+49.2 points)"),
        (0.5, 0.25, "50.0% before, 25.0% after (-25.0 points)"),
        (None, 0.5, "50.0% after"),
        (0.5, None, "50.0% before"),
        (None, None, "not measured"),
        (0.0, 0.0, "0.0% before, 0.0% after (+0.0 points)"),
    ],
)
def test_closing_summary(capsys: pytest.CaptureFixture[str], before: float | None, after: float | None, shown: str):
    closing_summary(
        title="Training finished",
        accuracy_before=before,
        accuracy_after=after,
        num_steps=250,
        seconds=100.0,
        paths=[("checkpoint", Path("/runs/actor/250")), ("metrics", "/out/metrics.jsonl")],
    )

    assert capsys.readouterr().out == (
        "Training finished\n"
        f"  held-out accuracy  {shown}\n"
        "  steps              250 in 1:40, loading and evaluations included\n"
        "  checkpoint         /runs/actor/250\n"
        "  metrics            /out/metrics.jsonl\n"
    )


def test_text_that_the_terminal_cannot_encode_does_not_stop_the_run(tmp_path: Path):
    program = "from tunix_grpo.console import start_table; start_table([('model', 'caf\\xe9')], 'x')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert result.stdout == b"x\n  model  caf?\n"


def test_bar_on_a_terminal(tmp_path: Path):
    output = run_on_terminal(PROGRAM, tmp_path / "train.log", width=110)

    lines = visible_lines(output)
    bar = next(line for line in reversed(lines) if "step 30/30" in line)
    assert bar.endswith("reward 0.300  accuracy 43.0%  kl 0.0020 left 0:00")
    assert "━━━━" in bar
    # What others write while the bar is up stands on lines of its own, above it.
    for text in ("INFO - saved checkpoint 20", "printed by a reward function"):
        assert [line for line in lines if text in line] == [text]
    assert lines[-2:] == ["INFO - after the bar", ""]
    assert "9.0" not in output, "an update after the end was shown"
    # The log file has the plain form of everything.
    assert (tmp_path / "train.log").read_text().splitlines() == [
        "INFO - tunix-grpo",
        "INFO -   device  cpu [2 cores]",
        "INFO -   model   tiny",
        "INFO - step  0/30  accuracy 43.0%",
        *[line for line in _logged_steps(tmp_path / "train.log") if "10/30" in line],
        *[line for line in _logged_steps(tmp_path / "train.log") if "20/30" in line],
        "INFO - saved checkpoint 20",
        *[line for line in _logged_steps(tmp_path / "train.log") if "30/30" in line],
        "INFO - after the bar",
    ]


def _logged_steps(log_file: Path) -> list[str]:
    """The lines of training steps; their times vary."""
    pattern = r"INFO - step \d+/30  reward 0\.\d00  accuracy 43\.0%  kl 0\.0020  .* left \d:\d\d"
    lines = log_file.read_text().splitlines()
    return [line for line in lines if re.fullmatch(pattern, line)]


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colour", "no colour"])
def test_narrow_terminal_keeps_step_and_time_left(tmp_path: Path, environment: dict[str, str]):
    output = run_on_terminal(PROGRAM, tmp_path / "train.log", width=50, **environment)

    lines = visible_lines(output)
    bar = next(line for line in reversed(lines) if "step 30/30" in line)
    assert bar.endswith("left 0:00")
    assert "reward 0.3" in bar
    assert all(len(line) <= 50 for line in lines)
    assert ("\x1b[36m" in output) == (not environment), "cyan, the colour of the time left"


def test_dumb_terminal_gets_plain_lines(tmp_path: Path):
    output = run_on_terminal(PROGRAM, tmp_path / "train.log", width=110, TERM="dumb")

    assert "\x1b" not in output
    assert "step  0/30  accuracy 43.0%" in output.splitlines()

"""The learning curve shows the numbers of metrics.jsonl."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from tunix_grpo.record.curve import CurveTracker, draw_learning_curve, write_learning_curve

TRAINED = [
    {"step": 0, "eval/accuracy": 0.4, "eval/reward": 0.5},
    {"step": 1, "reward": 0.6, "kl": 0.0, "completions/mean_length": 20.0},
    {"step": 2, "reward": 0.8, "kl": 0.01, "completions/mean_length": 18.0},
    {"step": 2, "eval/accuracy": 0.9, "eval/reward": 1.1},
]


def write_lines(folder: Path, lines: list[dict], tail: str = "") -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, "utf-8")
    return path


def drawn(figure: Figure, panel: int) -> list[list[tuple[float, float]]]:
    """The points of each line of a panel."""
    return [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in figure.axes[panel].lines]


def test_panels_show_the_logged_numbers():
    figure = draw_learning_curve(TRAINED, "2026-01-31/12-30-00")

    assert figure.get_suptitle() == "Learning curve of 2026-01-31/12-30-00"
    assert drawn(figure, 0) == [[(1, 0.6), (2, 0.8)], [(0, 0.5), (2, 1.1)]]
    assert drawn(figure, 1) == [[(0, 0.4), (2, 0.9)]]
    assert drawn(figure, 2) == [[(1, 0.0), (2, 0.01)]]
    assert drawn(figure, 3) == [[(1, 20.0), (2, 18.0)]]
    assert [text.get_text() for text in figure.axes[1].texts] == ["40.0%", "90.0%"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Reward",
        "Held-out accuracy",
        "KL from the reference model",
        "Completion length",
    ]


@pytest.mark.parametrize(
    ("lines", "empty"),
    [
        ([], [True, True, True, True]),
        (TRAINED[:1], [False, False, True, True]),
        (TRAINED[1:2], [False, True, False, False]),
        (TRAINED, [False, False, False, False]),
    ],
    ids=["nothing", "first evaluation", "no evaluation", "all"],
)
def test_panels_without_numbers_say_so(lines: list[dict], empty: list[bool]):
    figure = draw_learning_curve(lines, "run")

    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert ["no data yet" in panel for panel in texts] == empty


def test_many_points_get_a_moving_average():
    values = np.arange(40.0) % 2
    lines = [{"step": step, "kl": value} for step, value in enumerate(values, start=1)]

    raw, average = drawn(draw_learning_curve(lines, "run"), 2)

    assert [value for _, value in raw] == list(values)
    # Forty points are averaged over four neighbours on each side: 9 values of 0, 1, 0, 1, ...
    assert average[20] == (21, 4 / 9)
    assert average[21] == (22, 5 / 9)
    assert average[0] == (1, 0.0)
    assert average[1] == (2, 1 / 3)
    assert average[39] == (40, 1.0)


def test_picture_is_written_from_the_file(tmp_path: Path):
    metrics = write_lines(tmp_path, TRAINED, tail='{"step": 3, "rew')

    write_learning_curve(metrics, tmp_path / "learning_curve.png")

    height, width, _ = imread(tmp_path / "learning_curve.png").shape
    assert (width, height) == (1320, 900)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "learning_curve.png",
        "metrics.jsonl",
    ]


def test_failed_drawing_leaves_the_last_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    metrics = write_lines(tmp_path, TRAINED)
    output = tmp_path / "learning_curve.png"
    write_learning_curve(metrics, output)
    before = output.read_bytes()

    def fail(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half a pict")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space left"):
        write_learning_curve(metrics, output)

    assert output.read_bytes() == before


def test_a_picture_that_cannot_be_written_is_a_warning_and_the_next_is_tried(tmp_path: Path, caplog):
    """A folder stands where the picture belongs."""
    write_lines(tmp_path, TRAINED)
    (tmp_path / "learning_curve.png").mkdir()
    tracker = CurveTracker(tmp_path / "metrics.jsonl", tmp_path, every_s=0)
    tracker.log_metrics(0, {"eval/accuracy": 0.4})
    assert caplog.messages == [
        f"{tmp_path}/learning_curve.png could not be written ([Errno 21] Is a directory: "
        f"'{tmp_path}/.learning_curve.png.{os.getpid()}.tmp' -> '{tmp_path}/learning_curve.png'); training goes on"
    ]
    (tmp_path / "learning_curve.png").rmdir()
    tracker.log_metrics(2, {"eval/accuracy": 0.9})
    assert imread(tmp_path / "learning_curve.png").shape[2] == 4


def test_evaluations_that_come_soon_are_drawn_at_the_end(tmp_path: Path):
    write_lines(tmp_path, TRAINED)
    picture = tmp_path / "learning_curve.png"
    tracker = CurveTracker(tmp_path / "metrics.jsonl", tmp_path, every_s=3600)
    tracker.log_metrics(0, {"eval/accuracy": 0.4})
    assert not picture.exists()
    tracker.close()
    assert imread(picture).shape[2] == 4
    picture.unlink()
    tracker.close()
    assert not picture.exists()  # nothing new to be drawn

"""The record of a run: what is written, and that nothing about a copy of it stops training."""

import dataclasses
import importlib.util
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import hydra
import numpy as np
import pytest
import wandb
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from helpers.wandb_files import FakeWandbServer, history, last_values, run_config
from tunix_grpo.config import Config, load
from tunix_grpo.config.plugins import resolve
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.record.completion_tables import CompletionTables
from tunix_grpo.record.jsonl import JsonlTracker
from tunix_grpo.record.metrics import METRICS, is_metric
from tunix_grpo.record.run_config import write_config
from tunix_grpo.record.tensorboard import TensorBoardTracker
from tunix_grpo.record.tracker import CompletionRecord, TrackerError, as_row, spread
from tunix_grpo.record.trackers import TrackerGroup, build_trackers

CONF = Path(__file__).resolve().parent.parent / "conf"
FAKE_KEY = "f" * 40


def record(step: int = 1, place: int = 0, **changes: object) -> CompletionRecord:
    """A completion that differs by step and by place in the batch."""
    original = CompletionRecord(
        step=step,
        prompt=f"What is {place} + {step}?",
        completion=f"<answer>{place + step}</answer>",
        answer=str(place + step),
        rewards={"format": 0.5, "correctness": 1.0},
        reward=1.25,
        advantage=-0.5,
        length=7,
        truncated=False,
    )
    return dataclasses.replace(original, **changes)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("reward", True),
        ("rewards/format/mean", True),
        ("rewards/my_reward.v2/std", True),
        ("eval/accuracy", True),
        ("eval/hard/accuracy", True),
        ("eval/hard/length", False),
        ("clip_ratio/region_mean", True),
        ("reward2", False),
        ("rewards/format", False),
        ("rewards//mean", False),
        ("rewards/a/b/mean", False),
        ("eval/reward/mean", False),
        ("", False),
    ],
)
def test_metric_names_are_listed(name: str, listed: bool):
    assert is_metric(name) is listed


def test_metrics_have_all_promised_names():
    promised = """reward reward_std frac_reward_zero_std rewards/<name>/mean completions/mean_length
        completions/clipped_ratio kl entropy clip_ratio/region_mean loss grad_norm learning_rate
        num_tokens step_time timing/rollout timing/reward timing/reference timing/update timing/eval
        timing/save perf/tokens_per_second eval/accuracy eval/reward eval/truncated"""
    assert set(promised.split()) <= set(METRICS)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"reward": 1.0, "rewrad": 0.5}, "metric 'rewrad' is not listed in METRICS"),
        ({"reward": 1.0, "kl": float("nan")}, "metric 'kl' is nan at step 7"),
        ({"reward": float("-inf")}, "metric 'reward' is -inf at step 7"),
        ({"loss": np.float32("inf")}, "metric 'loss' is inf at step 7"),
    ],
)
def test_group_refuses_bad_metrics_before_writing(tmp_path: Path, metrics: dict[str, float], message: str):
    group = TrackerGroup([JsonlTracker(tmp_path, resume_step=0)])
    with pytest.raises(ValueError, match=message):
        group.log_metrics(7, metrics)
    group.close()

    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_metrics_lines_are_exact_and_on_disk_at_once(tmp_path: Path):
    group = TrackerGroup([JsonlTracker(tmp_path, resume_step=0)])
    group.log_metrics(10, {"reward": 0.1 + 0.2, "kl": np.float32(0.1), "num_tokens": 2**60})
    group.log_metrics(10, {"eval/accuracy": 1e-9})

    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 10, "reward": 0.30000000000000004, "kl": 0.10000000149011612, '
        '"num_tokens": 1152921504606846976}\n'
        '{"step": 10, "eval/accuracy": 1e-09}\n'
    )
    group.close()


def test_floats_survive_the_file(tmp_path: Path):
    values = np.random.default_rng(0).standard_normal(500) * 10.0 ** np.arange(-250, 250)
    with TrackerGroup([JsonlTracker(tmp_path, resume_step=0)]) as group:
        for step, value in enumerate(values):
            group.log_metrics(step, {"loss": value})

    assert [line["loss"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(values)


@pytest.mark.parametrize(
    "text",
    ["plain", "two\nlines\r\n", "héllo 数学 \u2028 \x00", 'quote " and \\', "lone \udc80 half", ""],
    ids=["plain", "newlines", "unicode", "escapes", "surrogate", "empty"],
)
def test_completions_lines(tmp_path: Path, text: str):
    records = [record(3, completion=text), record(3, 1, truncated=True)]
    with TrackerGroup([JsonlTracker(tmp_path, resume_step=0)]) as group:
        group.log_completions(3, records)

    lines = (tmp_path / "completions.jsonl").read_bytes().decode("utf-8").split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {
            "step": 3,
            "prompt": "What is 0 + 3?",
            "completion": text,
            "answer": "3",
            "rewards": {"format": 0.5, "correctness": 1.0},
            "reward": 1.25,
            "advantage": -0.5,
            "length": 7,
            "truncated": False,
        },
        dataclasses.asdict(records[1]),
    ]


STEPS_1_TO_3 = b'{"step": 1, "reward": 0.5}\n{"step": 2}\n{"step": 2, "eval/reward": 1}\n{"step": 3}\n'


@pytest.mark.parametrize(
    ("content", "resume_step", "kept", "num_dropped"),
    [
        (STEPS_1_TO_3, 3, STEPS_1_TO_3, 0),
        (STEPS_1_TO_3, 2, STEPS_1_TO_3[:-12], 0),
        (STEPS_1_TO_3, 0, b"", 0),
        (STEPS_1_TO_3 + b'{"step": 3, "eval/acc', 3, STEPS_1_TO_3, 1),
        (STEPS_1_TO_3 + b'{"step": 3}', 3, STEPS_1_TO_3, 1),
        (STEPS_1_TO_3 + b'{"step": 3, "x": "\xf0\x9f', 3, STEPS_1_TO_3, 1),
        (STEPS_1_TO_3 + b"\x00\x00\x00\n[1]\n" + b'{"reward": 1}\n', 9, STEPS_1_TO_3, 3),
        (b"", 3, b"", 0),
    ],
    ids=["all", "later", "anew", "cut", "no newline", "cut character", "garbage", "empty"],
)
def test_resume_drops_later_and_broken_lines(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes,
    resume_step: int,
    kept: bytes,
    num_dropped: int,
):
    for name in ("metrics.jsonl", "completions.jsonl"):
        (tmp_path / name).write_bytes(content)

    tracker = JsonlTracker(tmp_path, resume_step=resume_step)
    tracker.log_metrics(resume_step + 1, {"reward": 1.0})
    tracker.close()

    added = f'{{"step": {resume_step + 1}, "reward": 1.0}}\n'.encode()
    assert (tmp_path / "metrics.jsonl").read_bytes() == kept + added
    assert (tmp_path / "completions.jsonl").read_bytes() == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "completions.jsonl",
        "metrics.jsonl",
    ]
    warned = [f"dropped {num_dropped} unreadable line(s)" in text for text in caplog.messages]
    assert warned == [True] * (2 if num_dropped else 0)


def test_rewrite_that_fails_leaves_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(STEPS_1_TO_3)

    def fail(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="metrics.jsonl: cannot be written .No space left on device"):
        JsonlTracker(tmp_path, resume_step=1)

    assert path.read_bytes() == STEPS_1_TO_3


@pytest.mark.parametrize("which", ["metrics.jsonl", "completions.jsonl"])
def test_lines_that_a_full_disk_refuses_are_left_out_as_a_whole(tmp_path: Path, which: str):
    """No file may grow beyond 4,000 bytes, so that the last lines fit in part."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    group = TrackerGroup([JsonlTracker(tmp_path, resume_step=0)])
    try:
        with pytest.raises(UserError) as caught:
            for step in range(1000):
                if which == "metrics.jsonl":
                    group.log_metrics(step, {"reward": 0.5})
                else:
                    group.log_completions(step, [record(step), record(step, 1)])
        group.close(failed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    wanted = f"{tmp_path / which}: cannot be written (File too large); make room and start the same command again"
    assert str(caught.value) == wanted
    steps = [line["step"] for line in read_lines(tmp_path / which)]
    assert steps == sorted([*range(step)] * (1 if which == "metrics.jsonl" else 2))


def test_record_of_a_killed_run_can_be_resumed(tmp_path: Path):
    program = """
import itertools, sys
from pathlib import Path
from tunix_grpo.record.jsonl import JsonlTracker
tracker = JsonlTracker(Path(sys.argv[1]), resume_step=0)
for step in itertools.count(1):
    tracker.log_metrics(step, {"reward": step / 7, "kl": 0.5})
    print(step, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 50:
        pass
    process.kill()
    process.communicate()

    JsonlTracker(tmp_path, resume_step=50).close()

    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": step, "reward": step / 7, "kl": 0.5} for step in range(1, 51)
    ]


def test_config_file_gives_back_the_config(compose: Callable[..., Config], tmp_path: Path):
    config = compose("model=tiny", "task=arithmetic", "optimizer.learning_rate=3e-6", "seed=7")

    path = write_config(config, tmp_path / "new")

    assert path == tmp_path / "new" / "config.yaml"
    assert dataclasses.asdict(load(OmegaConf.load(path))) == dataclasses.asdict(config)
    assert [file.name for file in path.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("size", "count", "places"),
    [(8, 4, [0, 2, 4, 6]), (8, 1, [0]), (3, 5, [0, 1, 2]), (5, 2, [0, 2]), (4, 0, []), (0, 3, [])],
)
def test_samples_are_spread_over_the_batch(size: int, count: int, places: list[int]):
    records = [record(1, place) for place in range(size)]
    assert spread(records, count) == [records[place] for place in places]


def tensorboard_events(output_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(output_dir / "tensorboard"))
    events.Reload()
    return events


def scalars(events: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_scalars_and_completions_at_once(tmp_path: Path):
    tracker = TensorBoardTracker(tmp_path, num_completions=2, resume_step=0)
    tracker.log_metrics(10, {"reward": 0.5, "rewards/format/mean": 0.25, "num_tokens": 4096})
    tracker.log_metrics(20, {"reward": 0.75})
    tracker.log_completions(20, [record(20, place, completion="# a\n<b>") for place in range(4)])

    events = tensorboard_events(tmp_path)
    assert scalars(events, "reward") == [(10, 0.5), (20, 0.75)]
    assert scalars(events, "rewards/format/mean") == [(10, 0.25)]
    assert scalars(events, "num_tokens") == [(10, 4096.0)]
    texts = ["completions/1/text_summary", "completions/2/text_summary"]
    assert events.Tags()["tensors"] == ["custom_scalars__config__", *texts]
    (event,) = events.Tensors("completions/2/text_summary")
    assert event.step == 20
    assert event.tensor_proto.string_val[0].decode() == (
        "**reward 1.25** (format 0.5, correctness 1), advantage -0.5, 7 tokens\n\n"
        "Prompt\n\n    What is 2 + 20?\n\n"
        "Completion\n\n    # a\n    <b>\n\n"
        "Answer\n\n    22\n"
    )
    tracker.close()


def test_tensorboard_shows_first_what_a_person_looks_for(tmp_path: Path):
    """The layout of the tab "Custom Scalars", as TensorBoard itself reads it from the file of a resumed run."""
    TensorBoardTracker(tmp_path, num_completions=1, resume_step=0).close()
    TensorBoardTracker(tmp_path, num_completions=1, resume_step=7).close()
    events, tag = tensorboard_events(tmp_path), "custom_scalars__config__"
    assert events.SummaryMetadata(tag).plugin_data.plugin_name == "custom_scalars"
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors(tag)[-1].tensor_proto.string_val[0])
    (category,) = layout.category
    logged = [*METRICS, "eval/hard/accuracy", "eval/hard/reward"]
    shown = {
        chart.title: [name for pattern in chart.multiline.tag for name in logged if re.match(pattern, name)]
        for chart in category.chart
    }
    assert list(shown.items()) == [
        ("reward", ["reward", "eval/reward"]),
        ("held-out accuracy", ["eval/accuracy", "eval/<task>/accuracy", "eval/hard/accuracy"]),
        ("completion length", ["completions/mean_length", "completions/min_length", "completions/max_length"]),
        ("KL", ["kl"]),
    ]


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed: make test does it")
def test_trackio_keeps_numbers_and_a_table_of_completions_and_goes_on(
    tmp_path: Path, compose: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which trackio reads when it is loaded, here
    config = compose("model=tiny", "tracker=trackio", "tracker.tensorboard=false", "tracker.num_completions=1")
    assert (config.tracker.trackio, config.tracker.wandb) == (True, False)
    records = [record(1, place, completion="<b> \udc80", rewards={"own": None}) for place in range(4)]
    with build_trackers(config, resume_step=0) as trackers:
        trackers.log_metrics(1, {"reward": 0.5, "eval/accuracy": 0.25})
        trackers.log_completions(1, records)
    config.output_dir = str(tmp_path / "another folder")
    with build_trackers(config, resume_step=1, trackio_run=trackers.trackio_run) as resumed:
        resumed.log_metrics(2, {"reward": 0.75})

    assert resumed.trackio_run == trackers.trackio_run == "/".join(tmp_path.parts[-2:])
    from trackio.sqlite_storage import SQLiteStorage

    logged = SQLiteStorage.get_logs("tunix-grpo", resumed.trackio_run)
    numbers = [{name: value for name, value in row.items() if name != "timestamp"} for row in logged]
    (row,) = numbers[1]["completions"]["_value"]
    assert row == as_row(dataclasses.replace(records[0], completion="<b> \\udc80"))
    assert row["rewards/own"] is None and "rewards" not in row
    assert [numbers[0], numbers[2]] == [
        {"step": 1, "reward": 0.5, "eval/accuracy": 0.25},
        {"step": 2, "reward": 0.75},
    ]
    assert capsys.readouterr().out == ""  # trackio's own words would stand inside the bar


def test_trackio_is_asked_for_before_anything_is_loaded(
    compose: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracker.trackio=true: trackio is not installed; run pip install 'tunix-"):
        compose("model=tiny", "tracker=trackio")


@pytest.mark.parametrize(
    ("resume_step", "kept"),
    [(2, [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]), (0, [(1, 10.0)])],
    ids=["resumed", "anew"],
)
def test_tensorboard_hides_repeated_steps(tmp_path: Path, resume_step: int, kept: list[tuple[int, float]]):
    first = TensorBoardTracker(tmp_path, num_completions=1, resume_step=0)
    for step in range(5):
        first.log_metrics(step, {"reward": float(step)})
    first.close()
    (old,) = (tmp_path / "tensorboard").iterdir()
    old.rename(old.with_name(re.sub(r"tfevents\.\d{10}", "tfevents.1700000000", old.name)))

    second = TensorBoardTracker(tmp_path, num_completions=1, resume_step=resume_step)
    second.log_metrics(resume_step + 1, {"reward": 10.0 * (resume_step + 1)})
    second.log_completions(resume_step + 1, [record(completion="odd \udc80")])
    second.close()

    assert scalars(tensorboard_events(tmp_path), "reward") == kept


def test_copy_that_cannot_start_leaves_the_record(
    compose: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    config = compose("model=tiny", "task=arithmetic", "tracker.wandb=false")

    with build_trackers(config, resume_step=0) as trackers:
        trackers.log_metrics(1, {"reward": 0.5})

    assert "cannot write TensorBoard files" in caplog.text
    assert trackers.wandb_run_id is None
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "reward": 0.5}]


class BrokenTracker:
    """A tracker that works until step 2; notes its calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self.calls.append(step)
        if step == 2:
            raise TrackerError("disk full")

    def log_completions(self, step: int, records: list[CompletionRecord]) -> None:
        self.calls.append(records)

    def close(self, *, failed: bool = False) -> None:
        self.calls.append(f"closed, failed={failed}")
        raise TrackerError("still full")


def test_copy_that_fails_is_reported_once_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    broken = BrokenTracker()
    with TrackerGroup([JsonlTracker(tmp_path, resume_step=0), broken]) as group:
        for step in (1, 2, 3):
            group.log_metrics(step, {"reward": float(step)})
        group.log_completions(3, [record(3)])

    assert broken.calls == [1, 2, "closed, failed=True"]
    assert caplog.messages == ["disk full; training goes on, metrics.jsonl has everything"]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, None])
def test_trackers_hear_how_a_run_ended(error: type[BaseException] | None):
    broken = BrokenTracker()
    with pytest.raises(error) if error else nullcontext(), TrackerGroup([broken]) as group:
        if error:
            raise error
    group.close()

    assert broken.calls == [f"closed, failed={error is not None}"]


OWN_TRACKERS = """
class ListTracker:  # keeps what it hears, and cannot take step 3
    heard = []

    def __init__(self, output_dir, config):
        self.heard[:] = [output_dir, config.task.name]

    def log_metrics(self, step, metrics):
        self.heard.append(metrics["reward"] / (step - 3))

    def log_completions(self, step, records):
        self.heard.append([record.completion for record in records])

    def close(self, *, failed=False):
        self.heard.append(failed)

def with_one_argument(output_dir):
    pass

def that_exits(output_dir, config):
    exit(1)

def of_another_kind(output_dir, config):
    return []
"""


@pytest.fixture
def with_own_tracker(compose: Callable[..., Config], tmp_path: Path) -> Callable[[str], Config]:
    """Returns the settings of a run whose record goes to a function of a file of the user's, and to no other copy."""
    (tmp_path / "own.py").write_text(OWN_TRACKERS)

    def configured(name: str) -> Config:
        own = f"tracker.custom={tmp_path}/own.py:{name}"
        others = [f"tracker.{copy}=false" for copy in ("wandb", "tensorboard", "report")]
        return compose("model=tiny", "task=arithmetic", *others, own)

    return configured


def test_a_tracker_of_the_user_gets_the_record(with_own_tracker: Callable[[str], Config], tmp_path: Path):
    config = with_own_tracker("ListTracker")
    with build_trackers(config, resume_step=0) as trackers:
        trackers.log_metrics(1, {"reward": 4.0})
        trackers.log_completions(1, [record(completion="five")])

    heard = resolve(config.tracker.custom, "tracker.custom").heard
    assert heard == [tmp_path, "arithmetic", -2.0, ["five"], False]


def test_a_tracker_of_the_user_that_fails_is_left_out(
    with_own_tracker: Callable[[str], Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = with_own_tracker("ListTracker")
    with build_trackers(config, resume_step=0) as trackers:
        for step in (3, 4):
            trackers.log_metrics(step, {"reward": 1.0})

    assert resolve(config.tracker.custom, "tracker.custom").heard == [tmp_path, "arithmetic", True]
    (message,) = caplog.messages
    assert re.fullmatch(
        r"tracker\.custom failed: ZeroDivisionError: .* \(.*own\.py:\d+\); "
        r"training goes on, metrics\.jsonl has everything",
        message,
    )
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [3, 4]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("with_one_argument", r"tracker\.custom cannot be started: TypeError: .* 1 positional argument but 2 were"),
        ("that_exits", r"tracker\.custom cannot be started: SystemExit: 1"),
        ("of_another_kind", "gives a list without log_metrics, log_completions, close; a tracker has"),
        ("Nobody", r"tracker\.custom=.*own\.py:Nobody: there is no such function in .*own\.py"),
    ],
)
def test_a_tracker_of_the_user_that_is_none_is_one_sentence(
    with_own_tracker: Callable[[str], Config], name: str, message: str
):
    with pytest.raises(UserError, match=message) as caught:
        build_trackers(with_own_tracker(name), resume_step=0)
    assert "\n" not in str(caught.value)


@pytest.fixture
def own_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A wandb that knows no key and no settings but the test's own."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(home))
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def log_steps(config: Config, steps: range, resume_step: int, run_id: str | None) -> str:
    """Logs as training does and gives the W&B run's id."""
    with build_trackers(config, resume_step=resume_step, wandb_run_id=run_id) as trackers:
        for step in steps:
            trackers.log_metrics(step, {"reward": step / 10, "rewards/format/mean": 0.5})
            trackers.log_completions(step, [record(step, place) for place in range(4)])
    wandb.teardown()  # its side process writes the last of its files when it ends
    return trackers.wandb_run_id


def table_rows(run_folder: Path) -> dict[str, list[list]]:
    """Rows of every completions table of a run, by the table's name."""
    rows: dict[str, list[list]] = {}
    media = run_folder / "files" / "media" / "table" / "completions"
    for path in sorted(media.iterdir(), key=lambda path: int(path.name.split("_")[3])):
        content = json.loads(path.read_text())
        rows.setdefault(path.name[: len("from_step_000000")], []).extend(content["data"])
    return rows


def test_wandb_without_a_key_logs_offline(
    compose: Callable[..., Config],
    own_wandb: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    own_wandb.setattr("tunix_grpo.record.completion_tables.INCREMENTS_PER_TABLE", 2)
    caplog.set_level(logging.INFO)
    config = compose("model=tiny", "task=arithmetic", "tracker.num_completions=2")

    run_id = log_steps(config, range(1, 6), resume_step=0, run_id=None)

    (run_folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
    message = f"W&B: no API key found; logging offline, upload later with `wandb sync {run_folder}`"
    assert caplog.messages.count(message) == 1
    file = run_folder / f"run-{run_id}.wandb"
    assert history(file, "reward") == [(step, step / 10) for step in range(1, 6)]
    assert last_values(file)["rewards/format/mean"] == 0.5
    assert run_config(file)["optimizer"]["name"] == "adamw"
    # Rows may go together when sending takes longer than a step; none is lost or repeated.
    rows = [row for table in table_rows(run_folder).values() for row in table]
    assert rows == [
        [
            step,
            f"What is {place} + {step}?",
            f"<answer>{place + step}</answer>",
            str(place + step),
            *(0.5, 1.0, 1.25, -0.5, 7, False),
        ]
        for step in range(1, 6)
        for place in (0, 2)
    ]
    assert not (tmp_path / "home" / "artifacts").exists()
    assert "WANDB_DATA_DIR" not in os.environ


def test_wandb_tables_keep_every_step_visible(own_wandb: pytest.MonkeyPatch, tmp_path: Path):
    own_wandb.setattr("tunix_grpo.record.completion_tables.INCREMENTS_PER_TABLE", 2)
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    tables = CompletionTables(run, tmp_path / "data")
    for step in (10, 20, 30, 40, 50):
        tables.add([record(step)]).result(timeout=60)
    tables.close(timeout_s=60)
    folder = Path(run.dir).parent
    run.finish()

    steps = {name: [row[0] for row in rows] for name, rows in table_rows(folder).items()}
    assert steps == {
        "from_step_000010": [10, 20],
        "from_step_000030": [30, 40],
        "from_step_000050": [50],
    }


def test_wandb_rows_that_were_refused_go_with_the_next_table(
    own_wandb: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True))
    take, answers = run.log, iter([wandb.Error("quota"), wandb.Error("quota"), None, None])

    def log(values: dict) -> None:
        if error := next(answers):
            raise error
        take(values)

    own_wandb.setattr(run, "log", log)
    tables = CompletionTables(run, tmp_path / "data")
    for step in (1, 2, 3, 4):
        tables.add([record(step)]).result(timeout=60)
    tables.close(timeout_s=60)
    folder = Path(run.dir).parent
    run.finish()

    rows = table_rows(folder)["from_step_000001"]
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    warning = "W&B did not take a completions table, its rows go with the next: quota"
    assert [text for text in caplog.messages if text.startswith("W&B")] == [warning]


def test_a_wandb_call_that_hangs_does_not_hold_up_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    release = Event()

    class HangingRun:
        def log(self, values: dict) -> None:
            release.wait()

    tables = CompletionTables(HangingRun(), tmp_path / "data")
    tables.add([record()])
    tables.close(timeout_s=0.05)
    release.set()

    assert caplog.messages == ["W&B: the last completions did not arrive, completions.jsonl has them"]
    assert "WANDB_DATA_DIR" not in os.environ


def test_wandb_resumes_under_the_same_id(compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path):
    own_wandb.setenv("WANDB_API_KEY", FAKE_KEY)
    config = compose("model=tiny", "task=arithmetic", "tracker.num_completions=0")
    with FakeWandbServer() as server:
        own_wandb.setenv("WANDB_BASE_URL", server.url)
        first = log_steps(config, range(1, 6), resume_step=0, run_id=None)
        wandb.teardown()
        second = log_steps(config, range(4, 8), resume_step=3, run_id=first)
        wandb.teardown()

    assert second == first
    assert server.run_names == {first}
    # W&B gets the steps that the resumed run repeats; they are values, which it never drops.
    assert [line["step"] for line in server.history] == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert [line["reward"] for line in server.history][-2:] == [0.6, 0.7]
    steps = [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_steps_are_recorded_while_wandb_starts(
    compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path
):
    release, start = Event(), wandb.init

    def start_late(**how: Any) -> wandb.Run:
        release.wait(60)
        return start(**how)

    own_wandb.setattr(wandb, "init", start_late)
    with build_trackers(compose("model=tiny", "task=arithmetic"), resume_step=0) as trackers:
        for step in (1, 2):
            trackers.log_metrics(step, {"reward": step / 10})
            trackers.log_completions(step, [record(step)])
        assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]
        assert not list((tmp_path / "wandb").glob("*run-*"))
        release.set()
    wandb.teardown()

    (run_folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{trackers.wandb_run_id}")
    assert history(next(run_folder.glob("*.wandb")), "reward") == [(1, 0.1), (2, 0.2)]
    assert [row[0] for row in table_rows(run_folder)["from_step_000001"]] == [1, 2]


@pytest.mark.parametrize(
    ("mode", "message", "has_id"),
    [
        ("offline", "W&B: set to offline by its own settings; logging offline", True),
        ("disabled", "W&B is switched off by its own settings (WANDB_MODE=disabled)", False),
        ("WANDB_DISABLED=true", "W&B is switched off by its own settings (WANDB_DISABLED=true)", False),
        ("banana", "W&B cannot start: 1 validation error for Settings mode Input", True),
    ],
)
def test_wandb_mode_is_respected(
    compose: Callable[..., Config],
    own_wandb: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    message: str,
    has_id: bool,
):
    variable, equals, value = mode.partition("=")
    own_wandb.setenv(*((variable, value) if equals else ("WANDB_MODE", mode)))
    own_wandb.setenv("WANDB_API_KEY", FAKE_KEY)
    caplog.set_level(logging.INFO)

    run_id = log_steps(compose("model=tiny", "task=arithmetic"), range(1, 3), 0, None)
    if mode == "banana":
        own_wandb.delenv("WANDB_MODE")

    assert [text for text in caplog.messages if text.startswith(message)]
    assert (run_id is not None) == has_id
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == (mode == "offline")
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_wandb_may_be_switched_off_in_a_file(
    compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "settings").write_text("[default]\nmode = disabled\n")
    log_steps(compose("model=tiny", "task=arithmetic"), range(1, 3), 0, None)
    said = "W&B cannot start: it is switched off in a settings file of its own"
    assert [text.partition(";")[0] for text in caplog.messages if text.startswith("W&B")] == [said]
    assert not list((tmp_path / "wandb").glob("*run-*"))
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_the_command_line_wins_over_a_variable_that_switches_wandb_off(
    compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
):
    own_wandb.setenv(variable, value)
    words = ["model=tiny", "task=arithmetic", "tracker.wandb=true"]
    config = compose(*words)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):  # what a program knows of its command line
        own_wandb.setattr(HydraConfig.instance(), "cfg", None)
        HydraConfig.instance().set_config(hydra.compose("config", words, return_hydra_config=True))
    assert log_steps(config, range(1, 3), 0, None) is not None
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert history(next(run_folder.glob("*.wandb")), "reward") == [(1, 0.1), (2, 0.2)]


def test_wandb_variables_say_where_and_under_which_id(
    compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path
):
    own_wandb.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    own_wandb.setenv("WANDB_RUN_ID", "mine")
    own_wandb.setenv("WANDB_MODE", "offline")
    assert log_steps(compose("model=tiny", "task=arithmetic"), range(1, 3), 0, None) == "mine"
    (run_folder,) = (tmp_path / "elsewhere" / "wandb").glob("offline-run-*-mine")
    assert history(run_folder / "run-mine.wandb", "reward") == [(1, 0.1), (2, 0.2)]
    assert not (tmp_path / "wandb").exists()


# Logs ten steps; then kills wandb's process if asked to, and logs ten more.
PROGRAM = """
import logging, os, signal, sys, threading, time
from pathlib import Path
from omegaconf import OmegaConf
from tunix_grpo.config import load
from tunix_grpo.record import wandb as weights_biases
from tunix_grpo.record.tracker import CompletionRecord
from tunix_grpo.record.trackers import build_trackers

logging.basicConfig(level=logging.INFO, format="%(message)s")
weights_biases.INIT_TIMEOUT_S, weights_biases.FINISH_TIMEOUT_S, weights_biases.GRACE_S = 2.0, 2.0, 2.0
config, kill = load(OmegaConf.load(sys.argv[1])), sys.argv[2] == "kill"
begun = time.monotonic()
with build_trackers(config, resume_step=0) as group:
    started = time.monotonic()
    for step in range(1, 21):
        group.log_metrics(step, {"reward": 0.5})
        group.log_completions(step, [CompletionRecord(step, "p", "c", "a", {}, 1.0, 0.0, 3, False)])
        if kill and step == 10:
            while "wandb tables" not in [thread.name for thread in threading.enumerate()]:  # it starts beside the steps
                time.sleep(0.05)
            threads = Path("/proc/self/task").glob("*/children")
            for child in " ".join(thread.read_text() for thread in threads).split():
                if "wandb-core" in Path(f"/proc/{child}/comm").read_text():
                    os.kill(int(child), signal.SIGKILL)
                    print("killed", flush=True)
        time.sleep(0.03)
    done = time.monotonic()
print("seconds:", started - begun, done - started, time.monotonic() - done)
print("training ended")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("environment", "action", "message"),
    [
        (
            {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": FAKE_KEY},
            "leave",
            "connection refused; logging offline, upload later",
        ),
        ({"WANDB_API_KEY": "short"}, "leave", "API key must have 40. characters"),
        ({}, "kill", r"W&B (?:stopped working: |did not finish cleanly )"),
    ],
    ids=["no server", "bad key", "killed"],
)
def test_trouble_with_wandb_does_not_stop_the_run(
    compose: Callable[..., Config],
    own_wandb: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    action: str,
    message: str,
):
    config = compose("model=tiny", "task=arithmetic", "tracker.num_completions=1", "tracker.tensorboard=false")
    config.output_dir = str(tmp_path / "run")
    start_s = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(write_config(config, tmp_path)), action],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("training ended\n")
    assert ("killed" in result.stdout) == (action == "kill")
    assert len(re.findall(message, result.stderr)) == 1
    assert "Traceback" not in result.stderr
    assert time.monotonic() - start_s < 40
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines == [{"step": step, "reward": 0.5} for step in range(1, 21)]
    assert len(read_lines(tmp_path / "run" / "completions.jsonl")) == 20
    if action == "leave":
        (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
        assert history(file, "reward") == [(step, 0.5) for step in range(1, 21)]


@pytest.mark.long
@pytest.mark.parametrize("how", [pytest.param("never answers", marks=pytest.mark.slow), "answers the start alone"])
def test_a_wandb_server_that_is_slow_does_not_hold_the_run_up(
    compose: Callable[..., Config], own_wandb: pytest.MonkeyPatch, tmp_path: Path, how: str
):
    """Neither the start nor a step waits, the end waits for its limits; nothing of the record is lost."""
    config = compose("model=tiny", "task=arithmetic", "tracker.num_completions=0", "tracker.tensorboard=false")
    config.output_dir = str(tmp_path / "run")
    begun = time.monotonic()
    with FakeWandbServer() as server:
        server.silent_after = 0 if how == "never answers" else 3
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(write_config(config, tmp_path)), "leave"],
            env={**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": FAKE_KEY},
            capture_output=True,
            text=True,
            timeout=100,
            stdin=subprocess.DEVNULL,
        )
    whole = time.monotonic() - begun
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines == [{"step": step, "reward": 0.5} for step in range(1, 21)]
    start, loop, end = map(float, re.search(r"seconds: (\S+) (\S+) (\S+)", result.stdout).groups())
    assert start < 5 and loop < 5 and end < 20, result.stdout  # 2 s, 2 s and 2 s of grace each at the end
    assert whole - start - loop - end < 15, whole  # Python starts and ends; wandb's reports on itself took 20 s more
    if how == "never answers":
        assert "logging offline, upload later with `wandb sync" in result.stderr
    else:
        assert "W&B did not finish cleanly" in result.stderr
        assert "upload what is missing with `wandb sync" in result.stderr
    files = (tmp_path / "run" / "wandb").glob("*run-*/run-*.wandb")  # a start that failed leaves one too
    assert [(step, 0.5) for step in range(1, 21)] in [history(file, "reward") for file in files]


def test_wandb_is_not_imported_by_a_run_without_it(compose: Callable[..., Config], tmp_path: Path):
    config = compose("model=tiny", "task=arithmetic")
    path = write_config(config, tmp_path)
    program = f"""
import sys
from omegaconf import OmegaConf
from tunix_grpo.config import load
from tunix_grpo.record.trackers import build_trackers
config = load(OmegaConf.load({str(path)!r}))
config.tracker.wandb = config.tracker.tensorboard = False
build_trackers(config, resume_step=0).close()
print([name for name in ("wandb", "tensorboardX", "torch", "jax") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

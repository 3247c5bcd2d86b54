"""Sweeps of the benchmark: their points, processes that may not fit, how cost grows, the table, the picture."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import time
from pathlib import Path

import jax
import pytest

from helpers.models import write_model
from tunix_grpo.benchmark import own, planning, program, sweep
from tunix_grpo.benchmark.growth import fastest, with_growth
from tunix_grpo.benchmark.picture import draw, write_picture
from tunix_grpo.benchmark.points import Point, config_of, points_of, with_layers
from tunix_grpo.benchmark.sweep_report import print_sweep
from tunix_grpo.benchmark.turns import Worker, worker
from tunix_grpo.config.benchmark import BenchmarkConfig, load, to_values
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.errors import ConfigError, NoRoomError, UserError
from tunix_grpo.grpo.limits import Ceilings, all_parameters
from tunix_grpo.model.config_json import read_spec

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
ASSETS = ROOT / "src" / "tunix_grpo" / "assets"
GEMMA3_270M = ASSETS / "shapes" / "google--gemma-3-270m-it"


def configured(*words: str) -> BenchmarkConfig:
    return load(composed(checked_command_line(["model=tiny", *words], CONF, "benchmark", load), [CONF], "benchmark"))


# --- settings ---


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["sweep=layers"], "sweep=layers: must be one of rows, tokens, model, micro_batch_size"),
        (
            ["sweep=rows", "peer=tunix"],
            "sweep=rows and peer=tunix: points are timed without a peer; give peer=null, or",
        ),
        (["sweep=rows", "timed=evaluation"], "sweep=rows and timed=evaluation: the points of a sweep are steps; give"),
        (["points=[8]"], "points=[8] and sweep=null: points belong to a sweep; give sweep=rows, tokens, model or mic"),
        (
            ["plot=a.png"],
            "a.png and sweep=null: a plot shows how cost grows; give sweep=rows, tokens, model or micro_b",
        ),
        (["sweep=rows", "plot=a.jpg"], "plot=a.jpg: must end in .png, .svg or .pdf"),
        (["sweep=tokens", "points=8"], "points=8: must be a list of whole numbers of at least 1, or of models, as in"),
        (["sweep=tokens", "points=[]"], "points=[]: must be a list of whole numbers of at least 1"),
        (["sweep=tokens", "points=[8,0]"], "points=[8, 0]: must be a list of whole numbers of at least 1"),
        (["sweep=tokens", "points=[8,1.5]"], "points=[8, 1.5]: must be a list of whole numbers of at least 1"),
        (["sweep=tokens", "points=[a]"], "only models have names; give whole numbers, as in points=[16,32]"),
        (
            ["sweep=rows", "points=[8,12]", "grpo.num_minibatches=2"],
            "a step has whole groups in each minibatch; give multiples of 8, as in points=[8,16]",
        ),
        (
            ["sweep=micro_batch_size", "points=[5]", "training.gradient_accumulation_steps=3"],
            "a micro batch divides the 12 prompts of an update, which stay; give points=[1,3,6,12]",
        ),
    ],
)
def test_wrong_settings_are_refused(words, problem):
    with pytest.raises(ConfigError) as raised:
        checked_command_line(["model=tiny", *words], CONF, "benchmark", load)
    assert len(raised.value.problems) == 1
    assert problem in raised.value.problems[0]


# --- points ---

BATCH = "training.micro_batch_size={} training.gradient_accumulation_steps={}"


def test_points_are_quarters_halves_and_doubles_of_what_is_set():
    cases = [
        (["sweep=tokens"], 1, [(4, ""), (8, ""), (16, ""), (32, "")]),
        (["sweep=tokens", "generation.max_generation_steps=2"], 1, [(1, ""), (2, ""), (4, "")]),
        (["sweep=tokens", "points=[9,3,'5']"], 1, [(3, ""), (5, ""), (9, "")]),
        # A micro batch is as large as it is set, where a step has so many prompts.
        (["sweep=rows"], 1, [(4, (1, 1)), (8, (2, 1)), (16, (4, 1)), (32, (4, 2))]),
        (["sweep=rows", "points=[12,20,24]"], 1, [(12, (3, 1)), (20, (1, 5)), (24, (3, 2))]),
        # What two devices share, and two minibatches.
        (["sweep=rows", "grpo.num_minibatches=2"], 2, [(16, (1, 1)), (32, (2, 1)), (64, (4, 1)), (128, (4, 2))]),
        # The step stays.
        (["sweep=micro_batch_size"], 1, [(1, (1, 4)), (2, (2, 2)), (4, (4, 1))]),
        (
            ["sweep=micro_batch_size", "training.gradient_accumulation_steps=3"],
            1,
            [(1, (1, 12)), (3, (3, 4)), (6, (6, 2)), (12, (12, 1))],
        ),
        (["sweep=micro_batch_size", "points=[4,2]"], 1, [(2, (2, 2)), (4, (4, 1))]),
    ]
    for words, devices, expected in cases:
        config = configured(*words)
        found = points_of(config, config.on("cpu"), devices)
        for point, (value, batch) in zip(found, expected, strict=True):
            changes = BATCH.format(*batch) if batch else f"generation.max_generation_steps={value}"
            assert (point.value, words_of(point)) == (value, changes), words
            with config_of(config, point) as alone:
                assert (alone.sweep, alone.points, alone.plot) == (None, None, None)
                timed = alone.on("cpu")
            sizes = timed.completions_per_step(devices), timed.generation.max_generation_steps
            stays = config.on("cpu").completions_per_step(devices)
            by_sweep = {"rows": (value, 16), "tokens": (stays, value), "micro_batch_size": (stays, 16)}
            assert sizes == by_sweep[config.sweep], words


def words_of(point: Point) -> str:
    return " ".join(f"{key}={value}" for key, value in point.settings.items())


def test_completions_that_devices_cannot_share_are_refused():
    config = configured("sweep=rows", "points=[4,8]")
    with pytest.raises(UserError, match=r"4 completions are not a multiple of 8, .*; give points=\[8,16,32\]$"):
        points_of(config, config.on("cpu"), 2)


def test_layers_are_whole_periods_of_a_model():
    """Gemma's kinds of layers alternate by six; where the model is a single period, layers are counted."""
    gemma, tiny = read_spec(GEMMA3_270M), read_spec(ASSETS / "tiny")
    alike = dataclasses.replace(tiny, num_layers=10, windows=(None,) * 10, ropes=tiny.ropes[:1] * 10)
    config = configured("sweep=model")
    for spec, expected in ((gemma, [6, 12, 18]), (tiny, [2, 3, 6]), (alike, [2, 5, 10])):
        assert [point.value for point in points_of(config, config.on("cpu"), 1, spec)] == expected
    config = configured("sweep=model", "points=[12,6]")
    assert [point.value for point in points_of(config, config.on("cpu"), 1, None)] == [6, 12]


def test_a_model_of_other_layers_is_a_config_of_its_own():
    config = configured("sweep=model")
    with config_of(config, Point(8, {"model.random_weights": True})) as alone:
        made, whole = read_spec(Path(alone.model.path)), read_spec(ASSETS / "tiny")
        assert alone.model.random_weights
    assert not Path(alone.model.path).exists()
    assert made == dataclasses.replace(
        whole, num_layers=8, windows=(whole.windows * 2)[:8], ropes=(whole.ropes * 2)[:8]
    )
    assert all_parameters(made) - all_parameters(whole) == (all_parameters(whole) - 321 * 64) // 3
    outer = {"text_config": {"num_hidden_layers": 4}, "tie_word_embeddings": True}
    assert with_layers(outer, 2) == {"text_config": {"num_hidden_layers": 2}, "tie_word_embeddings": True}


def test_a_family_with_its_layers_elsewhere_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(
        "import dataclasses\n"
        "from tunix_grpo.model.families.gemma3 import GEMMA3\n"
        "def fixed(fields):\n"
        "    spec = GEMMA3.read(fields)\n"
        "    return dataclasses.replace(spec, num_layers=1, windows=spec.windows[:1], ropes=spec.ropes[:1])\n"
        "OWN = dataclasses.replace(GEMMA3, read=fixed)\n"
    )
    config = configured("sweep=model", f"model.family={tmp_path}/own.py:OWN")
    with pytest.raises(UserError, match="^sweep=model: tiny does not have its layers from num_hidden_layers of"):
        config_of(config, Point(2, {})).__enter__()


def test_models_by_name_are_folders_or_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    config = configured("sweep=model", "points=[google/gemma-3-270m-it,small,3]")
    layers, hub, folder = points_of(config, config.on("cpu"), 1)
    assert layers.value == 3
    with config_of(config, hub) as alone:
        assert (alone.model.hub_id, alone.model.path) == ("google/gemma-3-270m-it", None)
    with config_of(config, folder) as alone:
        assert (alone.model.hub_id, alone.model.path) == (None, str(tmp_path / "small"))
        assert (alone.model.name, alone.model.random_weights) == ("small", True)


# --- growth ---


def row(value: int, **figures) -> dict:
    """Returns the figures of a point, as large as its value."""
    settings = {"training.micro_batch_size": value, "training.gradient_accumulation_steps": 8 // value}
    return {"value": value, "size": value, "settings": settings, "fits": True} | figures


def unfit(value: int) -> dict:
    return {"value": value, "settings": {}, "fits": False, "reason": "memory ran out"}


def test_growth_is_the_exponent_since_the_point_before():
    costs = [(8, 1.0, 0.5, 100), (16, 2.0, 0.5, 100), (64, 2.0 * 4**1.5, 1.0, 100)]
    rows = [row(size, step_s=step, step_limit_s=limit, peak_bytes=peak) for size, step, limit, peak in costs]
    first, second, third = with_growth(rows)
    assert (first["step_growth"], first["peak_growth"]) == (None, None)
    assert (second["step_growth"], second["step_limit_growth"], second["peak_growth"]) == pytest.approx((1, 0, 0))
    assert (third["step_growth"], third["step_limit_growth"]) == pytest.approx((1.5, 0.5))
    # No exponent between points of one size, and none for what was not measured.
    found = with_growth([rows[0], rows[0], unfit(16)])
    assert found[1]["step_growth"] is None and found[2] == unfit(16)
    assert "rollout_growth" not in first


def test_the_fastest_micro_batch_that_fits():
    def timed(value: int, samples: float, low: float, high: float) -> dict:
        return row(value, samples_per_s=samples, step_s_min=low, step_s_max=high)

    rows = [timed(1, 10.0, 1.5, 1.7), timed(2, 19.0, 0.8, 0.86), timed(4, 20.0, 0.7, 0.82), unfit(8)]
    assert fastest(rows, 1) == {
        "micro_batch_size": 4,
        "words": "training.micro_batch_size=4 training.gradient_accumulation_steps=2",
        "samples_per_s": 20.0,
        "configured_samples_per_s": 10.0,
        "not_told_apart": [2],
    }
    assert fastest(rows, 8)["configured_samples_per_s"] is None
    assert fastest([unfit(8)], 8) is None


# --- the report ---

FIGURES = {
    "model": "tiny",
    "device": "cpu (cpu)",
    "dtype": "float32",
    "lora_rank": None,
    "quantization": None,
    "prompts": 4,
    "generations": 4,
    "prompt_tokens": 60,
    "completion_tokens": 50,
    "lengths": "full",
    "steps": 3,
    "remat": "block",
    "weights": 304896,
    "bandwidth_bytes_per_s": 2e10,
    "arithmetic_flop_per_s": 1e11,
}


def timed_row(value: int, seconds: float, **changes) -> dict:
    parts = {"rollout_s": seconds / 2, "reference_s": seconds / 8, "update_s": seconds / 4, "step_s": seconds}
    limits = {name.replace("_s", "_limit_s"): value / 100 for name in parts}
    rates = {"samples_per_s": 16 / seconds, "completion_tokens_per_s": 800 / seconds}
    rates |= {"completion_tokens_limit_per_s": 8e4 / value}
    spread = {"step_s_min": seconds, "step_s_max": seconds}
    return row(value, **FIGURES, **parts, **limits, **rates, **spread, peak_bytes=10**9) | changes


LATER = {"value": 64, "settings": {}, "fits": None, "reason": "not timed, since a smaller one does not fit"}


def test_the_table_of_growth(capsys):
    rows = with_growth([timed_row(8, 1.0), timed_row(16, 4.0, remat="full"), unfit(32), LATER])
    print_sweep({"sweep": "rows", "memory_bytes": 2 * 10**9, "points": rows})
    out = capsys.readouterr().out.splitlines()
    assert out[:4] == [
        "tiny, float32, all weights, on cpu (cpu)",
        "4 completions of a prompt, of 60 + 50 tokens, medians of 3 steps, a process for each line",
        "this device: 20.0 GB/s, 100 GFLOP/s, 2.0 GB of memory",
        "",
    ]
    assert len({len(line) for line in out[4:7]}) == 1
    assert [re.split(r"  +", line) for line in out[4:7]] == [
        ["completions", "rollout", "reference", "update", "step", "growth", "limit", "growth"]
        + ["samples/s", "completion tokens/s", "memory", "remat"],
        ["8", "0.5 s", "0.125 s", "0.25 s", "1 s", "80 ms", "16", "800", "1.0 GB", "block"],
        ["16", "2 s", "0.5 s", "1 s", "4 s", "2.00", "0.16 s", "1.00", "4", "200", "1.0 GB", "full"],
    ]
    assert out[7:] == [
        "",
        "32 completions: does not fit: memory ran out",
        "64 completions: not timed, since a smaller one does not fit",
        "growth       exponent since the point above: 1 is twice the time for twice the completions, 0 the same time",
    ]


def test_the_table_of_micro_batches_says_what_to_paste(capsys):
    rows = [timed_row(1, 4.0), timed_row(2, 2.0)]
    for each in rows:
        del each["reference_s"]
    print_sweep({"sweep": "micro_batch_size", "memory_bytes": 1, "points": rows, "best": fastest(rows, 1)})
    out = capsys.readouterr().out
    assert "micro batch  accumulation  rollout  update  step" in out and "growth" not in out and "remat" not in out
    assert "\n2                       4      1 s   0.5 s   2 s" in out
    paste = "training.micro_batch_size=2 training.gradient_accumulation_steps=4"
    assert out.endswith(f"fastest      {paste}: 2.00 times the samples/s of what is set\n")
    rows[0] |= {"step_s_min": 1.9}
    print_sweep({"sweep": "micro_batch_size", "memory_bytes": 1, "points": rows, "best": fastest(rows, 2)})
    assert f"fastest      {paste}\nas fast      1 at once cannot be told apart from it" in capsys.readouterr().out


def test_the_picture(tmp_path):
    result = {
        "sweep": "tokens",
        "memory_bytes": 2 * 10**9,
        "points": [timed_row(8, 1.0), timed_row(16, 4.0), unfit(32)],
    }
    times, tokens, memory = draw(result).axes
    drawn = {line.get_color(): line.get_ydata().tolist() for line in times.lines if line.get_linestyle() == "-"}
    assert [1.0, 4.0] in drawn.values() and [0.5, 2.0] in drawn.values()
    limits = [line.get_ydata().tolist() for line in times.lines if line.get_linestyle() == "--"]
    assert limits.count([0.08, 0.16]) == 4
    assert tokens.lines[0].get_ydata().tolist() == [800.0, 200.0]
    assert [line.get_ydata()[0] for line in memory.lines] == [1.0, 2.0]  # what was taken, and what there is
    write_picture(result, tmp_path / "grown.svg")
    assert "<svg" in (tmp_path / "grown.svg").read_text()
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(UserError, match="taken.png: cannot be written"):
        write_picture(result, tmp_path / "taken.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grown.svg", "taken.png"]


# --- processes ---

# Speaks as `planning` and `own` do; what a step comes to goes by its completions.
FAKE = """
import os, signal, sys
from tunix_grpo.benchmark.link import Link

link, endings = Link(), eval(sys.argv[2])
job = link.receive()
if sys.argv[1] == "plan":
    values = (4, 8, 16, 32)
    settings = [{"training.micro_batch_size": value // 4} for value in values]
    points = [{"value": value, "settings": each} for value, each in zip(values, settings)]
    link.send(points=points, ceilings={"bandwidth": 2e10, "arithmetic": 1e11}, memory_bytes=10**10)
    link.receive()
prompts = job["training"]["micro_batch_size"]
limits = dict.fromkeys(("rollout", "reference", "update", "step"), prompts / 1000)
work = {"prompts": prompts, "generations": 4, "prompt_tokens": 17, "completion_tokens": 16, "prompt_width": 32}
ending = endings.get(4 * prompts)
if ending == "refuses":
    link.send(error="no such thing")
link.send(model="tiny", device="cpu", dtype="float32", remat="block", weights=1, work=work, lengths=None,
          ceilings=job["ceilings"], limits=limits, total_steps=2)
seconds = prompts / 10
while True:
    link.receive()
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if ending == "says so":
        link.send(error="memory ran out (at all)", no_room=True)
    link.send(step_s=seconds, rollout_s=seconds, reference_s=seconds, update_s=seconds, compilations=0,
              peak_bytes=10**9, tokens=64 * prompts, longest=16,
              no_room=["memory ran out in the update"] * (ending == "shrinks"))
"""


@pytest.fixture
def endings(monkeypatch) -> dict[int, str]:
    """Puts fake processes in the place of the real ones; returns what is to become of those of so many completions."""
    ending: dict[int, str] = {}

    def start(name: str, title: str) -> Worker:
        return Worker(title, [sys.executable, "-c", FAKE, name, repr(ending)])

    monkeypatch.setattr(sweep, "worker", start)
    return ending


SWEEP = ("sweep=rows", "device=cpu", "steps=1", "warmup=0")


def test_each_point_is_measured_against_the_same_rates(endings, capsys, tmp_path):
    program.benchmark(configured(*SWEEP, "json=true", f"plot={tmp_path}/grown.png"))
    found = json.loads(capsys.readouterr().out)
    assert (found["sweep"], found["memory_bytes"]) == ("rows", 10**10)
    points = found["points"]
    assert [(point["value"], point["size"], point["step_s"]) for point in points] == [
        (4 * prompts, 4 * prompts, prompts / 10) for prompts in (1, 2, 4, 8)
    ]
    assert {point["bandwidth_bytes_per_s"] for point in points} == {2e10}
    assert [point["step_growth"] for point in points] == [None, *[pytest.approx(1)] * 3]
    assert points[1]["settings"] == {"training.micro_batch_size": 2}
    assert (tmp_path / "grown.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("killed", "the step of 16 completions was killed, probably for want of memory"),
        ("says so", "memory ran out (at all)"),
        ("shrinks", "memory ran out in the update"),
    ],
)
def test_a_point_that_does_not_fit_is_a_row_and_not_the_end(endings, capsys, ending, reason):
    endings[16] = ending
    program.benchmark(configured(*SWEEP, "json=true"))
    points = json.loads(capsys.readouterr().out)["points"]
    assert [point["fits"] for point in points] == [True, True, False, None]
    assert points[2]["reason"].startswith(reason)
    assert points[3]["reason"] == "not timed, since a smaller one does not fit"


def test_what_is_not_about_memory_ends_a_sweep(endings, tmp_path, capsys):
    endings[8] = "refuses"
    with pytest.raises(UserError, match="^no such thing$"):
        program.benchmark(configured(*SWEEP))
    assert capsys.readouterr().out == ""
    endings.update({4: "killed"})
    with pytest.raises(NoRoomError, match="^sweep=rows: no point fits; the step of 4 completions was killed"):
        program.benchmark(configured(*SWEEP, f"plot={tmp_path}/a.png"))
    assert "4 completions: does not fit: the step of 4 completions was killed" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=f"^plot={tmp_path}/none/a.png: there is no folder {tmp_path}/none; make it"):
        program.benchmark(configured(*SWEEP, f"plot={tmp_path}/none/a.png"))


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="this system has no such file")
def test_where_memory_runs_out_a_worker_ends_first():
    with worker("own", "the benchmark") as one:
        score, deadline = Path(f"/proc/{one._process.pid}/oom_score_adj"), time.monotonic() + 30
        while score.read_text() != "1000\n" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert score.read_text() == "1000\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes."), r"\(RESOURCE_EXHAUSTED"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes."), r"\(RESOURCE_EXHAUSTED"),
        (MemoryError(), r"\(MemoryError\); give a smaller model"),
    ],
)
def test_memory_that_runs_out_before_a_step_is_a_sentence(monkeypatch, error, sentence):
    monkeypatch.setattr(own, "load_model", raiser(error))
    monkeypatch.setattr(own, "measure_ceilings", raiser(AssertionError("they were given")))
    given = to_values(configured("device=cpu")) | {"ceilings": Ceilings(1.0, 1.0)._asdict()}
    with pytest.raises(NoRoomError, match=f"^memory ran out {sentence}"):
        own.serve(given, None)


def test_other_errors_are_what_they_are(monkeypatch):
    monkeypatch.setattr(own, "load_model", raiser(ValueError("a mistake of ours")))
    with pytest.raises(ValueError, match="^a mistake of ours$"):
        own.serve(to_values(configured("device=cpu")), None)


def raiser(error: Exception):
    def fail(*_: object):
        raise error

    return fail


class OneAnswer:
    """The benchmark's end of the talk with a planner."""

    def send(self, **answer: object) -> None:
        self.sent = json.loads(json.dumps(answer))


def test_points_are_planned_where_the_device_is(monkeypatch):
    """Only there it is known how long completions are by default, and what the machine can do."""
    rates = {"bandwidth": 2e10, "arithmetic": 1e11}
    monkeypatch.setattr(planning, "measure_ceilings", lambda _: Ceilings(**rates))
    link = OneAnswer()
    for words, expected in (
        (["sweep=tokens", "generation.max_generation_steps=null"], [16, 32, 64, 128]),  # 64 on a CPU
        (["sweep=model"], [2, 3, 6]),
    ):
        planning.serve(to_values(configured("device=cpu", *words)), link)
        assert [Point(**each).value for each in link.sent["points"]] == expected
        assert link.sent["ceilings"] == rates
        assert link.sent["memory_bytes"] > 10**9


def test_a_model_that_is_not_there_is_said_before_any_is_timed():
    config = configured("device=cpu", "sweep=model", "points=[google/gemma-3-270m-it,no/such]")
    sentence = "the shapes of model.hub_id=no/such are not known here"
    with worker("plan", "the benchmark") as planner, pytest.raises(UserError, match=sentence):
        planner.ask(**to_values(config))


# --- all together ---


@pytest.mark.slow
def test_micro_batches_of_the_bundled_model(jax_cache, capsys):
    """The same step, in two micro batches and in one, in real processes."""
    words = ("device=cpu", "sweep=micro_batch_size", "points=[2,4]", "steps=1", "warmup=0", f"jax_cache='{jax_cache}'")
    program.benchmark(configured(*words, "json=true"))
    found = json.loads(capsys.readouterr().out)
    assert [point["value"] for point in found["points"]] == [2, 4]
    for point in found["points"]:
        assert (point["prompts"], point["fits"], point["weights"]) == (4, True, 304896)
        assert 0 < point["step_limit_s"] < point["step_s"]
    first, second = found["points"]
    assert first["step_limit_s"] == second["step_limit_s"]  # the same work, against the same rates
    assert math.isclose(found["best"]["samples_per_s"], max(point["samples_per_s"] for point in found["points"]))
    assert found["best"]["words"].startswith("training.micro_batch_size=")


@pytest.mark.slow
def test_layers_of_a_directory(tmp_path, jax_cache, capsys):
    write_model("qwen3", tmp_path, num_hidden_layers=4)
    words = ("model=hf", f"model.path={tmp_path}", "device=cpu", "sweep=model", "json=true", "steps=1", "warmup=0")
    sizes = ("generation.max_prompt_length=20", "generation.max_generation_steps=8", f"jax_cache='{jax_cache}'")
    program.benchmark(configured(*words, *sizes))
    points = json.loads(capsys.readouterr().out)["points"]
    assert [point["value"] for point in points] == [1, 2, 4]
    assert points[2]["size"] - points[1]["size"] == 2 * (points[1]["size"] - points[0]["size"])
    assert all(point["fits"] for point in points)

"""A rollout is left between two stages where a stop is asked for; the run goes on as if nobody had asked."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.trainer import NumberTokenizer, number_prompts, small_trainer
from tunix_grpo.grpo import engine, rollout, stages
from tunix_grpo.grpo.rollout import StoppedError
from tunix_grpo.train import train

PROMPTS = number_prompts(8).batch(range(8), 4)
SETTINGS = ("training.micro_batch_size=8", "generation.max_generation_steps=40", "grpo.beta=0.0")
# What draws on, of each way of drawing.
DRAWS = {"stages": (stages, "_continued"), "slots": (engine, "_continued")}


@pytest.fixture
def staged(monkeypatch):
    """Completions of any length are drawn in stages of 8 tokens."""
    monkeypatch.setattr(stages, "STAGE", 8)
    monkeypatch.setattr(rollout, "SHORT", 0)


@pytest.fixture
def trainer(compose, folder, staged, monkeypatch):
    monkeypatch.setattr(NumberTokenizer, "stop_ids", tuple(range(1, 5)))
    return lambda *settings: small_trainer(compose, folder, *SETTINGS, *settings)


def noted(monkeypatch, way: str, also: Callable[[int], object] = lambda call: None) -> list[int]:
    """Returns a list that grows with each program of the way that draws on; `also` is told of it before."""
    module, name = DRAWS[way]
    calls, draw = [], getattr(module, name)

    def counted(*args):
        calls.append(len(calls) + 1)
        also(len(calls))
        return draw(*args)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.mark.long
@pytest.mark.parametrize("way", DRAWS)
def test_nothing_is_drawn_after_the_look_that_is_asked_to_stop(trainer, monkeypatch, way):
    drawing = trainer(*["generation.max_rows=20"] * (way == "slots"))
    calls, looks = noted(monkeypatch, way), []

    def third() -> bool:
        looks.append(len(calls))
        return len(looks) == 3

    with pytest.raises(StoppedError):
        drawing.draw(PROMPTS, 1, 0, drawing.ahead(), third)
    assert looks == [1, 2, 3] == calls  # the first look is at nothing: its tokens are on their way
    whole, asked = drawing.draw(PROMPTS, 1, 0, drawing.ahead()), []
    again = drawing.draw(PROMPTS, 1, 0, drawing.ahead(), lambda: bool(asked.append(1)))
    assert again.token_ids == whole.token_ids and len(set(whole.lengths)) > 2
    assert len(calls) == 3 + 2 * len(asked)  # when all have ended, nobody is asked


def test_a_step_is_left_in_its_extra_rounds_too(trainer, monkeypatch):
    drawing = trainer("grpo.replace_equal_groups=true")
    calls, rounds = noted(monkeypatch, "stages"), []

    def fresh(number: int):
        rounds.append((number, len(calls)))
        return PROMPTS

    monkeypatch.setattr(drawing, "groups", lambda *args, groups=drawing.groups: all_equal(groups(*args)))
    with pytest.raises(StoppedError):
        drawing.collect(1, PROMPTS, fresh, lambda: bool(rounds))
    assert rounds == [(1, len(calls) - 1)]


def all_equal(groups):
    groups.equal[:] = True
    return groups


@pytest.mark.long
def test_a_run_that_is_stopped_in_a_rollout_saves_its_last_step_and_goes_on(
    compose, staged, monkeypatch, tmp_path, two_layer_model
):
    """Nothing was due to be saved at the step before; what comes of it equals the run that nobody has stopped."""

    def run(name: str, *settings: str):
        config = compose(
            "model=tiny",
            *two_layer_model,
            "task=arithmetic",
            "task.num_questions=64",
            "device=cpu",
            "training.num_batches=4",
            "training.micro_batch_size=2",
            "training.save_interval_steps=100",
            "training.eval_interval_steps=100",
            "training.log_interval_steps=1",
            "grpo.num_generations=4",
            "grpo.beta=0",
            "generation.max_generation_steps=24",
            "evaluation.num_questions=4",
            "tracker.wandb=false",
            "tracker.tensorboard=false",
            "tracker.report=false",
            f"output_dir={tmp_path / name}",
            f"checkpoint_dir={tmp_path / name}/checkpoints",
            *settings,
        )
        (tmp_path / name).mkdir(exist_ok=True)
        return train(config)

    def saved(name: str) -> list[str]:
        return sorted(path.name for path in (tmp_path / name / "checkpoints" / "actor").glob("*"))

    whole = run("whole")
    with monkeypatch.context() as patches:
        stop_at = 5  # the second of the three stages of step 2
        calls = noted(patches, "stages", lambda call: call == stop_at and signal.raise_signal(signal.SIGTERM))
        stopped = run("stopped")
    assert calls[-1] == stop_at
    assert (stopped.exit_code, stopped.steps) == (128 + signal.SIGTERM, 1) and saved("stopped") == ["1"]
    assert run("stopped").exit_code == 0
    assert saved("stopped") == ["1", "4"] and saved("whole") == ["4"]
    assert whole.accuracy_after is not None
    assert completions(tmp_path / "stopped") == completions(tmp_path / "whole")


def completions(folder: Path) -> list[tuple[int, str]]:
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    return [(row["step"], row["completion"]) for row in rows]

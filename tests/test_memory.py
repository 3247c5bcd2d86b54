"""A device that runs out of memory: the step begins again with less at once, and nothing else changes.

A CPU does not run out in this way: XLA's error is injected, raised by the compiled functions in the place of a run,
after the memory that was given away to it is gone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import jax
import numpy as np
import pytest

from helpers.models import one_device_mesh
from helpers.trainer import NumberTokenizer, arrays, number_prompts, small_trainer
from tunix_grpo.errors import NoRoomError, NoStepError, UserError
from tunix_grpo.grpo import at_once, buckets, engine, passes, rollout, stages
from tunix_grpo.grpo.memory import Memory
from tunix_grpo.record.metrics import is_metric
from tunix_grpo.record.notes import HEALTH
from tunix_grpo.run.checkpoints import SavedSteps
from tunix_grpo.train import train

NO_ROOM = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123456 bytes."
GROUP, LENGTH = 4, 24
BATCH = number_prompts(8).batch(range(8), GROUP)
SETTINGS = (
    "training.micro_batch_size=4",
    f"generation.max_generation_steps={LENGTH}",
    "grpo.num_minibatches=2",
    "grpo.num_iterations=2",
    "grpo.beta=0.1",
)


class Starved:
    """A compiled function that finds no room where `fits(call, *arguments)` is False; calls count from 1."""

    def __init__(self, program: Callable, fits: Callable[..., bool], donated: Callable, error: str):
        self.program, self.fits, self.donated, self.error = program, fits, donated, error
        self.calls = self.refused = 0

    def __call__(self, *arguments, **named):
        self.calls += 1
        if self.fits(self.calls, *arguments):
            return self.program(*arguments, **named)
        self.refused += 1
        for array in jax.tree.leaves(self.donated(*arguments)):
            array.delete()
        raise jax.errors.JaxRuntimeError(self.error)


@pytest.fixture
def starve(monkeypatch):
    """Returns what puts a `Starved` in the place of a compiled function."""

    def starve(module, name: str, fits: Callable[..., bool], donated: Callable = lambda *_: (), error: str = NO_ROOM):
        starved = Starved(getattr(module, name), fits, donated, error)
        monkeypatch.setattr(module, name, starved)
        return starved

    return starve


def given_state(form, params, frozen, state, *rest):
    return state


def prompts_of(inputs) -> int:
    return len(inputs.completions.prompt_tokens)


@pytest.fixture
def uneven(compose, folder, monkeypatch):
    """Returns what makes a trainer whose completions have between 1 and 24 tokens, drawn in stages and cut."""
    monkeypatch.setattr(NumberTokenizer, "stop_ids", tuple(range(1, 5)))
    monkeypatch.setattr(buckets, "_NARROWEST", 8)
    monkeypatch.setattr(stages, "STAGE", 8)
    monkeypatch.setattr(rollout, "SHORT", 16)
    return lambda *overrides, **changes: small_trainer(compose, folder, *SETTINGS, *overrides, **changes)


# What fails: the function, the calls that fit, what is given away to it, the size that is left.
CASES = {
    "update": (passes, "accumulate_behind", lambda call, *rest: prompts_of(rest[-1]) <= 1, given_state, 1),
    "second update": (passes, "accumulate_behind", lambda call, *rest: call != 6, given_state, 2),
    "reference": (passes, "logps_behind", lambda call, *rest: call != 2, lambda *_: (), 2),
    "old": (passes, "prefix_of", lambda call, *rest: call != 3, lambda *_: (), 2),
}


@pytest.mark.parametrize(
    ("lora_rank", "cases"),
    [
        pytest.param(None, ("update", "second update", "reference", "old"), marks=pytest.mark.slow),
        pytest.param(4, ("second update", "reference", "old"), marks=pytest.mark.slow),
        pytest.param(4, ("update",), marks=pytest.mark.slow),  # `test_a_run_remembers...` begins an update again too
    ],
)
def test_a_step_begins_again_with_smaller_micro_batches(uneven, monkeypatch, lora_rank, cases, caplog):
    """Parameters within 1e-6 of those with room for everything; sums are only added in another order."""
    whole = uneven(lora_rank=lora_rank)
    before, expected = arrays(whole.params), whole.step(1, BATCH)
    assert max(np.abs(a - b).max() for a, b in zip(before, arrays(whole.params), strict=True)) > 1e-4
    assert expected.no_room == [] and "memory/micro_batch_size" not in expected.metrics
    for case in cases:
        module, name, fits, donated, left = CASES[case]
        trainer = uneven(lora_rank=lora_rank)
        caplog.clear()
        with monkeypatch.context() as patches:
            starved = Starved(getattr(module, name), fits, donated, NO_ROOM)
            patches.setattr(module, name, starved)
            result = trainer.step(1, BATCH)
        for ours, theirs in zip(arrays(trainer.params), arrays(whole.params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=case)
        for metric in ("loss", "kl", "grad_norm", "entropy", "ratio/mean", "clip_ratio/region_mean"):
            assert result.metrics[metric] == pytest.approx(expected.metrics[metric], abs=1e-5), (case, metric)
        assert result.metrics["memory/micro_batch_size"] == left == trainer.memory.micro_batch, case
        assert starved.refused == len(result.no_room) == {1: 2, 2: 1}[left], case
        said = [record.getMessage() for record in caplog.records if "memory ran out" in record.getMessage()]
        assert said == result.no_room
        assert f"training.micro_batch_size={left} training.gradient_accumulation_steps={4 // left}" in said[-1]
    assert is_metric("memory/micro_batch_size") and is_metric("memory/max_rows")


def told_of(trainer, monkeypatch) -> list[int]:
    """Returns the rows that rewards are asked about ahead, as they come."""
    rows: list[int] = []
    monkeypatch.setattr("tunix_grpo.rewards.ahead.Ahead.asks", True)
    monkeypatch.setattr("tunix_grpo.rewards.ahead.Ahead.add", lambda self, row, sample: rows.append(row))
    return rows


@pytest.mark.long
@pytest.mark.parametrize("way", ["stages", "at once", "slots"])
def test_a_rollout_begins_again_with_fewer_rows(uneven, starve, monkeypatch, way, caplog):
    """The same completions, each told of once; 32 rows become 16, and 8 where these do not fit either."""
    if way == "at once":
        monkeypatch.setattr(rollout, "SHORT", LENGTH)
    rows, left = {"stages": (None, 16), "at once": (None, 16), "slots": ("20", 5)}[way]
    settings = () if rows is None else (f"generation.max_rows={rows}",)
    whole, trainer = uneven(*settings, lora_rank=4), uneven(*settings, lora_rank=4)
    told = told_of(trainer, monkeypatch)
    expected = whole.draw(BATCH, 1, 0, whole.ahead())
    told.clear()
    if way == "stages":  # after the completions of the first stage have been handed out
        starve(stages, "_continued", lambda call, *rest: call != 3, lambda form, weights, growing, *rest: growing)
    elif way == "at once":
        starve(at_once, "completions_drawn", lambda call, *rest: False)
    else:
        fits = lambda call, form, mesh, weights, slots, *rest: len(slots.drawn.lengths) <= 5  # noqa: E731
        starve(engine, "_continued", fits, lambda form, mesh, weights, slots, *rest: slots)
    drawn = trainer.draw(BATCH, 1, 0, trainer.ahead())
    assert drawn.token_ids == expected.token_ids
    np.testing.assert_allclose(drawn.logps, expected.logps, atol=1e-5)
    assert sorted(told) == list(range(8 * GROUP))
    assert trainer.memory.rows == left and trainer.memory.metrics() == {"memory/max_rows": left}
    assert f"generation.max_rows={left}" in caplog.messages[-1] and caplog.messages == trainer.memory.take_notes()


@pytest.mark.parametrize("error", ["INTERNAL: something else", KeyboardInterrupt])
def test_other_errors_are_nobodys_memory(uneven, monkeypatch, error):
    calls = []

    def broken(*arguments, **named):
        calls.append(1)
        raise error() if isinstance(error, type) else jax.errors.JaxRuntimeError(error)

    trainer = uneven(lora_rank=4)
    kind = error if isinstance(error, type) else jax.errors.JaxRuntimeError
    for module, name in ((stages, "_started"), (passes, "prefix_of")):
        with monkeypatch.context() as patches, pytest.raises(kind):
            patches.setattr(module, name, broken)
            trainer.step(1, BATCH)
    assert len(calls) == 2 and trainer.memory.saved() == {}


SIZES = r"its program needs 0\.\d+ GB, the device has \d[\d.e+]* GB"
ONE_PROMPT = r"of 1 prompt\(s\) per device \(training.micro_batch_size=1 training.gradient_accumulation_steps=4\)"
WAYS = (
    "training.remat=full, or grpo.num_generations below 4, or a smaller generation.max_generation_steps, "
    "or model.quantization=nf4 model.lora_rank=32$"
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "name", "sentence"),
    [
        (passes, "accumulate_behind", f"the update {ONE_PROMPT}: {SIZES}; give {WAYS}"),
        (passes, "prefix_of", f"the reference {ONE_PROMPT}: {SIZES}; give {WAYS}"),
        (
            engine,
            "_continued",
            rf"a rollout of 1 completion\(s\) per device \(generation.max_rows=1\): {SIZES}; give a sm",
        ),
    ],
    ids=["update", "reference", "rollout"],
)
def test_no_room_for_one_is_one_sentence(uneven, monkeypatch, module, name, sentence):
    """It says what the program needs, what the device has, and what to change; nothing has moved."""
    rows = ["generation.max_rows=2"] if module is engine else []
    trainer = uneven(*rows, lora_rank=4)
    before, program = arrays(trainer.params), getattr(module, name)
    starved = Starved(program, lambda *_: False, lambda *_: (), NO_ROOM)
    starved.lower = program.lower  # what the compiler says is asked of the function itself
    monkeypatch.setattr(module, name, starved)
    with pytest.raises(
        UserError, match="^memory ran out in " + sentence.format(remat="training.remat=full, or ")
    ) as error:
        trainer.step(1, BATCH)
    assert not isinstance(error.value, NoStepError) and "\n" not in str(error.value)
    assert [a.tolist() for a in arrays(trainer.params)] == [a.tolist() for a in before]


def test_sizes_are_kept_for_the_device_and_the_settings_that_they_were_found_under(compose):
    mesh = one_device_mesh()

    def memory(*words: str, remat: str = "block") -> Memory:
        config = compose("model=tiny", "training.micro_batch_size=6", *words)
        return Memory(config, mesh, remat, "block", quantized=False)

    found = memory()
    calls = []

    def run() -> str:
        calls.append(found.prompts)
        if found.prompts > 1:
            raise jax.errors.JaxRuntimeError(NO_ROOM)
        return "done"

    assert found.passing("the update", run, lambda: None) == "done" and calls == [6, 3, 1]
    saved = json.loads(json.dumps(found.saved()))
    again = memory()
    again.recall(saved)
    assert (again.micro_batch, again.rows, again.saved()) == (1, None, found.saved())
    assert again.metrics() == {"memory/micro_batch_size": 1.0}
    for other in (memory(remat="full"), memory("training.micro_batch_size=3"), memory("generation.max_rows=8")):
        asked = other.micro_batch
        other.recall(saved)
        assert other.micro_batch == asked and other.saved() == {}


@pytest.mark.parametrize(("remat", "of_pieces", "named"), [("full", "full", False), ("full", "block", True)])
def test_remat_is_a_way_out_where_something_is_kept(compose, remat, of_pieces, named):
    memory = Memory(compose("model=tiny"), one_device_mesh(), remat, of_pieces, quantized=False)

    def run() -> None:
        raise jax.errors.JaxRuntimeError(NO_ROOM)

    with pytest.raises(NoRoomError) as error:
        memory.passing("the update", run, lambda: None)
    assert ("give training.remat=full, or " in str(error.value)) == named


RUN = (
    "model=tiny",
    "task=arithmetic",
    "device=cpu",
    "training.micro_batch_size=2",
    "grpo.num_minibatches=2",
    "grpo.beta=0.01",
    "data.order=uniform",
    "evaluation.before_training=false",
    "evaluation.num_questions=2",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
    "tracker.report=false",
    "training.first_look=off",
    "training.log_interval_steps=1",
    "generation.max_generation_steps=4",
    "checkpoint_dir=checkpoints",
)


@pytest.mark.long
def test_a_run_remembers_what_there_is_room_for(compose, two_layer_model, starve, tmp_path, caplog):
    """The metric, a note, the state of the checkpoint; and a start that goes on asks for no more than fits."""

    def start(steps: int) -> None:
        train(compose(*RUN, *two_layer_model, f"training.num_batches={steps}"))

    def logged() -> list[float]:
        rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        return [row["memory/micro_batch_size"] for row in rows if "loss" in row]

    caplog.set_level(logging.INFO)
    starved = starve(passes, "accumulate", lambda call, *rest: prompts_of(rest[-1]) <= 1, given_state)
    start(1)
    assert logged() == [1.0] and starved.refused == 1
    (note,) = map(json.loads, (tmp_path / HEALTH).read_text().splitlines())
    assert (note["step"], note["level"], note["name"]) == (1, "warning", "out of memory")
    assert caplog.messages.count(note["sentence"]) == 1
    state = SavedSteps("checkpoints").run_of(1)["state"]
    assert state["memory"]["sizes"] == {"micro_batch_size": 1, "max_rows": None}

    # Step 2 is like step 1; in the second of the two updates of step 3 there is no room for one prompt: what the
    # trainer has then is the state of no step, and is not saved.
    starved.calls, starved.fits = 0, lambda call, *rest: prompts_of(rest[-1]) <= 1 and call <= 6
    with pytest.raises(UserError, match="^step 3: memory ran out in the update of 1 prompt"):
        start(3)
    assert starved.calls == 7 and starved.refused == 2 and logged() == [1.0, 1.0]
    assert any("goes on as under training.micro_batch_size=1 training.grad" in line for line in caplog.messages)
    assert SavedSteps("checkpoints").steps() == [1]

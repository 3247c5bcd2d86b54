"""Saves beside training: what fails is said and counted, what is saved is what was, and what cannot fit is refused."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_grpo.errors import UserError
from tunix_grpo.run import checkpoints as checkpoints_module
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError
from tunix_grpo.run.places import UNFINISHED
from tunix_grpo.run.room import Room, tree_bytes
from tunix_grpo.run.runs import Run
from tunix_grpo.run.saving import Saver
from tunix_grpo.run.start import RunState
from tunix_grpo.text.ledger import Ledger

EACH = 100 * 10**6


class Steps:
    """A run that saves after every step, on a disk that sometimes refuses; its state is the number of the step."""

    def __init__(self, folder: Path, most_failures: int | None):
        self.folder, self.state = folder, RunState()
        self.checkpoints = Checkpoints(folder, None)
        self.saver = Saver(
            self.checkpoints, Run({}, {}, {}), self.state, Ledger(1), self, "eval/accuracy", most_failures
        )

    def step(self, *, works: bool) -> None:
        """Saves the next step beside nothing: it has ended, and nobody has asked how, when this returns."""
        self.saver.look()
        place = self.folder / UNFINISHED
        if works:
            place.unlink(missing_ok=True)
        else:
            place.write_text("in the way")
        self.state.step += 1
        self.params, self.optimizer_state = {"w": jnp.full(3, float(self.state.step))}, {"count": jnp.int32(0)}
        self.saver.start()
        while not self.checkpoints.ended():
            time.sleep(0.01)

    def saved(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "actor").iterdir())


@pytest.fixture
def steps(tmp_path):
    made = []

    def make(most_failures: int | None) -> Steps:
        made.append(Steps(tmp_path, most_failures))
        return made[0]

    yield make
    made[0].checkpoints.close()


def test_a_save_that_fails_is_said_once_and_the_next_one_is_tried(steps, tmp_path, caplog):
    run = steps(2)
    for works in (True, False, True, False, True):  # never two in a row
        run.step(works=works)
    run.saver.finish()
    failed = "the checkpoint could not be written (Not a directory); training goes on, and the next save is tried"
    assert caplog.messages == [f"{tmp_path}/actor/{step}: {failed}" for step in (2, 4)]
    assert run.saved() == ["1", "3", "5"]
    metrics = run.saver.metrics()
    assert metrics["saves/failed"] == 2 and metrics["timing/save"] > 0
    assert run.saver.metrics()["timing/save"] == 0  # it has been told
    assert run.checkpoints.latest_valid() == 5


def test_too_many_in_a_row_stop_the_run_and_name_the_last_whole_step(steps, tmp_path):
    run = steps(2)
    run.step(works=True)
    run.step(works=False)
    run.step(works=False)
    with pytest.raises(NotSavedError) as caught:
        run.step(works=True)
    assert str(caught.value) == (
        f"{tmp_path}/actor/3: the checkpoint could not be written (Not a directory); that is 2 in a row "
        f"(training.max_failed_saves=2); the last whole step is {tmp_path}/actor/1; "
        "make room and start the same command again"
    )
    assert run.saved() == ["1"]


def test_null_never_stops_and_the_last_save_of_all_is_to_succeed(steps, caplog):
    run = steps(None)
    for _ in range(3):
        run.step(works=False)
    assert len(caplog.messages) == 2 and run.saver.metrics()["saves/failed"] == 2
    with pytest.raises(NotSavedError, match=r"actor/3: the checkpoint could not be written \(Not a directory\); make"):
        run.saver.finish()
    assert run.saved() == []


def test_what_is_saved_is_what_was_when_the_save_began(tmp_path, monkeypatch):
    """Training goes on while a step is written, with the memory of what is saved; the step appears when it is whole."""
    may_end = threading.Event()
    write_manifest = checkpoints_module.write_manifest

    def write_later(folder: Path) -> None:
        assert may_end.wait(60)
        write_manifest(folder)

    monkeypatch.setattr(checkpoints_module, "write_manifest", write_later)
    update = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
    params = {f"w{i}": jnp.arange(500_000, dtype=jnp.float32) + i for i in range(4)}
    with Checkpoints(tmp_path, None) as checkpoints:
        checkpoints.start(1, params, {"count": jnp.int32(7)}, {})
        updated = jax.block_until_ready(update(params))
        assert params["w0"].is_deleted()
        assert checkpoints.steps() == [] and not checkpoints.ended()
        may_end.set()
        checkpoints.finish()
        assert checkpoints.latest_valid() == 1
        restored, _ = checkpoints.restore(1, updated, {"count": jnp.int32(0)})
    for i in range(4):
        assert np.array_equal(restored[f"w{i}"], np.arange(500_000, dtype=np.float32) + i)


def test_the_end_waits_for_the_save_that_is_under_way(tmp_path):
    with Checkpoints(tmp_path, None) as checkpoints:
        checkpoints.start(1, {"w": jnp.ones(3)}, {"count": jnp.int32(7)}, {})
    assert Checkpoints(tmp_path, None).latest_valid() == 1


def test_a_step_that_knows_more_takes_the_place_of_the_one_before(tmp_path):
    """As after an evaluation that was made up for; where it ends between the two renames, the former is back."""
    state = {"w": jnp.ones(3)}, {"count": jnp.int32(7)}
    with Checkpoints(tmp_path, None) as checkpoints:
        checkpoints.save(1, *state, {"evaluated": False})
        checkpoints.save(1, *state, {"evaluated": True})
        assert checkpoints.run_of(1) == {"evaluated": True} and checkpoints.fault(1) is None
    (tmp_path / UNFINISHED / "before").mkdir(parents=True)
    (tmp_path / "actor" / "1").rename(tmp_path / UNFINISHED / "before" / "1")
    with Checkpoints(tmp_path, None) as checkpoints:
        assert checkpoints.latest_valid() == 1
    assert not (tmp_path / UNFINISHED).exists()


@pytest.mark.parametrize(
    ("kept", "limited", "there", "free", "said"),
    [
        (3, False, 0, 10, None),
        (3, False, 0, 2, "take up to 300.0 MB, and 200.0 MB are free there; training.max_to_keep=N keeps"),
        (1, True, 0, 3, None),
        (1, True, 0, 2, "take up to 300.0 MB, and 200.0 MB are free"),  # the best, and one that is being written
        (1, True, 2, 1, None),  # which these take the place of
        (500, False, 0, None, None),  # the system does not say
    ],
)
def test_what_does_not_fit_as_a_whole_is_a_warning(kept, limited, there, free, said, caplog):
    caplog.set_level(logging.WARNING)
    room = Room(EACH, kept, limited, there * EACH, None if free is None else free * EACH)
    room.check("ck")
    assert len(caplog.messages) == (said is not None)
    assert said is None or said in caplog.messages[0] and "training.save_interval_steps" in caplog.messages[0]


def test_what_does_not_fit_even_once_is_refused():
    room = Room(EACH, 1, True, 0, EACH - 1)
    assert room.in_words() == "1 and the best kept, 100.0 MB each, 200.0 MB in all; 100.0 MB free"
    with pytest.raises(UserError, match=r"^checkpoint_dir=ck: a checkpoint takes 100.0 MB, .* are free there; make"):
        room.check("ck")


def test_tree_bytes():
    assert tree_bytes({"a": jnp.zeros((2, 3)), "b": [jnp.zeros(5, jnp.bfloat16), jnp.int32(1)]}) == 24 + 10 + 4

"""Checkpoints: whole or not at all, exact, and passed over when anything about them is wrong."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.identity import differences
from tunix_grpo.run.step_files import MANIFEST

RUN = {"identity": {"seed": 42}, "state": {"step": 3, "accuracy_before": None}}


def state_of_a_run(seed: int):
    """Returns parameters as LoRA has them and AdamW's state after an update, integer counts among it."""
    numbers = np.random.default_rng(seed)

    def leaf(*shape: int) -> jax.Array:
        return jnp.asarray(numbers.standard_normal(shape), jnp.float32)

    params = {"layers": {i: {"q_proj": {"w_lora_a": leaf(6, 2), "w_lora_b": leaf(2, 3, 2)}} for i in range(2)}}
    params["norm"] = leaf(5).astype(jnp.bfloat16)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3)))
    gradient = jax.tree.map(lambda p: p * 0.5, params)
    return params, optimizer.update(gradient, optimizer.init(params), params)[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with steps 1 and 2, whose state is that of the seeds 1 and 2; tests work on copies."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, None)
    for step in (1, 2):
        checkpoints.save(step, *state_of_a_run(step), RUN)
    checkpoints.close()
    return folder


@pytest.fixture
def checkpoints(saved, tmp_path) -> Checkpoints:
    shutil.copytree(saved, tmp_path / "ckpts")
    return Checkpoints(tmp_path / "ckpts", None)


def bits(tree) -> list[tuple]:
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


def save_small(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, {"w": jnp.full(3, float(step))}, {"count": jnp.int32(step)}, RUN)


def small_of(checkpoints: Checkpoints, step: int) -> tuple[list[float], int]:
    params, optimizer = checkpoints.restore(step, {"w": jnp.zeros(3)}, {"count": jnp.int32(0)})
    return params["w"].tolist(), int(optimizer["count"])


def test_what_is_saved_comes_back_bit_for_bit(checkpoints):
    params, optimizer = state_of_a_run(2)
    blank = jax.tree.map(jnp.zeros_like, (params, optimizer))
    restored = checkpoints.restore(2, *blank)
    assert jax.tree.structure(restored) == jax.tree.structure((params, optimizer))
    assert bits(restored) == bits((params, optimizer))
    assert [leaf.sharding for leaf in jax.tree.leaves(restored)] == [leaf.sharding for leaf in jax.tree.leaves(blank)]
    assert sum(leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(restored)) == 2  # the counts of Adam and schedule
    assert checkpoints.run_of(2) == RUN
    assert checkpoints.latest_valid() == 2


def test_steps_are_ordered_as_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path, None)
    save_small(checkpoints, 9, 10, 100)
    assert (checkpoints.steps(), checkpoints.latest_valid()) == ([9, 10, 100], 100)
    assert checkpoints.root == tmp_path / "actor"


def test_an_empty_folder_has_no_steps(tmp_path):
    assert Checkpoints(tmp_path / "new" / "folder", None).latest_valid() is None


# --- damage ---


def test_one_flipped_bit_or_a_missing_file_is_noticed(checkpoints, caplog):
    """In whatever file of a step; Orbax restores most flipped bits without a word."""
    step = checkpoints.root / "2"
    files = [file for file in step.rglob("*") if file.is_file()]
    assert {file.relative_to(step).parts[0] for file in files} >= {"params", "optimizer", "run", MANIFEST}
    for file in files:
        content = file.read_bytes()
        for damaged in {content[:-1] + bytes([content[-1] ^ 1]), bytes([content[0] ^ 64]) + content[1:], b""}:
            caplog.clear()
            file.write_bytes(damaged)
            assert checkpoints.latest_valid() == 1, file
            assert f"{step} is not usable" in caplog.text
            assert file.name in caplog.text
        file.unlink()
        assert checkpoints.latest_valid() == 1, file
        file.write_bytes(content)
    assert checkpoints.latest_valid() == 2


@pytest.mark.parametrize("manifest", ["", "{", "{}", "[]", "null", '"text"', None])
def test_a_step_without_a_sound_manifest_is_passed_over(checkpoints, manifest):
    file = checkpoints.root / "2" / MANIFEST
    file.unlink()
    if manifest is not None:
        file.write_text(manifest)
    assert checkpoints.latest_valid() == 1


def test_an_empty_step_is_passed_over(checkpoints):
    (checkpoints.root / "3").mkdir()
    assert (checkpoints.steps(), checkpoints.latest_valid()) == ([1, 2, 3], 2)


def test_no_step_is_valid(checkpoints):
    for step in (1, 2):
        (checkpoints.root / str(step) / "run" / "metadata").unlink()
    assert checkpoints.latest_valid() is None


def test_saving_over_a_damaged_step_mends_it(checkpoints):
    (checkpoints.root / "2" / MANIFEST).unlink()
    (checkpoints.root / "2" / "leftover").write_text("")
    params, optimizer = state_of_a_run(7)
    checkpoints.save(2, params, optimizer, RUN)
    assert checkpoints.latest_valid() == 2
    assert bits(checkpoints.restore(2, params, optimizer)) == bits((params, optimizer))
    assert not (checkpoints.root / "2" / "leftover").exists()


def test_a_whole_step_is_not_written_again(checkpoints):
    before = (checkpoints.root / "2" / MANIFEST).read_bytes()
    checkpoints.save(2, *state_of_a_run(7), RUN)
    assert (checkpoints.root / "2" / MANIFEST).read_bytes() == before


def test_leftovers_of_a_killed_save_are_removed(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "ckpts")
    root = tmp_path / "ckpts" / "actor"
    (root / "3.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (root / "4.orbax-checkpoint-tmp-1700000000").mkdir()
    (root / "notes.txt").write_text("mine")
    (root / ".lock").write_text("")  # an earlier version's
    (tmp_path / "ckpts" / ".unfinished" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path / "ckpts", None)
    assert sorted(path.name for path in root.iterdir()) == ["1", "2", "notes.txt"]
    assert sorted(path.name for path in root.parent.iterdir()) == [".lock", "actor"]
    assert checkpoints.latest_valid() == 2


# --- a person deletes ---


def test_below_actor_is_nothing_but_steps(tmp_path):
    """The users' reference page keeps the last five with a shell command that counts what is there."""
    checkpoints = Checkpoints(tmp_path, None)
    save_small(checkpoints, *range(1, 8))
    assert sorted(path.name for path in checkpoints.root.iterdir()) == [str(step) for step in range(1, 8)]
    for step in range(1, 8):  # saves in one second have one time
        os.utime(checkpoints.root / str(step), (step, step))
    subprocess.run("ls -dt actor/*/ | tail -n +6 | xargs rm -rf", shell=True, cwd=tmp_path, check=True)
    assert (checkpoints.steps(), checkpoints.latest_valid()) == ([3, 4, 5, 6, 7], 7)
    save_small(checkpoints, 8)
    assert small_of(checkpoints, 8) == ([8.0] * 3, 8)


def test_steps_that_a_person_deleted_are_no_error(tmp_path):
    """The newest, one that max_to_keep is about to delete, and all of them with their folder."""
    checkpoints = Checkpoints(tmp_path, 2)
    save_small(checkpoints, 1, 2, 3)
    shutil.rmtree(tmp_path / "actor" / "3")
    assert checkpoints.latest_valid() == 2
    save_small(checkpoints, 3)
    shutil.rmtree(tmp_path / "actor" / "2")
    save_small(checkpoints, 4)
    assert checkpoints.steps() == [3, 4]
    shutil.rmtree(tmp_path / "actor")
    assert (checkpoints.steps(), checkpoints.latest_valid()) == ([], None)
    save_small(checkpoints, 5)
    assert checkpoints.latest_valid() == 5


# --- max_to_keep ---


@pytest.mark.parametrize(("max_to_keep", "left"), [(1, [5]), (2, [4, 5]), (None, [1, 2, 3, 4, 5])])
def test_older_steps_are_deleted(max_to_keep, left, tmp_path):
    checkpoints = Checkpoints(tmp_path, max_to_keep)
    save_small(checkpoints, 1, 2, 3, 4, 5)
    assert checkpoints.steps() == left


@pytest.mark.parametrize(
    ("best", "left"),
    [
        ([], [4, 5]),
        ([2, 1], [2, 4, 5]),
        ([5, 2], [4, 5]),  # it is one of the newest
        ([9, 0, 3, 1], [3, 4, 5]),  # what was evaluated need not have been saved
    ],
)
def test_the_best_step_is_kept_beside_the_newest(best, left, tmp_path):
    save_small(Checkpoints(tmp_path, None), 1, 2, 3, 4)
    Checkpoints(tmp_path, 2).save(5, {"w": jnp.zeros(3)}, {"count": jnp.int32(5)}, RUN, best)
    assert Checkpoints(tmp_path, None).steps() == left


def test_a_damaged_newer_step_does_not_push_out_the_one_just_saved(tmp_path):
    """A run that goes on from 2 past a damaged 10 must not delete 3 and keep 10."""
    save_small(Checkpoints(tmp_path, None), 1, 2, 10)
    (tmp_path / "actor" / "10" / MANIFEST).unlink()
    checkpoints = Checkpoints(tmp_path, 1)
    assert checkpoints.latest_valid() == 2
    save_small(checkpoints, 3)
    assert checkpoints.latest_valid() == 3
    assert 2 not in checkpoints.steps()


def test_a_damaged_step_does_not_count_as_kept(tmp_path):
    save_small(Checkpoints(tmp_path, None), 1, 2, 3)
    (tmp_path / "actor" / "3" / MANIFEST).unlink()
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.latest_valid() == 2
    save_small(checkpoints, 4)
    assert checkpoints.steps() == [2, 3, 4]
    save_small(checkpoints, 5)
    assert checkpoints.steps() == [4, 5]


# --- folders and disks that do not do what they should ---


@pytest.mark.parametrize("below", ["file/deep/er", "new/folder/" + "x" * 300], ids=["below a file", "name too long"])
def test_a_folder_that_cannot_be_made_is_one_sentence_and_leaves_nothing(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"checkpoint_dir=.*: cannot be written to \(.*\); give another") as caught:
        Checkpoints(tmp_path / below, None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_sentence_and_the_older_step_stays(checkpoints):
    big = {"w": jnp.asarray(np.random.default_rng(0).standard_normal(250_000), jnp.float32)}  # 1 MB, does not compress
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(
            UserError, match=r"actor/3: the checkpoint could not be written \(.*too large\); make"
        ) as caught:
            checkpoints.save(3, big, {"count": jnp.int32(0)}, RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in checkpoints.root.iterdir()) == ["1", "2"]
    checkpoints.save(3, big, {"count": jnp.int32(0)}, RUN)
    assert checkpoints.latest_valid() == 3


SAVE_FOR_EVER = """
import sys, jax.numpy as jnp
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.identity import differences
checkpoints = Checkpoints(sys.argv[1], 3)
for step in range(1, 10_000):
    checkpoints.save(step, {"w": jnp.full(3, float(step))}, {"count": jnp.int32(step)}, {})
    print(step, flush=True)
"""


def test_one_writer_at_a_time_and_a_killed_one_leaves_a_whole_step(tmp_path):
    program = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        for line in other.stdout:
            if line == "3\n":
                break
        with pytest.raises(UserError, match=r"checkpoint_dir=.*: another run is writing to .*; end it, or give"):
            Checkpoints(tmp_path, None)
        time.sleep(0.13)  # into the middle of one of the saves that follow, each of about 0.1 s
        assert other.poll() is None
        other.kill()
    checkpoints = Checkpoints(tmp_path, 3)  # the lock went with the process
    step = checkpoints.latest_valid()
    assert step >= 3
    assert small_of(checkpoints, step) == ([float(step)] * 3, step)
    save_small(checkpoints, step + 1)
    assert small_of(checkpoints, checkpoints.latest_valid()) == ([step + 1.0] * 3, step + 1)


def test_the_lock_ends_with_close(tmp_path):
    first = Checkpoints(tmp_path, None)
    with pytest.raises(UserError, match="another run is writing"):
        Checkpoints(tmp_path, None)
    first.close()
    second = Checkpoints(tmp_path, None)
    first.close()  # again, without harm to the second
    with pytest.raises(UserError, match="another run is writing"):
        Checkpoints(tmp_path, None)
    del second
    Checkpoints(tmp_path, None)


def test_a_folder_that_nothing_was_saved_in_is_gone_again(tmp_path):
    Checkpoints(tmp_path / "new" / "ck", None).close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "own" / "actor").mkdir(parents=True)
    Checkpoints(tmp_path / "own", None).close()
    assert (tmp_path / "own" / "actor").is_dir()  # the user's


def test_differences_name_key_and_values():
    saved = json.loads(json.dumps({"seed": 1, "rank": None, "task": "gsm8k", "gone": 0.5}))
    assert list(differences(saved, {"seed": 1, "rank": 4, "task": "jsonl", "new": "x"}).values()) == [
        "gone: 0.5 -> null",
        'new: null -> "x"',
        "rank: null -> 4",
        'task: "gsm8k" -> "jsonl"',
    ]


def test_size_is_what_the_disk_holds(checkpoints):
    files = [file for file in (checkpoints.root / "1").rglob("*") if file.is_file()]
    assert checkpoints.size(1) == sum(len(file.read_bytes()) for file in files) > 1000

"""Copies of checkpoints elsewhere: what counts there, what comes back, and what a failing place does to a run."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from helpers.hosts import together
from tunix_grpo.errors import UserError
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.mirror import mirrored
from tunix_grpo.run.mirror_store import free_mirror
from tunix_grpo.run.places import HISTORY, job_mirror
from tunix_grpo.run.shared_checkpoints import open_checkpoints
from tunix_grpo.run.step_files import MANIFEST
from tunix_grpo.train import train

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = "memory://bucket/run"
PLACE = "/bucket/run"


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """A bucket in this process, empty before and after."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def save(checkpoints: Checkpoints, *steps: int) -> None:
    """Saves steps, and what they have logged."""
    for step in steps:
        checkpoints.save(step, {"w": jnp.full(3, float(step))}, {"count": jnp.int32(step)}, {"state": {"step": step}})
        with (checkpoints.folder / HISTORY).open("a") as history:
            history.write(json.dumps({"step": step, "reward": 0.5}) + "\n")


def run(folder: Path, *steps: int, address: str = ADDRESS, keep: int | None = None) -> list[int]:
    """Does what a run does: fetches, goes on, saves, ends; returns the steps that it found at its start."""
    with Checkpoints(folder, keep) as checkpoints, mirrored(address, checkpoints) as mirror:
        mirror.fetch(checkpoints.latest_valid() or 0)
        found = checkpoints.steps()
        mirror.keep()
        for step in steps:
            save(checkpoints, step)
            mirror.update()
    return found


def whole_there(memory: MemoryFileSystem) -> list[int]:
    """Returns the steps that count there."""
    return sorted(int(path.split("/")[-2]) for path in memory.store if path.endswith(f"/{MANIFEST}"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def wait_for(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- a real run ---

SMALL = (
    *("model=tiny", "task=arithmetic", "task.num_questions=100", "device=cpu", "training.num_batches=8"),
    *("training.micro_batch_size=2", "grpo.num_generations=4", "grpo.beta=0.02", "training.save_interval_steps=2"),
    *("training.log_interval_steps=1", "training.eval_interval_steps=4", "evaluation.num_questions=4"),
    *("evaluation.batch_size=4", "tracker.wandb=false", "tracker.tensorboard=false", "tracker.report=false"),
)


def logged(folder: Path) -> list[dict[str, object]]:
    """Returns what a run has logged over all its starts, without what a clock decides."""
    rows = map(json.loads, (folder / "checkpoints" / HISTORY).read_text().splitlines())
    timed = ("timing/", "perf/", "step_time")
    return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def saved_arrays(folder: Path, step: int) -> dict[str, bytes]:
    """Returns every saved array of a step, by name."""
    arrays = {}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        for item in ("params", "optimizer"):
            tree = checkpointer.restore(folder / "checkpoints" / "actor" / str(step) / item)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                arrays[item + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return arrays


@pytest.mark.slow
def test_the_same_command_goes_on_where_another_machine_was_lost(compose, tmp_path, two_layer_model, jax_cache):
    """Killed, with all that was on its disk: the mirror has what is needed to come to the same bits."""
    config = compose(*SMALL, *two_layer_model)
    config.output_dir, config.checkpoint_dir = str(tmp_path / "whole"), str(tmp_path / "whole" / "checkpoints")
    Path(config.output_dir).mkdir()
    train(config)

    lost, mirror = tmp_path / "lost", tmp_path / "mirror"
    own = f"hydra.run.dir={lost}", f"checkpoint_dir={lost}/checkpoints", f"training.mirror={mirror}"
    command = [sys.executable, ROOT / "run_training.py", *SMALL, *two_layer_model, *own, f"jax_cache={jax_cache}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tmp_path)
    wait_for((mirror / "actor" / "2" / MANIFEST).exists)
    process.kill()
    process.wait()
    shutil.rmtree(lost)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"fetched from {mirror}: step 2" in done.stdout
    assert logged(lost) == logged(tmp_path / "whole")
    assert saved_arrays(lost, 8) == saved_arrays(tmp_path / "whole", 8)
    assert content(mirror) == {name: kept for name, kept in content(lost / "checkpoints").items() if name != ".lock"}


# --- a bucket of this process ---


def test_a_checkpoint_folder_that_is_gone_comes_back_and_goes_on(tmp_path, memory, caplog):
    caplog.set_level(logging.INFO, "tunix_grpo")
    assert run(tmp_path / "a", 2, 4) == []
    saved = content(tmp_path / "a")
    assert {path.removeprefix(f"{PLACE}/") for path in memory.store} | {".lock"} == set(saved)
    shutil.rmtree(tmp_path / "a")
    caplog.clear()
    assert run(tmp_path / "a", 6) == [2, 4]
    assert caplog.messages[0] == f"fetched from {ADDRESS}: step 2, 4"
    assert {name: value for name, value in content(tmp_path / "a").items() if name in saved and name != HISTORY} == {
        name: value for name, value in saved.items() if name != HISTORY
    }
    logged = [json.loads(line)["step"] for line in memory.cat(f"{PLACE}/{HISTORY}").splitlines()]
    assert (whole_there(memory), logged) == ([2, 4, 6], [2, 4, 6])


def test_what_is_newer_here_is_not_fetched_and_what_the_mirror_lacks_is_copied_at_the_end(tmp_path, memory, caplog):
    run(tmp_path, 2, 4)
    memory.rm(f"{PLACE}/actor/4/{MANIFEST}")
    caplog.set_level(logging.INFO, "tunix_grpo")
    assert run(tmp_path) == [2, 4]
    assert caplog.messages == [f"copying step 4 to {ADDRESS}"]
    assert whole_there(memory) == [2, 4]


def test_what_is_deleted_here_is_deleted_there(tmp_path, memory):
    run(tmp_path, 2, 4, 6, keep=2)
    assert whole_there(memory) == [4, 6]
    assert not memory.exists(f"{PLACE}/actor/2")


def test_a_damaged_copy_is_passed_over_and_made_anew(tmp_path, memory, caplog):
    run(tmp_path / "a", 2, 4)
    name = f"{PLACE}/actor/4/run/metadata"
    memory.pipe(name, memory.cat(name) + b" ")
    assert run(tmp_path / "b") == [2]
    assert caplog.messages == [f"{ADDRESS}/actor/4 is not usable (run/metadata is damaged); it is passed over"]
    assert not (tmp_path / "b" / ".unfinished").exists()
    assert run(tmp_path / "b", 4) == [2]
    shutil.rmtree(tmp_path / "b")
    assert run(tmp_path / "b") == [2, 4]


def test_a_damaged_step_here_is_fetched_and_never_copied(tmp_path, memory):
    run(tmp_path, 2, 4)
    (tmp_path / "actor" / "4" / "run" / "metadata").write_text("{}")
    with Checkpoints(tmp_path, None) as checkpoints:
        assert checkpoints.latest_valid() == 2
    assert run(tmp_path) == [2, 4]
    with Checkpoints(tmp_path, None) as checkpoints:
        assert checkpoints.latest_valid() == 4
    memory.rm(f"{PLACE}/actor/2", recursive=True)
    (tmp_path / "actor" / "2" / "run" / "metadata").write_text("{}")
    run(tmp_path)
    assert whole_there(memory) == [4]


@pytest.mark.parametrize(
    "manifest", [b"{", b"[]", b"3", b'{"../../x": "00"}', b'{"/tmp/x": "00"}', b'{"": "00"}', b"{}"]
)
def test_a_manifest_that_makes_no_sense_writes_nothing_anywhere(tmp_path, memory, manifest, caplog):
    memory.pipe(f"{PLACE}/actor/2/{MANIFEST}", manifest)
    assert run(tmp_path / "a") == []
    assert caplog.messages == [f"{ADDRESS}/actor/2 is not usable (manifest.json is damaged); it is passed over"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == []


class Failing:
    """Lets a bucket fail at the files that a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.at: tuple[str, ...] = ()
        put_file, pipe_file = MemoryFileSystem.put_file, MemoryFileSystem.pipe_file

        def put(files, here, there, **how):
            self._look(there)
            put_file(files, here, there, **how)

        def pipe(files, there, value, **how):
            self._look(there)
            pipe_file(files, there, value, **how)

        monkeypatch.setattr(MemoryFileSystem, "put_file", put)
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe)

    def _look(self, there: str) -> None:
        if any(name in there for name in self.at):
            raise PermissionError(13, "Access Denied")


def test_a_copy_that_fails_leaves_nothing_that_counts_is_said_and_tried_again(tmp_path, memory, monkeypatch, caplog):
    failing = Failing(monkeypatch)
    with Checkpoints(tmp_path, None) as checkpoints, mirrored(ADDRESS, checkpoints) as mirror:
        mirror.fetch(0)
        mirror.keep()
        for step, name in ((2, "/2/run/"), (4, "/4/manifest.json")):
            failing.at = (name,)
            save(checkpoints, step)
            said = len(caplog.messages)
            mirror.update()
            wait_for(lambda said=said: len(caplog.messages) > said)
            assert step not in whole_there(memory)
        failing.at = ()
    said = "the last checkpoint could not be copied (Access Denied); training goes on, and the next save tries again"
    assert caplog.messages == [f"training.mirror={ADDRESS}: {said}"] * 2
    assert whole_there(memory) == [2, 4]


def test_at_the_end_it_is_one_sentence_and_the_same_command_completes_it(tmp_path, memory, monkeypatch, caplog):
    failing = Failing(monkeypatch)
    failing.at = (MANIFEST,)
    with pytest.raises(UserError) as caught:
        run(tmp_path, 2)
    assert str(caught.value) == (
        f"training.mirror={ADDRESS}: the copies are behind (Access Denied); all checkpoints are in {tmp_path}/actor, "
        "and the same command again completes the copies"
    )
    failing.at = ()
    run(tmp_path)
    assert whole_there(memory) == [2]


def test_a_step_that_is_deleted_while_it_is_copied_is_no_error(tmp_path, memory, monkeypatch, caplog):
    put_file = MemoryFileSystem.put_file

    def put(files, here, there, **how):
        if "/2/" in there:
            Path(here).unlink(missing_ok=True)
        put_file(files, here, there, **how)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put)
    run(tmp_path, 2, 4)
    assert whole_there(memory) == [4] and caplog.messages == []


def test_an_error_of_the_run_stands_and_copies_are_made_all_the_same(tmp_path, memory, monkeypatch, caplog):
    failing = Failing(monkeypatch)

    def train(step: int) -> None:
        with Checkpoints(tmp_path, None) as checkpoints, mirrored(ADDRESS, checkpoints) as mirror:
            mirror.fetch(step - 1)
            mirror.keep()
            save(checkpoints, step)
            raise UserError("a reward failed")

    for step, at in ((1, ()), (2, (MANIFEST,))):
        failing.at = at
        with pytest.raises(UserError, match="^a reward failed$"):
            train(step)
    assert whole_there(memory) == [1]
    (said,) = caplog.messages
    assert said.startswith(f"training.mirror={ADDRESS}: the copies are behind (Access Denied); all checkpoints are in")


def test_a_second_ctrl_c_waits_for_nothing(tmp_path, memory):
    def train() -> None:
        with Checkpoints(tmp_path, None) as checkpoints, mirrored(ADDRESS, checkpoints) as mirror:
            mirror.keep()
            save(checkpoints, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert whole_there(memory) == []


def test_a_run_that_is_refused_leaves_both_sides_as_they_were(tmp_path, memory):
    run(tmp_path / "a", 2, 4)
    there = dict(memory.store)
    with Checkpoints(tmp_path / "c", None) as checkpoints:
        save(checkpoints, 2)
    before = content(tmp_path / "c")
    for name in ("b", "c"):
        with (
            pytest.raises(UserError, match="another run"),
            Checkpoints(tmp_path / name, None) as checkpoints,
            mirrored(ADDRESS, checkpoints) as mirror,
        ):
            assert mirror.fetch(checkpoints.latest_valid() or 0)
            assert checkpoints.steps() == [2, 4]
            raise UserError("another run")
    assert not (tmp_path / "b").exists()
    assert content(tmp_path / "c") == before
    assert memory.store == there


def test_two_runs_that_copy_to_one_place_find_out(tmp_path, memory):
    said = r"are behind \(step 4 there is not of this run: another one copies to the same place\)"
    with (
        pytest.raises(UserError, match=said),
        Checkpoints(tmp_path / "a", None) as checkpoints,
        mirrored(ADDRESS, checkpoints) as mirror,
    ):
        mirror.fetch(0)
        mirror.keep()
        save(checkpoints, 2)
        run(tmp_path / "b", 4)
    assert whole_there(memory) == [4]


def test_what_cannot_be_used_is_one_sentence_before_anything_is_loaded(tmp_path):
    wrong = {
        "nowhere://b/run": "cannot be used (Protocol not known: nowhere); give training.mirror=gs://BUCKET/FOLDER, s3://",
        str(tmp_path): "is checkpoint_dir itself; give another folder, or a bucket",
        f"file://{tmp_path}/": "is checkpoint_dir itself",
        "/proc/nothing": "cannot be written to (No such file or directory); see that there is such a bucket and that",
    }
    for address, said in wrong.items():
        with pytest.raises(UserError) as caught:
            run(tmp_path, address=address)
        assert str(caught.value).startswith(f"training.mirror={address}: {said}")


def test_a_driver_that_is_not_installed_is_named_with_what_brings_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    said = r"mirror=gs://b/run: its driver is not installed \(.*\); run pip install 'tunix-grpo\[gcs\]'$"
    with pytest.raises(UserError, match=said):
        run(tmp_path, address="gs://b/run")


def test_jobs_of_a_sweep_have_places_of_their_own_and_a_free_one_is_beside_all(tmp_path, memory):
    job = job_mirror(f"{ADDRESS}/", "seed=1")
    assert (job, job_mirror(ADDRESS, "")) == (f"{ADDRESS}/sweeps/seed=1", ADDRESS)
    assert free_mirror(ADDRESS) == free_mirror(job) == f"{ADDRESS}-2"
    memory.pipe(f"{PLACE}-2/{HISTORY}", b"x")
    assert free_mirror(ADDRESS) == f"{ADDRESS}-3"
    assert free_mirror("memory://another") == "memory://another/run-2"
    (tmp_path / "m-2").mkdir()
    assert free_mirror(str(tmp_path / "m")) == f"{tmp_path}/m-3"


def test_the_first_of_several_hosts_fetches_and_copies_and_all_say_the_same(tmp_path, memory, monkeypatch):
    run(tmp_path / "a", 2, 4)
    memory.rm(f"{PLACE}/actor/2/{MANIFEST}")
    with Checkpoints(tmp_path / "b", None) as checkpoints:
        save(checkpoints, 2)
    failing = Failing(monkeypatch)

    def start(hosts: Hosts) -> tuple[int | None, int | None]:
        # A second host that has been given no mirror takes part in all exchanges.
        address = ADDRESS if hosts.is_first else None
        with (
            open_checkpoints(str(tmp_path / "b"), None, hosts) as checkpoints,
            mirrored(address, checkpoints, hosts) as mirror,
        ):
            before = checkpoints.latest_valid()
            assert mirror.fetch(before or 0)
            mirror.keep()
            mirror.update()
            return before, checkpoints.latest_valid()

    assert together(2, start) == [(2, 4), (2, 4)]
    assert whole_there(memory) == [2, 4]

    memory.rm(f"{PLACE}/actor/2/{MANIFEST}")
    shutil.rmtree(tmp_path / "b" / "actor" / "4")
    failing.at = (MANIFEST,)
    found = together(2, start)
    assert all(isinstance(error, UserError) for error in found)
    assert str(found[0]) in str(found[1]) and "the copies are behind (Access Denied)" in str(found[0])


# --- servers that speak as buckets do ---


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a place in a bucket of an S3 server on this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'tunix-grpo[s3]'")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'tunix-grpo[dev]'")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket/some/run"
    server.stop()


@pytest.mark.long
def test_s3(tmp_path, s3):
    """All that a run does, with a client and a server that are no stand-ins of ours."""
    run(tmp_path / "a", 2, 4, 6, address=s3, keep=2)
    files = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    names = {name.removeprefix("bucket/some/run/") for name in files.find("bucket")}
    saved = content(tmp_path / "a")
    assert names | {".lock"} == set(saved)
    files.pipe("bucket/some/run/actor/6/run/metadata", b"{}")
    assert run(tmp_path / "b", address=s3) == [4]
    assert run(tmp_path / "b", 8, address=s3, keep=2) == [4]
    assert {name.split("/")[4] for name in files.find("bucket/some/run/actor")} == {"4", "8"}
    assert free_mirror(s3) == f"{s3}-2"

    with pytest.raises(UserError) as caught:
        run(tmp_path / "c", address="s3://another/run")
    assert str(caught.value).startswith(
        "training.mirror=s3://another/run: cannot be written to (The specified bucket does not exist); see that there"
    )
    assert not (tmp_path / "c").exists() and not files.exists("another")

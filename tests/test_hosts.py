"""What processes that train together say to one another, as threads; whole trainings are in test_cluster.py."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import pytest

from helpers.hosts import Board, together
from helpers.samples import samples_of
from tunix_grpo.config.distributed import DistributedConfig, all_or_none
from tunix_grpo.errors import NoStepError, UserError
from tunix_grpo.grpo.shared_scoring import score_together
from tunix_grpo.hosts.cluster import ALONE, Hosts
from tunix_grpo.hosts.watch import Watch
from tunix_grpo.rewards.base import Failure, Reward, Scored
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.run.checkpoints import NotSavedError
from tunix_grpo.run.joining import Place, place_of, refuse_several
from tunix_grpo.run.replicas import require_equal
from tunix_grpo.run.shared_checkpoints import SharedCheckpoints
from tunix_grpo.run.step_files import step_fault
from tunix_grpo.run.stopping import StopRequest
from tunix_grpo.tasks.base import Question

QUESTIONS = [Question(f"number {number}", "0") for number in range(8)]
SRC = Path(__file__).resolve().parent.parent / "src" / "tunix_grpo"


# --- one process ---


def test_a_process_that_is_alone_asks_nobody():
    class Own:
        pass

    value = Own()  # nothing that could be sent
    assert (ALONE.is_first, ALONE.gather(value), ALONE.broadcast(value)) == (True, [value], value)
    assert (ALONE.agree(True), ALONE.agree(False), list(ALONE.part(4, 2))) == (True, False, [0, 1, 2, 3])
    assert ALONE.spread([value], lambda own: list(own)) == [value]
    ALONE.barrier("here")
    ALONE.require_same({"key": "value"}, "")
    error = UserError("no")
    with pytest.raises(UserError) as raised, ALONE.together():
        raise error
    assert raised.value is error
    assert ALONE.is_known(error)


def test_the_process_index_of_jax_is_read_nowhere():
    """Nor is its number of processes: who is first is decided by `Hosts` alone, which `joining` makes."""
    speakers = [file for file in SRC.rglob("*.py") if re.search(r"process_index|process_count\(\)", file.read_text())]
    assert [file.name for file in speakers] == ["joining.py"]


# --- several ---


def test_exchanges_keep_the_order_of_the_processes_and_leave_nothing_behind():
    board = Board()

    def call(hosts: Hosts) -> tuple:
        got = hosts.gather([hosts.index, "ä"]), hosts.broadcast({"of": hosts.index}), hosts.agree(hosts.index == 2)
        hosts.barrier("end")
        return (*got, hosts.agree(False))

    assert together(3, call, board) == [([[0, "ä"], [1, "ä"], [2, "ä"]], {"of": 0}, True, False)] * 3
    assert len(board.texts) == 3  # of the last exchange


def test_processes_that_are_out_of_step_find_out():
    found = together(2, lambda hosts: hosts.barrier(f"place {hosts.index}"))
    assert [str(each) for each in found] == ["the processes are out of step: ['place 0', 'place 1']"] * 2


@pytest.mark.parametrize(
    ("fails", "sentences"),
    [
        ({1: "full"}, ["host 1: full"] * 3),
        ({1: "full", 2: "gone"}, ["host 1: full"] * 3),
        ({0: "same", 1: "same", 2: "same"}, ["same"] * 3),
        ({}, [None] * 3),
    ],
)
def test_what_one_cannot_do_none_does(fails, sentences):
    def call(hosts: Hosts) -> tuple[str, bool] | None:
        try:
            with hosts.together():
                if hosts.index in fails:
                    raise UserError(fails[hosts.index])
        except UserError as error:
            try:
                raise UserError("around it") from error
            except UserError as outer:
                return str(error), hosts.is_known(outer) and not hosts.is_known(UserError("another"))
        return None

    assert together(3, call) == [sentence and (sentence, True) for sentence in sentences]


@pytest.mark.parametrize(("rows", "unit"), [(12, 4), (16, 1), (8, 8), (20, 4)])
def test_parts_are_whole_groups_of_all_rows(rows, unit):
    parts = [Hosts(index, 3, Board()).part(rows, unit) for index in range(3)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert all(part.start % unit == 0 == len(part) % unit for part in parts)


def test_the_first_goes_first():
    order = []

    def call(hosts: Hosts) -> object:
        return hosts.first_then_others(lambda: order.append(hosts.index) or hosts.index)

    assert together(2, call) == [0, 1]
    assert order == [0, 1]


def test_what_differs_is_named():
    def call(hosts: Hosts) -> None:
        hosts.require_same({"a": 1, "b": "x" if hosts.index else None}, "mend it")

    (error, other) = together(2, call)
    assert str(error) == str(other) == 'b is null on host 0 and "x" on host 1; mend it'


def test_all_stop_when_one_is_asked_to():
    """With the exit code of that one: a signal's, or that of the time that is over."""

    def call(hosts: Hosts) -> list[object]:
        stop = StopRequest(None, deadline=0.0 if hosts.index == 0 and is_late else None)
        before = stop.heard_by(hosts) if not is_late else False
        if hosts.index == 1 and not is_late:
            stop.signal = signal.SIGTERM
        return [before, stop.heard_by(hosts), stop.exit_code]

    is_late = False
    assert together(3, call) == [[False, True, 143]] * 3
    is_late = True
    assert together(3, call) == [[False, True, 75]] * 3


def test_a_board_that_fails_for_a_while_is_asked_again(monkeypatch):
    """What ends a process that asks in vain is its watch."""
    monkeypatch.setattr("tunix_grpo.hosts.cluster._LOOK_S", 0.01)
    board = Board()
    board.lost = True
    threading.Timer(0.3, lambda: setattr(board, "lost", False)).start()
    assert together(2, lambda hosts: hosts.gather(hosts.index), board) == [[0, 1]] * 2


# --- scoring ---


def rewards_of(host: int, calls: list) -> list[Reward]:
    """Rewards with everything that a table holds: parts, extras, failures, groups that are left out."""

    def some(batch) -> list:
        calls.append((host, list(batch.completions)))
        values: dict[str, object] = {
            "c": Failure("error", "has no idea"),
            "d": Scored(None, {"seen": 2.0}),
            "g": Scored(0.25, {"late": 1.0}),
        }
        return [values.get(text, float(len(text))) for text in batch.completions]

    return [Reward("some", 0.5, some, on_error="skip_group"), Reward("one", 1.0, lambda batch: [1.0] * len(batch))]


def test_each_completion_is_scored_once_and_all_get_one_table():
    batch = samples_of("abcdefgh", QUESTIONS, num_generations=2)
    alone = score_completions(rewards_of(0, []), batch)
    calls: list = []
    tables = together(3, lambda hosts: score_together(hosts, rewards_of(hosts.index, calls), batch))
    assert tables == [alone] * 3
    assert alone.skipped == {2, 3}
    first_calls = [texts for _, texts in sorted(calls) if len(texts) > 1]
    assert sorted(text for texts in first_calls for text in texts) == list("abcdefgh")
    assert len({host for host, _ in calls}) == 3


def test_a_reward_that_fails_on_one_host_fails_on_all():
    def fails_on_f(batch) -> list[float]:
        if "f" in batch.completions:
            raise ValueError("no f")
        return [1.0] * len(batch)

    batch = samples_of("abcdefgh", QUESTIONS, num_generations=2)
    found = together(2, lambda hosts: score_together(hosts, [Reward("own", 1.0, fails_on_f)], batch))
    assert len({str(error) for error in found}) == 1
    assert str(found[0]).startswith("host 1: reward own raised ValueError: no f")
    assert " on the completion 'f' of the question " in str(found[0])


# --- the watch ---


class Ended(threading.Event):
    """Stands in for the end of a process."""

    sentence = ""

    def __call__(self, sentence: str) -> None:
        self.sentence = sentence
        self.set()


def watches(board: Board, count: int, timeout: float = 0.5) -> list[tuple[Watch, Ended]]:
    made = []
    for index in range(count):
        ended = Ended()
        made.append((Watch(board, index, count, timeout, ended), ended))
        made[-1][0].start()
    return made


@pytest.mark.long
def test_a_host_that_gives_no_sign_of_life_ends_the_others():
    (first, ended), (lost, _) = watches(Board(), 2)
    time.sleep(1.5)
    assert not ended.is_set()  # three times the timeout, with signs of life
    lost.stop()
    assert ended.wait(10)
    assert ended.sentence == (
        "host 1 gave no sign of life for 0.5 s (distributed.timeout); the last checkpoint is whole, and the same "
        "command goes on from it"
    )
    first.stop()


def test_a_board_that_is_lost_ends_all():
    board = Board()
    both = watches(board, 2)
    board.lost = True
    for _, ended in both:
        assert ended.wait(10)
        assert ended.sentence.startswith("host 0 could not be reached for 0.5 s (distributed.timeout); ")


def test_who_leaves_says_why_and_waits_until_it_is_heard():
    (first, ended), (leaving, own) = watches(Board(), 2, timeout=10)
    assert leaving.leave("no more memory")
    assert ended.is_set() or ended.wait(5)
    assert ended.sentence == "host 1: no more memory"
    assert not own.is_set()
    assert not first.leave("I too")  # it has been ended already


# --- checkpoints ---


def test_checkpoints_of_several_processes(tmp_path):
    """Apart from the arrays, which Orbax writes on all of them: who opens, decides, and takes in what is written."""
    folder = tmp_path / "new" / "checkpoints"

    def call(hosts: Hosts) -> tuple:
        checkpoints = SharedCheckpoints(folder, 1, hosts)
        before = checkpoints.latest_valid()
        hosts.barrier("opened")
        if hosts.is_first:
            assert checkpoints._own is not None
            checkpoints._own.save(3, {"w": jnp.ones(2)}, {"count": jnp.int32(3)}, {"state": {"step": 3}})
        hosts.barrier("saved")
        checkpoints.save(3, {}, {}, {"state": {"step": 3}})  # is there already
        after = checkpoints.latest_valid()
        digests = checkpoints._digests(3, checkpoints.root / "3")
        assert digests is not None
        checkpoints.close()
        return before, after, len(digests) > 3

    assert together(2, call) == [(None, 3, True)] * 2
    assert step_fault(folder / "actor" / "3") is None
    assert not list(folder.glob(".seen*"))


def test_parameters_that_several_hosts_hold_are_compared_at_every_save(tmp_path):
    """To the last bit: the step is not saved, nor is what the run holds then rescued elsewhere."""

    def call(hosts: Hosts, change: float) -> str:
        weights = {"a": jnp.ones(3), "b": jnp.float32(1 + change * hosts.index)}
        return require_equal({"layer": weights}, hosts)

    same = together(2, lambda hosts: call(hosts, 0))
    assert same[0] == same[1] and re.fullmatch("[0-9a-f]{64}", str(same[0]))
    found = together(2, lambda hosts: call(hosts, 2.0**-23))
    assert all(isinstance(error, NoStepError) for error in found)
    assert {str(error).partition(", so")[0] for error in found} == {
        "host 0 and host 1 hold different parameters (layer.b)"
    }


def test_a_folder_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tunix_grpo.run.shared_checkpoints._LONGEST_LOOK_S", 0.3)
    found = together(2, lambda hosts: SharedCheckpoints(tmp_path / str(hosts.index), 1, hosts))
    assert [str(error) for error in found] == [
        f"host 1: checkpoint_dir={tmp_path / '1'}: this host does not see what host 0 writes there; give a folder on "
        "a disk that all hosts share with checkpoint_dir=DIR"
    ] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_on_one_fails_on_all_and_is_said_by_finish(tmp_path, monkeypatch):
    """And `max_failed_saves` may let training go on."""

    def call(hosts: Hosts) -> tuple:
        checkpoints = SharedCheckpoints(tmp_path / "new", 1, hosts)
        assert not checkpoints.ended()
        checkpoints._is_asked_for = False
        assert not checkpoints._compare(4, "No space left on device" if hosts.index else None)
        found = []
        for _ in range(2):
            try:
                found.append((checkpoints.ended(), checkpoints.finish()))
            except NotSavedError as error:
                found.append((error.what, hosts.is_known(error)))
        checkpoints.close()
        return tuple(found)

    what = f"{tmp_path}/new/actor/4: the checkpoint could not be written (No space left on device on host 1)"
    assert together(2, call) == [((what, True), (False, False))] * 2


# --- who is one of several ---

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
}
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
GIVEN = DistributedConfig(hosts="auto", coordinator="node:1234", num_processes=3, process_id=2, timeout=60)
AUTO = DistributedConfig(hosts="auto", coordinator=None, num_processes=None, process_id=None, timeout=60)
OFF = DistributedConfig(hosts="off", coordinator=None, num_processes=None, process_id=None, timeout=60)


@pytest.mark.parametrize(
    ("settings", "environment", "place"),
    [
        (AUTO, {}, None),
        (GIVEN, SLURM, Place("node:1234", 3, 2)),
        (AUTO, SLURM, Place("gpu07:61441", 2, 1)),  # a task a node has all its devices
        (AUTO, SLURM | {"SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}, Place("gpu07:61441", 4, 1, device=1)),
        (AUTO, SLURM | {"SLURM_NTASKS": "1"}, None),
        (AUTO, OMPI, Place("10.96.0.1:61845", 4, 3, device=1)),
        (OFF, SLURM, None),
    ],
)
def test_the_place_of_a_process(monkeypatch, settings, environment, place):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = place_of(settings)
    if found is not None and found.coordinator.startswith("10."):
        assert found.coordinator.split(":")[0] == "10.96.0.1"
        found = Place(place.coordinator, found.count, found.index, found.device)
    assert found == place


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ((None, None, None), None),
        (("node:1", 2, 1), None),
        (("node:1", 2, None), "belong together"),
        ((None, None, 0), "belong together"),
        (("node:1", 2, 2), "numbered from 0 to 1"),
    ],
)
def test_the_settings_that_give_a_place_belong_together(given, problem):
    found = all_or_none(*given)
    assert found == problem or problem in found


def test_other_programs_refuse_to_be_one_of_several(monkeypatch):
    refuse_several("generate")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^generate runs in one process, and this is one of 2: start it once"):
        refuse_several("generate")


def test_the_last_word_is_a_sentence_when_the_runtime_aborts():
    program = """
import os
from tunix_grpo.run import joining
joining._last_words[0] = "the others are gone"
joining._have_the_last_word()
os.abort()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "error: the others are gone")

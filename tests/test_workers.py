"""A worker answers within its limit, is replaced when it hangs or crashes, and never outlives its run."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tunix_grpo import workers
from tunix_grpo.errors import UserError
from tunix_grpo.workers import NoReplyError, Worker, WorkerPool

TESTS = Path(__file__).resolve().parent
PATHS = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
PROGRAM = "helpers.worker_program"


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    worker = Worker(PROGRAM, timeout_s=1.0, metric="grader/unanswered")
    yield worker
    worker.close()


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Says whether a process ends in time; one that nobody has waited for yet has ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_one_program_answers_all_questions(worker):
    pids = {worker.ask({"pid": number}) for number in range(3)}
    assert len(pids) == 1
    assert worker.ask({"text": "ä\n" * 100_000}) == {"text": "ä\n" * 100_000}  # more than a pipe holds
    assert worker.ask({"print": "noise"}) == {"print": "noise"}  # is no reply
    assert (worker.asked, worker.unanswered) == (5, 0)


def test_the_notice_of_a_cluster_to_all_processes_ends_no_program(worker):
    pid = worker.ask({"pid": 1})
    os.kill(pid, signal.SIGUSR1)
    assert worker.ask({"pid": 2}) == pid


def test_what_a_program_reads_and_prints_is_nothing(worker):
    assert worker.ask({"read": 1}) == ""  # not the next question, for which it would wait
    pid = worker.ask({"pid": 1})
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)] == [os.devnull] * 3  # nothing grows


def test_one_that_takes_too_long_is_killed_and_replaced(worker):
    first = worker.ask({"pid": 1})
    with pytest.raises(NoReplyError, match="it took longer than 1 s"):
        worker.ask({"sleep": 60})
    assert gone(first)
    assert worker.ask({"pid": 2}) != first
    assert (worker.asked, worker.unanswered) == (3, 1)


def test_one_that_crashes_is_replaced(worker):
    first = worker.ask({"pid": 1})
    with pytest.raises(NoReplyError, match="it crashed"):
        worker.ask({"exit": 139})
    second = worker.ask({"pid": 2})
    assert second != first
    os.kill(second, signal.SIGKILL)  # between two questions
    os.waitid(os.P_PID, second, os.WEXITED | os.WNOWAIT)  # all of its threads have ended
    assert worker.ask({"pid": 3}) not in (first, second)


def test_what_the_function_raises_is_no_reply_and_the_program_stays(worker, caplog):
    first = worker.ask({"pid": 1})
    for _ in range(3):
        with pytest.raises(NoReplyError, match="ValueError: too odd"):
            worker.ask({"raise": "too odd"})
    assert worker.ask({"pid": 2}) == first
    assert caplog.text.count("gave no reply to") == 1  # said once, then only counted
    assert worker.unanswered == 3


def test_unanswered_questions_are_counted_for_the_record(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    with workers.closed_at_end():
        worker = Worker(PROGRAM, timeout_s=1.0, metric="grader/unanswered")
        before = workers.counts().get("grader/unanswered", 0)
        pid = worker.ask({"pid": 1})
        with pytest.raises(NoReplyError):
            worker.ask({"raise": "x"})
        assert workers.counts() == {"grader/unanswered": before + 1}
    assert gone(pid)


def test_a_program_that_cannot_start_is_an_error_that_says_why(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    with pytest.raises(UserError, match=r"helpers.no_such_program cannot be started \(it crashed\): .*No module named"):
        Worker("helpers.no_such_program", timeout_s=1.0).ask(1)


def asking(question: str) -> subprocess.Popen:
    """Starts a process that prints its worker's process id, asks it a question, and prints `stopped` at Ctrl-C."""
    program = f"""
        from tunix_grpo.workers import Worker
        worker = Worker({PROGRAM!r}, timeout_s=120)
        print(worker.ask({{"pid": 1}}), flush=True)
        try:
            worker.ask({question})
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PATHS},
        start_new_session=True,
    )


def test_ctrl_c_is_not_held_up_by_a_worker():
    with asking('{"sleep": 100}') as run:
        worker = int(run.stdout.readline())
        time.sleep(0.2)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.stdout.readline() == "stopped\n"
        assert run.wait(10) == 0
    assert gone(worker)


@pytest.mark.long
def test_a_worker_ends_when_its_run_is_killed():
    with asking('{"sleep": 100}') as run:
        worker = int(run.stdout.readline())
        time.sleep(0.2)
        run.kill()
    assert gone(worker)


def test_a_worker_loads_neither_jax_nor_torch():
    program = "import sys, tunix_grpo.workers; print([m for m in ('jax', 'numpy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# --- several side by side ---


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    pool = WorkerPool(PROGRAM, 3)
    yield pool
    pool.close()


def test_questions_are_answered_in_their_order_side_by_side(pool):
    pool.ask_all([{"pid": number} for number in range(3)])  # starts all programs
    questions = [{"sleep": seconds} for seconds in (0.6, 0.3, 0.6, 0.3, 0.0)]
    begun = time.monotonic()
    assert pool.ask_all(questions) == questions
    assert time.monotonic() - begun < 1.5  # 1.8 one after another
    assert pool.ask_all([]) == []


def test_what_is_not_answered_by_the_deadline_is_given_up_and_the_rest_stays(pool):
    first, *_ = pool.ask_all([{"pid": 1}] * 3)
    begun = time.monotonic()
    replies = pool.ask_all([{"sleep": 60}] * 3 + [{"print": "x"}] * 2, time.monotonic() + 0.5)
    assert time.monotonic() - begun < 5
    assert [str(reply)[:15] for reply in replies[:3]] == ["it took longer "] * 3
    assert [reply.kind for reply in replies] == ["late"] * 5
    assert str(replies[3]) == "it was not asked in time"
    assert gone(first)
    assert pool.ask_all([{"print": "x"}]) == [{"print": "x"}]


def test_nobody_starts_a_program_of_a_run_that_has_ended(monkeypatch):
    """A thread was still asking when its run was stopped; programs that it started again outlived the run."""
    monkeypatch.setenv("PYTHONPATH", PATHS)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **how: started.append(popen(*args, **how)) or started[-1])
    replies: list = []
    with workers.closed_at_end():
        pool = WorkerPool(PROGRAM, 2)
        pool.ask_all([{"pid": 1}] * 2)
        asking = threading.Thread(target=lambda: replies.extend(pool.ask_all([{"sleep": 60}] * 9)))
        asking.start()
        time.sleep(0.3)
    asking.join(5)
    assert not asking.is_alive()
    assert len(replies) == 9 and all(isinstance(reply, NoReplyError) for reply in replies)
    assert {str(reply) for reply in replies[2:]} == {"its run has ended"}
    assert len(started) == 2 and all(process.poll() is not None for process in started)


def test_one_that_reads_nothing_is_given_up_too(monkeypatch):
    """More than a pipe holds, to a program that is stopped."""
    monkeypatch.setenv("PYTHONPATH", PATHS)
    worker = Worker(PROGRAM)
    pid = worker.ask({"pid": 1})
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(NoReplyError, match="it took longer than 0.3 s"):
        worker.ask({"print": "x" * 1_000_000}, 0.3)
    assert gone(pid)


def test_what_a_program_started_ends_with_it(monkeypatch, worker):
    child = worker.ask({"child": 60})
    with pytest.raises(NoReplyError):
        worker.ask({"exit": 1})
    worker.close()
    assert gone(child)


def test_a_program_is_told_its_first_question_whenever_it_starts(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    with workers.closed_at_end():
        worker = Worker(PROGRAM, first={"raise": "no such file"})
        with pytest.raises(UserError, match=r"cannot be started \(ValueError: no such file\)"):
            worker.ask({"pid": 1})

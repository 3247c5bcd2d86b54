"""A worker answers within its limit, is replaced when it hangs or crashes, and never outlives its run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tunix_grpo import workers
from tunix_grpo.errors import UserError
from tunix_grpo.workers import NoReplyError, Worker

TESTS = Path(__file__).resolve().parent
PATHS = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
PROGRAM = "helpers.worker_program"


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)
    worker = Worker(PROGRAM, timeout_s=1.0)
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
        worker = Worker(PROGRAM, timeout_s=1.0)
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

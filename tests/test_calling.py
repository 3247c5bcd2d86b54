"""A reward that hangs, fails or crashes is dealt with as its settings say, in its time, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.rewards import own_reward, reward_settings
from helpers.samples import samples_of
from tunix_grpo import workers
from tunix_grpo.config import plugins
from tunix_grpo.rewards import calling
from tunix_grpo.rewards.base import Failure, Reward, RewardError
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.scoring import RewardTable, score_completions
from tunix_grpo.tasks.base import Question
from tunix_grpo.train import train

QUESTIONS = [Question(f"What is {n}?", str(n)) for n in range(3)]
GOOD = ["a", "b", "c", "d", "e", "f"]
# Two completions of each question; the functions below do badly on the fourth.
BAD = [*GOOD[:3], "bad", *GOOD[4:]]
HANGS = "import time\ndef own(completion):\n    while completion == 'bad': time.sleep(0.01)\n    return 1.0"


def samples(completions=BAD):
    return samples_of(completions, [question for question in QUESTIONS for _ in range(2)], num_generations=2)


@pytest.fixture(autouse=True)
def nothing_left():
    with workers.closed_at_end():
        yield


def pid_of(reward: Reward) -> int:
    """Returns the process of an isolated function that answers `pid`."""
    return int(score_completions([reward], samples(["pid"] * 6)).parts["own"][0])


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


FAILING = {
    "raises": "def own(completion): return 1 / (completion != 'bad')",
    "raises on the batch": "def own(completions): return [1 / (text != 'bad') for text in completions]",
    "returns no number": "def own(completion): return 'x' if completion == 'bad' else 1",
    "ends the program": "import sys\ndef own(completion):\n    return sys.exit(3) if completion == 'bad' else 1",
}


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize(("policy", "value", "skipped"), [("zero", 0.0, set()), ("skip_group", None, {2, 3})])
def test_only_what_fails_gets_nothing(tmp_path, caplog, source, policy, value, skipped):
    reward = own_reward(tmp_path, source, on_error=policy)
    for _ in range(2):
        table = score_completions([reward], samples())
        assert table.parts == {"own": [1, 1, 1, value, 1, 1]}
        assert table.total == [1, 1, 1, 0, 1, 1]
        assert table.skipped == skipped
    assert table.events == {"own/errors": 2, "own/timeouts": 0}
    assert caplog.text.count("on the completion 'bad' of the question 'What is 1?'") == 1  # the first is said


@pytest.mark.long
def test_a_crash_is_an_error_of_the_completion_alone(tmp_path):
    source = """
        import os

        def own(completion):
            if completion == "bad":
                os.kill(os.getpid(), 11)
            return os.getpid() if completion == "pid" else 1.0
        """
    reward = own_reward(tmp_path, textwrap.dedent(source), isolate=True, on_error="zero")
    first = pid_of(reward)
    assert score_completions([reward], samples()).parts == {"own": [1, 1, 1, 0, 1, 1]}
    assert pid_of(reward) != first and not is_there(first)
    with pytest.raises(RewardError, match=r"reward own gave no reply \(it crashed\) on the completion 'bad' of the qu"):
        score_completions([own_reward(tmp_path, textwrap.dedent(source), isolate=True)], samples())


@pytest.mark.long
def test_a_program_that_fills_memory_is_replaced(tmp_path):
    source = """
        import os

        kept = []

        def own(completion):
            if completion == "bad":
                kept.append(bytearray(os.urandom(1024)) * (1100 * 1024))
            return os.getpid() if completion == "pid" else len(kept)
        """
    reward = own_reward(tmp_path, textwrap.dedent(source), isolate=True)
    first = pid_of(reward)
    score_completions([reward], samples())
    assert workers.counts()["perf/worker_restarts"] == 1
    assert pid_of(reward) != first and not is_there(first)


@pytest.mark.long
@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(("policy", "value", "skipped"), [("zero", 0.0, 0), ("skip_group", None, 6), ("stop", None, 0)])
def test_a_reward_that_hangs_takes_no_longer_than_its_limit(tmp_path, isolate, policy, value, skipped):
    reward = own_reward(tmp_path, HANGS, isolate=isolate, time_limit=1.0, on_timeout=policy)
    if isolate:
        score_completions([reward], samples(GOOD))  # starts the program, which does not count
    begun = time.monotonic()
    if policy == "stop":
        with pytest.raises(
            RewardError, match="reward own took .*; raise its time_limit, or go on without its value by"
        ):
            score_completions([reward], samples())
    else:
        table = score_completions([reward], samples())
        # In a process of its own, what was scored before the limit has its value.
        done = 3 if isolate else 0
        assert table.parts == {"own": [1.0] * done + [value] * (6 - done)}
        assert table.events == {"own/errors": 0, "own/timeouts": 6 - done}
        assert len(table.skipped) == (skipped if not isolate or not skipped else 4)
    assert time.monotonic() - begun < 4


@pytest.mark.long
def test_several_workers_go_on_beside_one_that_hangs(tmp_path):
    reward = own_reward(tmp_path, HANGS, isolate=True, workers=2, time_limit=2.0, on_timeout="zero")
    assert score_completions([reward], samples()).parts == {"own": [1, 1, 1, 0, 1, 1]}


@pytest.mark.long
def test_the_start_of_a_program_does_not_count(tmp_path):
    source = "import time\ntime.sleep(1.5)\ndef own(completion): return 1.0"
    reward = own_reward(tmp_path, source, isolate=True, time_limit=0.5)
    assert score_completions([reward], samples()).parts == {"own": [1.0] * 6}


def test_async_calls_that_are_late_are_given_up_alone(tmp_path):
    source = (
        "import asyncio\nasync def own(completion):\n    await asyncio.sleep(60 * (completion == 'bad'))\n    return 1"  # noqa: E501
    )
    reward = own_reward(tmp_path, source, time_limit=0.5, on_timeout="zero")
    assert score_completions([reward], samples()).parts == {"own": [1, 1, 1, 0, 1, 1]}
    assert reward.events == {"timeouts": 1}


def test_a_python_loop_that_was_given_up_ends(tmp_path):
    reward = own_reward(tmp_path, HANGS, time_limit=0.2, on_timeout="zero")
    score_completions([reward], samples())
    (thread,) = calling._abandoned
    thread.join(5)
    assert not thread.is_alive()


def test_calls_that_cannot_be_ended_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(calling, "_abandoned", [])
    monkeypatch.setattr(calling, "GRACE_S", 0.0)
    reward = Reward("own", 1.0, lambda _: time.sleep(20), time_limit=0.01, on_timeout="zero")
    for _ in range(calling.MOST_ABANDONED):
        score_completions([reward], samples())
    with pytest.raises(RewardError, match="reward own: 8 calls that took too long have not ended .*isolate=true"):
        score_completions([reward], samples())


def test_what_is_called_again_has_no_more_time_than_the_batch(monkeypatch):
    """Else each completion would wait for the grace alone, and leave a thread behind."""
    monkeypatch.setattr(calling, "_abandoned", [])
    sizes = []

    def own(samples):
        sizes.append(len(samples))
        time.sleep(0.8 if len(samples) == 1 else 0.1)
        raise ValueError("not on these")

    reward = Reward("own", 1.0, own, time_limit=0.5, on_error="skip_group", on_timeout="zero")
    table = score_completions([reward], samples())
    assert sizes == [6, 1]
    assert table.parts["own"][1:] == [0.0] * 5 and reward.events["timeouts"] >= 5


def test_a_reward_says_itself_what_it_could_not_score():
    def own(samples):
        late = Failure("timeout", "got no reply")
        return [1.0, late, Failure("error", "got no score", way_out="; mend the prompt"), *[None] * (len(samples) - 3)]

    reward = Reward("own", 1.0, own, on_error="zero", on_timeout="skip_group")
    table = score_completions([reward], samples())
    assert table == RewardTable(
        [1, 0, 0, 0, 0, 0],
        {"own": [1, None, 0, None, None, None]},
        {},
        frozenset({0, 1}),
        {"own/errors": 1, "own/timeouts": 1},
    )
    with pytest.raises(RewardError, match=r"reward own got no reply on the completion 'b' of .*; raise its time_limit"):
        score_completions([Reward("own", 1.0, own)], samples())


@pytest.mark.long
@pytest.mark.parametrize(
    "settings", [{}, {"time_limit": 60.0}, {"isolate": True}, {"isolate": True, "time_limit": 60.0}], ids=str
)
def test_ctrl_c_ends_a_run_whose_reward_hangs(tmp_path, settings):
    program = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from helpers.rewards import own_reward, reward_settings
        from helpers.samples import samples_of
        from tunix_grpo.rewards.scoring import score_completions
        from tunix_grpo.tasks.base import Question

        source = "import time\\ndef own(completion):\\n    print('hangs', flush=True)\\n    time.sleep(600)"
        source = source.replace("print('hangs', flush=True)", "open({str(tmp_path / "hangs")!r}, 'w').close()")
        reward = own_reward(Path({str(tmp_path)!r}), source, **{settings!r})
        score_completions([reward], samples_of(["a"], [Question("q", "a")]))
        """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "hangs").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        assert "KeyboardInterrupt" in run.communicate(timeout=20)[1]


HOSTILE = {
    "long": "a" * 100_000,
    "nested tags": "<reasoning><answer>" * 5_000 + "</answer></reasoning>" * 5_000,
    "a tower of powers": "<answer>9**9**9**9</answer>",
    "the same in LaTeX": "\\boxed{9^{9^{9^{9}}}}",
    "deep brackets": f"<answer>{'(' * 3000}1{')' * 3000}</answer>",
    "deep braces": "\\boxed{" + "{" * 3000 + "1" + "}" * 3000 + "}",
    "a million digits": f"<answer>{'9' * 1_000_000}</answer>",
    "a factorial": "<answer>999999!</answer>",
    "nothing": "",
    "null characters": "<answer>\0</answer>",
    "half a character": "<answer>\ud800</answer>",
}


@pytest.mark.long
def test_hostile_completions_are_wrong_within_the_limit_and_the_programs_stay():
    settings = reward_settings(format=0.5, correctness=1.0, math=1.0, workers=2)
    settings.math.timeout_s = 1.0
    rewards = [replace(reward, time_limit=60.0) for reward in build_rewards(settings)]
    question = Question("What is x + 1?", "x + 1")
    texts = [*HOSTILE.values(), "<answer>\\boxed{1 + x}</answer>"]
    samples = samples_of(texts, [question] * len(texts))
    begun = time.monotonic()
    table = score_completions(rewards, samples)
    assert time.monotonic() - begun < 30
    assert table.parts["correctness"][:-1] == table.parts["math"][:-1] == [0.0] * len(HOSTILE)
    assert table.parts["math"][-1] == 1.0


@pytest.mark.parametrize("isolate", [False, True])
def test_a_function_of_a_user_s_gets_hostile_completions_whole(tmp_path, isolate):
    reward = own_reward(tmp_path, "def own(completion): return len(completion)", isolate=isolate)
    texts = list(HOSTILE.values())
    table = score_completions([reward], samples_of(texts, [QUESTIONS[0]] * len(texts)))
    assert table.parts["own"] == [len(text) for text in texts]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_steps_with_an_isolated_reward_leave_everything_flat(tmp_path, compose):
    """Processes, memory, open files: of the run, and of its workers."""
    (tmp_path / "own.py").write_text(
        "import os\n\ndef own(completion, step):\n"
        "    if step % 100 == 99 and completion: os._exit(1)\n"
        "    return len(completion) / 100, {'pid': os.getpid()}\n"
    )
    seen = []

    def look(step: int) -> None:
        pids = [
            int(pid)
            for pid in subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
        ]
        memory = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 for pid in (os.getpid(), *pids)]
        seen.append((step, len(pids), memory, len(os.listdir("/proc/self/fd")), threading.active_count()))

    notes = tmp_path / "look.py"
    notes.write_text(
        "class Look:\n    see = None\n    def __init__(self, *_): ...\n"
        "    def log_metrics(self, step, metrics): Look.see(step)\n"
        "    def log_completions(self, step, records): ...\n    def close(self, *, failed=False): ...\n"
    )
    plugins.resolve(f"{notes}:Look", "tracker.custom").see = look
    config = compose(
        *("model=tiny", "device=cpu", "task=arithmetic", "reward=[correctness]", f"checkpoint_dir={tmp_path}/ckpts"),
        *(f"reward.custom.path={tmp_path}/own.py", "reward.custom.function=own", "reward.custom.isolate=true"),
        *("reward.custom.on_error=skip_group", "reward.custom.time_limit=30", f"tracker.custom={notes}:Look"),
        *("training.micro_batch_size=1", "training.num_batches=2000", "training.log_interval_steps=100"),
        *("training.save_interval_steps=1000", "training.eval_interval_steps=1000", "evaluation.num_questions=2"),
        *("grpo.num_generations=2", "generation.max_generation_steps=4", "tracker.wandb=false"),
        "tracker.tensorboard=false",
    )
    train(config)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [each for each in metrics if "loss" in each]
    assert steps[-1]["step"] == 2000 and steps[-1]["rewards/own/errors"] > 0
    settled = [each for each in seen if each[0] >= 500]
    assert {processes for _, processes, *_ in settled} <= {1, 2}  # as many as completions are asked about together
    files = [files for *_, files, _ in settled]
    threads = [threads for *_, threads in settled]
    assert max(files) - min(files) <= 4 and max(threads) - min(threads) <= 4
    first, last = settled[0][2], settled[-1][2]
    assert last[0] - first[0] < 64 << 20, [memory[0] for _, _, memory, *_ in settled]  # of the run itself
    assert max(last[1:]) - max(first[1:]) < 32 << 20

"""Rewards that wait for something else are asked about completions while others are still drawn."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from helpers.rewards import own_reward
from helpers.samples import samples_of
from helpers.trainer import NumberTokenizer, mean_token, number_prompts, small_trainer
from tunix_grpo import workers
from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo import rollout, stages
from tunix_grpo.grpo.answering import Answered
from tunix_grpo.grpo.evaluation import Evaluator, behind
from tunix_grpo.rewards.ahead import Ahead
from tunix_grpo.rewards.base import Failure, Reward, RewardError, Samples, Scored
from tunix_grpo.rewards.judge import Judge
from tunix_grpo.rewards.math import MathReward
from tunix_grpo.rewards.python_tests import PythonTests
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.text.prompt_set import PromptSet

WAIT_S = 60.0


class Slow:
    """Gives each completion its number of characters, and notes what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.begun, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def __call__(self, samples: Samples) -> list[float]:
        self.asked.append(list(samples.completions))
        self.begun.set()
        assert self.may_answer.wait(WAIT_S)
        return [float(len(text)) for text in samples.completions]


def one(text: str) -> Samples:
    return samples_of([text], [Question("q", "a")])


def test_values_of_those_that_were_asked_about_are_kept_and_the_others_are_left():
    """While the first is asked about, two wait: they go together, unless the values are wanted before."""
    slow = Slow()
    reward = Reward("slow", 1.0, slow, by_row=True)
    ahead = Ahead([reward, Reward("own", 1.0, mean_token)])
    slow.may_answer.clear()
    ahead.add(0, one("a"))
    assert slow.begun.wait(WAIT_S)
    for name, text in ((1, "bb"), (2, "ccc")):
        ahead.add(name, one(text))
    slow.may_answer.set()
    deadline = time.monotonic() + WAIT_S
    while len(slow.asked) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert ahead.values([2, 0]) == {"slow": {0: Scored(3.0, {}), 1: Scored(1.0, {})}}
    assert slow.asked == [["a"], ["bb", "ccc"]]

    slow.begun.clear()
    slow.may_answer.clear()
    ahead.add(3, one("dddd"))
    assert slow.begun.wait(WAIT_S)
    ahead.add(4, one("eeeee"))
    threading.Timer(0.05, slow.may_answer.set).start()
    early = ahead.values([3, 4])
    assert early == {"slow": {0: Scored(4.0, {})}}  # the other was not asked about yet
    table = score_completions([reward], samples_of(["dddd", "eeeee"], [Question("q", "a")] * 2), early)
    assert table.parts == {"slow": [4.0, 5.0]}
    assert slow.asked[2:] == [["dddd"], ["eeeee"]]


def test_what_fails_ahead_is_said_where_all_are_scored():
    """An exception is met again by whoever scores; a value that could not be had stands, and its policy decides."""
    texts = ["good", "bad"]
    samples = samples_of(texts, [Question("q", "a")] * 2)

    def raises(samples: Samples) -> list[float]:
        return [1.0 if text == "good" else 1 / 0 for text in samples.completions]

    def late(samples: Samples) -> list[Scored | Failure]:
        asked.append(samples.deadline)
        return [Scored(1.0) if text == "good" else Failure("timeout", "was late") for text in samples.completions]

    def early_of(reward: Reward):
        ahead = Ahead([reward])
        for text in texts:
            ahead.add(text, one(text))
        deadline = time.monotonic() + WAIT_S
        while ahead._running and time.monotonic() < deadline:
            time.sleep(0.001)
        return ahead.values(texts)

    asked: list[float | None] = []
    failing = Reward("own", 1.0, raises, by_row=True)
    early = early_of(failing)
    assert early["own"].get(1) is None
    with pytest.raises(RewardError, match="bad"):
        score_completions([failing], samples, early)
    skipping = Reward("own", 1.0, late, by_row=True, time_limit=5.0, on_timeout="zero")
    early = early_of(skipping)
    assert all(deadline is not None and 0 < deadline - time.monotonic() <= 5.0 for deadline in asked)
    calls = len(asked)
    table = score_completions([skipping], samples, early)
    assert table.parts == {"own": [1.0, 0.0]} and skipping.events["timeouts"] == 1
    assert len(asked) == calls


@pytest.mark.long
def test_a_step_asks_while_its_completions_are_drawn(compose, folder, monkeypatch):
    """The reward lets the rollout end only when it has been asked; each completion is asked about once."""
    monkeypatch.setattr(NumberTokenizer, "stop_ids", tuple(range(1, 5)))
    monkeypatch.setattr(stages, "STAGE", 8)
    monkeypatch.setattr(rollout, "SHORT", 16)
    slow = Slow()
    settings = ("training.micro_batch_size=4", "generation.max_generation_steps=40", "grpo.beta=0.0")
    trainer = small_trainer(compose, folder, *settings)
    trainer._rewards = [Reward("slow", 1.0, slow, by_row=True)]
    begun, continued = [], stages._continued

    def waiting(*inputs):
        # What ended in the first stage is handed out when the second is on its way.
        begun.append(len(begun) < 2 or slow.begun.wait(WAIT_S))
        return continued(*inputs)

    monkeypatch.setattr(stages, "_continued", waiting)
    batch = number_prompts(4).batch(range(4), 4)
    result = trainer.step(1, batch)
    assert len(begun) > 2 and all(begun)
    texts = result.rollout.texts
    assert sorted(text for asked in slow.asked for text in asked) == sorted(texts)
    assert len(slow.asked) > 1
    assert result.rewards.parts == {"slow": [float(len(text)) for text in texts]}
    np.testing.assert_array_equal(result.rewards.total, result.rewards.parts["slow"])


def test_an_evaluation_scores_a_batch_while_the_next_is_drawn():
    """The second batch is drawn only when the first has been asked about; all come out in their places."""
    slow = Slow()
    reward = Reward("slow", 1.0, slow, by_row=True)
    asked = [Question(str(n), "1") for n in range(6)]
    prompts = PromptSet(asked, [each.question for each in asked], [[n] for n in range(6)], 0)

    class Model:
        def answerer(self, rows: int, width: int | None):
            return self

        def answers(self, requests, sampling):
            for number, request in enumerate(requests):
                assert number != 3 or slow.begun.wait(WAIT_S)
                yield Answered(request, "1" * (number + 1), [1], False)

        def ahead(self) -> Ahead:
            return Ahead([reward])

        def reward(self, samples: Samples, early=None):
            return score_completions([reward], samples, early)

    sampling = Sampling(num_generations=1, max_tokens=8, temperature=0.0)
    task = ExactTask("numbers", [], asked)
    result = Evaluator(prompts=prompts, task=task, sampling=sampling, batch_size=3).run(Model(), 0)
    assert result.reward == pytest.approx(np.mean([1, 2, 3, 4, 5, 6]))
    assert sorted(text for texts in slow.asked for text in texts) == ["1" * n for n in range(1, 7)]


@pytest.mark.parametrize(
    ("known_from", "drawn_before"),
    # How many answers are drawn when each batch of two comes: one batch later where all is known at once.
    [(0, [4, 6, 8, 10, 12, 13, 13]), (8, [8, 8, 8, 10, 12, 13, 13]), (99, [10, 12, 13, 13, 13, 13, 13])],
)
def test_batches_wait_for_what_is_asked_about_them_and_others_are_drawn(known_from, drawn_before):
    drawn = []

    class Known:
        asks = False

        def knows(self, names: list[int]) -> bool:
            return len(drawn) >= known_from

    answers = (drawn.append(number) or number for number in range(13))
    came = [(batch, len(drawn)) for batch in behind(answers, 2, Known(), int, list)]
    assert [batch for batch, _ in came] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12]]
    assert [count for _, count in came] == drawn_before


def test_it_is_known_when_all_that_was_added_has_been_asked():
    slow = Slow()
    ahead = Ahead([Reward("slow", 1.0, slow, by_row=True)])
    assert ahead.knows(["a"])  # nothing is asked about it
    ahead.add("a", one("1"))
    assert not ahead.knows(["a", "b"]) and ahead.knows(["b"])
    ahead.values(["a"])
    assert ahead.knows(["a"])


def test_what_is_left_undrawn_is_asked_about_no_more():
    slow = Slow()
    ahead = Ahead([Reward("slow", 1.0, slow, by_row=True)])
    ahead.add("a", one("1"))
    ahead.leave()
    assert ahead.knows(["a"]) and ahead.values(["a"]) == {"slow": {}} and slow.asked == []


def test_rewards_that_wait_for_something_else_are_asked_ahead(tmp_path):
    assert Judge.by_row and MathReward.by_row and PythonTests.by_row
    source = "def own(completion): return 1.0\ndef whole(completions): return [1.0] * len(completions)"
    with workers.closed_at_end():
        assert own_reward(tmp_path, source, isolate=True).by_row
        assert not own_reward(tmp_path, source).by_row
        assert not own_reward(tmp_path, source, "whole", isolate=True).by_row

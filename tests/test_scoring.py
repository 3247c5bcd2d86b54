"""Metrics of a step and the held-out evaluation, against numbers worked out by hand."""

import dataclasses

import numpy as np
import pytest

from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.grpo.answering import Answered
from tunix_grpo.grpo.evaluation import Evaluation, Evaluator, batch_size_for
from tunix_grpo.record.metrics import length_metrics, reward_metrics
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Question
from tunix_grpo.text.prompt_set import PromptSet


def test_reward_metrics():
    # Groups of four: mean 0.5 and sample deviation sqrt(1/3); all equal; mean 2 and sample deviation sqrt(8/3).
    total = [1.0, 0.0, 1.0, 0.0] + [0.25] * 4 + [0.0, 4.0, 2.0, 2.0]
    parts = {"format": [0.5] * 12, "correctness": [1.0] + [0.0] * 11}
    assert reward_metrics(RewardTable(total, parts), num_generations=4) == pytest.approx(
        {
            "reward": 11 / 12,
            "reward_std": ((1 / 3) ** 0.5 + 0.0 + (8 / 3) ** 0.5) / 3,
            "frac_reward_zero_std": 1 / 3,
            "rewards/format/mean": 0.5,
            "rewards/format/std": 0.0,
            "rewards/correctness/mean": 1 / 12,
            "rewards/correctness/std": (1 / 12) ** 0.5,  # sample variance of one 1 among n is 1/n
        },
        rel=1e-12,
    )


def test_equal_rewards_count_as_zero_deviation_whatever_their_rounding():
    """The deviation of three times 0.1 is not zero in floating point; the group still teaches nothing."""
    assert np.std([0.1] * 3) > 0
    metrics = reward_metrics(RewardTable([0.1] * 3 + [0.1, 0.1, 0.2], {}), num_generations=3)
    assert metrics["frac_reward_zero_std"] == 0.5


def test_what_does_not_apply_is_left_out_of_means():
    rewards = RewardTable(
        [1.0, 0.0], {"all": [1.0, None], "none": [None, None]}, {"all/depth": [2.0, 4.0], "all/width": [None, 0.5]}
    )
    metrics = reward_metrics(rewards, num_generations=2)
    own = {name: value for name, value in metrics.items() if name.startswith("rewards/")}
    assert own == {"rewards/all/mean": 1.0, "rewards/all/std": 0.0, "rewards/all/depth": 3.0, "rewards/all/width": 0.5}


def test_length_metrics():
    lengths, truncated = np.array([3, 10, 5, 10]), np.array([False, True, False, False])
    assert length_metrics(lengths, truncated) == {
        "completions/mean_length": 7.0,
        "completions/min_length": 3.0,
        "completions/max_length": 10.0,
        "completions/clipped_ratio": 0.25,
        "completions/mean_terminated_length": 6.0,
    }


def test_a_step_without_a_finished_completion_has_no_terminated_length():
    metrics = length_metrics(np.array([8, 8]), np.array([True, True]))
    assert metrics["completions/clipped_ratio"] == 1.0
    assert "completions/mean_terminated_length" not in metrics


GREEDY = Sampling(num_generations=1, max_tokens=4, temperature=0.0)


@dataclasses.dataclass
class Answers:
    """What a model returns that answers `n` with `n` letters, or runs on for n above 4, the first question last."""

    asked: list[list[int]] = dataclasses.field(default_factory=list)
    scored: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    order: list[str] = dataclasses.field(default_factory=list)
    width: int | None = None
    rows: int = 0

    def answerer(self, rows: int, width: int | None):
        assert width == self.width
        self.rows = rows
        return self

    def answers(self, requests, sampling: Sampling):
        assert sampling == GREEDY
        for request in requests[1:] + requests[:1]:  # the first question takes longest
            assert request.sample == 0
            (number,) = request.prompt
            self.asked.append(request.prompt)
            self.order.append("answer")
            text = "a" * number
            yield Answered(request, text, [*map(ord, text), 1], number > 4)

    def ahead(self) -> Ahead:
        return Ahead([])

    def reward(self, samples: Samples, early: Early | None = None) -> RewardTable:
        self.order.append("score")
        assert (samples.step, samples.num_generations, samples.max_tokens) == (7, 1, 4)
        assert samples.token_lengths == [len(text) + 1 for text in samples.completions]
        asked = [question.question for question in samples.questions]
        self.scored.extend(zip(samples.prompts, samples.completions, asked, strict=True))
        return RewardTable([float(len(completion)) for completion in samples.completions], {})


class EvenIsRight:
    def score(self, completion: str, question: Question) -> float:
        assert len(completion) == int(question.question)  # each answer beside its own question
        return 1.0 if len(completion) % 2 == 0 else 0.75


def questions(count: int) -> PromptSet:
    numbers = range(1, count + 1)
    return PromptSet([Question(str(n), "") for n in numbers], [f"<{n}>" for n in numbers], [[n] for n in numbers], 0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_every_question_counts_once_however_they_are_batched(batch_size):
    model = Answers()
    evaluator = Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=batch_size)
    result = evaluator.run(model, 7)
    # Close to right is not right.
    assert (result.accuracy, result.reward, result.truncated) == (2 / 5, 3.0, 1 / 5)
    assert model.scored == [(f"<{n}>", "a" * n, str(n)) for n in (2, 3, 4, 5, 1)]
    assert model.rows == batch_size


def test_answers_are_scored_as_they_come():
    """Not one by one, and not at the end, when the device is idle: each batch when the next one is drawn."""
    model = Answers()
    Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=2).run(model, 7)
    assert model.order == ["answer"] * 4 + ["score", "answer", "score", "score"]


def test_a_mean_does_not_depend_on_the_order_of_the_answers():
    """In the order in which they come the sum of these is another number in its last digit."""
    worth = {1: 1e16, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
    model = Answers()
    model.reward = lambda samples, early=None: RewardTable([worth[len(text)] for text in samples.completions], {})
    result = Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=3).run(model, 7)
    assert result.reward == np.mean(list(worth.values()))
    assert result.reward != np.mean([worth[number] for number in (2, 3, 4, 5, 1)])


def test_rows_that_a_reward_has_not_scored_are_left_out_of_its_mean():
    model = Answers()
    model.reward = lambda samples, early=None: RewardTable([9.0] * len(samples), {}, skipped=frozenset({0}))
    result = Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=5).run(model, 7)
    assert (result.accuracy, result.reward, result.truncated) == (2 / 5, 9.0, 1 / 5)
    model.reward = lambda samples, early=None: RewardTable([9.0] * len(samples), {}, skipped=frozenset(range(5)))
    result = Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=5).run(model, 7)
    assert (result.accuracy, result.reward) == (2 / 5, None)
    assert "eval/reward" not in result.metrics("eval/")  # 0 could be the best of a run whose rewards are penalties


def test_a_task_that_the_rewards_cannot_score_has_no_reward():
    model = Answers(width=9)
    further = {"name": "hard", "width": 9, "rewarded": False}
    asked = Evaluator(prompts=questions(5), task=EvenIsRight(), sampling=GREEDY, batch_size=5, **further)
    result = asked.run(model, 7)
    assert model.scored == []
    assert result.metrics(asked.prefix) == {"eval/hard/accuracy": 2 / 5, "eval/hard/truncated": 1 / 5}


def test_groups_that_are_left_out_are_in_no_mean_of_the_reward():
    rewards = RewardTable(
        [1.0, 3.0, 9.0, 9.0], {"own": [1.0, 3.0, None, 9.0]}, {}, frozenset({2, 3}), {"own/errors": 1}
    )
    assert reward_metrics(rewards, num_generations=2) == {
        "reward": 2.0,
        "reward_std": pytest.approx(2**0.5),
        "frac_reward_zero_std": 0.0,
        "rewards/own/errors": 1,
        "rewards/skipped_groups": 1,
        "rewards/own/mean": pytest.approx(13 / 3),
        "rewards/own/std": pytest.approx(np.std([1, 3, 9], ddof=1)),
    }
    one_by_one = reward_metrics(rewards, 2, np.array([True, True]))
    assert one_by_one["frac_reward_zero_std"] == 1.0
    everything = dataclasses.replace(rewards, skipped=frozenset(range(4)))
    assert "reward" not in reward_metrics(everything, num_generations=2)


def test_names_of_an_evaluation():
    metrics = Evaluation(accuracy=0.5, reward=1.25, truncated=0.125, seconds=2.0).metrics("eval/")
    assert metrics == {"eval/accuracy": 0.5, "eval/reward": 1.25, "eval/truncated": 0.125}


@pytest.mark.parametrize(
    ("wanted", "num_questions", "devices", "size"),
    [(64, 128, 1, 64), (64, 10, 1, 10), (64, 10, 4, 12), (5, 100, 2, 6)],
)
def test_a_batch_is_shared_evenly_by_the_devices(wanted, num_questions, devices, size):
    assert batch_size_for(wanted, num_questions, devices) == size

"""The evaluations of a run on several tasks: what is asked, what is handed on, and what they come to."""

from __future__ import annotations

import pytest

from tunix_grpo.config import further_tasks
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.answering import Answered
from tunix_grpo.grpo.evaluations import Evaluated, Evaluations, HeldOut, build_evaluations
from tunix_grpo.rewards.ahead import Ahead, Early
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.tasks.builders import build_further_task
from tunix_grpo.text.prompt_set import PromptSet

HARD = ("model=tiny", "+task@evaluation.tasks.hard=arithmetic")


def asked(name: str, lengths: list[int], **columns: object) -> Evaluated:
    """A task with a question for each prompt of so many tokens, whose answer is 1."""
    questions = [Question(f"{name} {n}", "1", columns or None) for n in range(len(lengths))]
    texts = [question.question for question in questions]
    return Evaluated(ExactTask(name, [], questions), PromptSet(questions, texts, [[7] * n for n in lengths], 0))


class Model:
    """Answers every question with 1 and notes how wide prompts are; its reward is the number of its answers."""

    def __init__(self) -> None:
        self.widths: list[tuple[int, int | None]] = []

    def answerer(self, rows: int, width: int | None = None):
        self.widths.append((rows, width))
        return self

    def answers(self, requests, sampling):
        return (Answered(request, "<answer>1</answer>", [1], False) for request in requests)

    def ahead(self) -> Ahead:
        return Ahead([])

    def reward(self, samples: Samples, early: Early | None = None) -> RewardTable:
        return RewardTable([float(len(samples))] * len(samples), {})


class Place:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self.heard.append((step, metrics))


def built(config, own: Evaluated, rewards=(), **further: Evaluated) -> Evaluations:
    return build_evaluations(config, [], HeldOut(own, further), rewards, width=16, data_parallel=1)


def test_every_task_is_asked_and_all_is_handed_on_together(compose):
    config = compose(*HARD, "evaluation.batch_size=4", "generation.max_prompt_length=100")
    further = {"hard": asked("hard", [20, 3]), "short": asked("short", [3])}
    evaluations, model, places = built(config, asked("own", [3] * 5), **further), Model(), (Place(), Place())
    evaluations.run(model, 7, *places)
    # Wider prompts than those of training have a program of their own; the run's own are as they were.
    assert model.widths == [(4, None), (2, 32), (1, 16)]
    ((step, metrics),) = places[0].heard
    assert places[1].heard == places[0].heard
    seconds = metrics.pop("timing/eval")
    assert (step, seconds > 0) == (7, True)
    assert metrics == {
        "eval/accuracy": 1.0,
        "eval/reward": (4 * 4 + 1) / 5,
        "eval/truncated": 0.0,
        "eval/hard/accuracy": 1.0,
        "eval/hard/reward": 2.0,
        "eval/hard/truncated": 0.0,
        "eval/short/accuracy": 1.0,
        "eval/short/reward": 1.0,
        "eval/short/truncated": 0.0,
    }
    assert evaluations.rows == [{"step": 7, **metrics}]
    assert evaluations.accuracy() == 1.0


@pytest.mark.parametrize(("asked_before", "kept"), [(0, False), (1, False), (2, False), (3, True)])
def test_an_evaluation_that_is_cut_off_leaves_nothing(compose, asked_before, kept):
    """It is asked between the batches: twice within the first task, once before the second, never after the last."""
    config = compose(*HARD, "evaluation.batch_size=2", "generation.max_prompt_length=100")
    evaluations = built(config, asked("own", [3] * 5), hard=asked("hard", [3]))
    place, answers = Place(), iter([False] * asked_before + [True])
    assert evaluations.run(Model(), 7, place, stop=lambda: next(answers)) is kept
    assert (len(evaluations.rows), len(place.heard)) == (kept, kept)


def test_a_task_without_what_the_rewards_read_is_measured_without_them(compose, caplog):
    reward = Reward("easy", 1.0, lambda samples: [0.0] * len(samples), columns=("level",))
    tasks = {"own": asked("own", [3], level=1), "hard": asked("hard", [3])}
    evaluations, place = built(compose(*HARD), rewards=[reward], **tasks), Place()
    evaluations.run(Model(), 1, place)
    assert {"eval/reward", "eval/hard/accuracy"} <= place.heard[0][1].keys()
    assert "eval/hard/reward" not in place.heard[0][1]
    (message,) = caplog.messages
    assert message.startswith("evaluation.tasks.hard: eval/hard/reward is not measured: the reward easy takes 'level'")
    with pytest.raises(UserError, match="evaluation.metric=eval/hard/reward: the reward easy takes 'level'"):
        built(compose(*HARD, "evaluation.metric=eval/hard/reward"), rewards=[reward], **tasks)


def test_what_evaluations_come_to_in_the_closing_summary(compose):
    evaluations = built(compose(*HARD), asked("own", [3]), hard=asked("hard", [3]))
    assert evaluations.closing_rows([]) == [("accuracy on hard", "not measured")]
    assert (evaluations.accuracy(), evaluations.best_step(), evaluations.end()) == (None, None, None)
    evaluations.rows.append({"step": 0, "eval/accuracy": 0.9, "eval/hard/accuracy": 0.125})
    assert evaluations.closing_rows([]) == [("accuracy on hard", "12.5% before")]
    assert evaluations.best_step() is None  # the model before the first update is no step
    evaluations.rows.append({"step": 10, "eval/accuracy": 0.75, "eval/hard/accuracy": 0.25})
    evaluations.rows.append({"step": 20, "eval/accuracy": 0.5, "eval/hard/accuracy": 0.5})
    hard = ("accuracy on hard", "12.5% before, 50.0% after step 20")
    assert evaluations.closing_rows([10, 20]) == [hard, ("best step", "10, eval/accuracy 0.75; its checkpoint is kept")]
    assert evaluations.closing_rows([20]) == [hard, ("best step", "10, eval/accuracy 0.75")]  # an older version's
    evaluations.rows.append({"step": 30, "eval/accuracy": 0.75, "eval/hard/accuracy": 0.5})
    assert len(evaluations.closing_rows([30])) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["+task@evaluation.tasks.mine=jsonl", "evaluation.tasks.mine.path=/no/task.path"],
            "evaluation.tasks.mine.path=/no/task.path does not exist; give a file or folder that does",
        ),
        (
            ["+task@evaluation.tasks.mine=arithmetic", "++evaluation.tasks.mine.name=own.py:build"],
            "evaluation.tasks.mine.name=",
        ),
    ],
)
def test_a_mistake_of_a_further_task_names_its_own_keys(compose, tmp_path, words, sentence):
    keys = "max_operand: int, num_questions: int, heldout_fraction: float"
    (tmp_path / "own.py").write_text(f"def build(*, {keys}, seed: int): raise ValueError('none today')")
    ((name, task),) = further_tasks(compose("model=tiny", *words).evaluation.tasks).items()
    with pytest.raises(UserError) as caught:
        build_further_task(f"evaluation.tasks.{name}", task, 0)
    assert str(caught.value).startswith(sentence)
    assert " task.name" not in str(caught.value)

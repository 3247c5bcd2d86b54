"""Graders: the grammar of answers, and math-verify beside it for mathematics beyond numbers."""

import json
import time

import pytest

from helpers.samples import samples_of
from tunix_grpo import workers
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.math import build_math_reward
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.tasks.graders import MathGrader, build_grade
from tunix_grpo.train import train


@pytest.fixture(scope="module")
def grade():
    with workers.closed_at_end():
        yield MathGrader(timeout_s=60.0)


MATHEMATICS = [
    # completion, gold, right by math-verify, right by the grammar
    ("<answer>2\\sqrt{2}</answer>", "\\sqrt{8}", True, False),
    ("\\boxed{\\{2, 1\\}}", "\\{1, 2\\}", True, False),
    ("\\boxed{\\{2, 3\\}}", "\\{1, 2\\}", False, False),
    ("The answer is $(x+1)^2$.", "x^2+2x+1", True, False),
    ("The answer is $(x+1)^2$.", "x^2+x+1", False, False),
    ("\\boxed{(1, 3]}", "(1,3]", True, True),
    ("\\boxed{[1, 3]}", "(1,3]", False, False),
    ("\\boxed{(3,\\infty)\\cup(-\\infty,2)}", "(-\\infty,2)\\cup(3,\\infty)", True, False),
    ("\\boxed{\\frac{\\pi}{2}}", "\\pi/2", True, False),
    ("#### 1/2", "0.5", True, True),  # numbers go by the grammar
    ("<answer>not 5</answer>", "5", False, False),
    ("<answer>five</answer>", "5", True, True),
    ("<think>\\boxed{1}</think> \\boxed{2\\sqrt{2}}", "\\sqrt{8}", True, False),
    ("", "\\sqrt{8}", False, False),
]


@pytest.mark.parametrize(("completion", "gold", "by_math_verify", "by_grammar"), MATHEMATICS)
def test_math_verify_judges_mathematics_beyond_numbers(grade, completion, gold, by_math_verify, by_grammar):
    assert grade(completion, gold) is by_math_verify
    assert build_grade("number", 1.0)(completion, gold) is by_grammar


def test_a_judgement_that_takes_too_long_counts_as_wrong(caplog):
    with workers.closed_at_end():
        grade = MathGrader(timeout_s=1.0)
        assert not grade("\\boxed{9^{9^{9^{9}}}}", "x + 1")
        assert "it took longer than 1 s" in caplog.text
        assert workers.counts()["grader/unanswered"] >= 1


def test_the_reward_is_independent_of_the_task_s_score():
    questions = [Question("Which?", "\\sqrt{8}"), Question("How many?", "3")]
    completions = ["<answer>2\\sqrt{2}</answer>", "<answer>4</answer>"]
    task = ExactTask("t", questions, questions)
    with workers.closed_at_end():
        assert build_math_reward(timeout_s=60.0, workers=2)(samples_of(completions, questions, task)) == [1.0, 0.0]
    assert [task.score(*pair) for pair in zip(completions, questions, strict=True)] == [0.0, 0.0]


def test_what_a_batch_has_no_time_for_is_no_wrong_answer():
    questions, texts = [Question("Which?", "x + 1")] * 3, ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{1 + x}", "x + 1"]
    with workers.closed_at_end():
        reward = build_math_reward(timeout_s=60.0, workers=1)
        assert reward(samples_of(texts[1:], questions[1:])) == [1.0, 1.0]  # starts the program
        hanging, late, by_grammar = reward(samples_of(texts, questions, deadline=time.monotonic() + 1.0))
    assert (hanging.kind, late.kind, by_grammar) == ("timeout", "timeout", 1.0)


def test_the_start_of_the_judge_does_not_count_in_the_limit_of_a_batch():
    with workers.closed_at_end():
        reward = Reward("math", 1.0, build_math_reward(timeout_s=60.0, workers=1), time_limit=0.5, limits_itself=True)
        samples = samples_of(["\\boxed{1 + x}"], [Question("Which?", "x + 1")])
        assert score_completions([reward], samples).parts == {"math": [1.0]}


@pytest.mark.slow
def test_a_run_with_math_verify_counts_what_it_does_not_judge_and_leaves_nothing_running(tmp_path, compose):
    open_before = workers.counts()
    golds = ({"question": f"What is {n} + 1?", "answer": f"\\sqrt{{{n}}}"} for n in range(20))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in golds))
    train(
        compose(
            *("model=tiny", "device=cpu", "task=jsonl", "task.path=data.jsonl", "task.grader=math_verify"),
            *("training.micro_batch_size=2", "training.num_batches=1", "training.log_interval_steps=1"),
            *("grpo.num_generations=2", "generation.max_generation_steps=8", "evaluation.num_questions=4"),
            *("tracker.wandb=false", "tracker.tensorboard=false", "training.checkpoint_dir=checkpoints"),
        )
    )
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [each["grader/unanswered"] for each in metrics if "loss" in each] == [0]
    assert workers.counts() == open_before  # the run's own is closed

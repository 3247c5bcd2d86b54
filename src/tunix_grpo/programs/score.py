"""Tries rewards on completions that there are: what each gives, where they disagree, what is slow, what fails."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from tunix_grpo import workers
from tunix_grpo.config import RewardsConfig
from tunix_grpo.config.score import ScoreConfig
from tunix_grpo.errors import UserError
from tunix_grpo.programs.score_report import show_report, to_json
from tunix_grpo.programs.scored_rows import LETTERS_PER_TOKEN, Rows, Scores, read_rows
from tunix_grpo.rewards.base import Failure, Reward, Samples, Scored
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.calling import outcomes
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.tasks.base import Question, Task

FORM = "<reasoning>{0}</reasoning><answer>{0}</answer>"
"""In which `task.validate` gives gold answers to the rewards."""
MOST_GOLDS = 200


@workers.closed_at_end()
def score(config: ScoreConfig) -> None:
    """Scores what the config names, and prints what came of it.

    Raises:
        UserError: the completions cannot be read, or a reward cannot be built.
    """
    rewards = build_rewards(config.reward)
    rows = read_rows(config)
    require_columns(rewards, rows.samples.task)
    scores = score_rows(rewards, rows, config.batch_size)
    if config.json:
        sys.stdout.write(json.dumps(to_json(scores), indent=1) + "\n")
        return
    source = config.run if config.file is None else config.file
    show_report(scores, f"{len(rows.samples):,} completions of {source}", config.examples)
    if rows.guessed_lengths:
        print(f"  lengths of {rows.guessed_lengths:,} rows are guessed, {LETTERS_PER_TOKEN} letters a token")


def score_rows(rewards: Sequence[Reward], rows: Rows, batch_size: int) -> Scores:
    """Scores rows with every reward, whatever fails.

    Args:
        batch_size: questions a call.
    """
    # A failure is what is looked for: none ends the trial.
    tried = [replace(reward, on_error="zero", on_timeout="zero") for reward in rewards]
    parts: dict[str, list[Scored | Failure]] = {reward.name: [] for reward in tried}
    seconds: dict[str, list[float]] = {reward.name: [] for reward in tried}
    for batch in rows.batches(batch_size):
        samples = replace(rows.samples.rows(batch), step=rows.steps[batch[0]])
        for reward in tried:
            begun = time.perf_counter()
            parts[reward.name] += outcomes(reward, samples)
            seconds[reward.name] += [time.perf_counter() - begun] * len(batch)
    return Scores(places=rows.places, samples=rows.samples, rewards=list(rewards), parts=parts, seconds=seconds)


@workers.closed_at_end()
def score_golds(config: RewardsConfig, task: Task, max_tokens: int) -> None:
    """Prints what the selected rewards give for gold answers, as a model would write them.

    Args:
        max_tokens: at which completions would be cut.

    Raises:
        UserError: a reward cannot be built, or takes a column that the data has not.
    """
    rewards = build_rewards(config)
    require_columns(rewards, task)
    questions = [question for question in [*task.train, *task.heldout] if question.answer.strip()]
    questions = questions[:: max(1, -(-len(questions) // MOST_GOLDS))]
    if not questions:
        raise UserError(f"task.name={task.name}: no question has an answer that rewards could be tried on")
    scores = score_rows(rewards, _golds(questions, task, max_tokens), batch_size=1)
    show_report(scores, f"rewards of {len(questions):,} gold answers in the asked form", examples=0)


def _golds(questions: list[Question], task: Task, max_tokens: int) -> Rows:
    texts = [FORM.format(question.answer) for question in questions]
    samples = Samples(
        prompts=[question.question for question in questions],
        completions=texts,
        questions=questions,
        task=task,
        token_lengths=[-(-len(text) // LETTERS_PER_TOKEN) for text in texts],
        step=0,
        num_generations=1,
        max_tokens=max_tokens,
    )
    places = [f"question {number}" for number in range(1, len(questions) + 1)]
    return Rows(places, samples, [0] * len(questions), len(questions))

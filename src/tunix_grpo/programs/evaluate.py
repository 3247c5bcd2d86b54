"""Says how good a model is on held-out questions, how sure that is, and whether it is better than another one.

A model's answers to a task's questions are a file of lines, which what was done before fills in part. What is left to
do is drawn, scored and added to it batch by batch; from whole files all numbers are computed, so that an evaluation
that was stopped comes to the same as one that was not.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tunix_grpo import workers
from tunix_grpo.config.evaluate import EvaluateConfig
from tunix_grpo.errors import UserError
from tunix_grpo.programs.evaluation.answers import EVALUATION, PICTURE, clear, held, not_written
from tunix_grpo.programs.evaluation.comparing import compared, read_results, result_for
from tunix_grpo.programs.evaluation.drawing import Room
from tunix_grpo.programs.evaluation.picture import write_picture
from tunix_grpo.programs.evaluation.report import Found, show, to_json, write_json, write_questions
from tunix_grpo.programs.evaluation.results import GREEDY, Result
from tunix_grpo.programs.evaluation.subjects import Subject, baseline_of, subjects_of
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.tasks.builders import build_task

_OTHER_MODELS = Path("outputs/tunix-grpo/evaluations")
_log = logging.getLogger(__name__)


class NotGoodEnough(UserError):
    """The model is not as good as the command asks; the program exits with code 3."""

    exit_code = 3


@workers.closed_at_end()
def evaluate(config: EvaluateConfig) -> None:
    """Evaluates what the config names, and leaves the answers and the results in its folder.

    Raises:
        UserError: something that the user can mend; the answers that were there by then are kept.
        NotGoodEnough: as `fail_below` and `fail_if_worse` say; everything has been written.
    """
    rewards = build_rewards(config.reward)
    subjects = subjects_of(config)
    baseline = baseline_of(config, subjects)
    setting = f"baseline={config.baseline}"
    earlier = read_results(baseline, setting) if isinstance(baseline, Path) else None
    tasks = {name: build_task(task, config.seed) for name, task in config.tasks().items()}
    for task in tasks.values():
        require_columns(rewards, task)
    of_task = {name: result_for(earlier, name, config.baseline_step, setting) for name in tasks} if earlier else {}

    folder = _folder(config, subjects)
    with held(folder):
        if config.overwrite:
            clear(folder)
        room = Room(config, folder, tasks, rewards)
        if isinstance(baseline, Subject):
            of_task = {asked.name: room.result(baseline, asked) for asked in room.questions(baseline)}
        found = [
            _found(config, room.result(subject, asked), of_task.get(asked.name))
            for subject in subjects
            for asked in room.questions(subject)
        ]
        content = to_json(found)
        try:
            write_questions(room.details, folder)
            write_picture(found, folder / PICTURE)
            write_json(content, folder / EVALUATION)
        except OSError as error:
            raise not_written(folder, error) from error
    if config.json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        show(found)
    _log.info("written: %s", folder / EVALUATION)
    _judge(config, found)


def _found(config: EvaluateConfig, ours: Result, theirs: Result | None) -> Found:
    if theirs is None:
        return Found(ours, None, None)
    accuracy, setting = config.evaluation.accuracy, f"baseline={config.baseline}"
    return Found(ours, theirs, compared(ours, theirs, accuracy=accuracy, seed=config.seed, setting=setting))


def _folder(config: EvaluateConfig, subjects: Sequence[Subject]) -> Path:
    if config.to is not None:
        return Path(config.to)
    if config.run is not None:
        return Path(config.run) / "evaluations" / ("all-steps" if config.step == "all" else subjects[0].name)
    return (_OTHER_MODELS / subjects[0].name).absolute()


def _judge(config: EvaluateConfig, found: Sequence[Found]) -> None:
    """Raises NotGoodEnough for the first result that is not."""
    for result, _, comparison in found:
        accuracy = _accuracy(result, config.evaluation.accuracy)
        if config.fail_below is not None and accuracy < config.fail_below:
            raise NotGoodEnough(
                f"fail_below={config.fail_below:g}: the {config.evaluation.accuracy} accuracy of {result.model} on "
                f"{result.task} is {accuracy:.3f}"
            )
        if config.fail_if_worse and comparison is not None and comparison.verdict == "worse":
            raise NotGoodEnough(f"fail_if_worse=true: {result.model} on {result.task}: {comparison.sentence}")


def _accuracy(result: Result, accuracy: str) -> float:
    if accuracy == GREEDY:
        return sum(result.greedy) / len(result.greedy)
    return sum(result.right) / (result.samples * len(result.right))

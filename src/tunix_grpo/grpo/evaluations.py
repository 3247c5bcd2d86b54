"""All evaluations of a run: its own task's and further ones, and what follows from them.

The best step is kept, and a run may end early, by the one metric that `evaluation.metric` names.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from tunix_grpo.config import RunConfig, further_tasks
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.evaluation import Answering, Evaluator, batch_size_for
from tunix_grpo.grpo.rollout import greedy_sampling
from tunix_grpo.rewards.base import Reward
from tunix_grpo.rewards.custom import require_columns
from tunix_grpo.run.evaluated import Row, best_first, early_end, evaluation_row, values_of
from tunix_grpo.tasks.base import Task
from tunix_grpo.tasks.builders import build_further_task
from tunix_grpo.text.prompt_set import PromptSet, prompt_set, prompt_width
from tunix_grpo.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
ACCURACY = "eval/accuracy"


class Recording(Protocol):
    """What metrics are handed to: the record of a run, the progress on the screen."""

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None: ...


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A task whose held-out questions are asked, and their prompts."""

    task: Task
    prompts: PromptSet


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """All that a run is evaluated on: its own task, and those of `evaluation.tasks` by name."""

    own: Evaluated
    further: Mapping[str, Evaluated]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluations:
    """What a run is evaluated on, and what all evaluations up to now have shown.

    Attributes:
        evaluators: of the run's own task, then of the further ones.
        rows: one for each evaluation, in their order; `run` adds to them.
        metric: what an evaluation is judged by.
        patience: evaluations in a row without a better one that end the run; None: no number does.
    """

    evaluators: Sequence[Evaluator]
    rows: list[Row]
    metric: str
    patience: int | None

    def run(self, model: Answering, step: int, *places: Recording, stop: Callable[[], bool] | None = None) -> bool:
        """Evaluates a model on every task, and hands the metrics to everything that keeps or shows them.

        Args:
            step: the step that the model is of.
            stop: is asked between batches whether to cut it off.

        Returns:
            False where it was cut off; then nothing is kept of it.
        """
        metrics: dict[str, float] = {}
        seconds = 0.0
        for number, evaluator in enumerate(self.evaluators):
            evaluation = None if number and stop is not None and stop() else evaluator.run(model, step, stop)
            if evaluation is None:
                return False
            metrics |= evaluation.metrics(evaluator.prefix)
            seconds += evaluation.seconds
        metrics["timing/eval"] = seconds
        self.rows.append(evaluation_row(step, metrics))
        for place in places:
            place.log_metrics(step, metrics)
        return True

    def questions(self) -> dict[str, int]:
        """Returns over how many questions each accuracy is counted, by the metric's name."""
        return {f"{evaluator.prefix}accuracy": len(evaluator.prompts) for evaluator in self.evaluators}

    def accuracy(self) -> float | None:
        """Returns the last accuracy on the run's own task; None before the first evaluation."""
        return self.rows[-1][ACCURACY] if self.rows else None

    def best_step(self) -> int | None:
        """Returns the step of the best evaluation after an update, of equals the latest; None before the first."""
        values = {step: value for step, value in self._values().items() if step > 0}
        return best_first(values)[0] if values else None

    def end(self) -> str | None:
        """Returns in words why the run ends early; None where it goes on."""
        return early_end(self.rows, self.metric, self.patience)

    def closing_rows(self, saved: Collection[int]) -> list[tuple[str, str]]:
        """Returns lines of the closing summary: accuracy on further tasks, the best step where it is not the last.

        Args:
            saved: steps that have a checkpoint; earlier versions did not save every best one.
        """
        lines = []
        for evaluator in self.evaluators[1:]:
            found = values_of(self.rows, f"{evaluator.prefix}accuracy")
            ends = dict.fromkeys((min(found), max(found))) if found else {}
            shown = [f"{found[step]:.1%} {f'after step {step}' if step else 'before'}" for step in ends]
            lines.append((f"accuracy on {evaluator.name}", ", ".join(shown) or "not measured"))
        best = self.best_step()
        if best is not None and best != self.rows[-1]["step"]:
            kept = "; its checkpoint is kept" if best in saved else ""
            lines.append(("best step", f"{best}, {self.metric} {self._values()[best]:.4g}{kept}"))
        return lines

    def _values(self) -> dict[int, float]:
        return values_of(self.rows, self.metric)


def held_out_questions(config: RunConfig, task: Task, tokenizer: Tokenizer) -> HeldOut:
    """Builds the prompts of the task's held-out questions, and all of the further tasks.

    Raises:
        UserError: the data of one is missing or wrong, or none of its prompts is short enough.
    """
    own = prompt_set("held-out", task.heldout, tokenizer, config, limit=config.evaluation.num_questions)
    return HeldOut(Evaluated(task, own), further_prompts(config, tokenizer))


def further_prompts(config: RunConfig, tokenizer: Tokenizer) -> dict[str, Evaluated]:
    """Builds the tasks of `evaluation.tasks`, and the prompts of their held-out questions.

    Raises:
        UserError: the data of one is missing or wrong, or none of its prompts is short enough.
    """
    found = {}
    for name, asked in further_tasks(config.evaluation.tasks).items():
        group = f"evaluation.tasks.{name}"
        task = build_further_task(group, asked, config.seed)
        prompts = prompt_set(group, task.heldout, tokenizer, config, config.evaluation.num_questions, asked)
        found[name] = Evaluated(task, prompts)
    return found


def build_evaluations(
    config: RunConfig,
    rows: list[Row],
    held_out: HeldOut,
    rewards: Sequence[Reward],
    *,
    width: int,
    data_parallel: int,
) -> Evaluations:
    """Returns the evaluations of a run.

    Args:
        rows: those of its earlier starts; the ones to come are added.
        held_out: the questions.
        width: tokens that training pads prompts to. Longer prompts of a further task get a program of their own, so
            that no evaluation changes how the training prompts are padded.
        data_parallel: devices that share a batch.

    Raises:
        UserError: evaluations are judged by rewards that cannot score the task.
    """
    settings, sampling = config.evaluation, greedy_sampling(config.generation.max_generation_steps)
    own = held_out.own
    size = batch_size_for(settings.batch_size, len(own.prompts), data_parallel)
    evaluators = [Evaluator(prompts=own.prompts, task=own.task, sampling=sampling, batch_size=size)]
    for name, each in held_out.further.items():
        wider = max(width, prompt_width(config.generation.max_prompt_length, each.prompts))
        evaluators.append(
            Evaluator(
                prompts=each.prompts,
                task=each.task,
                sampling=sampling,
                batch_size=batch_size_for(settings.batch_size, len(each.prompts), data_parallel),
                name=name,
                width=wider,
                rewarded=_can_reward(rewards, each.task, name, settings.metric),
            )
        )
    return Evaluations(evaluators=evaluators, rows=rows, metric=settings.metric, patience=settings.patience)


def _can_reward(rewards: Sequence[Reward], task: Task, name: str, metric: str) -> bool:
    """Says whether a task's data has what the rewards read; where it has not, its reward is not measured."""
    try:
        require_columns(rewards, task)
    except UserError as error:
        if metric == f"eval/{name}/reward":
            raise UserError(f"evaluation.metric={metric}: {error}") from error
        _log.warning("evaluation.tasks.%s: eval/%s/reward is not measured: %s", name, name, error)
        return False
    return True

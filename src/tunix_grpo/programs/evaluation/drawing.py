"""Draws and scores the answers that an evaluation still lacks, and adds them to what there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tunix_grpo.config.evaluate import EvaluateConfig
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.grpo.answering import Answered, Answerer, Request
from tunix_grpo.grpo.evaluation import batch_size_for, behind, samples_of
from tunix_grpo.grpo.rollout import Sampler, greedy_sampling, sampling_of
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.model import Model
from tunix_grpo.programs.evaluation.answers import FOLDER, Answers, Line, prompt_digest
from tunix_grpo.programs.evaluation.asked import Asked, asked_of
from tunix_grpo.programs.evaluation.report import Detail
from tunix_grpo.programs.evaluation.results import Result, result_of
from tunix_grpo.programs.evaluation.subjects import Subject, file_name
from tunix_grpo.rewards.ahead import Ahead
from tunix_grpo.rewards.base import Reward, Samples
from tunix_grpo.rewards.format import EXACT, format_score
from tunix_grpo.rewards.scoring import score_completions
from tunix_grpo.run.devices import Devices, open_devices
from tunix_grpo.tasks.base import Task
from tunix_grpo.text.answers import extract_answer
from tunix_grpo.text.prompt_set import prompt_width
from tunix_grpo.text.tokenizer import model_tokenizer

_SECONDS_BETWEEN_NEWS = 30.0
_log = logging.getLogger(__name__)


class Room:
    """Where models are asked, one after the other; only what is not in the folder yet is drawn.

    Attributes:
        details: the answers of every result that was asked for.
    """

    def __init__(
        self, config: EvaluateConfig, folder: Path, tasks: Mapping[str, Task], rewards: Sequence[Reward]
    ) -> None:
        """
        Args:
            folder: of the answers, which this process holds.
            tasks: by their names in the evaluation.
            rewards: what an answer is worth.
        """
        self.details: list[Detail] = []
        self._config, self._folder, self._tasks, self._rewards = config, folder, tasks, rewards
        self._devices: Devices | None = None
        self._loaded: tuple[Subject, Model] | None = None
        self._asked: dict[tuple[Path, str | None], list[Asked]] = {}

    def questions(self, subject: Subject) -> list[Asked]:
        """Returns the questions of every task, as the model reads them."""
        key = subject.directory, subject.model.tokenizer
        if key not in self._asked:
            self._asked[key] = [self._asked_of(subject, name, task) for name, task in self._tasks.items()]
        return self._asked[key]

    def result(self, subject: Subject, asked: Asked) -> Result:
        """Returns what a model's answers to the questions of a task come to.

        Raises:
            UserError: the folder holds other answers, or a reward fails whose failures stop the program.
        """
        file = self._folder / FOLDER / f"{file_name(subject.name)}.{file_name(asked.name)}.jsonl"
        prompts = {name: prompt_digest(ids) for name, ids in zip(asked.ids, asked.prompts.ids, strict=True)}
        answers = Answers(file, subject.identity() | asked.settings, prompts)
        try:
            self._complete(subject, asked, answers, prompts)
        finally:
            answers.close()
        samples = self._config.evaluation.num_samples
        self.details.append(Detail(subject.name, subject.step, asked, answers.lines, samples))
        seed = self._config.seed
        return result_of(asked, answers.lines, model=subject.name, step=subject.step, samples=samples, seed=seed)

    def _asked_of(self, subject: Subject, name: str, task: Task) -> Asked:
        settings = self._config.tasks()[name]
        vocab_size = read_spec(subject.directory, subject.model.family).vocab_size
        words = settings.template_variables, settings.date
        tokenizer = model_tokenizer(subject.model.tokenizer, subject.directory, vocab_size, *words)
        return asked_of(name, settings, task, tokenizer, self._config)

    def _complete(self, subject: Subject, asked: Asked, answers: Answers, prompts: Mapping[str, str]) -> None:
        """Adds the answers that are missing, the greedy ones first."""
        samples = range(self._config.evaluation.num_samples)
        missing = {
            greedy: [
                Request(place, sample or 0, asked.prompts.ids[place])
                for sample in ([None] if greedy else samples)
                for place, name in enumerate(asked.ids)
                if (name, sample) not in answers.lines
            ]
            for greedy in (True, False)
        }
        total = len(asked) * (1 + len(samples))
        left = sum(map(len, missing.values()))
        if not left:
            _log.info("%s on %s: all %d answers are there", subject.name, asked.name, total)
            return
        known = "" if left == total else f", {total - left:,} are there already"
        _log.info("%s on %s: %d questions, %d answers to draw%s", subject.name, asked.name, len(asked), left, known)
        answerer = self._answerer(subject, asked, total)
        news = _News(f"{subject.name} on {asked.name}", total, total - left)
        batch_size = self._config.evaluation.batch_size
        for greedy, requests in missing.items():
            drawn = answerer.answers(requests, self._sampling(greedy=greedy))
            ahead = Ahead(self._rewards)
            for some in behind(drawn, batch_size, ahead, _name, lambda few: self._samples(few, asked)):
                answers.add(self._scored(some, asked, prompts, ahead, greedy=greedy))
                news.add(len(some))

    def _answerer(self, subject: Subject, asked: Asked, total: int) -> Answerer:
        devices = self._devices = self._devices or open_devices(
            self._config.device, self._config.mesh, self._config.jax_cache
        )
        if self._loaded is None or self._loaded[0] is not subject:
            self._loaded = None  # so that two models are never held at once
            self._loaded = subject, subject.load(devices.mesh)
        sets = [each.prompts for each in self.questions(subject)]
        model, width = self._loaded[1], prompt_width(self._config.generation.max_prompt_length, *sets)
        sampler = Sampler(model, asked.tokenizer, devices.mesh, prompt_width=width, seed=self._config.seed)
        rows = batch_size_for(self._config.evaluation.batch_size, total, devices.data_parallel)
        return sampler.answerer((model.trained, model.frozen), rows)

    def _sampling(self, *, greedy: bool) -> Sampling:
        generation = self._config.generation
        return greedy_sampling(generation.max_generation_steps) if greedy else sampling_of(generation, 1)

    def _samples(self, answered: Sequence[Answered], asked: Asked) -> Samples:
        most = self._config.generation.max_generation_steps
        return samples_of(answered, asked.prompts, asked.task, max_tokens=most)

    def _scored(
        self, answered: Sequence[Answered], asked: Asked, prompts: Mapping[str, str], ahead: Ahead, *, greedy: bool
    ) -> Iterable[Line]:
        """Returns answers with what they are worth; as in a run's evaluations each is a group of its own."""
        places = [each.request.question for each in answered]
        samples = self._samples(answered, asked)
        table = score_completions(self._rewards, samples, ahead.values(list(map(_name, answered))))
        for row, (each, place) in enumerate(zip(answered, places, strict=True)):
            score = asked.task.score(each.text, samples.questions[row])
            form = None if asked.form is None else format_score(each.text, asked.form, samples.prompts[row]) == EXACT
            yield Line(
                question=place,
                question_id=asked.ids[place],
                sample=None if greedy else each.request.sample,
                prompt=prompts[asked.ids[place]],
                completion=each.text,
                answer=extract_answer(each.text),
                length=samples.token_lengths[row],
                truncated=each.truncated,
                score=score,
                right=score == 1.0,
                in_form=form,
                rewards={name: part[row] for name, part in table.parts.items()},
                reward=None if row in table.skipped else table.total[row],
            )


class _News:
    """Says now and then how far an evaluation is."""

    def __init__(self, what: str, total: int, done: int) -> None:
        self._what, self._total, self._done, self._said = what, total, done, time.monotonic()

    def add(self, count: int) -> None:
        """Notes that so many more answers are there."""
        self._done += count
        if time.monotonic() - self._said >= _SECONDS_BETWEEN_NEWS:
            self._said = time.monotonic()
            _log.info("%s: %d of %d answers", self._what, self._done, self._total)


def _name(answered: Answered) -> tuple[int, int]:
    return answered.request.question, answered.request.sample

"""What is asked: the held-out questions of a task, as a model reads them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from tunix_grpo.config import GenerationConfig, TaskConfig, selected_rewards
from tunix_grpo.config.evaluate import EvaluateConfig
from tunix_grpo.files import Json
from tunix_grpo.rewards.format import ASKED, Form, form_of
from tunix_grpo.run.identity import reward_files, without_folders
from tunix_grpo.tasks.base import HASH_BYTES, Question, Task, question_hash
from tunix_grpo.text.prompt_set import PromptSet, prompt_set
from tunix_grpo.text.prompts import SYSTEM_PROMPT, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class _Asking:
    """The settings that make prompts of questions."""

    task: TaskConfig
    generation: GenerationConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """The questions of one task.

    Attributes:
        name: of the task in this evaluation.
        task: says whether an answer is right.
        prompts: of Q questions.
        ids: Q names of the questions, the same wherever they are asked.
        tokenizer: that made the prompts.
        form: that answers are asked to have; None: none is asked for.
        settings: that answers depend on, the model's aside.
    """

    name: str
    task: Task
    prompts: PromptSet
    ids: list[str]
    tokenizer: Tokenizer
    form: Form | None
    settings: dict[str, Json]

    def __len__(self) -> int:
        """Returns Q."""
        return len(self.ids)


def asked_of(name: str, settings: TaskConfig, task: Task, tokenizer: Tokenizer, config: EvaluateConfig) -> Asked:
    """Returns the held-out questions of a task for the models of a tokenizer.

    Raises:
        UserError: no question can be asked.
    """
    limit = config.evaluation.num_questions
    prompts = prompt_set(f"held-out {name}", task.heldout, tokenizer, _Asking(settings, config.generation), limit)
    return Asked(
        name=name,
        task=task,
        prompts=prompts,
        ids=question_ids(prompts.questions),
        tokenizer=tokenizer,
        form=_form(settings, config),
        settings=_settings(settings, config),
    )


def question_ids(questions: Sequence[Question]) -> list[str]:
    """Returns a name for each question, which depends on its words alone; equal questions are numbered."""
    seen: Counter[str] = Counter()
    ids = []
    for question in questions:
        digest = f"{question_hash(question.whole()):0{2 * HASH_BYTES}x}"
        seen[digest] += 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def _form(task: TaskConfig, config: EvaluateConfig) -> Form | None:
    """Returns the form of reward.format where it is selected, else the one that the system prompt asks for."""
    chosen = selected_rewards(config.reward).get("format")
    if chosen is not None:
        return form_of(chosen.reasoning, chosen.answer)  # pyright: ignore[reportAttributeAccessIssue]
    return ASKED if system_prompt_text(task.system_prompt) == SYSTEM_PROMPT else None


def _settings(task: TaskConfig, config: EvaluateConfig) -> dict[str, Json]:
    rewards = {name: dataclasses.asdict(each) for name, each in selected_rewards(config.reward).items()}
    unread = ("validate", "max_unmatched")
    return without_folders(
        {
            **{f"task.{key}": value for key, value in dataclasses.asdict(task).items() if key not in unread},
            **{f"generation.{key}": value for key, value in dataclasses.asdict(config.generation).items()},
            **{f"reward.{name}": settings for name, settings in rewards.items()},
            **reward_files(config.reward),
            "seed": config.seed,
        }
    )

"""Says in words what completions show of learning: once before the first update, and once per kind during a run."""

from __future__ import annotations

import collections
import dataclasses
import logging
from collections.abc import Iterable, Iterator

from tunix_grpo import console
from tunix_grpo.config import Config, selected_rewards
from tunix_grpo.config.rewards import FormatReward
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.replacement import Groups, right_answers
from tunix_grpo.grpo.step import Collected, StepResult
from tunix_grpo.record.facts import Facts, count_facts, largest_reward, over_steps, with_updates
from tunix_grpo.record.findings import Finding, findings
from tunix_grpo.record.notes import Note, Notes
from tunix_grpo.rewards.format import ASKED, EXACT, Form, form_of, format_score
from tunix_grpo.tasks.base import Task

_log = logging.getLogger(__name__)
FIRST_LOOK = "first look"
IN_A_ROW = 10  # steps that are counted together: the groups of a single step may all be equal by chance


class Health:
    """What one run has said of its health; a resumed run begins anew."""

    def __init__(self, config: Config, notes: Notes) -> None:
        """Takes the settings, and where what is said is kept."""
        self._config, self._notes = config, notes
        self._largest = largest_reward(config.reward)
        self._form = wanted_form(config)
        self._said: set[str] = set()
        self._recent: collections.deque[Facts] = collections.deque(maxlen=IN_A_ROW)

    def first_look(self, done: Collected, task: Task) -> None:
        """Shows what the completions of step 1 are like, before any update, as they were sampled first.

        Raises:
            UserError: nothing can be learned from them, and training.first_look=stop.
        """
        wanted = self._config.training.first_look
        if wanted == "off":
            return
        first = done.sampled
        counted = count_facts(first.rollout, first.rewards, first.batch.num_generations, self._largest)
        facts = _looked_at(counted, first, task, self._form)
        found = findings(facts, self._config)
        hopeless = [finding for finding in found if finding.hopeless]
        rows = first_look_rows(facts, hopeless)
        console.start_table(rows, f"{FIRST_LOOK}, before the first update")
        counts = Finding("counts", logging.INFO, False, "; ".join(f"{name}: {value}" for name, value in rows))
        self._keep(1, FIRST_LOOK, counts)
        reason = hopeless[0] if wanted == "stop" and hopeless else None
        self._say(1, FIRST_LOOK, (finding for finding in found if finding is not reason))
        if reason is not None:
            self._keep(1, FIRST_LOOK, reason)
            raise UserError(f"{reason.sentence}; training.first_look=warn trains all the same")

    def note(self, step: int, done: StepResult) -> None:
        """Says what holds over the last steps, those of broken numbers aside, and has not been said yet.

        Keeps what was said of memory that ran out.
        """
        for sentence in done.no_room:
            self._keep(step, f"step {step}", Finding("out of memory", logging.WARNING, False, sentence))
        if self._config.training.first_look == "off" or done.health.not_finite:
            return
        facts = count_facts(done.rollout, done.rewards, done.batch.num_generations, self._largest)
        self._recent.append(with_updates(facts, done.metrics))
        if len(self._recent) == IN_A_ROW:
            found = findings(over_steps(self._recent), self._config)
            self._say(step, f"steps {step - IN_A_ROW + 1} to {step}", found)

    def _say(self, step: int, where: str, found: Iterable[Finding]) -> None:
        for finding in self._new(found):
            _log.log(finding.level, "%s: %s", where, finding.sentence)
            self._keep(step, where, finding)

    def _keep(self, step: int, where: str, finding: Finding) -> None:
        level = logging.getLevelName(finding.level).lower()
        self._notes.add(Note(step=step, where=where, level=level, name=finding.name, sentence=finding.sentence))

    def _new(self, found: Iterable[Finding]) -> Iterator[Finding]:
        for finding in found:
            if finding.name not in self._said:
                self._said.add(finding.name)
                yield finding


def first_look_rows(facts: Facts, hopeless: list[Finding]) -> list[tuple[str, str]]:
    """Returns the table of the first look: counts, and whether something can be learned from them."""
    return [
        ("right answers", f"{facts.right or 0:,} of {facts.completions:,}"),
        ("truncated", f"{facts.truncated:,} of {facts.completions:,}"),
        ("groups that teach nothing", f"{facts.equal_groups:,} of {facts.groups:,}"),
        ("in the asked form", f"{facts.formed or 0:,} of {facts.completions:,}"),
        ("can it learn", _verdict(facts, hopeless)),
    ]


def _verdict(facts: Facts, hopeless: list[Finding]) -> str:
    differing = facts.groups - facts.equal_groups
    if differing == 0:
        return f"no: {', '.join(finding.name for finding in hopeless)}"
    where = f"within {differing:,} of {facts.groups:,} groups"
    if hopeless:
        return f"not to answer right: no right answer; other rewards differ {where}"
    return f"yes: rewards differ {where}"


def wanted_form(config: Config) -> Form:
    """Returns the form that the format reward wants; the one that the package's system prompt asks for without it."""
    wanted = selected_rewards(config.reward).get("format")
    return form_of(wanted.reasoning, wanted.answer) if isinstance(wanted, FormatReward) else ASKED


def _looked_at(facts: Facts, first: Groups, task: Task, form: Form) -> Facts:
    """Adds what only the texts tell: how many are right, as an evaluation counts, and how many have the asked form."""
    outcomes = right_answers(first.batch, first.rollout, first.rewards, task)
    assert outcomes is not None  # there is a task to ask
    pairs = zip(first.batch.per_completion(first.batch.texts), first.rollout.texts, strict=True)
    formed = sum(format_score(text, form, prompt) == EXACT for prompt, text in pairs)
    return dataclasses.replace(facts, right=int(outcomes.successes.sum()), formed=formed)

"""What is said of a run's completions in words: a table of kinds, each with what must hold and the sentence.

Every sentence holds what was counted and the settings that bear on it; none guesses at a cause.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import NamedTuple

from tunix_grpo.config import Config
from tunix_grpo.record.facts import FOR_THE_ANSWER, Facts, counted_weights
from tunix_grpo.record.ways_out import easier_questions, harder_questions

LOW_ENTROPY = 0.01
"""Nats per token below which next tokens are all but certain: the likeliest has a probability of about 0.999."""


class Finding(NamedTuple):
    """A sentence on what was counted; for the fields see `Kind`."""

    name: str
    level: int
    hopeless: bool
    sentence: str


class Kind(NamedTuple):
    """Something that may be said of a run.

    Attributes:
        name: in two or three words.
        level: of `logging`.
        hopeless: while it holds, a step teaches nothing of what is asked.
        says: returns the sentence, or None where it does not hold.
    """

    name: str
    level: int
    hopeless: bool
    says: Callable[[Facts, Config], str | None]


def findings(facts: Facts, config: Config) -> list[Finding]:
    """Returns everything in the table of kinds that holds."""
    said = [(kind, kind.says(facts, config)) for kind in KINDS]
    return [Finding(kind.name, kind.level, kind.hopeless, text) for kind, text in said if text is not None]


def _no_right_answer(facts: Facts, config: Config) -> str | None:
    if not _none_right(facts, config) or facts.answers_differ:
        return None
    return (
        f"none of the {facts.completions:,} completions is right, and within no group does the reward for the answer "
        f"differ; what can be changed: {_for_right_answers(facts, config)}"
    )


def _only_parts(facts: Facts, config: Config) -> str | None:
    if not _none_right(facts, config) or not facts.answers_differ:
        return None
    return (
        f"none of the {facts.completions:,} completions is right; within {facts.answers_differ:,} of {facts.groups:,} "
        f"groups the reward for the answer differs by parts of the score; what can be changed: "
        f"{_for_right_answers(facts, config)}"
    )


def _none_right(facts: Facts, config: Config) -> bool:
    return facts.right == 0 and any(name in counted_weights(config.reward) for name in FOR_THE_ANSWER)


def _for_right_answers(facts: Facts, config: Config) -> str:
    ways = [easier_questions(config.task), "another model (model.path=DIRECTORY or model.hub_id=OWNER/NAME)"]
    if facts.formed == 0 and config.task.system_prompt is not None:
        ways.append("no request for a form (task.system_prompt=null)")
    if _mostly_cut(facts):
        ways.insert(0, f"longer completions ({_twice_as_long(config)})")
    return ", ".join(ways)


def _at_maximum(facts: Facts, config: Config) -> str | None:
    if facts.at_maximum != facts.completions:
        return None
    return (
        f"all {facts.completions:,} completions got the largest reward there is, so that nothing is left to learn; "
        f"what can be changed: {harder_questions(config.task)}"
    )


def _equal_groups(facts: Facts, config: Config) -> str | None:
    if facts.equal_groups != facts.groups or facts.at_maximum == facts.completions:
        return None
    ways = [f"more completions of each (grpo.num_generations={2 * config.grpo.num_generations})"]
    if config.generation.temperature < 1:
        ways.append("a higher generation.temperature=1.0")
    return (
        f"for each of the {facts.groups:,} prompts all completions got the same reward, so that none is better than "
        f"another: this teaches nothing; what can be changed: {', '.join(ways)}"
    )


def _truncated(facts: Facts, config: Config) -> str | None:
    if not _mostly_cut(facts):
        return None
    limit = config.generation.max_generation_steps
    return (
        f"{facts.truncated:,} of {facts.completions:,} completions were cut at generation.max_generation_steps={limit} "
        f"before they ended; what can be changed: {_twice_as_long(config)}"
    )


def _mostly_cut(facts: Facts) -> bool:
    return facts.truncated > facts.completions / 2


def _twice_as_long(config: Config) -> str:
    return f"generation.max_generation_steps={2 * config.generation.max_generation_steps}"


def _never_formed(facts: Facts, config: Config) -> str | None:
    if facts.formed != 0 or "format" not in counted_weights(config.reward):
        return None
    asked = "" if config.task.system_prompt is None else ", with task.system_prompt=null to ask for none"
    return (
        f"none of the {facts.completions:,} completions has its reasoning and its answer in their tags, as the format "
        f"reward wants; what can be changed: reward.format.weight=0{asked}"
    )


def _low_entropy(facts: Facts, config: Config) -> str | None:
    if facts.updates is None or facts.updates.entropy >= LOW_ENTROPY:
        return None
    beta = config.grpo.beta
    stronger = f"a larger grpo.beta={2 * beta if beta > 0 else 0.02:.2g}"
    return (
        f"the next token was all but certain (entropy {facts.updates.entropy:.2g} nats per token), so that completions "
        f"hardly differ; what can be changed, from the start: a smaller optimizer.learning_rate="
        f"{config.optimizer.learning_rate / 2:.2g} or {stronger}"
    )


def _gradient_clipped(facts: Facts, config: Config) -> str | None:
    limit = config.optimizer.max_grad_norm
    if facts.updates is None or facts.updates.smallest_norm <= limit:
        return None
    smallest, largest = facts.updates.smallest_norm, facts.updates.largest_norm
    return (
        f"every gradient was scaled down to optimizer.max_grad_norm={limit:g}; their norms were {smallest:.2g} to "
        f"{largest:.2g}, and optimizer.max_grad_norm={_rounded_up(largest):g} would have let all pass"
    )


def _ratios_clipped(facts: Facts, config: Config) -> str | None:
    if facts.updates is None or facts.updates.clipped <= 0.5:
        return None
    return (
        f"{facts.updates.clipped:.0%} of the tokens were clipped at grpo.epsilon={config.grpo.epsilon:g} in the last "
        f"update of a step; what can be changed: fewer updates (grpo.num_iterations=1) or a smaller "
        f"optimizer.learning_rate={config.optimizer.learning_rate / 2:.2g}"
    )


def _rounded_up(value: float) -> float:
    """Returns the next number of one digit: 0.7 for 0.62."""
    unit = 10.0 ** math.floor(math.log10(value))
    return math.ceil(value / unit) * unit


KINDS = (
    Kind("no right answer", logging.WARNING, True, _no_right_answer),
    Kind("no right answer, parts of the score", logging.WARNING, False, _only_parts),
    Kind("reward at its maximum", logging.WARNING, True, _at_maximum),
    Kind("all groups equal", logging.WARNING, True, _equal_groups),
    Kind("truncated above a half", logging.WARNING, False, _truncated),
    Kind("never in the asked form", logging.WARNING, False, _never_formed),
    Kind("entropy near zero", logging.WARNING, False, _low_entropy),
    Kind("more than half of the tokens clipped", logging.WARNING, False, _ratios_clipped),
    Kind("every gradient clipped", logging.INFO, False, _gradient_clipped),  # usual at the default limit
)
"""What may be said of a run, in the order in which it is said."""

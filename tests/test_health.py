"""What is said of a run's completions: counts of hand-made steps, and whole runs of a small random model."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tunix_grpo.errors import UserError
from tunix_grpo.record.facts import Facts, Updates, count_facts, largest_reward, over_steps
from tunix_grpo.record.findings import findings
from tunix_grpo.record.health import IN_A_ROW
from tunix_grpo.record.notes import HEALTH
from tunix_grpo.record.ways_out import easier_questions
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.train import train

# Two groups of four: one right answer in the first, one whole form in each, nothing cut.
GOOD = Facts(completions=8, groups=2, equal_groups=0, answers_differ=1, truncated=1, at_maximum=1, right=1, formed=2)
CALM = Updates(entropy=0.3, smallest_norm=0.05, largest_norm=0.4, clipped=0.02)


def changed(**fields) -> Facts:
    return dataclasses.replace(GOOD, **fields)


def updated(**fields) -> Facts:
    return changed(right=None, formed=None, updates=CALM._replace(**fields))


NO_RIGHT = {"right": 0, "at_maximum": 0, "answers_differ": 0}
CASES = [
    # facts, settings, names of what is said, what the sentences hold
    (GOOD, [], [], []),
    (updated(), [], [], []),
    (
        changed(**NO_RIGHT),
        [],
        ["no right answer"],
        ["none of the 8 completions", "task.max_operand=10)", "model.path="],
    ),
    (changed(**NO_RIGHT, formed=0), [], ["no right answer", "never in the asked form"], ["task.system_prompt=null"]),
    (
        changed(**NO_RIGHT),
        ["task=reasoning_gym"],
        ["no right answer"],
        ['"task.settings={min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}"'],
    ),
    (changed(**NO_RIGHT), ["task=reasoning_gym", "task.dataset=leg_counting"], ["no right answer"], ["task.level=0"]),
    (
        changed(right=0, at_maximum=0),
        [],
        ["no right answer, parts of the score"],
        ["differs by parts of the score", "1 of 2"],
    ),
    (
        changed(**NO_RIGHT, truncated=8),
        [],
        ["no right answer", "truncated above a half"],
        ["what can be changed: longer completions (generation.max_generation_steps=1024), easier questions"],
    ),
    # Nobody asks for right answers.
    (changed(**NO_RIGHT), ["reward=[format]"], [], []),
    (changed(**NO_RIGHT), ["reward.correctness.weight=0"], [], []),
    (
        changed(equal_groups=2, answers_differ=0),
        ["generation.temperature=0.5"],
        ["all groups equal"],
        ["grpo.num_generations=8", "generation.temperature=1.0"],
    ),
    (changed(equal_groups=2, at_maximum=8), [], ["reward at its maximum"], ["task.max_operand=1000"]),
    (changed(equal_groups=2, at_maximum=None), [], ["all groups equal"], ["2 prompts"]),
    (changed(truncated=4), [], [], []),
    (
        changed(truncated=5),
        ["generation.max_generation_steps=64"],
        ["truncated above a half"],
        ["5 of 8", "cut at generation.max_generation_steps=64", "generation.max_generation_steps=128"],
    ),
    (
        changed(formed=0),
        ["task.system_prompt=null"],
        ["never in the asked form"],
        ["what can be changed: reward.format.weight=0"],
    ),
    (changed(formed=0), ["reward=[correctness]"], [], []),
    (updated(entropy=0.004), ["grpo.beta=0"], ["entropy near zero"], ["0.004 nats", "grpo.beta=0.02"]),
    (updated(clipped=0.6), [], ["more than half of the tokens clipped"], ["60% of the tokens", "grpo.epsilon=0.2"]),
    (
        updated(smallest_norm=0.11, largest_norm=0.62),
        [],
        ["every gradient clipped"],
        ["0.11 to 0.62", "optimizer.max_grad_norm=0.7 would"],
    ),
]


@pytest.mark.parametrize(("facts", "settings", "names", "words"), CASES)
def test_what_is_said_of_facts(compose, facts, settings, names, words):
    config = compose("task=arithmetic", *settings)
    said = findings(facts, config)
    assert [finding.name for finding in said] == names
    for word in words:
        assert word in " ".join(finding.sentence for finding in said)


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        (
            ["task.settings={min_terms: 5, max_terms: 5}"],
            "task.settings={min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}",
        ),
        (
            ["task.settings={min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}"],
            "other task.settings={NAME: VALUE}, or another task.dataset=NAME",
        ),
        (["task.dataset=leg_counting", "task.level=2"], "task.level=0"),
        (["task.dataset=leg_counting", "task.level=0"], "other task.settings"),
        (["task.dataset=leg_counting", "task.settings={min_animals: 1, max_animals: 3}"], "other task.settings"),
        (["task.mixture={chain_sum: 1, leg_counting: 1}"], "another task.mixture"),
    ],
)
def test_easier_questions_are_not_those_that_are_asked(compose, settings, way):
    assert way in easier_questions(compose("task=reasoning_gym", *settings).task)


def table(total, **parts) -> RewardTable:
    return RewardTable(list(total), {name: list(values) for name, values in parts.items()})


def rollout(truncated) -> SimpleNamespace:
    return SimpleNamespace(truncated=np.array(truncated))


def test_counts_of_a_step_made_by_hand():
    rewards = table([1.5, 0.5, 0.0, 0.0], correctness=[1, 0, 0, 0], format=[1, 1, 0, 0])
    facts = count_facts(rollout([True, False, True, True]), rewards, 2, largest=1.5)
    assert facts == Facts(completions=4, groups=2, equal_groups=1, answers_differ=1, truncated=3, at_maximum=1)
    assert count_facts(rollout([False] * 4), table([0.1 + 0.2] * 4), 2, largest=0.3).at_maximum == 4
    assert count_facts(rollout([False] * 4), table([9.0] * 4), 2, largest=None).at_maximum is None


def test_several_steps_count_as_one():
    first = updated(entropy=0.2, smallest_norm=0.3, largest_norm=0.3, clipped=0.0)
    second = dataclasses.replace(updated(entropy=0.4, smallest_norm=0.1, largest_norm=0.1, clipped=0.5), truncated=7)
    both = over_steps([first, second])
    assert (both.completions, both.groups, both.truncated, both.at_maximum) == (16, 4, 8, 2)
    assert both.updates == pytest.approx((0.3, 0.1, 0.3, 0.25))


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        ((), 1.5),
        (("reward=[correctness]", "reward.correctness.weight=2"), 2.0),
        (("reward.format.weight=-0.5",), 1.0),
        (("reward=[correctness,overlong]",), 1.0),
        (("reward=[correctness,overlong]", "reward.overlong.weight=-2"), 3.0),
        (("reward=[correctness,http]", "reward.http.url=http://localhost/"), None),
        (("reward.custom.path=mine.py", "reward.custom.function=mine"), None),
        (("reward.custom.path=mine.py", "reward.custom.function=mine", "reward.custom.weight=0"), 1.5),
    ],
)
def test_the_largest_reward_is_known_of_the_packages_own(compose, tmp_path, settings, largest):
    (tmp_path / "mine.py").write_text("def mine(completions, **columns): return [0.0] * len(completions)\n")
    assert largest_reward(compose(*settings).reward) == largest


RUN = (
    "model=tiny",
    "task=arithmetic",
    "task.num_questions=300",
    "device=cpu",
    "training.micro_batch_size=2",
    "evaluation.num_questions=2",
    "grpo.beta=0",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
    "tracker.report=false",
    "reward=[correctness]",
    "generation.max_generation_steps=2",  # too short for any answer
    "checkpoint_dir=checkpoints",
)
HOPELESS = "none of the 8 completions is right"


@pytest.fixture
def started(compose, two_layer_model, caplog, capsys):
    """Trains with RUN and more settings; gives what was printed and what was logged of the run's health."""

    def start(*overrides: str) -> tuple[str, list[str]]:
        caplog.set_level(logging.INFO)
        caplog.clear()
        train(compose(*RUN, *two_layer_model, *overrides))
        return capsys.readouterr().out, [each.message for each in caplog.records if each.name.endswith("health")]

    return start


def kept(folder: Path) -> list[str]:
    """Returns what health.jsonl says, in the words of the log; the counts of the first look first."""
    notes = [json.loads(line) for line in (folder / HEALTH).read_text().splitlines()]
    return [f"{note['where']}: {note['sentence']}" for note in notes]


@pytest.mark.long
def test_the_first_look_warns_and_each_kind_is_said_once(started, tmp_path):
    """Over a window and more: all that later steps show was said before the first update."""
    printed, said = started(f"training.num_batches={IN_A_ROW + 1}")
    assert re.search(r"right answers +0 of 8\n +truncated +8 of 8\n +groups that teach nothing +2 of 2", printed)
    assert "can it learn               no: no right answer, all groups equal" in printed
    assert [message[: len("first look: none")] for message in said] == [
        "first look: none",
        "first look: for ",
        "first look: 8 of",
    ]
    assert HOPELESS in said[0] and "generation.max_generation_steps=4" in said[2]
    assert kept(tmp_path)[0].startswith("first look: right answers: 0 of 8; truncated: 8 of 8; ")
    assert kept(tmp_path)[1:] == said
    before = kept(tmp_path)
    assert printed.index("first look, before") < printed.index("step  0/")  # and before the first evaluation
    # The same folder again, further: a run that goes on has no first look.
    printed, said = started(f"training.num_batches={IN_A_ROW + 2}", "training.resume=auto")
    assert "first look" not in printed and said == [] and kept(tmp_path) == before


def test_the_first_look_stops_before_any_update(started, tmp_path, capsys):
    with pytest.raises(UserError, match=rf"^step 1: {HOPELESS}.*; training.first_look=warn trains all the same$"):
        started("training.first_look=stop", "training.num_batches=3")
    assert "right answers" in capsys.readouterr().out
    assert list(tmp_path.glob("checkpoints/actor/*")) == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""  # not even an evaluation
    assert HOPELESS in kept(tmp_path)[-1]


def test_off_may_be_what_yaml_reads_of_it(compose):
    assert compose("training.first_look=false").training.first_look == "off"


@pytest.mark.long
def test_the_first_look_can_be_left_out(started):
    printed, said = started("training.first_look=off", f"training.num_batches={IN_A_ROW}")
    assert "first look" not in printed and said == []


@pytest.mark.long
def test_later_steps_are_said_once(started, tmp_path):
    """A window of steps whose groups are all equal, after a first step whose groups were not."""
    (tmp_path / "fading.py").write_text(
        "calls = []\n"
        "def fading(completions, **columns):\n"
        "    calls.append(len(completions))\n"
        "    return [float(row) if calls.count(8) == 1 else 0.0 for row in range(len(completions))]\n"
    )
    _, said = started(
        f"training.num_batches={2 * IN_A_ROW}",
        "reward=[]",
        "reward.custom.path=fading.py",
        "reward.custom.function=fading",
        "generation.max_generation_steps=12",
    )
    (equal,) = [message for message in said if "all completions got the same reward" in message]
    assert equal.startswith(f"steps 2 to {IN_A_ROW + 1}: for each of the {2 * IN_A_ROW} prompts")

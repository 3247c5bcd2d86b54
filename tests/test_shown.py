"""Completions on the screen: which of a step, and that nothing in them reaches a terminal as a command."""

from __future__ import annotations

import types
import unicodedata

import numpy as np
import pytest

from helpers.terminal import run_on_terminal, visible_lines
from tunix_grpo.console.groups import excerpt, visible
from tunix_grpo.record.shown import shown_groups
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import Question


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain <b>[bold]text[/bold]</b> \\x1b", "plain <b>[bold]text[/bold]</b> \\x1b"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b2J and \x00 and \x7f and \x08", r"\x9b2J and \x00 and \x7f and \x08"),
        ("over\rwritten\r\nnext\ttab", "over\\rwritten\nnext    tab"),
        ("\u202eright to left\u2069\u200b", r"\u202eright to left\u2069\u200b"),
        ("two\u2028lines\u2029 \x85", r"two\u2028lines\u2029 \x85"),
        ("half \udc80 of a pair", r"half \udc80 of a pair"),
        ("Äß 数学\u3000全角 é 🙂 \u05d0", "Äß 数学\u3000全角 é 🙂 \u05d0"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_written_out(text, shown):
    assert visible(text) == shown


def test_no_character_that_moves_or_hides_is_left():
    everything = "".join(map(chr, range(0x11000)))
    assert {unicodedata.category(character) for character in visible(everything)} & {"Cf", "Cs", "Zl", "Zp"} == set()
    assert [character for character in visible(everything) if unicodedata.category(character) == "Cc"] == ["\n"]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("a\nb", ["a", "b"]),
        ("x" * 600, ["x" * 600]),
        ("a" * 1000 + "z" * 1000, ["a" * 300, "[... 1,400 characters ...]", "z" * 300]),
        ("\n".join("abcdefghijklmnop"), [*"abcdef", "[... 4 lines ...]", *"klmnop"]),
    ],
)
def test_of_a_long_text_the_beginning_and_the_end_are_shown(text, lines):
    assert excerpt(text) == lines


def step_of(rewards: list[list[float]], skipped: tuple[int, ...] = ()) -> types.SimpleNamespace:
    """What a step of groups with these rewards leaves; the completion of row n is `text n`."""
    total = [value for group in rewards for value in group]
    numbers, size = range(len(total)), len(rewards[0])

    class Prompts(list):
        num_generations = size
        questions = [Question(f"question {n}", f"gold {n}") for n in range(len(rewards))]

    rollout = types.SimpleNamespace(
        texts=[f"text {n}" for n in numbers],
        lengths=np.arange(10, 10 + len(total)),
        truncated=np.array([n == 1 for n in numbers]),
    )
    table = RewardTable(total, {"format": total, "own": [None] * len(total)}, skipped=frozenset(skipped))
    return types.SimpleNamespace(batch=Prompts(rewards), rollout=rollout, rewards=table)


def test_the_groups_whose_rewards_lie_furthest_apart_are_shown():
    step = step_of([[1, 1, 1], [0, 2, 1], [0.5, 1.5, 0], [5, 0, 0]], skipped=(9, 10, 11))
    first, second = shown_groups(7, step, 2)
    assert first.lines() == [
        "step 7, group 2 of 4",
        "  question  question 1",
        "  answer    gold 1",
        "  best      reward 2 (format 2, own -), 14 tokens",
        "            text 4",
        "  worst     reward 0 (format 0, own -), 13 tokens",
        "            text 3",
    ]
    assert second.title == "step 7, group 3 of 4"
    assert shown_groups(7, step, 0) == []
    assert len(shown_groups(7, step, 9)) == 4


def test_of_a_group_of_equal_rewards_one_completion_is_shown():
    (shown,) = shown_groups(3, step_of([[1, 1], [2, 2]]), 1)
    assert [completion.label for completion in shown.completions] == ["all 2 alike, one"]
    assert "text 0" in shown.lines()[-1]


# Shows a hostile completion while the bar is up, and elsewhere.
PROGRAM = """
import logging, sys
from tunix_grpo.console import Progress, ShownCompletion, ShownGroup
logging.basicConfig(level=logging.INFO, handlers=[logging.FileHandler(sys.argv[1])], format="%(message)s")
text = "\\x1b]0;owned\\x07\\x1b[2J[red]gone[/red]\\n" + "x" * 200
with Progress(3) as progress:
    progress.update(1, {"reward": 0.5})
    group = ShownGroup("step 1, group 1 of 1", "1 + 1?", "2", [ShownCompletion("best", "reward 1", text)])
    progress.show([group])
progress.show([group])
"""
WRITTEN = r"\x1b]0;owned\x07\x1b[2J[red]gone[/red]"


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_hostile_completion_is_text_on_a_terminal_and_in_the_log(tmp_path, terminal):
    log = tmp_path / "train.log"
    output = run_on_terminal(PROGRAM, log, width=60, TERM=terminal)
    assert "\x1b]" not in output and "\x07" not in output
    lines = visible_lines(output)
    assert [line.strip() for line in lines].count(WRITTEN) == 1
    assert sum("x" * 40 in line for line in lines) == (4 if terminal != "dumb" else 1)  # folded beside its label
    assert log.read_text().splitlines()[1:] == [
        "step 1, group 1 of 1",
        "  question  1 + 1?",
        "  answer    2",
        "  best      reward 1",
        f"            {WRITTEN}",
        f"            {'x' * 200}",
    ]

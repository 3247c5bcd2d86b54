"""What is known of the training questions, and the order in which they are asked for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from tunix_grpo.config import DataConfig
from tunix_grpo.grpo.replacement import right_answers
from tunix_grpo.record.ledger import write_ledger
from tunix_grpo.rewards.scoring import RewardTable
from tunix_grpo.tasks.base import ExactTask, Question
from tunix_grpo.text.ledger import MEMORY, Ledger, Outcomes
from tunix_grpo.text.levels import WINDOW, start_levels
from tunix_grpo.text.order import PromptOrder
from tunix_grpo.text.prompt_set import PromptSet

G = 8


def prompts(size: int, levels: list[int] | None = None) -> PromptSet:
    asked = [Question(f"{n}?", str(n), level=levels[n] if levels else None) for n in range(size)]
    return PromptSet(asked, [each.question for each in asked], [[n] for n in range(size)], 0)


def order_of(
    size: int,
    order: str,
    *,
    step_size: int = 4,
    band: Sequence[float] = (0.05, 0.95),
    levels: list[int] | None = None,
) -> PromptOrder:
    questions, ledger = prompts(size, levels), Ledger(size)
    return PromptOrder(
        prompts=questions,
        prompts_per_step=step_size,
        num_generations=G,
        seed=3,
        data=DataConfig(order=order, band=list(band)),
        ledger=ledger,
        levels=start_levels(ledger, questions, prompts(1, levels and levels[:1])),
    )


def answered(order: PromptOrder, step: int, rate: Callable[[int], float] | float) -> list[int]:
    """Asks a step's questions, each of which is solved at its rate, or at that of all; returns them."""
    rows = order.batch(step).rows
    right = np.array([round((rate if isinstance(rate, float) else rate(row)) * G) for row in rows])
    order.note(step, Outcomes(np.array(rows), np.full(len(rows), G), right))
    return rows


def known(tries: int, successes: int) -> float:
    ledger = Ledger(1)
    ledger.note(1, Outcomes(np.array([0]), np.array([tries]), np.array([successes])))
    return float(ledger.rates()[0])


def test_outcomes_count_what_the_task_scores_one_and_leave_out_what_was_not_judged():
    found = Outcomes.of([7, 2], [1.0, 0.5, 1.0, None, 0.0, 0.99])
    assert [column.tolist() for column in (found.rows, found.tries, found.successes)] == [[7, 2], [3, 2], [2, 0]]


def test_right_is_what_the_reward_says_or_else_the_task_and_nobody_is_asked_twice():
    batch = prompts(3).batch([2, 0], 2)
    rollout = SimpleNamespace(texts=[f"<answer>{n}</answer>" for n in (2, 1, 0, 0)])
    task = ExactTask("numbers", [], [])
    scored = RewardTable([0.0] * 4, {"correctness": [0.0, 1.0, 0.0, 0.5]})
    unscored = RewardTable([0.0] * 4, {"format": [1.0] * 4})
    for rewards, asked, successes in ((scored, task, [1, 0]), (unscored, task, [1, 2])):
        found = right_answers(batch, rollout, rewards, asked)
        assert found is not None
        assert [found.rows.tolist(), found.tries.tolist(), found.successes.tolist()] == [[2, 0], [2, 2], successes]
    assert right_answers(batch, rollout, unscored, None) is None


def test_estimates_are_means_of_the_beta_distribution():
    """Two tries decide nothing, eight do, of the usual band."""
    assert [known(0, 0), known(2, 0), known(2, 2), known(8, 2)] == pytest.approx(
        [1 / 2, 0.4 / 2.8, 2.4 / 2.8, 2.4 / 8.8]
    )
    assert known(2, 0) > 0.05 > known(8, 0)
    assert known(2, 2) < 0.95 < known(8, 8)


def test_estimates_forget_and_totals_do_not():
    """After hundreds of failures a question that is solved now is known as one that is soon."""
    ledger = Ledger(2)
    for step in range(1, 51):
        ledger.note(step, Outcomes(np.array([1]), np.array([G]), np.array([0])))
        assert ledger.memory[1] <= MEMORY
    for step in range(51, 54):
        ledger.note(step, Outcomes(np.array([1]), np.array([G]), np.array([G])))
    assert ledger.rates()[1] > 0.4
    assert (ledger.tries[1], ledger.successes[1], ledger.asked[1], ledger.last_step[1]) == (53 * G, 3 * G, 53, 53)
    assert ledger.rates()[0] == 0.5


def test_a_question_that_is_asked_twice_in_a_step_counts_twice():
    ledger = Ledger(1)
    ledger.note(1, Outcomes(np.array([0, 0]), np.array([4, 4]), np.array([1, 2])))
    assert (ledger.tries[0], ledger.successes[0], ledger.asked[0], ledger.memory[0]) == (8, 3, 2, 8)


def test_what_is_saved_gives_the_same_ledger_and_holds_the_questions_asked_alone():
    order = order_of(1000, "band", levels=[0] * 1000)
    for step in range(1, 40):
        answered(order, step, lambda row: row % 3 / 3)
    saved = json.loads(json.dumps(order.ledger.saved()))
    again = Ledger.read(1000, saved)
    for name, value in vars(order.ledger).items():
        np.testing.assert_array_equal(getattr(again, name), value, name)
    assert again.recent and again.level == 0
    assert len(saved["rows"]) == len(saved["tries"]) <= 39 * 4
    assert vars(Ledger.read(3, None)).keys() == vars(Ledger(3)).keys()


def test_uniform_asks_what_it_always_asked_whatever_is_known():
    order, fresh = order_of(30, "uniform"), order_of(30, "uniform")
    for step in range(1, 20):
        rows = answered(order, step, lambda row: row % 2)
        assert rows == fresh.batch(step).rows


@pytest.mark.parametrize("order", ["hard_first", "band"])
def test_the_order_is_a_function_of_seed_step_and_ledger_and_extra_rounds_ask_others(order):
    first, second = order_of(60, order), order_of(60, order)
    for step in range(1, 30):
        asked = [row for extra_round in range(4) for row in first.batch(step, extra_round).rows]
        assert len(set(asked)) == 16
        answered(first, step, lambda row: row % 5 / 4)
        vars(second.ledger).update(vars(Ledger.read(60, first.ledger.saved())))
        assert [second.batch(step + 1, n).rows for n in (2, 0)] == [first.batch(step + 1, n).rows for n in (2, 0)]


@pytest.mark.parametrize("order", ["hard_first", "band"])
def test_a_set_smaller_than_a_step_is_asked_again_in_the_same_step(order):
    rows = order_of(3, order).batch(1).rows
    assert (len(rows), set(rows)) == (4, {0, 1, 2})


def test_hard_first_asks_everything_once_in_a_pass_and_what_is_never_solved_last():
    order = order_of(20, "hard_first")
    passes = []
    for number in range(3):
        steps = range(5 * number + 1, 5 * number + 6)
        passes.append([row for step in steps for row in answered(order, step, lambda row: row % 5 / 4)])
        assert sorted(passes[-1]) == list(range(20))
    kinds = [[row % 5 for row in asked[::4]] for asked in passes]
    assert kinds[0] != sorted(kinds[0])
    assert kinds[1:] == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]]


def test_band_leaves_out_what_teaches_nothing_but_for_a_share_that_is_tried_again():
    order = order_of(100, "band")

    def rate(row: int) -> float:
        return (0.0, 1.0, 0.5, 1.0, 0.0)[row % 5]

    asked = [answered(order, step, rate) for step in range(1, 161)]
    assert {row for rows in asked for row in rows} == set(range(100))
    last = [row for rows in asked[-40:] for row in rows]
    assert sum(rate(row) == 0.5 for row in last) == len(last) * 7 / 8
    outside = [row for row in last if rate(row) != 0.5]
    assert len(set(outside)) == len(outside) == 20
    order.ledger.note(161, Outcomes(np.array(outside[:1]), np.array([G]), np.array([G // 2])))
    later = [row for step in range(162, 182) for row in answered(order, step, 0.5)]
    assert later.count(outside[0]) > 1  # it has come back


def test_band_tries_new_questions_with_half_of_a_step_and_fills_up_with_the_nearest():
    order = order_of(100, "band", step_size=8)
    answered(order, 1, 0.5)
    assert sum(order.ledger.asked[row] == 0 for row in order.batch(2).rows) == 4
    order.ledger.note(2, Outcomes(np.arange(90), np.full(90, G), np.full(90, G)))
    assert sum(order.ledger.asked[row] == 0 for row in order.batch(3).rows) == 2
    outside, everything = order_of(12, "band", step_size=8, band=(0.4, 0.6)), np.arange(12)
    right = np.where(everything < 7, 3, 0)
    outside.ledger.note(1, Outcomes(everything, np.full(12, 12), right))
    assert set(outside.batch(2).rows) > {0, 1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("order", ["uniform", "hard_first", "band"])
def test_levels_go_up_with_success_and_down_without(order):
    levels = [0] * 10 + [1] * 10 + [4] * 10
    order = order_of(30, order, levels=levels)
    seen = []
    for step in range(1, 31):
        assert order.metrics() == {"task/level": order.ledger.level}
        rows = answered(order, step, 1.0 if step <= 15 else 0.0 if step <= 25 else 0.5)
        assert len(set(rows)) == 4
        seen.append({levels[row] for row in rows})
        vars(order.ledger).update(vars(Ledger.read(30, json.loads(json.dumps(order.ledger.saved())))))
    groups = WINDOW // 4
    assert seen == [{0}] * groups + [{1}] * groups + [{4}] * 2 * groups + [{1}] * groups + [{0}] * groups


def test_training_starts_at_the_level_of_the_held_out_questions_or_the_nearest():
    for wanted, start in ((2, 2), (3, 2), (9, 5), (None, 1)):
        ledger = Ledger(3)
        heldout = PromptSet([Question("?", "", level=wanted)], ["?"], [[1]], 0)
        found = start_levels(ledger, prompts(3, [1, 5, 2]), heldout)
        assert found is not None
        assert (found.tolist(), ledger.level) == ([1, 5, 2], start)
    assert start_levels(Ledger(3), prompts(3), prompts(1)) is None


def test_the_file_for_people_holds_what_was_tried(tmp_path):
    write_ledger(Ledger(2), prompts(2), tmp_path)
    assert list(tmp_path.iterdir()) == []
    order = order_of(9, "uniform", levels=[2] * 9)
    rows = answered(order, 5, 0.25)
    write_ledger(order.ledger, order.prompts, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert lines == [
        {"question": f"{n}?", "answer": str(n), "tries": 8, "successes": 2, "last_step": 5, "level": 2}
        for n in sorted(rows)
    ]

"""reasoning_gym with settings of its data sets, levels of their curricula, and mixtures."""

import re

import pytest

from tunix_grpo.tasks.base import TaskError
from tunix_grpo.tasks.gym_settings import make_part, mixture_parts, part_sizes
from tunix_grpo.tasks.reasoning_gym_task import build_reasoning_gym

EASY = {"min_terms": 2, "max_terms": 2, "max_digits": 1}


def build(dataset="chain_sum", level=None, highest_level=None, settings=None, mixture=None, num_questions=40, seed=0):
    return build_reasoning_gym(
        dataset=dataset,
        level=level,
        highest_level=highest_level,
        settings=settings,
        mixture=mixture,
        num_questions=num_questions,
        heldout_fraction=0.2,
        seed=seed,
    )


def test_settings_make_questions_that_a_small_model_can_meet():
    task = build(settings=EASY)
    for question in [*task.train, *task.heldout]:
        assert re.fullmatch(r"\d [+-] \d", question.extra["metadata"]["expression"])
    assert task.score(f"<answer>{task.train[0].answer}</answer>", task.train[0]) == 1.0


def test_a_level_of_the_curriculum_with_a_setting_that_wins_over_it():
    assert make_part("chain_sum", 0, None).settings == {
        "min_terms": 2,
        "max_terms": 2,
        "min_digits": 1,
        "max_digits": 1,
    }
    part = make_part("chain_sum", 3, {"max_digits": 2})
    assert part.settings == {"min_terms": 2, "max_terms": 5, "min_digits": 1, "max_digits": 2}


def test_values_come_in_the_types_of_the_config_class():
    """A tuple is a list in YAML, and a number may be written as text."""
    assert make_part("chain_sum", None, {"max_terms": "3"}).settings == {"max_terms": 3}
    part = make_part("polynomial_multiplication", None, {"variables": ["x", "y"]})
    assert part.settings == {"variables": ("x", "y")}


@pytest.mark.parametrize(
    ("dataset", "level", "settings", "words"),
    [
        (
            "chain_sum",
            None,
            {"min_term": 2},
            "task.settings.min_term: chain_sum has no such setting; did you mean min_terms?",
        ),
        ("chain_sum", None, {"size": 5}, "task.settings.size=5: task.num_questions and the run's seed decide it"),
        ("chain_sum", None, {"seed": 5}, "task.settings.seed=5: task.num_questions and the run's seed decide it"),
        ("chain_sum", None, {"max_terms": "two"}, "task.settings.max_terms=two: Input should be a valid integer"),
        ("chain_sum", None, {"max_terms": [1, 2]}, "task.settings.max_terms=[1, 2]: Input should be a valid integer"),
        (
            "chain_sum",
            None,
            {"min_terms": 9, "max_terms": 3},
            "task.settings={min_terms: 9, max_terms: 3}: chain_sum does not accept it (max_terms must be >= min_terms)",
        ),
        ("chain_sum", 99, None, "task.level=99: the curriculum of chain_sum has the levels 0 to 10"),
        ("acre", 1, None, "task.level=1: acre has no curriculum; give task.settings instead"),
    ],
)
def test_what_the_data_set_does_not_take_is_a_sentence(dataset, level, settings, words):
    with pytest.raises(TaskError) as raised:
        make_part(dataset, level, settings)
    assert str(raised.value).startswith(words)
    assert "\n" not in str(raised.value)


@pytest.mark.long
def test_a_mixture_has_questions_of_every_part_each_with_its_scorer():
    mixture = {
        "chain_sum": 3,
        "easy": {"dataset": "chain_sum", "settings": EASY},
        "spell_backward": {"weight": 1, "level": 0},
    }
    task = build(mixture=mixture, num_questions=56)
    sides = [*task.train, *task.heldout]
    found = [question.extra["part"] for question in sides]
    assert {name: found.count(name) for name in mixture} == {"chain_sum": 32, "easy": 12, "spell_backward": 12}
    assert {question.extra["part"] for question in task.heldout} == set(mixture)
    assert [question.extra["part"] for question in task.train] != sorted(
        question.extra["part"] for question in task.train
    )
    for question in sides:
        assert task.score(f"<answer>{question.answer}</answer>", question) == 1.0
        assert task.score("<answer>no</answer>", question) < 0.5
        if question.extra["part"] == "easy":
            assert len(question.extra["metadata"]["expression"]) == 5
    assert not {q.question for q in task.train} & {q.question for q in task.heldout}


def test_sizes_follow_the_weights_and_add_up():
    parts = mixture_parts({"chain_sum": 1, "leg_counting": 2, "gcd": 0.5})
    assert part_sizes(parts, 76) == [22, 42, 12]  # 2 each, and 70 by weight
    for total in (6, 7, 8, 99, 1000):
        sizes = part_sizes(parts, total)
        assert (sum(sizes), min(sizes) >= 2) == (total, True)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ({}, "task.mixture={}: it has no data set"),
        ({"chain_sum": 0}, "task.mixture.chain_sum=0: the weight must be a number above 0"),
        ({"chain_sum": "much"}, "task.mixture.chain_sum=much: the weight must be a number above 0"),
        ({"chain_sum": {"wieght": 1}}, "task.mixture.chain_sum.wieght: there is no such key; did you mean weight?"),
        ({"chain_sums": 1}, "task.mixture.chain_sums.dataset=chain_sums is not a data set of reasoning_gym; did you"),
        ({"chain_sum": {"settings": {"x": 1}}}, "task.mixture.chain_sum.settings.x: chain_sum has no such setting"),
        ({"chain_sum": {"settings": 3}}, "task.mixture.chain_sum.settings=3: must be names and values"),
        (
            {"chain_sum": {"level": True}},
            "task.mixture.chain_sum.level=True: the curriculum of chain_sum has the levels",
        ),
        (dict.fromkeys(("chain_sum", "gcd", "lcm"), 1), "task.num_questions=5 is too few for the 3 parts"),
    ],
)
def test_mixtures_that_cannot_be_made(mixture, words):
    with pytest.raises(TaskError) as raised:
        build(mixture=mixture, num_questions=5)
    assert str(raised.value).startswith(words)


def test_settings_beside_a_mixture_belong_into_it():
    for given in ({"settings": EASY}, {"level": 1}):
        with pytest.raises(TaskError, match="is of one data set: give it as task.mixture="):
            build(mixture={"chain_sum": 1}, **given)


def test_no_data_set_at_all():
    with pytest.raises(TaskError, match="task.dataset=null and task.mixture=null: no questions"):
        build(dataset=None)


def questions_at(task, level: int) -> list[str]:
    return [question.question for question in task.train if question.level == level]


@pytest.mark.long
def test_levels_that_training_goes_through():
    """Every level has the questions that `task.level` has; the held-out ones are of the first alone."""
    task = build(level=1, highest_level=2, num_questions=61)
    assert {question.level for question in task.train} == {0, 1, 2}
    assert {question.level for question in task.heldout} == {1}
    alone = build(level=2, num_questions=20)
    assert questions_at(task, 2) == [question.question for question in alone.train]
    for question in (*task.train, *task.heldout):
        assert task.score(f"<answer>{question.answer}</answer>", question) == 1.0
    assert not {q.question for q in task.train} & {q.question for q in task.heldout}


def test_levels_that_a_data_set_does_not_accept_are_left_out_in_so_many_words(caplog):
    task = build("caesar_cipher", highest_level=3)
    assert {question.level for question in task.train} == {0, 1}
    assert "level 2 of caesar_cipher is left out: rotation must be in range [1,25]" in caplog.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"highest_level": 11}, "task.highest_level=11: the curriculum of chain_sum has the levels 0 to 10"),
        ({"level": 3, "highest_level": 2}, "task.level=3 and task.highest_level=2: training starts at the first"),
        ({"dataset": "acre", "highest_level": 1}, "task.highest_level=1: acre has no curriculum"),
        ({"dataset": "chain_sums", "highest_level": 1}, "task.dataset=chain_sums is not a data set of reasoning_gym"),
        ({"highest_level": 9, "num_questions": 19}, "task.num_questions=19 is too few for 10 levels; give 20 or more"),
        ({"mixture": {"gcd": 1}, "highest_level": 1}, "task.highest_level=1 is of one data set, and task.mixture has"),
        (
            {"highest_level": 1, "settings": {"min_terms": 9}},
            "task.level=0 and task.settings={min_terms: 9}: chain_sum does not accept it",
        ),
    ],
)
def test_levels_that_cannot_be_gone_through(given, words):
    with pytest.raises(TaskError) as raised:
        build(**given)
    assert str(raised.value).startswith(words)

"""A user's function gets what it asks for, as often as it wants, and may return what TRL's may."""

import asyncio
import textwrap
import time
from dataclasses import replace

import pytest

from helpers.rewards import custom, own_reward, reward_settings
from helpers.samples import samples_of
from tunix_grpo import workers
from tunix_grpo.errors import UserError
from tunix_grpo.record.metrics import is_metric, reward_metrics
from tunix_grpo.rewards.base import RewardError
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.rewards.scoring import RewardTable, score_completions
from tunix_grpo.tasks.base import Question

QUESTIONS = [
    Question("What is 1 + 2?", "3", {"level": 1, "step": "first"}),
    Question("What is 2 + 2?", "4", turns=({"role": "user", "content": "Hi"}, {"role": "user", "content": "2 + 2?"})),
]
# Two completions of each question.
TEXTS = ["3", "three", "4", "the four"]


def samples(**changed):
    pairs = [question for question in QUESTIONS for _ in range(2)]
    given = {"num_generations": 2, "step": 7, "token_ids": [[1], [2, 3], [4], [5, 6]], "token_lengths": [1, 2, 1, 2]}
    return samples_of(TEXTS, pairs, **given | changed)


def table_of(folder, source, **changed) -> RewardTable:
    with workers.closed_at_end():
        return score_completions([own_reward(folder, textwrap.dedent(source), **changed)], samples())


# What is in the file, the settings beside it, what it gives.
FUNCTIONS = {
    "a completion at a time": ("def own(completion, answer): return completion == answer", {}, [1, 0, 1, 0]),
    "its columns": ("def own(completion, level, token_length): return token_length * (level or 0)", {}, [1, 2, 0, 0]),
    "by place": ("def own(completion, prompt, /): return len(completion) + ('1 + 2' in prompt)", {}, [2, 6, 1, 8]),
    "everything": ("def own(completion, **rest): return len(rest)", {}, [5, 5, 3, 3]),
    "lengths of a batch": ("def own(completions, token_lengths): return token_lengths", {}, [1, 2, 1, 2]),
    "TRL's token ids": ("def own(completion_ids, **_): return [sum(ids) for ids in completion_ids]", {}, [1, 5, 4, 11]),
    "TRL's state among others": (
        "def own(completions, **rest): return [rest['trainer_state'].global_step + len(rest['completion_ids'])] * 4",
        {},
        [11] * 4,
    ),
    "TRL's state": ("def own(completions, trainer_state): return [trainer_state.global_step] * 4", {}, [7] * 4),
    "the data's own column": (
        "def own(completions, step): return [1 if value == 'first' else 0 for value in step]",
        {},
        [1, 1, 0, 0],
    ),
    "a group at a time": (
        "def own(completions, answer): return [len(completions) * (text == answer[0]) for text in completions]",
        {"per": "group"},
        [2, 0, 2, 0],
    ),
    "messages": (
        "def own(prompts, completions, **_): return [10 * len(p) + len(c[0]['content']) for p, c in zip(prompts, "
        "completions)]",
        {"messages": True},
        [11, 15, 21, 28],
    ),
    "async": (
        "import asyncio\nasync def own(completions):\n    await asyncio.sleep(0)\n    return map(len, completions)",
        {},
        [1, 5, 1, 8],
    ),
    "async at a time": ("async def own(completion): return len(completion)", {}, [1, 5, 1, 8]),
    "async of a group": ("async def own(completions): return [len(completions)] * 2", {"per": "group"}, [2] * 4),
    "none": ("def own(completion): return None if completion[0] == 't' else 1", {}, [1, None, 1, None]),
    "an object": (
        "class Own:\n    async def __call__(self, completion): return len(completion)\nown = Own()",
        {},
        [1, 5, 1, 8],
    ),
}


@pytest.mark.parametrize(("source", "settings", "values"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_function_gets_what_it_asks_for(tmp_path, source, settings, values):
    assert table_of(tmp_path, source, **settings).parts == {"own": values}


@pytest.mark.long
@pytest.mark.parametrize("name", ["a completion at a time", "a group at a time", "messages", "async at a time", "none"])
def test_an_isolated_function_gives_the_same(tmp_path, name):
    source, settings, values = FUNCTIONS[name]
    assert table_of(tmp_path, source, isolate=True, workers=2, **settings).parts == {"own": values}


@pytest.mark.parametrize("isolate", [False, True])
def test_extras_are_kept_by_name(tmp_path, isolate):
    source = """
        def own(completion, token_length):
            return None if completion == "4" else token_length, {"words": len(completion.split())}
        """
    table = table_of(tmp_path, source, isolate=isolate)
    assert (table.parts["own"], table.extras) == ([1, 2, None, 2], {"own/words": [1, 1, 1, 2]})


def test_extras_of_any_name_are_metrics_and_take_no_other_s_place(tmp_path):
    table = table_of(
        tmp_path,
        """
        def own(completions, log_metric):
            log_metric("accuracy/easy", 0.5)
            return [(1.0, {"mean": 77.0, "": 2.0})] * len(completions)
        """,
    )
    metrics = reward_metrics(table, 2)
    assert all(map(is_metric, metrics))
    extras = {"rewards/own/accuracy_easy": 0.5, "rewards/own/own_mean": 77.0, "rewards/own/_": 2.0}
    assert metrics | extras | {"rewards/own/mean": 1.0} == metrics


def test_a_trl_reward_file_runs_unchanged(tmp_path):
    """Of TRL's own signature, for a conversational data set: with its logs, its state and rows that it leaves out."""
    source = """
        import re

        def own(prompts, completions, completion_ids, trainer_state, answer, log_extra=None, log_metric=None, **kwargs):
            contents = [completion[0]["content"] for completion in completions]
            found = [re.search(r"\\d+", content) for content in contents]
            if log_extra:
                log_extra("extracted_answer", [each.group() if each else "[none]" for each in found])
                log_extra("num_tokens", [len(ids) for ids in completion_ids])
            if log_metric:
                log_metric("found_ratio", sum(each is not None for each in found) / len(found))
            warm = min(1.0, trainer_state.global_step / 10)
            return [warm * (each.group() == gold) if each else None for each, gold in zip(found, answer, strict=True)]
        """
    table = table_of(tmp_path, source, messages=True)
    assert table.parts == {"own": [0.7, None, 0.7, None]}
    assert table.extras == {"own/num_tokens": [1, 2, 1, 2], "own/found_ratio": [0.5, None, None, None]}


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("def own(completion): return 1 / (len(completion) - 5)", {}, "raised ZeroDivisionError: division by zero ("),
        ("def own(completion): return 'x' if len(completion) == 5 else 1", {}, "returned 'x', not a finite number, on"),
        ("def own(completions): return [1.0]", {"per": "group"}, "returned 1 values for a group of 2 completions, on"),
        ("def own(completions): return 5", {"per": "group"}, "returned int for a group of 2 completions, on"),
        ("async def own(completion): raise LookupError(completion)", {}, "raised LookupError: 3 ("),
        (
            "def own(completions, trainer_state): trainer_state.epoch",
            {},
            "raised AttributeError: trainer_state.epoch: ",
        ),
        (
            "def own(completions, log_extra): log_extra('x', [1] * 9)",
            {},
            "raised ValueError: log_extra('x') got 9 values ",
        ),
        ("def own(completions, log_metric): log_metric('x', 'y')", {}, "raised ValueError: log_metric('x') got 'y', "),
    ],
)
@pytest.mark.parametrize("isolate", [False, True])
def test_what_a_function_does_wrong_is_said_alike_wherever_it_runs(tmp_path, source, settings, said, isolate):
    with pytest.raises(RewardError) as raised:
        table_of(tmp_path, source, isolate=isolate, **settings)
    assert str(raised.value).startswith(f"reward own {said}")
    assert " of the question 'What is " in str(raised.value)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_function_that_wants_messages_is_told_how_it_gets_them(tmp_path, isolate):
    source = "def own(completion): return len(completion[0]['content'])"
    with pytest.raises(RewardError, match=r"raised TypeError.*; for lists of .* reward.functions.own.messages=true"):
        table_of(tmp_path, source, isolate=isolate)


def test_completions_of_a_file_have_no_token_ids(tmp_path):
    reward = own_reward(tmp_path, "def own(completions, completion_ids): return [1.0] * 4")
    with pytest.raises(UserError, match="a reward takes completion_ids, which completions from a file lack"):
        score_completions([reward], samples(token_ids=None))


@pytest.mark.parametrize("parameters", ["completions, completion_ids=None", "completion, completion_ids=None"])
def test_completions_of_a_file_do_for_a_function_that_can_be_called_without_ids(tmp_path, parameters):
    of_each = parameters.startswith("completion,")
    reward = own_reward(tmp_path, f"def own({parameters}): return {'1.0' if of_each else '[1.0] * 4'}")
    assert score_completions([reward], samples(token_ids=None)).parts == {"own": [1.0] * 4}


def test_a_function_may_be_awaited_where_a_loop_runs_already(tmp_path):
    """As in a notebook."""

    async def notebook() -> RewardTable:
        return table_of(tmp_path, "async def own(completion): return 1.0")

    assert asyncio.run(notebook()).parts == {"own": [1.0] * 4}


KEEPS = """
    import asyncio, sys, time

    one_at_a_time, loops = asyncio.Semaphore(1), set()

    async def own(completions, trainer_state):
        async with one_at_a_time:
            await asyncio.sleep(0.001)
        loops.add(asyncio.get_running_loop())
        if trainer_state.global_step == 1:
            sys.exit(3)
        if trainer_state.global_step == 2:
            time.sleep(3)
        return [len(loops)] * len(completions)
    """


def test_what_an_async_function_keeps_can_be_used_in_every_call(tmp_path):
    """As a client of a service, or a limit on its requests, which belong to the loop that first used them."""
    reward = own_reward(tmp_path, textwrap.dedent(KEEPS), per="group")
    for step in (7, 8):
        assert score_completions([reward], samples(step=step)).parts == {"own": [1.0] * 4}


@pytest.mark.long
def test_an_async_function_that_ended_or_held_its_loop_gets_another(tmp_path):
    """At step 1 the batch and then each of the four completions end theirs."""
    source = textwrap.dedent(KEEPS).replace("one_at_a_time:", "asyncio.Semaphore(1):")
    reward = own_reward(tmp_path, source, on_error="zero", on_timeout="zero")
    for step, value in ((7, 1), (1, 0), (8, 6), (2, 0), (9, 7)):
        reward = replace(reward, time_limit=0.1 if step == 2 else 30.0)
        assert score_completions([reward], samples(step=step)).parts == {"own": [value] * 4}, step


def test_async_calls_wait_together(tmp_path):
    begun = time.monotonic()
    table_of(tmp_path, "import asyncio\nasync def own(completion):\n    await asyncio.sleep(0.5)\n    return 1.0")
    assert time.monotonic() - begun < 1.5


# --- where functions are found ---


def test_several_functions_have_names_weights_and_what_the_custom_one_has(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text("def one(completion): return 1.0\ndef two(completions): return [2.0] * len(completions)")
    functions = {
        "short": {"path": str(path), "function": "one", "weight": -0.5, "on_error": "zero"},
        "long": {"path": str(path), "function": "two", "weight": 1.0},
    }
    rewards = build_rewards(reward_settings(functions=functions, correctness=2.0, own=custom(path, "two")))
    assert [(each.name, each.weight, each.on_error) for each in rewards] == [
        ("correctness", 2.0, "stop"),
        ("short", -0.5, "zero"),
        ("long", 1.0, "stop"),
        ("two", 1.0, "stop"),
    ]
    table = score_completions(rewards, samples())
    assert table.parts["short"] == [1.0] * 4 and table.parts["long"] == table.parts["two"] == [2.0] * 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("math", r"reward.functions.math: there is a reward of that name \(.*format.*\); give another"),
        ("custom", "reward.functions.custom: there is a reward of that name"),
        ("a-b", "reward.functions.a-b: a name is of letters, digits and _; give another"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(name, said):
    with pytest.raises(UserError, match=said):
        reward_settings(functions={name: {"path": "x.py", "function": "f", "weight": 1.0}})


@pytest.mark.parametrize("isolate", [False, True])
def test_a_dotted_path_is_a_function_of_a_package(tmp_path, monkeypatch, isolate):
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "scores.py").write_text("def size(completion): return len(completion)")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = custom(None, "package_of_mine.scores.size", isolate=isolate)
    with workers.closed_at_end():
        table = score_completions(build_rewards(reward_settings(own=own)), samples())
    assert table.parts == {"size": [1, 5, 1, 8]}


@pytest.mark.parametrize(
    ("dotted", "said"),
    [
        (
            "not_there_at_all.f",
            "reward.custom.function=not_there_at_all.f: not_there_at_all cannot be imported: Module",
        ),
        ("json.dumpz", "reward.custom.function=json.dumpz: there is no such function in json; did you mean dump"),
        ("json.__name__", "reward.custom.function=json.__name__: json.__name__ in json is not a function but str"),
        ("builtins.max", "reward.custom.function=builtins.max: Python does not know which parameters builtins.max"),
    ],
)
def test_a_dotted_path_that_leads_nowhere_is_one_sentence(dotted, said):
    with pytest.raises(UserError) as raised:
        build_rewards(reward_settings(own=custom(None, dotted)))
    assert str(raised.value).startswith(said)

"""Tasks, rewards and trackers from outside the package: a file each, and what is said when it cannot be used."""

import json
from pathlib import Path

import pytest

from tunix_grpo.config import Config, load, plugins
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.overrides import normalise
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.rewards.builders import build_rewards
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.train import train

CONF = Path(__file__).resolve().parent.parent / "conf"
TASK = '''
"""Whether a number is even."""

from tunix_grpo.tasks.base import ExactTask, Question, split_questions


def build(*, limit: int, heldout_fraction: float = 0.25, note: str | None = None, seed: int):
    questions = [Question(f"Is {n} even?", "no" if n % 2 else "yes") for n in range(limit)]
    return ExactTask("parity", *split_questions(questions, heldout_fraction, source="parity", seed=seed))
'''
REWARD = """
def short(completions, answer, **columns):
    return [-len(text) / 100 for text in completions]
"""
REWARD_OPTION = """
short:
  function: {folder}/short.py:short
  weight: 0.2
"""
TRACKER = """
class Notes:
    def __init__(self, output_dir, config):
        self.file = (output_dir / "notes.txt").open("w")
        print(config.task.name, file=self.file)

    def log_metrics(self, step, metrics):
        print(step, sorted(metrics)[0], file=self.file)

    def log_completions(self, step, records):
        print(step, len(records), file=self.file)

    def close(self, *, failed=False):
        self.file.close()
"""
SMALL = (
    "model=tiny",
    "device=cpu",
    "training.micro_batch_size=2",
    "training.num_batches=2",
    "training.log_interval_steps=1",
    "grpo.num_generations=2",
    "generation.max_generation_steps=8",
    "evaluation.num_questions=4",
    "tracker.wandb=false",
    "tracker.tensorboard=false",
)


@pytest.fixture
def outside(tmp_path, monkeypatch) -> Path:
    """A folder with a task, a reward and its yaml, and a tracker; it is the current one."""
    (tmp_path / "parity.py").write_text(TASK)
    (tmp_path / "short.py").write_text(REWARD)
    (tmp_path / "notes.py").write_text(TRACKER)
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "short.yaml").write_text(REWARD_OPTION.format(folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        checked_command_line(["--config-dir", ".", *words], CONF, "config")
    return "\n".join(caught.value.problems)


def config_of(folder: Path, *words: str) -> Config:
    """Returns the config of a command line, as the door makes it."""
    checked = checked_command_line([*words, "--config-dir", str(folder)], CONF, "config")
    return load(composed([*checked[:-2], f"output_dir='{folder}'"], [CONF, folder], "config"))


@pytest.mark.long
def test_a_run_with_a_task_a_reward_and_a_tracker_from_outside(outside, two_layer_model, jax_cache):
    words = [
        "task.name=parity.py:build",
        "task.limit=40",
        "reward=[correctness,short]",
        "tracker.custom=notes.py:Notes",
    ]
    config = config_of(outside, *SMALL, *two_layer_model, *words, "checkpoint_dir=ckpts", f"jax_cache={jax_cache}")
    assert config.task.name == f"{outside}/parity.py:build"
    assert (config.task.limit, config.task.heldout_fraction, config.task.note) == (40, 0.25, None)
    assert train(config).steps == 2
    rows = [json.loads(line) for line in (outside / "completions.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {1, 2}
    for row in rows:
        assert "even?" in row["prompt"] and row["answer"] in ("yes", "no")
        assert row["rewards"]["short"] == pytest.approx(-len(row["completion"]) / 100)
        assert row["reward"] == pytest.approx(row["rewards"]["correctness"] + 0.2 * row["rewards"]["short"])
    notes = (outside / "notes.txt").read_text().splitlines()
    assert notes[0] == f"{outside}/parity.py:build"
    assert [line for line in notes if line.endswith(" 4")] == ["1 4", "2 4"]  # two prompts, two completions each


def test_a_tracker_from_outside_is_made_with_folder_and_config(outside):
    config = config_of(outside, *SMALL, "tracker.custom=notes.py:Notes")
    assert config.tracker.custom == f"{outside}/notes.py:Notes"
    tracker = plugins.resolve(config.tracker.custom, "tracker.custom")(outside, config)
    tracker.log_metrics(3, {"reward": 0.5})
    tracker.close()
    assert (outside / "notes.txt").read_text() == "arithmetic\n3 reward\n"


def test_an_outside_part_may_be_an_option_in_a_folder_of_ones_own(outside):
    (outside / "task").mkdir()
    (outside / "task" / "parity.yaml").write_text("name: parity.py:build\nsystem_prompt: null\nlimit: 12\n")
    task = build_task(config_of(outside, "model=tiny", "task=parity", "task.limit=20").task, 0)
    assert len(task.train) + len(task.heldout) == 20
    rewards = build_rewards(config_of(outside, "model=tiny", "reward=short", "reward.short.weight=3").reward)
    assert [(reward.name, reward.weight) for reward in rewards] == [("short", 3.0)]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["task.name=parity.py:build"],
            "task.limit: has no value, and task.name=parity.py:build needs it; give",
        ),
        (["task.name=parity.py:build", "task.limit=null"], "task.limit=null: task.name=parity.py:build needs it; give"),
        (["task.name=parity.py:build", "task.limit=few"], "task.limit=few: must be a whole number"),
        (["task.name=parity.py:build", "task.limit=9", "+task.limt=3"], "does not read it; did you mean task.limit?"),
        (
            ["task.name=parity.py:build", "task.limit=9", "task.path=x"],
            "task.path=x: task.name=parity.py:build",
        ),
        (["task.name=parity.py:bild"], "no such function in parity.py; did you mean build?; it has"),
        (["task.name=nowhere.py:build"], "task.name=nowhere.py:build: there is no such file; give a Python file"),
        (["task.name=broken.py:build"], "task.name=broken.py:build cannot be run: NameError: name 'oh' is not defined"),
        (
            ["task.name=gsm9k"],
            "task.name=gsm9k: must be one of arithmetic, gsm8k, jsonl, reasoning_gym",
        ),
        (["tracker.custom=notes.py"], "tracker.custom=notes.py: must be FILE.py:NAME"),
        (["tracker.custom=notes.py:Note"], "no such function in "),
        (["reward=[short,shorter]"], "reward=[short,shorter]: there is no reward shorter; did you mean short?"),
        (
            ["reward=short", "reward.short.wieght=1"],
            "reward.short.wieght=1: unknown setting; did you mean reward.short",
        ),
        (["reward=short", "reward.short.weight=much"], "reward.short.weight=much: must be a number"),
        (["reward=short", "reward.short.function=short.py:sort"], "reward.short.function="),
        (["reward=short", "reward.short.weight=0"], "reward.short.weight=0: nothing counts in the total"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_way_out(outside, words, problem):
    (outside / "broken.py").write_text("oh\n")
    assert problem in problems_of("model=tiny", *words)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def build(config, /, *, seed): ...", "build must take settings of its own by name; give it keyword arg"),
        ("def build(*, name: str, seed): ...", "build must take settings of its own by name"),
        ("def build(**settings): ...", "build must take settings of its own by name"),
        ("def build(*, n: 'Nowhere'): ...", "its arguments cannot be read: NameError: name 'Nowhere' is not defined"),
        ("class A: ...\ndef build(*, n: A): ...", "its arguments cannot be read: PydanticSchemaGenerationError"),
        ("build = 3", "build is not a function but int; give a function"),
    ],
)
def test_a_builder_takes_its_settings_by_name(outside, source, problem):
    (outside / "parity.py").write_text(source + "\n")
    assert f"task.name=parity.py:build: {problem}" in problems_of("task.name=parity.py:build")


def test_two_readings_of_a_config_are_equal(outside):
    words = ("model=tiny", "task.name=parity.py:build", "task.limit=9", "reward=short")
    assert config_of(outside, *words) == config_of(outside, *words)


def test_a_builder_that_fails_is_named(outside):
    (outside / "parity.py").write_text("def build(*, limit: int = 3, seed):\n    return 1 // 0\n")
    config = config_of(outside, "model=tiny", "task.name=parity.py:build")
    with pytest.raises(UserError, match=r"parity.py:build raised ZeroDivisionError: .*parity.py:2"):
        build_task(config.task, 0)


def test_a_file_is_run_once_and_again_when_it_has_changed(outside):
    (outside / "count.py").write_text("import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\ndef f(): ...\n")
    import sys

    one, again = (plugins.resolve(f"{outside}/count.py:f", "x") for _ in range(2))
    assert one is again and sys.counted == 1
    with (outside / "count.py").open("a") as file:
        file.write("# changed\n")
    assert plugins.resolve(f"{outside}/count.py:f", "x") is not one
    assert sys.counted == 2


@pytest.mark.parametrize("reference", [*plugins.TASKS.values(), *plugins.REWARDS.values()])
def test_every_part_of_the_package_is_found(reference):
    assert callable(plugins.resolve(reference, "name"))


def test_a_task_of_the_command_line_comes_without_the_keys_of_the_default_one():
    assert normalise(["task.name=a.py:b", "task.n=1"]) == ["task=custom", "task.name=a.py:b", "++task.n=1"]
    assert normalise(["task=arithmetic", "task.name=a.py:b"]) == ["task=arithmetic", "task.name=a.py:b"]
    assert normalise(["+task.n=1", "task.system_prompt=null"]) == ["++task.n=1", "task.system_prompt=null"]

"""The shipped config files and the checks on what they are overridden with."""

import logging
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest

from tunix_grpo.config import Config, further_tasks, load, selected_rewards
from tunix_grpo.config.overrides import check_words, jobs_of, normalise
from tunix_grpo.config.own_code import may_run_own_code
from tunix_grpo.config.suggestions import closest
from tunix_grpo.config.words import assignment, command_with
from tunix_grpo.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
OPTION_FILES = sorted(
    file
    for file in CONF.glob("*/*.yaml")
    if file.parent.name not in ("hydra", "experiment", "hparams_search") and file.stem not in ("base", "custom")
)
HARD = "+task@evaluation.tasks.hard=arithmetic"
EXPERIMENTS = sorted(
    str(file.relative_to(CONF / "experiment").with_suffix("")) for file in CONF.glob("experiment/**/*.yaml")
)
# A recipe is shorter than the usual range of evaluations.
RECIPES_MAY_SAY = "training.eval_interval_steps"
# What an option cannot do without.
NEEDS = {
    "hf": ["model.path=/some/model"],
    "jsonl": ["task.path=/some/file.jsonl"],
    "http": ["reward.http.url=http://localhost:8000"],
    "judge": ["reward.judge.base_url=http://localhost:8000/v1", "reward.judge.model=judge"],
    "length": ["reward.length.target=100"],
    "regex": ["reward.regex.pattern=a"],
    "json_schema": ["reward.json_schema.schema={type: object}"],
}


@pytest.fixture
def compose(compose) -> Callable[..., Config]:
    """Composes the shipped config from words as a user writes them."""
    return lambda *words: compose(*normalise(words))


def flat(config: Config) -> dict[str, object]:
    """Returns a config as dotted keys and values."""

    def walk(section: dict, prefix: str):
        for name, value in section.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(asdict(config), ""))


DEFAULTS = {
    "training.micro_batch_size": 4,
    "training.num_batches": 3738,
    "training.num_epochs": 1,
    "training.gradient_accumulation_steps": 1,
    "training.save_interval_steps": 100,
    "training.eval_interval_steps": 500,
    "training.log_interval_steps": 10,
    "training.max_to_keep": None,
    "training.resume": "auto",
    "seed": 42,
    "device": "cuda",
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-4,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.99,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "optimizer.max_grad_norm": 0.1,
    "scheduler.name": "warmup_cosine",
    "scheduler.warmup_ratio": 0.1,
    "grpo.num_generations": 4,
    "grpo.num_iterations": 1,
    "grpo.beta": 0.08,
    "grpo.epsilon": 0.2,
    "grpo.kl_estimator": "low_var_kl",
    "generation.max_prompt_length": 256,
    "generation.max_generation_steps": 512,
    "generation.temperature": 1.0,
    "generation.top_p": 1.0,
    "generation.top_k": None,
    "model.name": "gemma3_270m",
    "model.hub_id": "google/gemma-3-270m-it",
    "model.lora_rank": 32,
    "model.lora_alpha": 32.0,
    "model.lora_target_modules": "all",
    "model.family": None,
    "task.name": "gsm8k",
    "task.dataset": "openai/gsm8k",
    "tracker.tensorboard": True,
    "tracker.wandb": True,
}


def test_defaults_are_the_documented_ones(compose):
    in_effect = flat(compose())
    assert {key: in_effect[key] for key in DEFAULTS} == DEFAULTS


def test_config_is_made_of_plain_python_values(compose):
    def walk(section):
        for declared in fields(section):
            value = getattr(section, declared.name)
            if declared.name in ("notes", "tasks"):  # the user's own, and what is added
                assert value == {}
            elif is_dataclass(value):
                walk(value)
            elif declared.name == "band":
                assert [type(end) for end in value] == [float, float]
            else:
                assert type(value) in (int, float, bool, str, type(None)), declared.name

    walk(compose())


@pytest.mark.parametrize("file", OPTION_FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_loads_without_a_warning(compose, caplog, file):
    group, option = file.parent.name, file.stem
    compose(f"{group}={option}", *NEEDS.get(option, []))
    assert caplog.messages == []


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_loads_without_a_warning(compose, caplog, experiment):
    is_recipe = experiment.startswith("recipe/")
    compose(f"+experiment={experiment}", *(NEEDS["hf"] if is_recipe else ()))
    assert [said for said in caplog.messages if not (is_recipe and said.startswith(RECIPES_MAY_SAY))] == []


@pytest.mark.parametrize(
    "file",
    [*OPTION_FILES, *(CONF / "experiment" / f"{name}.yaml" for name in EXPERIMENTS)],
    ids=lambda file: f"{file.parent.name}={file.stem}",
)
def test_every_key_of_an_option_has_a_comment(file):
    lines = [line for line in file.read_text().splitlines() if re.match(r" *[a-z_0-9]+: \S", line)]
    assert [line for line in lines if " # " not in line] == []


def test_every_text_that_looks_like_a_number_is_one(compose):
    assert compose().optimizer.learning_rate == 1e-4
    assert compose("optimizer.learning_rate=1e-5").optimizer.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ((), 1e-4),
        (("model.lora_rank=null",), 1e-5),
        (("model=gemma3_4b", "model.lora_rank=8"), 1e-4),
        (("model=tiny",), 3e-4),  # its own
        (("model.lora_rank=null", "optimizer.learning_rate=2e-6"), 2e-6),
    ],
)
def test_the_default_rate_goes_by_what_is_trained(compose, words, rate):
    assert compose(*words).optimizer.learning_rate == rate


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        (
            "quick_test",
            {
                "model.name": "tiny",
                "task.name": "arithmetic",
                "training.num_batches": 10,
                "training.log_interval_steps": 1,
                "device": "auto",
                "tracker.wandb": False,
            },
        ),
        (
            "demo",
            {
                "model.name": "tiny",
                "task.name": "arithmetic",
                "device": "auto",
                "tracker.wandb": False,
            },
        ),
        ("full_training", {"model.name": "gemma3_270m", "training.num_batches": 3738}),
        (
            "memory_constrained",
            {
                "model.name": "gemma3_270m",
                "training.micro_batch_size": 1,
                "training.num_batches": 3738,
            },
        ),
        (
            "high_performance",
            {
                "model.name": "gemma3_4b",
                "training.micro_batch_size": 8,
                "training.num_batches": 10000,
                "training.eval_interval_steps": 1000,
            },
        ),
        (
            "production",
            {
                "model.name": "gemma3_1b",
                "training.micro_batch_size": 4,
                "training.num_batches": 10000,
                "training.save_interval_steps": 100,
            },
        ),
    ],
)
def test_experiments(compose, experiment, expected):
    in_effect = flat(compose(f"+experiment={experiment}"))
    assert {key: in_effect[key] for key in expected} == expected


@pytest.mark.parametrize("experiment", ["quick_test", "demo"])
def test_small_experiments_have_a_checkpoint_folder_per_run(compose, tmp_path, experiment):
    config = compose(f"+experiment={experiment}")
    assert config.checkpoint_dir == str(tmp_path / "checkpoints")
    assert config.training.checkpoint_dir == config.checkpoint_dir


def test_command_line_wins_over_experiment_and_model(compose):
    config = compose(
        "+experiment=quick_test",
        "training.num_batches=20",
        "generation.max_prompt_length=64",
        "task=gsm8k",
    )
    assert config.training.num_batches == 20
    assert config.generation.max_prompt_length == 64
    assert config.generation.max_generation_steps == 16  # from model=tiny
    assert config.task.name == "gsm8k"


def test_the_tiny_model_brings_its_task_unless_one_is_given(compose):
    assert compose("model=tiny").task.name == "arithmetic"
    assert compose("model=tiny").task.system_prompt is None
    assert compose("model=tiny", "task=reasoning_gym").task.name == "reasoning_gym"
    assert compose("model=gemma3_1b", "task=arithmetic").task.system_prompt == "default"


@pytest.mark.parametrize(
    ("alias", "value", "expected"),
    [("seed", "0", 0), ("device", "cpu", "cpu"), ("checkpoint_dir", "/a/b/", "/a/b")],
)
@pytest.mark.parametrize("prefix", ["", "training."])
def test_root_aliases_and_training_keys_are_one_setting(compose, prefix, alias, value, expected):
    in_effect = flat(compose(f"{prefix}{alias}={value}"))
    assert in_effect[alias] == expected
    assert in_effect[f"training.{alias}"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("./checkpoints/ckpts/", "{cwd}/checkpoints/ckpts"),
        ("'~/my_models/checkpoints/'", "{home}/my_models/checkpoints"),
        ("/full/path/", "/full/path"),
        ("../above", "{parent}/above"),
    ],
)
@pytest.mark.parametrize("key", ["checkpoint_dir", "model.path", "model.tokenizer", "jax_cache", "reward.custom.path"])
def test_paths_become_absolute(compose, tmp_path, monkeypatch, key, given, expected):
    monkeypatch.setenv("HOME", "/home/someone")
    function = ["reward.custom.function=f"] if key == "reward.custom.path" else []
    in_effect = flat(compose(f"{key}={given}", *function))
    assert in_effect[key] == expected.format(cwd=tmp_path, home="/home/someone", parent=tmp_path.parent)


def test_the_bundled_model_is_no_path(compose):
    assert compose("model=tiny").model.path == "bundled:tiny"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["reward=[format]"], (0.5, None)),
        (["reward=correctness"], (None, 1.0)),
        (["reward=[correctness,format]", "reward.format.weight=-2"], (-2.0, 1.0)),
    ],
)
def test_rewards_are_selected_together(compose, overrides, expected):
    reward = compose(*overrides).reward
    weights = [part and part.weight for part in (reward.format, reward.correctness)]
    assert tuple(weights) == expected
    assert reward.custom.path is None


def test_limits_hold_for_all_rewards_that_have_none_of_their_own(compose):
    words = ("reward.limits.time_limit=9", "reward.limits.on_error=zero", "reward.format.time_limit=3")
    functions = ("++reward.functions.a.path=a.py", "++reward.functions.a.function=f", "++reward.functions.a.weight=1")
    reward = compose("reward=[format,math]", *words, *functions, "reward.custom.isolate=true").reward
    assert [each.time_limit for each in (reward.format, reward.math, reward.custom, reward.functions.a)] == [3, 9, 9, 9]
    assert (reward.math.on_error, reward.functions.a.on_error, reward.functions.a.isolate) == ("zero", "zero", True)
    assert selected_rewards(reward) == {"format": reward.format, "math": reward.math, "a": reward.functions.a}


def test_a_custom_reward_alone_is_enough(compose, tmp_path):
    config = compose("reward=[]", "reward.custom.path=my.py", "reward.custom.function=score")
    assert config.reward.custom.path == str(tmp_path / "my.py")
    assert config.reward.format is None and config.reward.correctness is None


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 3738),
        (["training.num_epochs=2"], 7476),
        (["training.num_batches=null"], 13),  # 100 questions, 8 a step, rounded up
        (["training.num_batches=null", "training.num_epochs=3"], 39),
        (["training.num_batches=null", "training.gradient_accumulation_steps=2"], 7),
    ],
)
def test_total_steps(compose, overrides, steps):
    assert compose(*overrides).total_steps(100, 2) == steps


def test_prompts_and_completions_per_step(compose):
    config = compose(
        "training.micro_batch_size=3",
        "training.gradient_accumulation_steps=5",
        "grpo.num_generations=7",
    )
    assert config.prompts_per_step(2) == 30
    assert config.completions_per_step(2) == 210


# Each wrong value, and what the sentence about it must say: key, value and the way out.
WRONG = [
    (["grpo.beta=1" + "0" * 400], "must be a finite number, at least 0"),
    (["model.path=" + "a" * 300], "aaa: is too long for the name of a file; give another"),
    (["checkpoint_dir=gs://bucket/run"], "machine; give one, and training.mirror=gs://bucket/run for copies there"),
    (
        ["training.mirror=gs://"],
        "training.mirror=gs://: names no place; give gs://BUCKET/FOLDER, s3://",
    ),
    (["model.path=file:///tmp/x"], "what file:// names can be copied, or mounted here"),
    (["jax_cache=s3://bucket/jax"], "jax_cache=s3://bucket/jax: is no folder or file of this machine; give one"),
    (["model.run=" + "a" * 300], "aaa: no such folder; give the folder of a run"),
    (["model.tokenizer='a\0b'"], "holds a NUL, as no name of a file does; give another"),
    (["grpo.num_generations=1"], "grpo.num_generations=1: must be at least 2"),
    (["training.micro_batch_size=0"], "training.micro_batch_size=0: must be at least 1"),
    (["training.num_batches=-5"], "training.num_batches=-5: must be at least 1"),
    (["training.num_batches=many"], "training.num_batches=many: must be a whole number or null"),
    (["training.num_epochs=null"], "training.num_epochs=null: must be a whole number"),
    (["training.eval_interval_steps=0"], "training.eval_interval_steps=0: must be at least 1"),
    (["training.save_interval_steps=1.5"], "save_interval_steps=1.5: must be a whole number"),
    (["training.save_interval_steps=true"], "save_interval_steps=true: must be a whole number"),
    (["training.resume=maybe"], "training.resume=maybe: must be one of auto, changed, never, must"),
    (["seed=-1"], "seed=-1: must be at least 0"),
    (["task.date=20260131"], "task.date=20260131: must be a day, written YYYY-MM-DD"),
    (["task.date=2026-02-30"], "task.date=2026-02-30: must be a day, written YYYY-MM-DD"),
    (["seed=4294967296"], "must be at least 0 and at most 4294967295"),
    (["device=gpu"], "device=gpu: must be one of cuda, cpu, tpu, auto"),
    (["checkpoint_dir=''"], "checkpoint_dir=: must not be empty"),
    (["optimizer.name=sgd"], "optimizer.name=sgd: must be one of adamw"),
    (["optimizer.learning_rate=0"], "optimizer.learning_rate=0.0: must be above 0"),
    (["optimizer.learning_rate=nan"], "optimizer.learning_rate=nan: must be a finite number, above 0"),
    (["optimizer.learning_rate=inf"], "optimizer.learning_rate=inf: must be a finite number, above 0"),
    (["optimizer.max_grad_norm=0"], "must be above 0; 1e9 is as good as no clipping"),
    (["optimizer.beta2=1"], "optimizer.beta2=1.0: must be at least 0 and below 1"),
    (["scheduler.warmup_ratio=1.5"], "scheduler.warmup_ratio=1.5: must be at least 0 and at most"),
    (
        ["scheduler=constant", "scheduler.final_ratio=0.5"],
        "scheduler.name=constant and scheduler.final_ratio=0.5: a constant rate ends at its peak",
    ),
    (["grpo.beta=-0.1"], "grpo.beta=-0.1: must be at least 0"),
    (["grpo.epsilon=1"], "grpo.epsilon=1.0: must be above 0 and below 1"),
    (["grpo.kl_estimator=k1"], "grpo.kl_estimator=k1: must be one of low_var_kl, mse_kl"),
    (["generation.top_k=0"], "generation.top_k=0: must be at least 1; null samples from all"),
    (["generation.top_p=0"], "generation.top_p=0.0: must be above 0 and at most 1"),
    (["generation.temperature=-1"], "generation.temperature=-1.0: must be at least 0"),
    (["model=hf"], "model.hub_id=null and model.kaggle_id=null: no model to start from; give"),
    (["model.lora_rank=0"], "model.lora_rank=0: must be at least 1; null trains all weights"),
    (["model.lora_alpha=0"], "model.lora_alpha=0.0: must be above 0"),
    (["model.lora_target_modules='(q|k'"], "is neither one of all, attention, mlp nor a regular"),
    (["model.dtype=fp8"], "model.dtype=fp8: must be one of auto, float32, bfloat16"),
    (["model.random_weights=maybe"], "model.random_weights=maybe: must be true or false"),
    (["model.revision=[a,b]"], "model.revision=['a', 'b']: must be text or null"),
    (["task=jsonl"], "task.path=null: task.name=jsonl needs it; give task.path=FILE"),
    (["task.max_operand=9"], "task.max_operand=9: task.name=gsm8k does not read it; set"),
    (
        ["task=arithmetic", "task.path=x.jsonl"],
        "task.name=arithmetic does not read it; set task.path=null, or take task=gsm8k or jsonl",
    ),
    (["task.dataset=null"], "task.path=null and task.dataset=null: no questions; give"),
    (
        ["task=arithmetic", "task.max_operand=null"],
        "task.name=arithmetic needs it; give task.max",
    ),
    (["task.heldout_fraction=1"], "task.heldout_fraction=1: must be above 0 and below 1"),
    (["task.name=gsm"], "task.name=gsm: must be one of arithmetic, gsm8k, jsonl, reasoning_gym"),
    (["reward=[]"], "reward=[]: no reward is selected, so there is nothing to learn from; give"),
    (["reward=[format]", "reward.format.weight=0"], "reward.format.weight=0: nothing counts"),
    (["reward.format.weight=nan"], "reward.format.weight=nan: must be a finite number"),
    (
        ["reward.custom.function=f"],
        "reward.custom.path=null and reward.custom.function=f: one is no use without the other",
    ),
    (["reward.format.time_limit=0"], "reward.format.time_limit=0: must be above 0; null is no limit"),
    (["reward.limits.on_error=skip"], "reward.limits.on_error=skip: must be one of stop, zero, skip_group"),
    (["reward.workers=0"], "reward.workers=0: must be at least 1"),
    (["reward.custom.per=row"], "reward.custom.per=row: must be one of auto, completion, group, batch"),
    (["++reward.functions.a.weight=1"], "reward.functions.a.function: has no value; give reward.functions.a.function"),
    (
        ["++reward.functions.a.weight=1", "++reward.functions.a.function=f"],
        "reward.functions.a.function=f: it is in no file; give reward.functions.a.path=FILE",
    ),
    (["++reward.functions.math={weight: 1}"], "reward.functions.math: there is a reward of that name"),
    (["++reward.functions.a.wait=1"], "reward.functions.a.wait: unknown setting"),
    (["tracker.num_completions=-1"], "tracker.num_completions=-1: must be at least 0"),
    (["mesh.tp=0"], "mesh.tp=0: must be at least 1"),
    (["evaluation.num_questions=0"], "evaluation.num_questions=0: must be at least 1"),
    (["evaluation.patience=0"], "evaluation.patience=0: must be at least 1; null never ends a run early"),
    (["evaluation.metric=accuracy"], "evaluation.metric=accuracy: must be one of eval/accuracy, eval/reward or eval/"),
    (
        ["evaluation.metric=eval/hard/accuracy"],
        "no task of evaluation.tasks is called hard (there are none); add it with +task@evaluation.tasks.hard=OPTION",
    ),
    ([HARD, "evaluation.metric=eval/easy/reward"], "is called easy (there are hard); add it with"),
    ([HARD, "evaluation.tasks.hard.max_operand=0"], "evaluation.tasks.hard.max_operand=0: must be at least"),
    (
        [HARD, "evaluation.tasks.hard.max_operad=9"],
        "evaluation.tasks.hard.max_operad=9: evaluation.tasks.hard.name=arithmetic does not read it; "
        "did you mean evaluation.tasks.hard.max_operand?",
    ),
    (
        [HARD, "evaluation.tasks.hard.path=x.jsonl"],
        "set evaluation.tasks.hard.path=null, or take +task@evaluation.tasks.hard=gsm8k or jsonl",
    ),
    (
        ["+task@evaluation.tasks.mine=jsonl"],
        "evaluation.tasks.mine.path=null: evaluation.tasks.mine.name=jsonl needs it; give evaluation.tasks.mine.path=",
    ),
    ([HARD, "evaluation.tasks.hard.date=2026-01-31"], "evaluation.tasks.hard.name=arithmetic does not read it"),
    (
        ["evaluation.tasks.hard.max_operand=9"],
        "evaluation.tasks.hard.name: has no value; give evaluation.tasks",
    ),
    (["evaluation.tasks.hard.name=gsm"], "evaluation.tasks.hard.name=gsm: must be one of arithmetic, gsm8k, jsonl"),
    (["++evaluation.tasks.hard=3"], "evaluation.tasks.hard=3: is a task's settings; add one with +task@evaluation"),
    (["evaluation.tasks=3"], "evaluation.tasks=3: must be names and values"),
    (["+model.extra=1"], "model.extra: unknown setting"),
    (["+grpo.betta=1"], "grpo.betta: unknown setting; did you mean grpo.beta?"),
    (["checkpoint_dir='${nowhere}'"], "checkpoint_dir: Interpolation key 'nowhere' not found"),
    (["training.seed='???'"], "training.seed: has no value; give training.seed=VALUE"),
]


def test_a_further_task_has_the_settings_of_its_option_and_the_prompt_of_the_run(compose, tmp_path):
    (tmp_path / "own.py").write_text("def build(*, size: int, seed: int): ...")
    config = compose(
        "model=tiny",
        "task.max_unmatched=0.25",
        HARD,
        "evaluation.tasks.hard.num_questions=200",
        "+task@evaluation.tasks.own=custom",
        "evaluation.tasks.own.name=own.py:build",
        "evaluation.tasks.own.size=7",
        "evaluation.tasks.own.system_prompt=Be brief.",
        "evaluation.metric=eval/own/accuracy",
    )
    tasks = further_tasks(config.evaluation.tasks)
    assert {name: (task.name, task.system_prompt, task.max_unmatched) for name, task in tasks.items()} == {
        "hard": ("arithmetic", None, 0.25),  # as the bundled model is asked
        "own": (f"{tmp_path}/own.py:build", "Be brief.", 0.25),
    }
    assert (tasks["hard"].num_questions, tasks["own"].size) == (200, 7)
    assert may_run_own_code(config)
    assert further_tasks(compose("model=tiny").evaluation.tasks) == {}


@pytest.mark.parametrize(("overrides", "sentence"), WRONG, ids=[" ".join(w[0]) for w in WRONG])
def test_wrong_values_are_named_with_the_way_out(compose, overrides, sentence):
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    assert sentence in "\n".join(caught.value.problems)


def test_a_group_that_cannot_be_read_has_one_sentence(compose):
    with pytest.raises(ConfigError) as caught:
        compose("++reward.functions.math={weight: 1}")
    assert len(caught.value.problems) == 1


def test_all_problems_are_listed_at_once(compose):
    with pytest.raises(ConfigError) as caught:
        compose(
            "training.micro_batch_size=0",
            "training.num_batches=ten",
            "grpo.num_generations=1",
            "seed=-3",
            "model=hf",
            "task.max_operand=3",
            "+grpo.betta=2",
            "reward=[]",
        )
    keys = sorted(re.split("[=:]", problem)[0] for problem in caught.value.problems)
    assert keys == [
        "grpo.betta",
        "grpo.num_generations",
        "model.path",
        "reward",
        "task.max_operand",
        "training.micro_batch_size",
        "training.num_batches",
        "training.seed",
    ]
    assert str(caught.value).startswith("8 settings are wrong:\n  ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("reward.custom.function=1",), ["reward.custom.path=null and reward.custom.function=1: one is no use"]),
        (("reward=overlong", 'reward.overlong.max_length="5"', 'reward.overlong.cache="7"'), ["reward.overlong"]),
        (("scheduler=constant", 'scheduler.final_ratio="1e0"'), []),  # 1, which a constant rate ends at
    ],
)
def test_what_is_right_beside_something_wrong_is_read_as_it_is_declared(compose, words, expected):
    """Relations get the values of the schema's types, whatever else cannot be read."""
    with pytest.raises(ConfigError) as caught:
        compose("model=tiny", "task=arithmetic", "training.num_batches=ten", *words)
    wrong, *others = caught.value.problems
    assert wrong.startswith("training.num_batches=ten")
    assert [problem.startswith(start) for problem, start in zip(others, expected, strict=True)] == [True] * len(others)


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("training.micro_batch_size=17", "outside the usual range 1 to 16"),
        ("training.num_batches=9", "outside the usual range 10 to 100000"),
        ("training.num_epochs=11", "outside the usual range 1 to 10"),
        ("training.save_interval_steps=1001", "outside the usual range 1 to 1000"),
        ("training.eval_interval_steps=10", "outside the usual range 100 to 5000"),
        ("training.log_interval_steps=101", "outside the usual range 1 to 100"),
        ("generation.temperature=0", "all completions of a prompt will be the same"),
        ("generation.top_k=1", "all completions of a prompt will be the same"),
        ("evaluation.num_questions=5000", "only about 2000 questions are held out"),
    ],
)
def test_unusual_values_are_warned_about_and_used(compose, caplog, override, warning):
    task = ["task=arithmetic"] if "evaluation" in override else []
    key, _, value = override.partition("=")
    in_effect = flat(compose(override, *task))
    assert in_effect[key] == float(value)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].startswith(override.replace("=0", "=0.0"))
    assert warning in caplog.messages[0]


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        ("model.path=/models/a", "model.revision has no effect on a local directory; set model.path=null to use it"),
        ("model.kaggle_id=a/b/transformers/c", "a revision belongs to model.hub_id; give the version of a Kaggle"),
    ],
)
def test_a_revision_of_something_else_than_the_hub_is_warned_about(compose, caplog, source, warning):
    assert compose("model=hf", source, "model.revision=main").model.revision == "main"
    (message,) = caplog.messages
    assert message.startswith(f"model.revision=main and {source}: {warning}")


def test_numbers_may_be_written_in_any_way(compose):
    config = compose("training.num_batches=1e3", "seed='7'", "grpo.beta=0", "tracker.run_name=12")
    assert (config.training.num_batches, config.seed) == (1000, 7)
    assert (config.grpo.beta, type(config.grpo.beta)) == (0.0, float)
    assert config.tracker.run_name == "12"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("training.betta=1", "training.betta=1: unknown setting; did you mean grpo.beta?"),
        ("train.num_batches=5", "did you mean training.num_batches?"),
        ("learning_rate=1e-5", "did you mean optimizer.learning_rate?"),
        ("training.learning_rat=1", "did you mean optimizer.learning_rate?"),
        ("modle=tiny", "did you mean model?"),
        ("xyzzy=1", "xyzzy=1: unknown setting"),
        ("+model.extra=1", "+model.extra=1: unknown setting"),
        ("model=gemma3_1", "there is no model gemma3_1; did you mean gemma3_1b? (there are"),
        ("+experiment=quicktest", "there is no experiment quicktest; did you mean quick_test?"),
        ("experiment=demo", "an experiment is added with a plus: +experiment=demo"),
        ("+model=tiny", "leave out the plus: model=tiny"),
        ("+training.seed=1", "the setting exists; leave out the plus: training.seed=1"),
        ("task@evaluation.tasks.hard=gsm8k", "is added with a plus: +task@evaluation.tasks.hard=gsm8k"),
        ("+task@evaluation.tasks.hard=gsm", "there is no task gsm; did you mean gsm8k?"),
        ("+task@evaluation.tasks.7=gsm8k", "only as +task@evaluation.tasks.NAME=OPTION, NAME being of letters"),
        ("+task@evaluation.hard=gsm8k", "stands for another group only as +task@evaluation.tasks.NAME=OPTION"),
        ("+model@evaluation.tasks.hard=tiny", "stands for another group only as +task@evaluation.tasks.NAME=OPTION"),
        ("~task@evaluation.tasks.hard", "is added with a plus"),
        ("reward=[format,corectness]", "no reward corectness; did you mean correctness?"),
        ("training=5", "there is no training 5"),
        ("model=tiny,gema3_1b", "there is no model gema3_1b; did you mean gemma3_1b?"),
        ("~training.seed", "a setting cannot be left out; give it a value: training.seed=VALUE"),
        ("~task", "a group cannot be left out; choose an option of arithmetic, custom, gsm8k"),
        ("--training.seed=1", "settings are written without dashes: training.seed=1"),
        ("--fast", "--fast: unknown option; --help lists what there is"),
        ("seed", "seed: not of the form key=value"),
        ("model.path=/a=b", "put it in two kinds of quotes: \"model.path='/a=b'\""),
    ],
)
def test_wrong_words_get_a_suggestion(word, problem):
    checked = check_words([word, "grpo.beta=0"], [CONF])
    assert len(checked.problems) == 1
    assert problem in checked.problems[0]
    assert checked.usable == ["grpo.beta=0"]


@pytest.mark.parametrize(
    "word",
    [
        "training.seed=1",
        "++training.seed=1",
        "+experiment=demo",
        "model=tiny",
        "reward=[format]",
        "reward=[]",
        "reward.custom.path=a.py",
        "hydra.run.dir=/somewhere",
        "hydra/launcher=basic",
        "training.seed=1,2,3",
        "training.seed=range(3)",
        "model=tiny,gemma3_1b",
        "task.settings={min_terms: 2}",
        "++task.settings.min_terms=2",
        "++task.template_variables.enable_thinking=false",
        "+task@evaluation.tasks.hard=arithmetic",
        "+task@evaluation.tasks.hard=arithmetic,gsm8k",
        "++evaluation.tasks.hard.num_questions=9",
        "evaluation.tasks={}",
    ],
)
def test_right_words_pass(word):
    assert check_words([word], [CONF]) == ([], [word], True)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["task.settings={min_terms: 2, operators: ['+']}"], {"min_terms": 2, "operators": ["+"]}),
        (["task.settings.min_terms=2", "task.settings.max_terms=3"], {"min_terms": 2, "max_terms": 3}),
        (["task.settings={min_terms: 2}", "task.settings.min_terms=4"], {"min_terms": 4}),
        ([], None),
    ],
)
def test_names_and_values_of_a_library_are_given_whole_or_one_by_one(compose, words, values):
    assert compose("model=tiny", "task=reasoning_gym", *words).task.settings == values


@pytest.mark.parametrize("key", ["task.settings", "task.mixture", "task.template_variables"])
def test_names_and_values_are_neither_words_nor_lists(compose, key):
    for value in ("thinking", "3", "[1]"):
        with pytest.raises(ConfigError, match=rf"{key}=\S+: must be names and values, as in {{name: value}} or null"):
            compose("model=tiny", "task=reasoning_gym", f"{key}={value}")


def test_options_of_a_users_own_folder_are_known(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    assert check_words(["+experiment=mine"], [tmp_path, CONF]).problems == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("seed=3", "training.seed=3"),
        ("++device=cpu", "++training.device=cpu"),
        ("checkpoint_dir=~/my_models/", "training.checkpoint_dir=/home/someone/my_models/"),
        ("model.path=~", "model.path=/home/someone"),
        ("training.seed=3", "training.seed=3"),
        ("~model.path", "~model.path"),
        ("task.settings={min_terms: 2}", "++task.settings={min_terms: 2}"),
        ("task.settings.min_terms=2", "++task.settings.min_terms=2"),
        ("task.mixture.chain_sum.weight=2", "++task.mixture.chain_sum.weight=2"),
        ("task.template_variables={a: 1}", "task.template_variables={a: 1}"),
        ("task.template_variables.a=1", "++task.template_variables.a=1"),
        ("task.num_questions.a=1", "task.num_questions.a=1"),
        ("evaluation.tasks.hard.num_questions=9", "++evaluation.tasks.hard.num_questions=9"),
        ("+task@evaluation.tasks.hard=gsm8k", "+task@evaluation.tasks.hard=gsm8k"),
        ("--multirun", "--multirun"),
    ],
)
def test_words_are_normalised_for_hydra(monkeypatch, word, expected):
    monkeypatch.setenv("HOME", "/home/someone")
    assert normalise([word]) == [expected]


def test_every_value_of_a_sweep_is_tried_once():
    words = ["training.seed=1,2,3", "model=tiny", "grpo.beta=0,0.1"]
    assert jobs_of(words, {}) == [
        ["training.seed=1", "model=tiny", "grpo.beta=0"],
        ["training.seed=2", "model=tiny", "grpo.beta=0.1"],
        ["training.seed=3", "model=tiny", "grpo.beta=0"],
    ]


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("training.num_batchs", "training.num_batches"),
        ("lora_rank", "model.lora_rank"),
        ("generation.num_generation", "grpo.num_generations"),
        ("evaluation.num_question", "evaluation.num_questions"),
        ("task.num_question", "task.num_questions"),
        ("wholly.different", None),
    ],
)
def test_closest(key, guess):
    assert closest(key, load.settings()) == guess


@pytest.mark.parametrize(
    ("command", "words", "shown"),
    [
        (["python", "run_training.py"], ["a.b=1"], "python run_training.py a.b=1"),
        (
            ["python", "run_training.py", "seed=1", "+experiment=demo", "checkpoint_dir=x"],
            ["training.checkpoint_dir=y", "seed=2"],
            "python run_training.py +experiment=demo training.checkpoint_dir=y seed=2",
        ),
        (
            ["python", "my folder/run_training.py", "task.system_prompt='Be brief.'"],
            ["checkpoint_dir='a b'"],
            """python 'my folder/run_training.py' 'task.system_prompt='"'"'Be brief.'"'"'' """
            """'checkpoint_dir='"'"'a b'"'"''""",
        ),
    ],
)
def test_commands_for_a_shell(command, words, shown):
    assert command_with(command, words) == shown
    assert shlex.split(shown)[-1] == words[-1]


VALUES = ["/a/b-2", "/with space/x", "it's", "${x}", "a,b", "Ä", "~", "x=1", "a\\", 4, 0.5]


@pytest.mark.parametrize("value", VALUES)
def test_an_assignment_is_read_back(compose, value):
    """Through a shell and through Hydra."""
    (word,) = shlex.split(command_with([], [assignment("model.name", value)]))
    assert compose(word).model.name == str(value)

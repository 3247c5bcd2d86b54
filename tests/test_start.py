"""Which checkpoint a run goes on from, and which it refuses."""

import dataclasses
import datetime
import json
import logging
from pathlib import Path

import jax.numpy as jnp
import pytest

from tunix_grpo.config.history import BEFORE, defaults_of_then
from tunix_grpo.errors import NotContinued, UserError
from tunix_grpo.run.checkpoints import Checkpoints
from tunix_grpo.run.identity import identity, settings
from tunix_grpo.run.places import HISTORY
from tunix_grpo.run.runs import this_run
from tunix_grpo.run.start import RunState, as_begun, find_start, last_saved, nothing_to_do, saved_ledger
from tunix_grpo.run.step_files import MANIFEST
from tunix_grpo.text.ledger import Ledger, Outcomes
from tunix_grpo.text.prompt_set import PromptSet

STATE = RunState(
    step=20,
    num_tokens=12345,
    accuracy_before=0.4375,
    wandb_run_id="abc123",
    total_steps=100,
    date="2026-01-31",
    evaluations=[{"step": 0, "eval/accuracy": 0.4375}, {"step": 10, "eval/accuracy": 0.25, "eval/hard/reward": 1 / 3}],
)
PROMPTS = PromptSet(["1+1?", "2+2?"], ["<1+1?>", "<2+2?>"], [[1], [2]], 0)
LORA = ("model=tiny", "model.lora_rank=4")


def model_directory(folder: Path, weights: bytes = b"abc" * 100_000) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def save(checkpoints: Checkpoints, config, directory: Path, saved: RunState = STATE, **content) -> None:
    """Saves a step as train() does, with arrays that nobody reads here."""
    run = this_run(config, directory, PROMPTS, 8).saved() | {"state": dataclasses.asdict(saved)} | content
    checkpoints.save(saved.step, {"w": jnp.zeros(2)}, {"count": jnp.int32(1)}, run)


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "ckpts", None)


def start(checkpoints, config, directory, *, prompts=PROMPTS, prompts_per_step=8, total_steps=100):
    saved = last_saved(checkpoints)
    config = as_begun(config, saved)
    run = this_run(config, directory, prompts, prompts_per_step)
    return find_start(checkpoints, saved, run, config, total_steps)


def refusal(checkpoints, config, directory, **how) -> NotContinued:
    with pytest.raises(NotContinued) as caught:
        start(checkpoints, config, directory, **how)
    return caught.value


def test_the_same_run_goes_on_with_its_state(compose, checkpoints, tmp_path, caplog):
    """Also where its model has moved, and so have the files of its task and its reward."""
    own = ("task=custom", "task.name={}/task.py:build", "reward.custom.path={}/r.py", "reward.custom.function=f")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "task.py").write_text("def build(*, path: str, seed: int): ...")
    here, there = ([word.format(tmp_path / name) for word in own] for name in ("here", "there"))
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA, *here, f"++task.path={tmp_path}/here/x"), directory)
    moved = directory.rename(tmp_path / "moved")
    for resume in ("auto", "changed", "must"):
        config = compose(*LORA, *there, f"++task.path={tmp_path}/there/x", f"training.resume={resume}")
        assert start(checkpoints, config, moved) == STATE
    assert caplog.text == ""


def test_a_checkpoint_without_a_list_of_evaluations_has_those_of_the_history(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    older = {name: value for name, value in dataclasses.asdict(STATE).items() if name != "evaluations"}
    save(checkpoints, compose(*LORA), directory, **{"state": older})
    rows = [
        {"step": 0, "eval/accuracy": 0.25, "timing/eval": 3.0},
        {"step": 20, "reward": 1.0},
        {"step": 20, "eval/accuracy": 0.5, "timing/eval": 3.0},
        {"step": 30, "eval/accuracy": 0.75, "timing/eval": 3.0},
    ]
    (checkpoints.folder / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = start(checkpoints, compose(*LORA), directory).evaluations
    assert found == [{"step": 0, "eval/accuracy": 0.25}, {"step": 20, "eval/accuracy": 0.5}]
    (checkpoints.folder / HISTORY).unlink()
    assert start(checkpoints, compose(*LORA), directory).evaluations == []


def test_other_questions_begin_the_evaluations_anew(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    others = PromptSet(["3+3?"], ["<3+3?>"], [[3]], 0)
    changed = compose(*LORA, "training.resume=changed", "grpo.beta=0.5")
    assert start(checkpoints, changed, directory).evaluations == STATE.evaluations
    assert start(checkpoints, changed, directory, prompts=others).evaluations == []


@pytest.mark.parametrize(
    ("total_steps", "words", "said"),
    [
        (100, [], None),
        (20, [], "already holds step 20 of 20"),
        (100, ["evaluation.patience=2"], None),
        (100, ["evaluation.patience=1"], "eval/accuracy was 0.4375 at step 0, and not better in the evaluation since"),
        (100, ["evaluation.patience=1", "evaluation.metric=eval/reward"], None),  # none has it
    ],
)
def test_there_is_nothing_to_do_where_all_is_done_or_patience_is_at_its_end(
    compose, checkpoints, total_steps, words, said
):
    done = nothing_to_do(checkpoints, STATE, compose(*LORA, *words), total_steps)
    assert (done is None) == (said is None)
    assert said is None or said in done


def test_an_empty_folder_starts_anew_unless_it_must_not(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    for resume in ("auto", "changed", "never"):
        config = compose(*LORA, f"training.resume={resume}", "task.date=2026-01-31")
        assert start(checkpoints, config, directory) == RunState(total_steps=100, date="2026-01-31")
    with pytest.raises(UserError, match=r"training\.resume=must, but .*/actor holds no valid checkpoint; give"):
        start(checkpoints, compose(*LORA, "training.resume=must"), directory)


def test_never_refuses_a_used_folder(compose, checkpoints, tmp_path):
    """A damaged checkpoint too: a run that starts anew would write over it."""
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    (checkpoints.root / "20" / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"resume=never, but .*/actor already holds checkpoints; give another folder"):
        start(checkpoints, compose(*LORA, "training.resume=never"), directory)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    older = dataclasses.replace(STATE, step=10, num_tokens=6000)
    for state in (older, STATE):
        save(checkpoints, compose(*LORA), directory, state)
    (checkpoints.root / "20" / "params" / "_METADATA").write_text("{}")
    assert start(checkpoints, compose(*LORA), directory) == older


def test_a_way_out_names_another_mirror_where_there_is_one(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies-2").mkdir()
    mirrored = f"training.mirror={tmp_path}/copies"
    refused = refusal(checkpoints, compose(*LORA, mirrored, "seed=7"), directory)
    assert refused.ways["start afresh"] == [f"checkpoint_dir={tmp_path}/ckpts-2", f"{mirrored}-3"]
    assert str(refused).endswith(
        "is a new one for every run) and another place for its copies with training.mirror=ADDRESS"
    )
    with pytest.raises(UserError, match=r"for its copies with training\.mirror=ADDRESS$"):
        start(checkpoints, compose(*LORA, mirrored, "training.resume=never"), directory)


# What a run may not go on with in silence: the key, the word that changes it, both values.
ANOTHER_MODEL = {
    "model": ("model.name=large", '"tiny" -> "large"'),
    "model.dtype": ("model.dtype=bfloat16", '"auto" -> "bfloat16"'),
    "model.lora_rank": ("model.lora_rank=16", "4 -> 16"),
    "model.lora_alpha": ("model.lora_alpha=8", "32.0 -> 8.0"),
    "model.lora_target_modules": ("model.lora_target_modules=mlp", '"all" -> "mlp"'),
    "model.quantization": ("model.quantization=nf4", 'null -> "nf4"'),
}
ANOTHER_COURSE = {
    "task.template_variables": ("task.template_variables={a:1}", 'null -> {"a": 1}'),
    "task": ("task=jsonl task.path=x", '"arithmetic" -> "jsonl"'),
    "seed": ("seed=7", "42 -> 7"),
    "grpo.num_generations": ("grpo.num_generations=6", "4 -> 6"),
    "grpo.beta": ("grpo.beta=0.5", "0.08 -> 0.5"),
    "optimizer.learning_rate": ("optimizer.learning_rate=1e-2", "0.001 -> 0.01"),
    "scheduler.warmup_ratio": ("scheduler.warmup_ratio=0.5", "0.1 -> 0.5"),
    "generation.temperature": ("generation.temperature=0.5", "1.0 -> 0.5"),
    "reward.format": ("reward.format.weight=3", '{"weight": 1.0} -> {"weight": 3.0}'),
    "task.max_operand": ("task.max_operand=10", "100 -> 10"),
    "task.system_prompt": ("task.system_prompt=null", '"default" -> null'),
}
SAVED = (
    *LORA,
    "task=arithmetic",
    "task.system_prompt=default",
    "grpo.num_generations=4",
    "grpo.beta=0.08",
    "optimizer.learning_rate=1e-3",
    "scheduler.warmup_ratio=0.1",
    "generation.temperature=1",
    "reward.format.weight=1",
)


@pytest.mark.parametrize("key", [*ANOTHER_MODEL, *ANOTHER_COURSE])
def test_another_run_is_refused_with_the_list_and_the_ways_out(compose, checkpoints, tmp_path, key):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*SAVED), directory)
    word, values = (ANOTHER_MODEL | ANOTHER_COURSE)[key]
    refused = refusal(checkpoints, compose(*SAVED, *word.split()), directory)
    assert f"{key}: {values}" in str(refused)
    assert f"{checkpoints.root}/20 was made with other settings (" in str(refused)
    assert "checkpoint_dir='${output_dir}/checkpoints'" in str(refused)
    assert "\n" not in str(refused)
    go_on, afresh = refused.ways.values()
    assert afresh == [f"checkpoint_dir={tmp_path}/ckpts-2"]
    if key in ANOTHER_COURSE:
        assert go_on == ["training.resume=changed"]
    again = compose(*SAVED, *word.split(), *go_on)  # what it says is what goes on
    assert start(checkpoints, again, directory) == STATE


def test_the_limits_of_a_reward_may_change_but_not_what_they_do(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    own = ("reward.custom.path=r.py", "reward.custom.function=f", "reward.custom.per=group")
    save(checkpoints, compose(*SAVED, *own), directory)
    free = ("reward.limits.time_limit=3", "reward.workers=7", "reward.custom.isolate=true")
    assert start(checkpoints, compose(*SAVED, *own, *free), directory) == STATE
    refused = refusal(checkpoints, compose(*SAVED, *own, "reward.limits.on_error=zero"), directory)
    assert 'reward.format: {"weight": 1.0} -> {"on_error": "zero", "weight": 1.0}' in str(refused)
    assert "reward.custom: " in str(refusal(checkpoints, compose(*SAVED, *own[:2]), directory))
    functions = ("++reward.functions.a.path=r.py", "++reward.functions.a.function=f", "++reward.functions.a.weight=1")
    assert 'reward.functions: {} -> {"a": {' in str(refusal(checkpoints, compose(*SAVED, *own, *functions), directory))


def test_every_part_of_the_identity_is_compared(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    config = compose(*SAVED)
    save(checkpoints, config, directory)
    other_weights = model_directory(tmp_path / "other", weights=b"abc" * 99_999 + b"abd")
    assert '(model weights: "' in str(refusal(checkpoints, config, other_weights))
    other_prompts = dataclasses.replace(PROMPTS, texts=["<1+1?>", "<2+3?>"])
    assert '(task prompts: "' in str(refusal(checkpoints, config, directory, prompts=other_prompts))
    assert "(prompts per step: 8 -> 16)" in str(refusal(checkpoints, config, directory, prompts_per_step=16))
    saved = checkpoints.run_of(20)["identity"]
    compared = {*ANOTHER_MODEL, *ANOTHER_COURSE, "model weights", "task prompts", "prompts per step"}
    compared.add("model.run")  # in test_sft.py, which has runs to start from
    assert set(saved) - compared == set()


def test_a_checkpoint_names_the_model_that_it_belongs_to(compose, checkpoints, tmp_path):
    """So that a refusal can bring it back, whatever group option the command chose."""
    hub = compose("model=gemma3_270m", "model.lora_rank=null")
    directory, other = model_directory(tmp_path / "model"), model_directory(tmp_path / "other", weights=b"x")
    save(checkpoints, hub, directory)
    now = ("model=gemma3_1b", "model.lora_rank=8", "grpo.beta=0.5")
    go_on = refusal(checkpoints, compose(*now), other).ways["go on from here, with the model that it has"]
    assert set(go_on) == {
        "model.name=gemma3_270m",
        "model.hub_id=google/gemma-3-270m-it",
        "model.lora_rank=null",
        "training.resume=changed",
    }
    assert start(checkpoints, compose(*now, *go_on), directory).step == 20


def test_an_older_checkpoint_that_does_not_name_its_model_can_only_be_left(compose, checkpoints, tmp_path):
    directory, other = model_directory(tmp_path / "model"), model_directory(tmp_path / "other", weights=b"x")
    save(checkpoints, compose(*LORA), directory, source={})
    refused = refusal(checkpoints, compose(*LORA), other)
    assert list(refused.ways) == ["start afresh"]
    assert "; give the model that it was made with, or another folder" in str(refused)


def test_a_finished_checkpoint_with_other_settings_is_no_success(compose, checkpoints, tmp_path):
    """It is refused like one in the middle; what goes on has steps to make."""
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*SAVED), directory, dataclasses.replace(STATE, step=100))
    changed = (*SAVED, "grpo.beta=0.5", "training.num_epochs=2")
    go_on = next(iter(refusal(checkpoints, compose(*changed), directory, total_steps=100).ways.values()))
    assert go_on == ["training.resume=changed", "training.num_batches=100"]
    assert refusal(checkpoints, compose(*SAVED, "seed=1"), directory, total_steps=40)
    on_purpose = compose(*changed, "training.resume=changed")
    assert refusal(checkpoints, on_purpose, directory, total_steps=100)
    assert start(checkpoints, compose(*changed, *go_on), directory, total_steps=200).step == 100


def test_the_fresh_folder_is_one_that_nobody_has(compose, tmp_path):
    directory = model_directory(tmp_path / "model")
    job = Checkpoints(tmp_path / "ckpts" / "sweeps" / "seed=1", None)
    save(job, compose(*LORA), directory)
    (tmp_path / "ckpts-2").mkdir()
    ways = refusal(job, compose(*LORA, "seed=7"), directory).ways
    assert ways["start afresh"] == [f"checkpoint_dir={tmp_path}/ckpts-3"]


def test_an_older_version_s_checkpoint_lacks_what_was_added_later(compose, checkpoints, tmp_path, monkeypatch, caplog):
    """It is compared with what was in effect then: the same goes on without a word, anything else is refused."""
    monkeypatch.setitem(BEFORE, "model.dtype", "auto")
    monkeypatch.setitem(BEFORE, "grpo.beta", 0.08)
    config, directory = compose(*LORA, "grpo.beta=0.08"), model_directory(tmp_path / "model")
    run = this_run(config, directory, PROMPTS, 8).saved()
    del run["identity"]["model.dtype"], run["settings"]["grpo.beta"], run["source"]
    run["settings"] = {key: value for key, value in run["settings"].items() if not key.startswith("task.")}
    run["state"] = dataclasses.asdict(STATE)
    del run["state"]["date"]
    checkpoints.save(STATE.step, {"w": jnp.zeros(2)}, {"count": jnp.int32(1)}, run)
    with caplog.at_level(logging.WARNING):
        assert start(checkpoints, config, directory).step == STATE.step
    assert caplog.messages == []
    assert 'model.dtype: "auto" -> "bfloat16"' in str(
        refusal(checkpoints, compose(*LORA, "model.dtype=bfloat16"), directory)
    )


# --- what is known of the questions ---


def ledger_of(checkpoints, config, directory, prompts=PROMPTS):
    state = start(checkpoints, config, directory, prompts=prompts)
    return saved_ledger(checkpoints, state, this_run(config, directory, prompts, 8), prompts)


def test_a_ledger_goes_on_unless_the_questions_are_others_or_there_was_none(compose, checkpoints, tmp_path, caplog):
    config, directory = compose(*LORA, "training.resume=changed"), model_directory(tmp_path / "model")
    ledger = Ledger(2)
    ledger.note(20, Outcomes.of([1], [1.0, 0.0, None]))
    assert ledger_of(checkpoints, config, directory).saved() == Ledger(2).saved()
    save(checkpoints, config, directory)  # as earlier versions saved
    assert ledger_of(checkpoints, config, directory).saved() == Ledger(2).saved()
    save(checkpoints, config, directory, dataclasses.replace(STATE, step=21), ledger=ledger.saved())
    assert caplog.messages == []
    banded = compose(*LORA, "training.resume=changed", "data.order=band")
    assert ledger_of(checkpoints, banded, directory).saved() == ledger.saved()
    assert [word for word in caplog.messages if "ledger" in word] == []
    others = PromptSet(["3+3?"], ["<3+3?>"], [[3]], 0)
    assert ledger_of(checkpoints, config, directory, others).saved() == Ledger(1).saved()
    assert "the ledger of tries and successes starts anew" in caplog.text


# --- the day that chat templates are told ---


def test_the_day_is_that_of_the_first_start(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    assert start(checkpoints, compose(*LORA), directory).date == STATE.date
    assert as_begun(compose(*LORA), None).task.date == datetime.date.today().isoformat()
    assert as_begun(compose(*LORA, "task.date=2020-02-29"), last_saved(checkpoints)).task.date == "2020-02-29"


def test_a_default_that_has_changed_stays_what_it_was_when_the_run_began(compose, checkpoints, tmp_path, monkeypatch):
    """Unless a word of the command names it."""
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose("model=tiny", "optimizer.learning_rate=1e-4"), directory)
    assert start(checkpoints, compose("model=tiny"), directory) == STATE
    assert as_begun(compose("model=tiny"), last_saved(checkpoints)).optimizer.learning_rate == 1e-4
    assert as_begun(compose("model=tiny"), None).optimizer.learning_rate == 3e-4
    monkeypatch.setattr("tunix_grpo.config.history.given_keys", lambda: {"optimizer.learning_rate"})
    sentence = str(refusal(checkpoints, compose("model=tiny", "optimizer.learning_rate=3e-4"), directory))
    assert "optimizer.learning_rate: 0.0001 -> 0.0003" in sentence


@pytest.mark.parametrize(
    ("words", "before", "now"),
    [(("model=hf", "model.path=M"), 3e-6, 1e-4), (("model=hf", "model.path=M", "model.lora_rank=null"), 3e-6, 1e-5)],
)
def test_a_run_goes_on_with_the_rate_that_was_everyones_default(compose, checkpoints, tmp_path, words, before, now):
    save(checkpoints, compose(*words, f"optimizer.learning_rate={before}"), model_directory(tmp_path / "model"))
    assert as_begun(compose(*words), None).optimizer.learning_rate == now
    assert as_begun(compose(*words), last_saved(checkpoints)).optimizer.learning_rate == before


def test_a_rate_that_was_no_default_stays_a_difference(compose, checkpoints, tmp_path):
    words = "model=hf", "model.path=M", "model.lora_rank=null"
    save(checkpoints, compose(*words, "optimizer.learning_rate=1e-4"), model_directory(tmp_path / "model"))
    assert as_begun(compose(*words), last_saved(checkpoints)).optimizer.learning_rate == 1e-5


def test_an_earlier_run_on_demonstrations_goes_on_with_the_rate_of_then(compose_sft):
    key = "optimizer.learning_rate"
    now = settings(compose_sft("model=hf", "model.path=M", "model.lora_rank=null"))
    assert (now[key], defaults_of_then("M", now, now | {key: 1e-4})) == (1e-5, {key: 1e-4})
    assert defaults_of_then("M", now, now | {key: 3e-6}) == {}


def test_another_day_is_a_difference_where_the_prompts_show_it(compose, checkpoints, tmp_path):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    config = compose(*LORA, "task.date=2026-02-01")
    assert start(checkpoints, config, directory).date == "2026-02-01"
    dated = dataclasses.replace(PROMPTS, texts=["<1 February: 1+1?>", "<1 February: 2+2?>"])
    refused = refusal(checkpoints, config, directory, prompts=dated)
    assert 'task.date: "2026-01-31" -> "2026-02-01"' in str(refused)


def test_the_way_out_in_the_sentence_is_a_folder_per_run(compose, tmp_path):
    assert compose("checkpoint_dir='${output_dir}/checkpoints'").checkpoint_dir == f"{tmp_path}/checkpoints"


def test_weights_from_the_seed_depend_on_the_shapes_alone(compose, tmp_path):
    config = compose(*LORA, "model.random_weights=true")
    one, same = model_directory(tmp_path / "a"), model_directory(tmp_path / "b", weights=b"others")
    other = model_directory(tmp_path / "c")
    (other / "config.json").write_text('{"model_type": "qwen3"}')
    first, second, third = (identity(config, folder, PROMPTS, 8)["model weights"] for folder in (one, same, other))
    assert first == second != third


def test_on_purpose_changed_settings_are_named_and_obeyed(compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    saved = compose(*LORA, "optimizer.learning_rate=1e-3", "grpo.beta=0.08", "reward.format.weight=1")
    save(checkpoints, saved, directory)
    changed = ("optimizer.learning_rate=1e-4", "grpo.beta=0.02", "reward.format.weight=3", "training.resume=changed")
    with caplog.at_level(logging.WARNING):
        assert start(checkpoints, compose(*LORA, *changed), directory) == STATE
    assert [record.message for record in caplog.records] == [
        "going on with another setting: grpo.beta: 0.08 -> 0.02",
        "going on with another setting: optimizer.learning_rate: 0.001 -> 0.0001",
        'going on with another setting: reward.format: {"weight": 1.0} -> {"weight": 3.0}',
    ]


@pytest.mark.parametrize(("then", "now"), [("true", "false"), ("false", "true")])
def test_a_deterministic_run_goes_on_as_one(then, now, compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA, f"training.deterministic={then}"), directory)
    assert start(checkpoints, compose(*LORA, f"training.deterministic={then}"), directory) == STATE
    words = f"training.deterministic: {then} -> {now}"
    refused = refusal(checkpoints, compose(*LORA, f"training.deterministic={now}"), directory)
    assert words in str(refused) and "training.resume=changed" in str(refused)
    changed = compose(*LORA, f"training.deterministic={now}", "training.resume=changed")
    assert start(checkpoints, changed, directory) == STATE
    assert f"going on with another setting: {words}" in caplog.text


def test_where_and_how_a_run_computes_may_change(compose, checkpoints, tmp_path, caplog):
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    free = (
        "training.save_interval_steps=7",
        "training.eval_interval_steps=107",
        "training.log_interval_steps=7",
        "training.max_to_keep=7",
        "training.remat=full",
        "training.gradient_accumulation_steps=7",
        "tracker.num_completions=1",
        "evaluation.num_questions=7",
        "jax_cache=null",
        "device=cpu",
    )
    with caplog.at_level(logging.WARNING, "tunix_grpo.run"):
        assert start(checkpoints, compose(*LORA, *free), directory) == STATE
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("total_steps", "said"),
    [
        (100, []),
        (250, ["total steps: 100 -> 250; the learning rate of the steps to come is that of a run of 250 steps"]),
        (50, ["total steps: 100 -> 50; the learning rate of the steps to come is that of a run of 50 steps"]),
        (20, []),
        (10, []),
    ],
)
def test_another_length_goes_on(compose, checkpoints, tmp_path, caplog, total_steps, said):
    """A longer run is told that the learning rate follows; where all is done already there is nothing to tell."""
    directory = model_directory(tmp_path / "model")
    save(checkpoints, compose(*LORA), directory)
    with caplog.at_level(logging.WARNING):
        state = start(checkpoints, compose(*LORA), directory, total_steps=total_steps)
    assert state == dataclasses.replace(STATE, total_steps=total_steps)
    assert [record.message for record in caplog.records] == said


@pytest.mark.parametrize("state", [STATE, RunState(), RunState(step=3, accuracy_before=1 / 3)])
def test_the_state_survives_json(state):
    assert RunState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


def test_what_is_saved_of_a_run_survives_json(compose, tmp_path):
    """What comes back from a checkpoint must compare equal, or every resumed run would be told of changes."""
    config = compose(*LORA, "reward.custom.path=x.py", "reward.custom.function=f", "generation.top_k=5")
    saved = this_run(config, model_directory(tmp_path / "model"), PROMPTS, 8).saved()
    assert json.loads(json.dumps(saved)) == saved

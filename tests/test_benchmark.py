"""The benchmark: limits counted by hand, programs in processes of their own that take turns, what is reported."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models import write_model
from helpers.samples import samples_of
from helpers.tokenizers import made_tokenizer, write_tokenizer
from tunix_grpo.benchmark import program
from tunix_grpo.benchmark.answers import serve as serve_answers
from tunix_grpo.benchmark.job import worth
from tunix_grpo.benchmark.lengths import answer_lengths, completion_lengths
from tunix_grpo.benchmark.own import make_prompts
from tunix_grpo.benchmark.own import serve as serve_steps
from tunix_grpo.benchmark.questions import apple_prompts, length_reward, random_prompts
from tunix_grpo.benchmark.report import evaluation_figures, figures, print_evaluation, print_json, print_table
from tunix_grpo.benchmark.turns import Worker, take_turns
from tunix_grpo.config.benchmark import BenchmarkConfig, from_values, load, to_values
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.grpo import limits
from tunix_grpo.grpo.limits import Ceilings, Work, step_limits
from tunix_grpo.model.config_json import read_spec, spec_from_config
from tunix_grpo.model.layout import leaves

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
SHAPES = ROOT / "src" / "tunix_grpo" / "assets" / "shapes"


def configured(*words: str) -> BenchmarkConfig:
    return load(composed(checked_command_line(list(words), CONF, "benchmark", load), [CONF], "benchmark"))


def spec_of(**changes) -> DecoderSpec:
    """Returns two layers, one of them with a window of 2: small enough to count on paper."""
    config = {
        "model_type": "llama",
        "vocab_size": 5,
        "hidden_size": 2,
        "intermediate_size": 3,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "tie_word_embeddings": True,
    }
    return dataclasses.replace(spec_from_config(config | changes), windows=(2, None))


# --- limits ---

SPEC = spec_of()
WORK = Work(prompts=1, generations=2, prompt_tokens=3, completion_tokens=3)
# One prompt of 3 tokens, two completions of 3, of which the first 2 are inputs: 3 + 4 inputs.
# A layer's projections: q and o 2 x (2 x 8), k and v 2 x (2 x 4), MLP 3 x (2 x 3): 66 weights; the head has 10.
PROJECTIONS = 2 * 2 * 66 * 7
# Pairs of positions in the prompt: 1 + 2 + 2 with the window, 1 + 2 + 3 without; a pair costs 4 x 2 heads x 4.
PROMPT_ATTENTION = 32 * (5 + 6)
# Inputs 4 and 5 of a row see 2 + 2 with the window, 4 + 5 without.
COMPLETION_ATTENTION = 32 * 2 * (4 + 9)
HEAD = 2 * 10 * 6
FORWARD = PROJECTIONS + PROMPT_ATTENTION + COMPLETION_ATTENTION + HEAD


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 66 + 2 * 2),  # two norms
        ({"model_type": "qwen2"}, 66 + 2 * 2 + 4 * (2 + 1 + 1)),  # and biases of q, k and v
        ({"model_type": "qwen3"}, 66 + 2 * 2 + 2 * 4),  # and norms of queries and keys
        ({"model_type": "gemma3", "sliding_window": 2}, 66 + 4 * 2 + 2 * 4),
    ],
)
def test_parameters_of_a_layer(changes, expected):
    assert limits.layer_parameters(spec_of(**changes)) == expected


@pytest.mark.parametrize(
    ("size", "quantization", "expected"),
    [
        (4, None, 4 * (2 * 70 + 10 + 2)),  # layers, tied embedding, last norm
        (2, None, 2 * 152),
        (4, "int8", 2 * 66 + 4 * 20),
        (4, "nf4", 66 + 4 * 20),
    ],
)
def test_bytes_of_the_weights(size, quantization, expected):
    assert limits.weight_bytes(SPEC, size, quantization) == expected


def test_an_input_embedding_of_its_own_is_not_read_whole():
    assert limits.weight_bytes(spec_of(tie_word_embeddings=False), 4) == limits.weight_bytes(SPEC, 4)


def test_the_cache_is_read_within_windows_and_the_prompt_once_per_group():
    # Windowed: the first step sees 1 of the prompt and 1 own in each row, the second 2 own: 3 + 4.
    # Full: 3 of the prompt with 1 and then 2 own in each row: 5 + 7.
    assert limits.cache_entries(SPEC, WORK) == 3 + 4 + 5 + 7
    assert limits.cache_entry_bytes(SPEC, 4) == 2 * 1 * 4 * 4


def test_flops_of_the_passes():
    assert limits.forward_flops(SPEC, WORK) == FORWARD
    assert limits.prefill_flops(SPEC, WORK) == 2 * 2 * 66 * 3 + PROMPT_ATTENTION + 2 * 10
    assert limits.decode_flops(SPEC, WORK) == 2 * 2 * 66 * 4 + COMPLETION_ATTENTION + 2 * 10 * 4


def test_flops_of_an_update():
    attention = PROMPT_ATTENTION + COMPLETION_ATTENTION
    assert limits.update_flops(SPEC, WORK, 10) == 2 * FORWARD + attention + 3 * 2 * 10 * 7
    assert limits.update_flops(SPEC, WORK, None) == 2 * FORWARD + attention + PROJECTIONS + HEAD


@pytest.mark.parametrize(
    ("ceilings", "expected"),
    [
        # Arithmetic is the limit: prefill 1164 FLOP, two steps of 984.
        (Ceilings(1000.0, 1000.0), (3.132, 3.152, 2 * 7.908)),
        # Bytes are: prefill reads 608, a step also 9.5 of 32 bytes on average.
        (Ceilings(1000.0, 10000.0), (0.608 + 2 * 0.912, 0.3152, 2 * 0.7908)),
    ],
)
def test_limits_of_a_step(ceilings, expected):
    settings = {"bytes_per_weight": 4, "quantization": None, "adapter_parameters": 10, "num_iterations": 2}
    found = step_limits(SPEC, WORK, ceilings, with_reference=True, **settings)
    assert (found.rollout, found.reference, found.update) == pytest.approx(expected)
    assert found.step == pytest.approx(sum(expected))
    assert step_limits(SPEC, WORK, ceilings, with_reference=False, **settings).reference == 0


def test_a_single_token_needs_no_decode_step():
    work = dataclasses.replace(WORK, completion_tokens=1)
    found = step_limits(
        SPEC,
        work,
        Ceilings(1000.0, 1000.0),
        bytes_per_weight=4,
        quantization=None,
        adapter_parameters=None,
        with_reference=True,
        num_iterations=1,
    )
    assert found.rollout == pytest.approx(1.164)


# Worked out apart from this code, for 16 rows of 256 + 512 tokens in bfloat16 that share no prompt, LoRA of rank 32,
# on a device of 3.35 TB/s and 800 TFLOP/s.
@pytest.mark.parametrize(
    ("size", "layer", "weights", "cache", "forward", "adapters", "update", "rollout"),
    [
        ("270m", 5.574e6, 536e6, 135e6, 5.5e12, 7.23e6, 12.1e12, 0.103),
        ("1b", 26.842e6, 2000e6, 195e6, 22.6e12, 25.13e6, 47.6e12, 0.335),
        ("4b", 94.383e6, 7760e6, 1140e6, 91.2e12, 56.82e6, 188e12, 1.360),
    ],
)
def test_limits_of_gemma3(size, layer, weights, cache, forward, adapters, update, rollout):
    spec = spec_from_config(json.loads((SHAPES / f"google--gemma-3-{size}-it" / "config.json").read_text()))
    work = Work(prompts=16, generations=1, prompt_tokens=256, completion_tokens=512)
    close = {"rel": 0.02}
    assert limits.layer_parameters(spec) == pytest.approx(layer, rel=1e-4)
    assert limits.weight_bytes(spec, 2) == pytest.approx(weights, rel=1e-3)
    per_step = limits.cache_entries(spec, work) * limits.cache_entry_bytes(spec, 2) / 511
    assert per_step == pytest.approx(cache, **close)
    assert limits.forward_flops(spec, work) == pytest.approx(forward, **close)
    assert limits.update_flops(spec, work, int(adapters)) == pytest.approx(update, **close)
    found = step_limits(
        spec,
        work,
        Ceilings(3.35e12, 800e12),
        bytes_per_weight=2,
        quantization=None,
        adapter_parameters=int(adapters),
        with_reference=True,
        num_iterations=1,
    )
    prefill = limits.prefill_flops(spec, work) / 800e12
    assert found.rollout - prefill == pytest.approx(rollout, **close)


def test_limits_count_the_tokens_that_exist():
    """One row of 3 tokens and one of 1: half of the completions' share above, and one token fewer."""
    uneven = dataclasses.replace(WORK, lengths=(1, 3))
    # Windowed: 1 of the prompt and 1 own, then 2 own; full: 3 of the prompt with 1 and then 2 own.
    assert limits.cache_entries(SPEC, uneven) == 2 + 2 + 4 + 5
    assert limits.decode_flops(SPEC, uneven) == 2 * 2 * 66 * 2 + COMPLETION_ATTENTION / 2 + 2 * 10 * 2
    assert limits.forward_flops(SPEC, uneven) == FORWARD - 2 * 2 * 66 * 2 - COMPLETION_ATTENTION / 2 - 2 * 10 * 2
    same = dataclasses.replace(WORK, lengths=(3, 3))
    for count in (limits.cache_entries, limits.decode_flops, limits.forward_flops):
        assert count(SPEC, same) == count(SPEC, WORK)


def test_a_device_does_no_more_than_its_share():
    work = Work(prompts=4, generations=2, prompt_tokens=3, completion_tokens=9, lengths=(1, 9, 2, 8, 3, 7, 4, 6))
    assert work.share(1) is not None and work.share(1).lengths == work.lengths
    share = work.share(2)
    assert (share.prompts, share.lengths) == (2, (8, 6, 3, 1))
    assert dataclasses.replace(work, lengths=None).share(2).row_lengths == (9,) * 4


# --- prompts ---


def test_prompts_fill_the_width_and_know_their_answers(tmp_path):
    tokenizer = made_tokenizer(tmp_path)
    prompts = apple_prompts(tokenizer, 3, 160, seed=1)
    for text, ids, question in zip(prompts.texts, prompts.ids, prompts.questions, strict=True):
        assert 160 - len(" now") < len(ids) <= 160  # a token is a letter
        assert question.question in text
        assert sum(int(word) for word in question.question.split() if word.isdigit()) == int(question.answer)
    assert len(set(prompts.texts)) == 3
    assert apple_prompts(tokenizer, 3, 160, seed=1).texts == prompts.texts
    assert apple_prompts(tokenizer, 3, 160, seed=2).texts != prompts.texts


def test_without_room_for_a_story_the_bare_sum_is_asked(tmp_path):
    prompts = apple_prompts(made_tokenizer(tmp_path), 3, 60, seed=1)
    assert all(question.question.startswith("What is ") for question in prompts.questions)


def test_without_room_for_a_sum_the_way_out_is_named(tmp_path):
    with pytest.raises(UserError, match=r"generation.max_prompt_length=9: .* give generation.max_prompt_length=\d+ or"):
        apple_prompts(made_tokenizer(tmp_path), 3, 9, seed=1)


def test_a_chat_template_is_told_what_the_command_line_says(tmp_path):
    size = write_tokenizer(
        tmp_path,
        template="{{ style }} on {{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}",
        **{"eos_token": "<end>", "pad_token": "<pad>"},
    )
    words = ["task.template_variables={style: short}", "task.date=2024-02-29", "generation.max_prompt_length=200"]
    config = configured("model=tiny", "device=cpu", f"model.tokenizer={tmp_path}", *words).on("cpu")
    prompts, _ = make_prompts(config, spec_of(vocab_size=size), tmp_path, 6)
    assert all(text.startswith("short on 29 Feb 2024: ") for text in prompts.texts)


def test_random_prompts_have_exactly_the_width():
    prompts = random_prompts(50, 4, 7, seed=3)
    assert [len(ids) for ids in prompts.ids] == [7] * 4
    assert all(0 <= token < 50 for ids in prompts.ids for token in ids)


def test_completions_are_worth_their_answer_and_a_little_for_their_length():
    questions = random_prompts(50, 2, 1, seed=3).questions
    texts = ["", f"it is {questions[1].answer}"]
    assert worth("it is 7", "7") == pytest.approx(1.0007)
    assert length_reward().function(samples_of(texts, questions)) == [0.0, worth(texts[1], questions[1].answer)]


# --- settings ---


def test_lengths_and_steps_go_by_the_device():
    config = configured("model=hf", "model.path=x")
    cpu, gpu = config.on("cpu"), config.on("gpu")
    assert (cpu.generation.max_prompt_length, cpu.generation.max_generation_steps, cpu.steps) == (64, 64, 3)
    assert (gpu.generation.max_prompt_length, gpu.generation.max_generation_steps, gpu.steps) == (256, 512, 5)
    given = configured("model=tiny", "steps=7").on("gpu")
    assert (given.generation.max_prompt_length, given.generation.max_generation_steps, given.steps) == (32, 16, 7)
    assert given.total_steps() == 9
    assert (given.prompts_per_step(2), given.completions_per_step(2)) == (8, 32)


def test_settings_reach_another_process():
    config = configured("model=tiny", "grpo.beta=0.5", "peer=tunix")
    assert from_values(json.loads(json.dumps(to_values(config)))) == config


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["peer=foo"], "peer=foo: must be one of trl, tunix"),
        (["steps=0"], "steps=0: must be at least 1; null chooses by device"),
        (["warmup=-1"], "warmup=-1: must be at least 0"),
        (["stepss=3"], "stepss=3: unknown setting; did you mean steps?"),
        (["training.num_batches=3"], "training.num_batches=3: unknown setting"),
        (["model=hf"], "no model to start from"),
        (
            ["peer=trl", "model.random_weights=true"],
            "model.random_weights=true and peer=trl: it reads the weights of a directory; "
            "give model.random_weights=false, or peer=null",
        ),
        (["peer=tunix", "model.quantization=nf4"], "model.quantization=nf4 and peer=tunix: it is timed without"),
        (
            ["peer=tunix", "timed=evaluation"],
            "timed=evaluation and peer=tunix: an evaluation is timed without a peer; give peer=null, or timed=steps",
        ),
        (
            ["peer=tunix", "lengths=real"],
            "lengths=real and peer=tunix: its sampler cannot end each row at a given length; "
            "give lengths=full, peer=trl or peer=null",
        ),
        (
            ["timed=evaluation", "lengths=real"],
            "timed=evaluation and lengths=real: an evaluation has recorded lengths of its own; give lengths=full, or",
        ),
        (["lengths=short"], "lengths=short: must be one of full, real"),
        (["timed=all"], "timed=all: must be one of steps, evaluation"),
        (["peer=tunix", "generation.top_k=5"], "generation.top_k=5 and peer=tunix: it is timed without; give"),
        (["model.lora_rank=null", "model.quantization=nf4"], "quantized weights cannot be trained"),
    ],
)
def test_wrong_settings_are_refused(words, problem):
    with pytest.raises(ConfigError) as raised:
        checked_command_line(words, CONF, "benchmark", load)
    assert len(raised.value.problems) == 1
    assert problem in raised.value.problems[0]


# --- an evaluation ---


def test_answers_have_the_recorded_lengths_in_an_order_of_the_seed():
    lengths = answer_lengths(180, 200, seed=1)  # each of 90 twice
    assert (lengths.min(), lengths.max()) == (5, 192)
    assert sorted(lengths[:90]) != sorted(lengths[90:])  # one order over all of them
    assert sorted(answer_lengths(180, 200, seed=2)) == sorted(lengths)
    assert answer_lengths(180, 200, seed=2).tolist() != lengths.tolist()
    assert answer_lengths(180, 50, seed=1).tolist() == [min(length, 50) for length in lengths]


def test_completions_have_the_recorded_mix_of_lengths():
    lengths = completion_lengths(96, 256, seed=1)  # each that was recorded, once
    assert (lengths.min(), lengths.max(), sum(lengths == 256)) == (31, 256, 31)
    assert lengths.mean() == pytest.approx(158.55, abs=0.01)
    few = completion_lengths(16, 256, seed=1)
    assert few.mean() == pytest.approx(lengths.mean(), rel=0.02)
    assert few.tolist() != sorted(few)
    assert completion_lengths(16, 256, seed=2).tolist() != few.tolist()
    assert sorted(completion_lengths(16, 256, seed=2)) == sorted(few)
    assert completion_lengths(16, 512, seed=1).tolist() == (2 * few).tolist()
    assert set(completion_lengths(16, 1, seed=1)) == {1}


class OneRound:
    """The benchmark's end of the talk, for one round."""

    def __init__(self) -> None:
        self.sent: list[dict] = []

    def receive(self) -> dict:
        if len(self.sent) == 2:
            raise EOFError
        return {"round": 1}

    def send(self, **answer: object) -> None:
        self.sent.append(json.loads(json.dumps(answer)))


@pytest.mark.long
def test_an_evaluation_is_timed_both_ways(capsys):
    """Both sides give the same answers, of the lengths that were asked for, with programs that were there before."""
    words = ["model=tiny", "device=cpu", "timed=evaluation", "evaluation.num_questions=70", "evaluation.batch_size=4"]
    config = configured(*words, "generation.max_generation_steps=8")
    link = OneRound()
    with pytest.raises(EOFError):
        serve_answers(to_values(config), link)
    about, measured = link.sent
    assert (about["questions"], about["rows"], about["longest"], about["rounds"]) == (70, 4, 8, 1)
    assert about["tokens"] == answer_lengths(70, 8, seed=42).sum()
    assert (measured["equal_answers"], measured["compilations"]) == (70, 0)
    result = evaluation_figures(about, [measured, measured | {"slots_s": 3 * measured["batches_s"]}])
    assert result["ratio_max"] == pytest.approx(3.0)
    assert result["slots_tokens_per_s"] == pytest.approx(about["tokens"] / result["slots_s"])
    print_evaluation(result)
    assert "70 of 70 answers" in capsys.readouterr().out


@pytest.mark.long
def test_a_step_is_timed_with_completions_of_uneven_lengths():
    """Rows end where the peer is told to end them, and a limit is that of the tokens that there are."""
    link = OneRound()
    config = configured("model=tiny", "device=cpu", "lengths=real")
    with pytest.raises(EOFError):
        serve_steps(to_values(config) | {"ceilings": Ceilings(1e13, 1e13)._asdict()}, link)
    about, measured = link.sent
    lengths = completion_lengths(16, 16, seed=42)
    assert about["lengths"] == program._job(config, about).lengths == lengths.tolist()
    assert (measured["tokens"], measured["longest"]) == (lengths.sum(), 16)
    assert lengths.sum() < 0.7 * 16 * 16
    assert about["ceilings"] == {"bandwidth": 1e13, "arithmetic": 1e13}  # as they were given
    assert about["limits"]["update"] < measured["update_s"]
    assert measured["no_room"] == []
    assert about["weights"] == sum(math.prod(leaf.shape) for leaf in leaves(read_spec(Path(about["directory"]))))
    assert about["work"] == {
        "prompts": 4,
        "generations": 4,
        "prompt_tokens": about["work"]["prompt_tokens"],
        "completion_tokens": 16,
        "prompt_width": 32,
    }


# --- turns ---

# Speaks the protocol as the real programs do, and is noisy about it.
FAKE = """
import sys, time
from tunix_grpo.benchmark.link import Link

name, behaviour = sys.argv[1:]
link = Link()
print("noise on standard output", flush=True)
print("noise on standard error", file=sys.stderr)
job = link.receive()
if behaviour == "refuses":
    link.send(error="it does not like the job")
link.send(ready=True, job=job)
while True:
    step = link.receive()["step"]
    if behaviour == "dies" and step == 2:
        sys.exit("out of luck")
    if behaviour == "sleeps":
        time.sleep(600)
    with open(job["diary"], "a") as diary:
        diary.write(f"{name}{step} ")
    link.send(step_s=step / 10, peak_bytes=1000)
"""


@pytest.fixture
def start(tmp_path) -> Callable[..., Worker]:
    """Starts a fake program: `start("a")`; it is stopped after the test."""
    started = []

    def make(name: str, behaviour: str = "works") -> Worker:
        started.append(Worker(name, [sys.executable, "-c", FAKE, name, behaviour]))
        return started[-1]

    yield make
    for one in started:
        one.stop()


def is_running(pid: int) -> bool:
    """Says whether there is such a process, a dead one that nobody has waited for left out."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_programs_take_turns(start, tmp_path):
    workers = [start("a"), start("b")]
    job = {"diary": str(tmp_path / "diary")}
    assert [one.ask(**job) for one in workers] == [{"ready": True, "job": job}] * 2
    seen = []
    measured = take_turns(workers, 3, lambda step, answers: seen.append((step, len(answers))))
    assert (tmp_path / "diary").read_text() == "a1 b1 a2 b2 a3 b3 "
    assert [[m["step_s"] for m in one] for one in measured] == [[0.1, 0.2, 0.3]] * 2
    assert seen == [(1, 2), (2, 2), (3, 2)]


def test_what_a_program_refuses_is_the_users_error(start):
    with pytest.raises(UserError, match="^it does not like the job$"):
        start("a", "refuses").ask()


def test_a_program_that_ends_is_reported_with_its_last_lines(start, tmp_path, caplog):
    one = start("peer=a", "dies")
    one.ask(diary=str(tmp_path / "diary"))
    with pytest.raises(UserError, match="^peer=a ended with exit code 1; its last lines are above$"):
        take_turns([one], 3, lambda *_: None)
    assert "noise on standard error\nout of luck" in caplog.text


def test_a_killed_program_may_have_wanted_memory(start, tmp_path):
    one = start("a")
    one.ask(diary=str(tmp_path / "diary"))
    os.kill(one._process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="a was killed, probably for want of memory"):
        one.ask(step=1)


def test_stopping_ends_a_step_and_leaves_nothing(start, tmp_path):
    one = start("a", "sleeps")
    one.ask(diary=str(tmp_path / "diary"))
    one._process.stdin.write('{"step": 1}\n')
    one._process.stdin.flush()
    folder = Path(one._folder.name)
    assert folder.is_dir()
    one.stop()
    assert not is_running(one._process.pid)
    assert not folder.exists()


def test_a_program_does_not_outlive_the_one_that_started_it(tmp_path):
    """Not even where that one is killed in the middle of a step."""
    program = (
        "import sys; from tunix_grpo.benchmark.turns import Worker, take_turns\n"
        "one = Worker('a', [sys.executable, '-c', sys.argv[1], 'a', 'sleeps'])\n"
        "one.ask(diary=''); print(one._process.pid, flush=True); take_turns([one], 1, print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, FAKE], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_missing_package_is_named_with_its_way_out(monkeypatch):
    monkeypatch.setitem(program._PACKAGES, "trl", ("json", "no_such_package"))
    with pytest.raises(UserError, match=r"^peer=trl: no_such_package cannot be imported; pip install \"trl==1.16"):
        program.benchmark(configured("model=tiny", "peer=trl"))


# --- the report ---

ABOUT = {
    "model": "tiny",
    "device": "cpu (cpu)",
    "dtype": "float32",
    "remat": "block",
    "work": {"prompts": 4, "generations": 4, "prompt_tokens": 60, "completion_tokens": 50, "prompt_width": 64},
    "ceilings": {"bandwidth": 2e10, "arithmetic": 1e11},
    "limits": {"rollout": 1.0, "reference": 0.5, "update": 1.5, "step": 3.0},
}
OWN = [
    {
        "step_s": s,
        "rollout_s": s / 2,
        "reference_s": s / 10,
        "update_s": s / 4,
        "compilations": c,
        "peak_bytes": 10**9,
        "tokens": 16 * 50,
        "longest": 50,
    }
    for s, c in ((30.0, 12), (9.0, 1), (4.0, 0), (5.0, 0), (12.0, 0))
]
REAL = [step | {"tokens": 16 * 20, "longest": 40} for step in OWN]
PEER = [{"step_s": s, "peak_bytes": 2 * 10**9} for s in (50.0, 40.0, 10.0, 20.0, 24.0)]


def test_figures_are_medians_of_the_timed_steps():
    found = figures(ABOUT, configured("model=tiny"), OWN)
    assert "peer" not in found
    expected = {
        "steps": 3,
        "step_s": 5.0,  # of 4, 5 and 12
        "step_s_min": 4.0,
        "step_s_max": 12.0,
        "step_limit_s": 3.0,
        "step_percent": 60.0,
        "rollout_s": 2.5,
        "rollout_percent": 40.0,
        "rollout_ms_per_token": 50.0,
        "rollout_limit_ms_per_token": 20.0,
        "tokens_per_s": 16 * 50 / 2.5,
        "tokens_limit_per_s": 800.0,
        "reference_percent": 100.0,
        "update_percent": 120.0,
        "lengths": "full",
        "length_mean": 50.0,
        "length_max": 50,
        "samples_per_s": 16 / 5.0,
        "samples_limit_per_s": 16 / 3.0,
        "completion_tokens_per_s": 800 / 5.0,
        "completion_tokens_limit_per_s": 800 / 3.0,
        "steps_per_hour": 720.0,
        "steps_limit_per_hour": 1200.0,
        "compile_s": 25.0,
        "compilations": 12,
        "recompilations": 1,
        "peak_bytes": 10**9,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_figures_count_the_tokens_that_exist():
    peer = [step | {"tokens": 16 * 19} for step in PEER]
    found = figures(ABOUT, configured("model=tiny", "lengths=real", "peer=trl"), REAL, peer)
    expected = {
        "length_mean": 20.0,
        "peer_length_mean": 19.0,
        "peer_completion_tokens_per_s": 320 / 20.0,
        "length_max": 40,
        "rollout_ms_per_token": 2500 / 40,
        "tokens_per_s": 320 / 2.5,
        "samples_per_s": 16 / 5.0,
        "completion_tokens_per_s": 320 / 5.0,
    }
    assert found["lengths"] == "real"
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_figures_of_a_peer_are_of_the_same_rounds():
    found = figures(ABOUT, configured("model=tiny", "peer=trl"), OWN, PEER)
    expected = {
        "peer_step_s": 20.0,
        "peer_step_s_min": 10.0,
        "peer_step_s_max": 24.0,
        "peer_samples_per_s": 16 / 20.0,
        "peer_completion_tokens_per_s": 800 / 20.0,
        "peer_peak_bytes": 2 * 10**9,
        "step_ratio": 0.25,
        "step_ratio_min": 0.25,  # of 4 / 10, 5 / 20 and 12 / 24
        "step_ratio_max": 0.5,
    }
    assert found["peer"] == "trl"
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_without_a_reference_there_is_no_figure_for_it():
    found = figures(ABOUT, configured("model=tiny", "grpo.beta=0"), OWN)
    assert [name for name in found if name.startswith("reference")] == []


def test_the_table(capsys):
    print_table(figures(ABOUT, configured("model=tiny", "peer=trl"), OWN, PEER))
    assert capsys.readouterr().out == (
        "tiny, float32, all weights, on cpu (cpu)\n"
        "4 prompts x 4 completions of 60 + 50 tokens, 4 prompts at once, medians of 3 steps\n"
        "this device: 20.0 GB/s, 100 GFLOP/s\n"
        "\n"
        "                       measured  limit  of the limit\n"
        "rollout                   2.5 s    1 s          40 %\n"
        "  a token of all rows     50 ms  20 ms\n"
        "  tokens/s                  320    800\n"
        "reference                 0.5 s  0.5 s         100 %\n"
        "update                   1.25 s  1.5 s         120 %\n"
        "step                        5 s    3 s          60 %\n"
        "  samples/s                 3.2   5.33\n"
        "  completion tokens/s       160    267\n"
        "steps/hour                  720  1,200\n"
        "\n"
        "compilation  25 s, 12 programs, 1 again after the first step\n"
        "memory       1.0 GB at most\n"
        "\n"
        "step, ours   5 s (4 s to 12 s), 1.0 GB\n"
        "step, trl    20 s (10 s to 24 s), 2.0 GB\n"
        "ratio        0.25 (0.25 to 0.50)\n"
    )


def test_the_table_says_how_long_completions_were(capsys):
    print_table(figures(ABOUT, configured("model=tiny", "lengths=real"), REAL))
    assert "4 completions of 60 + 20 tokens in the mean and 40 at most, 4 prompts" in capsys.readouterr().out


def test_json_is_one_line(capsys):
    found = figures(ABOUT, configured("model=tiny"), OWN)
    print_json(found)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == found


# --- all together ---


def run_benchmark(*words: str, timeout_s: float = 280) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "device=cpu", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def check_figures(found: dict) -> None:
    """Checks what must hold on any machine."""
    for part in ("rollout", "reference", "update", "step"):
        assert 0 < found[f"{part}_limit_s"] < found[f"{part}_s"]
        assert 0 < found[f"{part}_percent"] < 100
    assert 5e8 < found["bandwidth_bytes_per_s"] < 1e13
    assert 1e9 < found["arithmetic_flop_per_s"] < 1e16
    parts = found["rollout_s"] + found["reference_s"] + found["update_s"]
    assert parts == pytest.approx(found["step_s"], rel=0.2)
    assert found["compilations"] > 0
    assert found["recompilations"] == 0
    assert found["peak_bytes"] > 10**8


@pytest.mark.slow  # docs-test runs this command, too
def test_the_bundled_model_is_timed(jax_cache):
    done = run_benchmark("model=tiny", "json=true", "steps=2", f"jax_cache='{jax_cache}'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    check_figures(found)
    assert (found["steps"], found["prompts"], found["generations"], found["completion_tokens"]) == (2, 4, 4, 16)
    assert 16 <= found["prompt_tokens"] <= found["prompt_width"] == 32


@pytest.mark.slow
def test_random_weights_need_no_tokenizer(tmp_path, jax_cache):
    write_model("qwen3", tmp_path, num_hidden_layers=2)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    words = ("model=hf", f"model.path={tmp_path}", "model.random_weights=true", "steps=1", f"jax_cache='{jax_cache}'")
    sizes = ("generation.max_prompt_length=20", "generation.max_generation_steps=8", "grpo.beta=0")
    done = run_benchmark(*words, *sizes)
    assert done.returncode == 0, done.stderr
    assert "4 prompts x 4 completions of 20 + 8 tokens" in done.stdout
    assert "reference" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("peer", "variant", "more"),
    [
        ("tunix", "gemma3", ("training.micro_batch_size=2", "training.gradient_accumulation_steps=2")),
        ("tunix", "llama", ("model.lora_rank=null",)),
        ("trl", "qwen3", ("training.micro_batch_size=2", "training.gradient_accumulation_steps=2")),
        ("trl", "gemma3", ("model.lora_rank=null",)),
        ("trl", "llama", ("training.micro_batch_size=2", "training.gradient_accumulation_steps=2", "lengths=real")),
    ],
)
def test_a_peer_does_the_same_work(peer, variant, more, tmp_path, jax_cache):
    if peer == "trl" and importlib.util.find_spec("trl") is None:
        pytest.skip("trl is not installed")
    size = write_tokenizer(tmp_path, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    write_model(variant, tmp_path, vocab_size=size, num_hidden_layers=2)
    words = ("model=hf", f"model.path={tmp_path}", f"peer={peer}", "json=true", "steps=2", f"jax_cache='{jax_cache}'")
    sizes = ("generation.max_prompt_length=128", "generation.max_generation_steps=8")
    done = run_benchmark(*words, *sizes, *more)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    check_figures(found)
    assert found["peer"] == peer
    assert found["prompts"] == 4
    assert found["step_ratio"] == pytest.approx(found["step_s"] / found["peer_step_s"])
    assert found["step_ratio_min"] <= found["step_ratio_max"]
    assert found.get("peer_length_mean", found["length_mean"]) == found["length_mean"]
    assert ("peer_length_mean" in found) == ("lengths=real" in more) == (found["length_mean"] < 8)
    assert found["peer_peak_bytes"] > 10**8

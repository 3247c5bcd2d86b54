"""Asking a model: streamed and batched answers, prompts, trained weights, and what can go wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.models import load as load_base
from helpers.models import one_device_mesh, write_model
from helpers.tokenizers import SPECIAL, TURNS, move_to_the_end, write_tokenizer
from helpers.trainer import NumberTokenizer
from tunix_grpo.cli import exit_code, print_error
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.generate import GenerateConfig, load
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.streaming import stream_tokens, text_pieces
from tunix_grpo.errors import ConfigError, UserError
from tunix_grpo.grpo.rollout import Sampler, row_keys
from tunix_grpo.model.model import Model
from tunix_grpo.programs.generate import Prompt, generate, prompt_table
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.prompts import SYSTEM_PROMPT
from tunix_grpo.text.tokenizer import Tokenizer, load_tokenizer
from tunix_grpo.train import train

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
QUESTIONS = ["What is 3 + 4?", "Why?", "Tell me of the sea, and of the Ålands hav."]
REPEATED = [(QUESTIONS[0], 1), (QUESTIONS[1], 0), (QUESTIONS[1], 1), (QUESTIONS[2], 0)]  # what two others show already


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with random weights that speaks bytes, so that its answers are full of half characters."""
    folder = tmp_path_factory.mktemp("model")
    size = write_tokenizer(folder, adds_bos=True, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    write_model("llama", folder, vocab_size=size, num_hidden_layers=2)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))  # <eos>, <end>
    return folder


def configured(*words: str) -> GenerateConfig:
    words = checked_command_line(["device=cpu", *words], CONF, "generate", load)
    return load(composed(words, [CONF], "generate"))


@pytest.fixture
def ask(folder, jax_cache, capsys) -> Callable[..., str]:
    """Runs the program in this process, on the random model unless told otherwise; returns its standard output."""

    def run(*words: str, model: str = f"path={folder}") -> str:
        defaults = ["generation.temperature=0", "generation.max_generation_steps=24", "task.system_prompt=null"]
        generate(configured(model, *defaults, f"jax_cache='{jax_cache}'", *words))
        return capsys.readouterr().out

    return run


@pytest.fixture
def type_in(monkeypatch) -> Callable[[bytes], None]:
    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def streamed(model: Model, tokenizer: Tokenizer, prompt: list[int], sampling: Sampling) -> list[int]:
    """Streams what the engine with seed 5 draws for row 0 of step 0."""
    key = row_keys(5, 0, 1)[0]
    weights = model.decoder_weights()
    settings = {"prompt_width": 64, "stop_ids": tokenizer.stop_ids, "pad_id": tokenizer.pad_id()}
    return list(stream_tokens(model.spec, weights, prompt, sampling, key, **settings))


def objects(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


# --- answers ---


@pytest.mark.long
@pytest.mark.parametrize("temperature", [0, 1])
def test_streamed_tokens_are_those_of_the_engine(folder, temperature):
    model = load_base(folder)
    tokenizer = load_tokenizer(folder, model.spec.vocab_size)
    sampling = Sampling(num_generations=1, max_tokens=200, temperature=temperature, top_k=50)
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "Why?"}])
    weights = (model.trained, model.frozen)
    rollout = Sampler(model, tokenizer, one_device_mesh(), prompt_width=64, seed=5).sample(
        weights, [prompt], sampling, 0
    )
    tokens = streamed(model, tokenizer, prompt, sampling)
    assert tokens == np.asarray(rollout.batch.tokens)[0, : rollout.lengths[0]].tolist()
    assert [token in tokenizer.stop_ids for token in tokens[:-1]] == [False] * (len(tokens) - 1)
    assert (tokens[-1] in tokenizer.stop_ids) == (not rollout.truncated[0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("question", "temperature"),
    [(QUESTIONS[0], 0), (QUESTIONS[2], 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in REPEATED)],
)
def test_the_streamed_text_is_that_of_a_batch(ask, question, temperature):
    words = (f"question={question}", f"generation.temperature={temperature}")
    (answer,) = objects(ask(*words, "json=true"))
    assert ask(*words) == answer["completion"] + "\n"


def test_stop_tokens_end_the_stream_and_are_not_shown(ask, folder):
    """<eos> and <end> both stop; at temperature 9 one of them is drawn soon."""
    for seed in range(2):
        out = ask("question=Why?", f"seed={seed}", "generation.temperature=9", "generation.max_generation_steps=2000")
        assert 0 < len(out) < 6000
        assert "<e" not in out


@pytest.mark.parametrize(
    ("text", "cut"),
    [("plain", 0), ("añ€😀 z", 0), ("😀😀", 0), ("half 😀", 2), ("", 0)],
)
def test_pieces_are_whole_characters_and_make_up_the_text(text, cut):
    content = list(text.encode())
    content = content[: len(content) - cut]
    pieces = list(text_pieces(content, lambda ids: bytes(ids).decode(errors="replace")))
    assert "".join(pieces) == bytes(content).decode(errors="replace")
    assert all("�" not in piece for piece in (pieces[:-1] if cut else pieces))
    assert cut or len(pieces) == len(text)


def test_text_is_shown_as_soon_as_it_is_there():
    seen = []

    def tokens():
        for token in b"abc":
            seen.append(f"drawn {chr(token)}")
            yield token

    for piece in text_pieces(tokens(), lambda ids: bytes(ids).decode()):
        seen.append(f"shown {piece}")
    assert seen == ["drawn a", "shown a", "drawn b", "shown b", "drawn c", "shown c"]


def test_samples(ask):
    """Four answers, different ones, the same ones again for the same seed."""
    words = ("question=Why?", "samples=4", "generation.temperature=1")
    answers = objects(ask(*words, "json=true"))
    assert len({answer["completion"] for answer in answers}) == 4
    assert objects(ask(*words, "json=true")) == answers
    assert objects(ask(*words, "json=true", "seed=7")) != answers
    shown = "".join(f"> Why? ({number} of 4)\n{answer['completion']}\n\n" for number, answer in enumerate(answers, 1))
    assert ask(*words) == shown


@pytest.mark.long
def test_a_file_is_answered_in_order_whatever_the_batch(ask, tmp_path):
    """Blank lines, a byte order mark and Windows line ends are no part of a question."""
    file = tmp_path / "questions.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(QUESTIONS).encode() + b"\n\n")
    alone = [objects(ask(f"question={question}", "json=true"))[0] for question in QUESTIONS]
    for answer, question in zip(alone, QUESTIONS, strict=True):
        assert list(answer) == ["prompt", "completion", "length", "truncated"]
        assert question in answer["prompt"]
        assert answer["truncated"] == (answer["length"] == 24)
    for batch_size in (1, 2, 32):
        assert objects(ask(f"file={file}", "json=true", f"batch_size={batch_size}")) == alone


def test_a_minus_is_standard_input(ask, type_in):
    type_in(b"Why?\nWhat is 3 + 4?\n")
    answers = objects(ask("file=-", "json=true", "samples=2"))
    assert ["Why?" in answer["prompt"] for answer in answers] == [True, True, False, False]


# --- prompts ---


def test_show_prompt_shows_every_token(ask, folder):
    tokenizer = load_tokenizer(folder, 261)
    out = ask("question=Why?", "samples=0", "show_prompt=true", "task.system_prompt='Be brief.'")
    text = "<start>system\nBe brief.<end>\n<start>user\nWhy?<end>\n<start>model"
    assert out.startswith(text + "\n")
    ids = [int(line.split()[1]) for line in out.splitlines() if len(line.split()) == 3 and line.split()[0].isdigit()]
    assert ids == [0, *tokenizer.encode(text)[1:]]
    assert "BOS: 0 <bos>, 1 in the prompt\nstop tokens: 1 <eos>, 3 <end>\npad token: 4 <pad>\n" in out


def test_a_token_is_shown_on_one_line():
    class Newlines(NumberTokenizer):
        def token(self, token_id: int) -> str:
            return {0: "<pad>", 1: "<eos>", 2: "<end>"}.get(token_id, "\n\n")

    lines = prompt_table(Prompt("a", "b", [107, 2]), Newlines()).splitlines()
    assert lines[3:5] == ["    0      107 \\n\\n", "    1        2 <end>"]


def test_show_prompt_as_json(ask):
    (shown,) = objects(ask("question=Why?", "samples=0", "show_prompt=true", "json=true"))
    assert list(shown) == ["prompt", "prompt_ids"]
    (answer,) = objects(ask("question=Why?", "show_prompt=true", "json=true"))
    assert list(answer) == ["prompt", "prompt_ids", "completion", "length", "truncated"]
    assert answer["prompt_ids"] == shown["prompt_ids"]


def test_a_prompt_alone_needs_no_weights(ask, folder, tmp_path):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert "Why?" in ask("question=Why?", "samples=0", "show_prompt=true", model=f"path={tmp_path}")


def test_prompts_are_those_of_training(ask):
    """The task's system prompt, which the bundled model was not trained with."""
    assert configured("path=a", "question=Why?").task.system_prompt == "default"
    assert configured("model=tiny", "question=Why?").task.system_prompt is None
    assert SYSTEM_PROMPT in ask("question=Why?", "samples=0", "show_prompt=true", "task.system_prompt=default")


@pytest.mark.parametrize(
    "question",
    [
        "What is 3 + 4?",
        "It's 3, 4 (or x = 5)",
        'a "b" {c} [d] ${e} $5 ~f #g',
        "back\\slash \\' and an end \\",
        "a \\${b} \\\\${c}' \\\\' ${d}",
        "null and void",
        "two\nlines",
        "Größe, 数, 😀",
    ],
)
def test_a_question_may_hold_any_character(question):
    assert configured("model=tiny", f"question={question}").question == question


# --- a run ---


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, request) -> Path:
    """A short run of the bundled model, with an evaluation of its end."""
    folder = tmp_path_factory.mktemp("run")
    words = [
        "model=tiny",
        "task=arithmetic",
        "task.num_questions=500",
        "training.device=cpu",
        "training.num_batches=3",
        "training.micro_batch_size=2",
        "generation.max_prompt_length=40",
        "generation.max_generation_steps=24",
        "optimizer.learning_rate=0.01",
        "scheduler=constant",
        "evaluation.num_questions=32",
        "evaluation.batch_size=32",
        "tracker.wandb=false",
        "tracker.tensorboard=false",
        f"training.checkpoint_dir={folder / 'checkpoints'}",
        f"jax_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
    ]
    from tunix_grpo.config import load as load_training

    cfg = composed(["hydra.run.dir=" + str(folder), *words], [CONF], "config")
    train(load_training(cfg))
    return folder


def test_a_run_answers_with_its_trained_weights(ask, run_folder, tmp_path):
    """The held-out questions get the score of the run's own last evaluation, and other answers than before."""
    from omegaconf import OmegaConf

    from tunix_grpo.config import load as load_training

    config = load_training(OmegaConf.load(run_folder / "config.yaml"))
    task = build_task(config.task, config.seed)
    heldout = task.heldout[:32]
    (tmp_path / "questions.txt").write_text("".join(f"{question.question}\n" for question in heldout))
    words = (f"file={tmp_path}/questions.txt", "json=true")
    after = objects(ask(*words, model=f"run={run_folder}"))
    before = objects(ask(*words, model="model=tiny"))
    assert [answer["prompt"] for answer in after] == [answer["prompt"] for answer in before]
    assert [answer["completion"] for answer in after] != [answer["completion"] for answer in before]
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if "eval/accuracy" in row]
    for answers, row in ((before, logged[0]), (after, logged[-1])):
        scores = [task.score(answer["completion"], q) for answer, q in zip(answers, heldout, strict=True)]
        assert np.mean([score == 1.0 for score in scores]) == pytest.approx(row["eval/accuracy"])
        assert np.mean([answer["truncated"] for answer in answers]) == pytest.approx(row["eval/truncated"])


def test_a_run_brings_its_prompt_and_lengths(run_folder):
    config = configured(f"run={run_folder}", "question=Why?")
    assert (config.model.name, config.task.system_prompt) == ("tiny", None)
    assert (config.generation.max_prompt_length, config.generation.max_generation_steps) == (40, 24)
    assert config.generation.temperature == 0.7
    given = configured(f"run={run_folder}", "question=Why?", "generation.max_prompt_length=99", "task=gsm8k")
    assert (given.generation.max_prompt_length, given.task.system_prompt) == (99, "default")


def test_a_run_brings_its_day(run_folder):
    """Not today's, which a chat template would write; also beside another task's system prompt."""
    own = yaml.safe_load((run_folder / "config.yaml").read_text())["task"]["date"]
    copy = run_folder.parent / "dated"
    copy.mkdir()
    text = (run_folder / "config.yaml").read_text().replace(own, "2026-01-31")
    (copy / "config.yaml").write_text(text)
    for words in ([], ["task=gsm8k"]):
        assert configured(f"run={copy}", "question=Why?", *words).task.date == "2026-01-31"
    assert configured(f"run={copy}", "question=Why?", "task.date=2020-02-29").task.date == "2020-02-29"


def test_a_dated_template_is_told_the_day_that_is_asked_for(ask, tmp_path):
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    size = write_tokenizer(tmp_path, template=template, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    write_model("llama", tmp_path, vocab_size=size, num_hidden_layers=1)
    words = ("question=Why?", "samples=0", "show_prompt=true", "json=true", "task.date=2026-01-31")
    assert json.loads(ask(*words, model=f"path={tmp_path}"))["prompt"] == "31 Jan 2026 Why?"


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ([], {"enable_thinking": False}),
        (["task.template_variables.enable_thinking=true"], {"enable_thinking": True}),
        (["task.template_variables={style: short}"], {"style": "short"}),
        (["task.template_variables=null"], None),
    ],
)
def test_a_run_brings_the_variables_of_its_template(words, variables, run_folder, tmp_path):
    run = yaml.safe_load((run_folder / "config.yaml").read_text())
    run["task"]["template_variables"] = {"enable_thinking": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    assert configured(f"run={tmp_path}", "question=Why?", *words).task.template_variables == variables


def test_the_variables_of_a_template_are_in_the_prompt(ask, tmp_path):
    write_tokenizer(
        tmp_path, template=TURNS + "{% if not thinking %}<no>{% endif %}", eos_token="<end>", bos_token="<bos>"
    )
    words = ("question=Why?", "samples=0", "show_prompt=true", "json=true", f"model.tokenizer={tmp_path}")
    for value, end in (("true", "model"), ("false", "model<no>")):
        (shown,) = objects(ask(*words, f"task.template_variables.thinking={value}", model="model=tiny"))
        assert shown["prompt"].endswith(f"<start>{end}")


def test_a_token_that_the_model_has_no_row_for_is_refused(ask, tmp_path):
    fillers = (f"<s{number}>" for number in range(59))
    special = (*SPECIAL, *fillers, "<image>")
    size = write_tokenizer(tmp_path, special=special, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    move_to_the_end(tmp_path / "tokenizer.json", "<image>")
    assert size == 321  # one more than the rows of the bundled model's embedding
    words = ("samples=0", "show_prompt=true", f"model.tokenizer={tmp_path}")
    assert "Why?" in ask("question=Why?", *words, model="model=tiny")
    with pytest.raises(UserError, match="question: the prompt holds <image>, a token that the model has no row for"):
        ask("question=What is <image>?", *words, model="model=tiny")


# --- what can go wrong ---


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["model=tiny"], "question=null and file=null: there is no question; give"),
        (["model=tiny", "question=a", "file=b"], "question=a and file=b: there can be only one of them"),
        (["run=a", "path=b", "question=a"], "run=a and path=b: there can be only one model"),
        (["run=a", "model=tiny", "question=a"], "run=a: the run knows its model; leave out model"),
        (["run=a", "model.dtype=float32", "question=a"], "leave out model.dtype"),
        (["model=tiny", "checkpoint_dir=c", "question=a"], "run=null: checkpoints belong to a run; give its folder as"),
        (["run=nowhere", "question=a"], "nowhere: no such folder; give the folder of a run"),
        (["model=tiny", "step=3", "question=a"], "step=3 and run=null: steps belong to a run"),
        (["model=tiny", "question=a", "samples=0"], "samples=0 and show_prompt=false: there is nothing to do"),
        (["model=tiny", "question=a", "samples=-1"], "samples=-1: must be at least 0"),
        (["model=tiny", "question=a", "training.seed=1"], "training.seed=1: unknown setting; did you mean seed?"),
        (["model=tiny", "question=a", "generation.temprature=1"], "did you mean generation.temperature?"),
        (["model=tiny", "question=a", "task.dataset=x"], "task.dataset=x: unknown setting"),
        (["model=hf", "question=a"], "model.hub_id=null and model.kaggle_id=null: no model to start from"),
    ],
)
def test_settings_that_cannot_work(words, problem):
    with pytest.raises(ConfigError) as caught:
        configured(*words)
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


@pytest.mark.long
def test_a_run_without_a_checkpoint(ask, run_folder, tmp_path):
    text = (run_folder / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace(str(run_folder / "checkpoints"), str(tmp_path / "none")))
    with pytest.raises(UserError, match="holds no checkpoint; if they have moved, give checkpoint_dir=DIR"):
        ask("question=Why?", model=f"run={tmp_path}")
    moved = ask("question=Why?", f"checkpoint_dir={run_folder / 'checkpoints'}", model=f"run={tmp_path}")
    assert moved == ask("question=Why?", model=f"run={run_folder}")


@pytest.mark.long
def test_a_run_whose_model_has_moved(ask, run_folder, tmp_path):
    shutil.copytree(ROOT / "src" / "tunix_grpo" / "assets" / "tiny", tmp_path / "tiny")
    text = (run_folder / "config.yaml").read_text()
    assert "path: bundled:tiny" in text
    (tmp_path / "config.yaml").write_text(text.replace("path: bundled:tiny", f"path: {tmp_path}/old"))
    with pytest.raises(UserError, match="model.path=.*/old: no such directory; give .*, model.path=DIR"):
        ask("question=Why?", model=f"run={tmp_path}")
    moved = ask("question=Why?", f"model.path={tmp_path / 'tiny'}", model=f"run={tmp_path}")
    assert moved == ask("question=Why?", model=f"run={run_folder}")


@pytest.mark.parametrize(
    ("content", "words", "problem"),
    [
        (b"Why?\n" + b"long " * 30, [], r"questions.txt:2: the prompt has \d+ tokens, more than .*length=64; raise it"),
        (b"\n \n", [], "it holds no question; give a question a line"),
        (b"\xff\xfe", [], "not UTF-8 text"),
        (None, [], "cannot be read (No such file or directory); give a file, or - for standard input"),
    ],
)
def test_files_that_cannot_be_asked(ask, tmp_path, content, words, problem):
    file = tmp_path / "questions.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=problem.replace("(", r"\(").replace(")", r"\)")):
        ask(f"file={file}", "generation.max_prompt_length=64")


def test_equal_answers_are_announced(ask, caplog):
    ask("question=Why?", "samples=2", "json=true")
    assert "samples=2 and generation.temperature=0.0: the answers to a question will all be the same" in caplog.text
    assert "2 of 2 answers were cut at generation.max_generation_steps=24 tokens" in caplog.text


# --- the program itself ---


def program(folder: Path, *words: str, **options) -> subprocess.Popen:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "generate.py"),
        f"jax_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        *words,
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.long
def test_only_objects_on_standard_output_and_no_file_left(folder, tmp_path):
    process = program(tmp_path, f"path={folder}", "file=-", "json=true", "samples=2", stdin=subprocess.PIPE)
    out, err = process.communicate(b"Why?\nHow?\n", timeout=120)
    assert process.returncode == 0, err
    assert [list(row) for row in objects(out.decode())] == [["prompt", "completion", "length", "truncated"]] * 4
    assert list(tmp_path.iterdir()) == []


def test_help(tmp_path):
    out, err = program(tmp_path, "--help").communicate(timeout=60)
    assert err == b""
    text = out.decode()
    keys = [key for key in load.settings() if not key.startswith(("model.", "mesh."))]
    assert [key for key in keys if key not in text] == []
    assert list(tmp_path.iterdir()) == []


def test_an_error_is_a_sentence(folder, capsys):
    config = configured(f"path={folder}", "question=Why?", "generation.max_prompt_length=9")
    assert exit_code(lambda: generate(config), report=print_error) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: question: the prompt has ")
    assert err.count("\n") == 1


ENDLESS = ("question=Why?", "generation.max_generation_steps=100000", "generation.temperature=0")


@pytest.mark.long
def test_a_reader_that_leaves_ends_it_quietly(folder, tmp_path):
    process = program(tmp_path, f"path={folder}", *ENDLESS)
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


@pytest.mark.long
def test_ctrl_c_ends_it_quietly(folder, tmp_path):
    process = program(tmp_path, f"path={folder}", *ENDLESS)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"error: stopped by Ctrl-C\n")
    assert out.endswith(b"\n")


# --- a real model ---


@pytest.mark.slow
@pytest.mark.skipif("TUNIX_GRPO_SMOLLM2" not in os.environ, reason="TUNIX_GRPO_SMOLLM2 is not set")
@pytest.mark.timeout(900)
def test_smollm2_answers_as_transformers_does(ask, tmp_path):
    """Greedy, 40 tokens, ten questions, float32: token for token streamed, word for word in a batch."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = Path(os.environ["TUNIX_GRPO_SMOLLM2"])
    questions = [
        "What is the capital of France?",
        "Write a haiku about the sea.",
        "What is 17 + 25?",
        "Name three mammals.",
        "Explain gravity to a child.",
        "Translate 'good morning' into Spanish.",
        "Who wrote Hamlet?",
        "List the days of the week.",
        "Why is the sky blue?",
        "A train travels 60 miles in 1.5 hours. How fast is it?",
    ]
    (tmp_path / "questions.txt").write_text("\n".join(questions))
    words = ("generation.max_generation_steps=40", "model.dtype=float32", "json=true", "show_prompt=true")
    answers = objects(ask(f"file={tmp_path}/questions.txt", *words, model=f"path={directory}"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ours = load_base(directory)
    greedy = Sampling(num_generations=1, max_tokens=40, temperature=0.0)
    for question, answer in zip(questions, answers, strict=True):
        messages = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        ids = inputs["input_ids"]
        assert answer["prompt_ids"] == ids[0].tolist()
        output = theirs.generate(**inputs, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :].tolist()
        assert streamed(ours, load_tokenizer(directory, ours.spec.vocab_size), ids[0].tolist(), greedy) == output
        assert answer["completion"] == tokenizer.decode(output, skip_special_tokens=True)
        assert answer["length"] == len(output)

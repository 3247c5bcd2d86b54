"""Asks a model: one question that is answered while a person reads along, or many at once."""

from __future__ import annotations

import codecs
import dataclasses
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from tunix_grpo.config.generate import GenerateConfig
from tunix_grpo.config.history import PLACES
from tunix_grpo.console.output import lost_output, visible
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.streaming import stream_tokens, text_pieces
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.rollout import Sampler, row_keys, sampling_of
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.gathering import form_of_rollout
from tunix_grpo.model.model import Model, load_frozen
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.run.devices import Devices, open_devices
from tunix_grpo.run.saved_runs import choose_step, load_trained, open_run
from tunix_grpo.run.stopping import StopRequest
from tunix_grpo.text.prompts import chat_messages, system_prompt_text
from tunix_grpo.text.tokenizer import Tokenizer, model_tokenizer

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question as the model sees it.

    Attributes:
        question: what was asked.
        text: with the chat template, the system prompt included.
        ids: its tokens, BOS included.
    """

    question: str
    text: str
    ids: list[int]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        length: in tokens, the stop token included.
        truncated: it reached generation.max_generation_steps without a stop token.
    """

    prompt: Prompt
    completion: str
    length: int
    truncated: bool


def generate(config: GenerateConfig) -> None:
    """Answers what the config asks, on standard output; ends quietly when nobody reads it any more.

    Raises:
        UserError: something that the user can mend.
    """
    try:
        _generate(config)
    except BrokenPipeError:
        # What Python still holds back would fail again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error is not lost_output():
            raise
        raise UserError(
            f"the answers cannot be written ({error.strerror}); give standard output another place"
        ) from error


def _generate(config: GenerateConfig) -> None:
    directory = resolve_directory(config.model)
    tokenizer = _tokenizer(config, directory)
    asked = [_prompt(config, tokenizer, place, question) for place, question in _questions(config)]
    if config.show_prompt and not config.json:
        for prompt in asked:
            _write(prompt_table(prompt, tokenizer))
    if config.samples == 0:
        if config.json:
            for prompt in asked:
                _write_json(_prompt_fields(config, prompt))
        return

    devices = open_devices(config.device, config.mesh, config.jax_cache)
    model = _model(config, directory, devices)
    if config.question is not None and config.samples == 1 and not config.json:
        num_cut = int(_stream(config, devices, model, tokenizer, asked[0]).truncated)
    else:
        num_cut = 0
        for index, answer in enumerate(answers(config, devices, model, tokenizer, asked)):
            num_cut += answer.truncated
            _show(config, answer, 1 + index % config.samples)
    if num_cut:
        _log.warning(
            "%d of %d answers were cut at generation.max_generation_steps=%d tokens",
            num_cut,
            len(asked) * config.samples,
            config.generation.max_generation_steps,
        )


def answers(
    config: GenerateConfig, devices: Devices, model: Model, tokenizer: Tokenizer, asked: list[Prompt]
) -> Iterator[Answer]:
    """Yields config.samples answers to each prompt, in order, batch by batch."""
    weights = (model.trained, model.frozen)
    engine = Sampler(
        model,
        tokenizer,
        devices.mesh,
        prompt_width=_prompt_width(config, asked),
        seed=config.seed,
        max_rows=config.generation.max_rows,
    )
    size = min(config.batch_size, len(asked))
    for step, start in enumerate(range(0, len(asked), size)):
        batch = asked[start : start + size]
        # The last batch is filled up, so that one program serves all; so is one that the devices cannot share evenly.
        rows = devices.data_parallel * math.ceil(size / devices.data_parallel)
        filled = [prompt.ids for prompt in batch + batch[-1:] * (rows - len(batch))]
        rollout = engine.sample(weights, filled, _sampling(config), step)
        for row in range(len(batch) * config.samples):
            prompt = batch[row // config.samples]
            yield Answer(prompt, rollout.texts[row], int(rollout.lengths[row]), bool(rollout.truncated[row]))


def prompt_table(prompt: Prompt, tokenizer: Tokenizer) -> str:
    """Returns the exact prompt for a person: its text, one line per token, and the tokens that end an answer."""

    def named(token_id: int, width: int = 0) -> str:
        token = tokenizer.token(token_id) or "(no token)"
        return f"{token_id:>{width}} {''.join(c if c.isprintable() else repr(c)[1:-1] for c in token)}"

    bos = tokenizer.bos_id()
    lines = [
        prompt.text,
        "",
        f"{len(prompt.ids)} tokens (place, id, token):",
        *(f"{place:>5} {named(token_id, width=8)}" for place, token_id in enumerate(prompt.ids)),
        f"BOS: {'none' if bos is None else f'{named(bos)}, {prompt.ids.count(bos)} in the prompt'}",
        f"stop tokens: {', '.join(map(named, tokenizer.stop_ids))}",
        f"pad token: {named(tokenizer.pad_id())}",
        "",
    ]
    return "\n".join(lines) + "\n"


def _tokenizer(config: GenerateConfig, directory: Path) -> Tokenizer:
    vocab_size = read_spec(directory, config.model.family).vocab_size
    words = config.task.template_variables, config.task.date
    return model_tokenizer(config.model.tokenizer, directory, vocab_size, *words)


def _model(config: GenerateConfig, directory: Path, devices: Devices) -> Model:
    """Loads the weights that answer: those of a run's step, or those of the directory as they are."""
    if config.run is not None:
        places = {name: getattr(config.model, name) for name in PLACES}
        run = open_run(Path(config.run), config.checkpoint_dir, places)
        return load_trained(run, choose_step(run, config.step), devices.mesh)
    return load_frozen(config.model, directory, devices.mesh, config.seed)


def _questions(config: GenerateConfig) -> list[tuple[str, str]]:
    """Returns (where it is from, the question) of every question."""
    if config.question is not None:
        return [("question", config.question)]
    assert config.file is not None  # the settings were checked: there is one of the two
    name = "standard input" if config.file == "-" else config.file
    try:
        content = sys.stdin.buffer.read() if config.file == "-" else Path(config.file).expanduser().read_bytes()
        lines = content.decode("utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(
            f"file={config.file}: cannot be read ({error.strerror}); give a file, or - for standard input"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    asked = [(f"{name}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not asked:
        raise UserError(f"{name}: it holds no question; give a question a line")
    return asked


def _prompt(config: GenerateConfig, tokenizer: Tokenizer, place: str, question: str) -> Prompt:
    system_prompt = system_prompt_text(config.task.system_prompt)
    text = tokenizer.render_prompt(chat_messages(question, system_prompt))
    prompt = Prompt(question, text, tokenizer.encode(text))
    if unknown := tokenizer.unknown_tokens(prompt.ids):
        raise UserError(
            f"{place}: the prompt holds {unknown[0]}, a token that the model has no row for; "
            "leave it out of the question, or set model.tokenizer to the model's own"
        )
    if special := tokenizer.special_tokens_in(question):
        _log.warning("%s: the model reads %s as a control token, not as words", place, special[0])
    limit = config.generation.max_prompt_length
    if len(prompt.ids) > limit:
        raise UserError(
            f"{place}: the prompt has {len(prompt.ids)} tokens, more than generation.max_prompt_length={limit}; "
            "raise it, or ask for less"
        )
    return prompt


def _prompt_width(config: GenerateConfig, asked: list[Prompt]) -> int:
    """Returns the tokens that prompts are padded to: a power of two, so that few programs are ever compiled."""
    longest = max(len(prompt.ids) for prompt in asked)
    return min(config.generation.max_prompt_length, 2 ** math.ceil(math.log2(longest)))


def _sampling(config: GenerateConfig) -> Sampling:
    return sampling_of(config.generation, config.samples)


def _stream(config: GenerateConfig, devices: Devices, model: Model, tokenizer: Tokenizer, prompt: Prompt) -> Answer:
    """Shows an answer while it is drawn."""
    weights = model.decoder_weights()
    drawn: list[int] = []

    def words(stop: StopRequest) -> Iterator[int]:
        for token in stream_tokens(
            model.spec,
            weights,
            prompt.ids,
            _sampling(config),
            row_keys(config.seed, 0, 1)[0],  # as in a batch, so that the answer is the same one
            prompt_width=_prompt_width(config, [prompt]),
            stop_ids=tokenizer.stop_ids,
            pad_id=tokenizer.pad_id(),
            copies=form_of_rollout(model, devices.mesh).copies,
        ):
            if stop.signal == signal.SIGINT:
                raise KeyboardInterrupt  # a shell's background job ignores the signal itself
            if stop.signal is not None:
                signal.raise_signal(stop.signal)
            drawn.append(token)
            if token not in tokenizer.stop_ids:
                yield token

    pieces = []
    try:
        # Between two tokens, not inside JAX, where an interruption can be lost.
        with StopRequest(notice=None) as stop:
            for piece in text_pieces(words(stop), tokenizer.decode):
                pieces.append(piece)
                _write(piece)
    finally:
        _write("\n")  # also where Ctrl-C has ended the answer
    return Answer(prompt, "".join(pieces), len(drawn), drawn[-1] not in tokenizer.stop_ids)


def _show(config: GenerateConfig, answer: Answer, number: int) -> None:
    """Shows an answer, the `number`-th to its question."""
    if config.json:
        fields = {"completion": answer.completion, "length": answer.length, "truncated": answer.truncated}
        _write_json(_prompt_fields(config, answer.prompt) | fields)
    else:
        which = f" ({number} of {config.samples})" if config.samples > 1 else ""
        _write(f"> {answer.prompt.question}{which}\n{answer.completion}\n\n")


def _prompt_fields(config: GenerateConfig, prompt: Prompt) -> dict:
    return {"prompt": prompt.text, "prompt_ids": prompt.ids} if config.show_prompt else {"prompt": prompt.text}


def _write_json(fields: dict) -> None:
    _write(json.dumps(fields, ensure_ascii=_encoding() != "utf-8") + "\n")


def _write(text: str) -> None:
    """Shows text at once, on a terminal without what it would obey; what its encoding lacks becomes a question mark."""
    text = visible(text) if sys.stdout.isatty() else text
    sys.stdout.write(text.encode(_encoding(), "replace").decode(_encoding()))
    sys.stdout.flush()
    if (error := lost_output()) is not None:
        raise error


def _encoding() -> str:
    return codecs.lookup(sys.stdout.encoding or "utf-8").name

"""Our own program, timed: the trainer of a training run, with prompts of one length; no token ends a completion."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from tunix_grpo.benchmark.ceilings import measure_ceilings
from tunix_grpo.benchmark.job import About
from tunix_grpo.benchmark.lengths import completion_lengths
from tunix_grpo.benchmark.link import Link
from tunix_grpo.benchmark.questions import (
    EndlessTokenizer,
    NumberTokenizer,
    apple_prompts,
    length_reward,
    random_prompts,
)
from tunix_grpo.config.benchmark import TimedConfig, from_values
from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.errors import NoRoomError, one_line
from tunix_grpo.grpo.limits import Ceilings, Work, all_parameters
from tunix_grpo.grpo.memory import ran_out
from tunix_grpo.grpo.optimizer import build_optimizer
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.grpo.training_limits import limits_of
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.model import Model, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.run.devices import CompilationCounter, Devices, open_devices, peak_memory_bytes
from tunix_grpo.run.joining import refuse_several
from tunix_grpo.tasks.base import ExactTask
from tunix_grpo.text.prompt_set import PromptSet
from tunix_grpo.text.tokenizer import model_tokenizer


def serve(settings: Mapping[str, object], link: Link) -> None:
    """Measures the ceilings, loads the model and makes steps as asked.

    Args:
        settings: of the benchmark, by dotted key; and `ceilings`, where they have been measured.
        link: gets what is timed (see `_description`), then the measurement of each step.

    Raises:
        NoRoomError: memory ran out.
        UserError: something else that the user can mend.
    """
    try:
        _serve(settings, link)
    except (RuntimeError, ValueError, MemoryError) as error:  # what JAX and NumPy raise, by where memory ran out
        if not isinstance(error, MemoryError) and not ran_out(error):
            raise
        raise NoRoomError(
            f"memory ran out ({one_line(error)}); give a smaller model, or model.quantization=nf4 model.lora_rank=32"
        ) from error


def _serve(settings: Mapping[str, Any], link: Link) -> None:
    measured = settings.get("ceilings")
    asked = from_values({name: value for name, value in settings.items() if name != "ceilings"})
    refuse_several("benchmark")
    devices = open_devices(asked.device, asked.mesh, asked.jax_cache)
    compilations = CompilationCounter()
    config = asked.on(jax.default_backend())
    directory = resolve_directory(config.model)
    spec = read_spec(directory, config.model.family)
    count = config.prompts_per_step(devices.data_parallel)
    prompts, tokenizer = make_prompts(config, spec, directory, count * config.total_steps())
    lengths = None
    if asked.lengths == "real":
        rows, longest = count * config.grpo.num_generations, config.generation.max_generation_steps
        lengths = completion_lengths(rows, longest, config.seed)

    model = load_model(config.model, directory, devices.mesh, config.seed)
    ceilings = measure_ceilings(model.dtype) if measured is None else Ceilings(**measured)
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    trainer = Trainer(
        config,
        devices.mesh,
        model,
        tokenizer,
        ExactTask("benchmark", [], []),
        [length_reward()],
        build_optimizer(config.optimizer, schedule),
        prompt_width=config.generation.max_prompt_length,
    )
    link.send(**_description(config, devices, model, trainer, prompts, lengths, ceilings))

    step = 0
    while True:
        link.receive()
        step += 1
        before = compilations.count
        start = time.perf_counter()
        batch = prompts.batch(range((step - 1) * count, step * count), config.grpo.num_generations)
        done = trainer.step(step, dataclasses.replace(batch, limits=lengths))
        seconds = time.perf_counter() - start
        timing, drawn = done.metrics, done.rollout.lengths
        link.send(
            step_s=seconds,
            rollout_s=timing["timing/rollout"],
            # Rewards are computed on the host while the device computes the reference.
            reference_s=timing["timing/reward"] + timing["timing/reference"],
            update_s=timing["timing/update"],
            compilations=compilations.count - before,
            peak_bytes=peak_memory_bytes(),
            tokens=int(drawn.sum()),
            longest=int(drawn.max()),
            no_room=list(done.no_room),
        )


def make_prompts(
    config: TimedConfig, spec: DecoderSpec, directory: Path, count: int
) -> tuple[PromptSet, EndlessTokenizer | NumberTokenizer]:
    """Returns so many prompts, and what turns completions into text."""
    width = config.generation.max_prompt_length
    if config.model.random_weights and config.model.tokenizer is None:
        return random_prompts(spec.vocab_size, count, width, config.seed), NumberTokenizer()
    words = config.task.template_variables, config.task.date
    tokenizer = model_tokenizer(config.model.tokenizer, directory, spec.vocab_size, *words)
    return apple_prompts(tokenizer, count, width, config.seed), EndlessTokenizer(tokenizer)


def _description(
    config: TimedConfig,
    devices: Devices,
    model: Model,
    trainer: Trainer,
    prompts: PromptSet,
    lengths: np.ndarray | None,
    ceilings: Ceilings,
) -> About:
    """Returns what is timed: names and limits for the report, and the work that a peer is to do too."""
    work = Work(
        prompts=config.prompts_per_step(devices.data_parallel),
        generations=config.grpo.num_generations,
        prompt_tokens=round(np.mean([len(ids) for ids in prompts.ids])),
        completion_tokens=config.generation.max_generation_steps,
        lengths=None if lengths is None else tuple(lengths.tolist()),
    )
    limits = limits_of(config, model, devices.mesh, work, ceilings)
    return {
        "model": config.model.name,
        "directory": str(model.directory.resolve()),
        "platform": jax.default_backend(),
        "device": devices.kind,
        "num_devices": devices.mesh.size,
        "dtype": model.dtype.name,
        "remat": trainer.remat,
        "weights": all_parameters(model.spec),
        "work": work.sizes() | {"prompt_width": config.generation.max_prompt_length},
        "lengths": None if lengths is None else lengths.tolist(),
        "ceilings": ceilings._asdict(),
        "limits": dataclasses.asdict(limits) | {"step": limits.step},
        "total_steps": config.total_steps(),
        "texts": prompts.texts,
        "answers": [question.answer for question in prompts.questions],
    }

"""GRPO steps against the clock: ours next to the machine's limits, and next to other programs that do the same work."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
from typing import Any, cast

from tunix_grpo.benchmark.job import About, Job
from tunix_grpo.benchmark.report import evaluation_figures, figures, print_evaluation, print_json, print_table
from tunix_grpo.benchmark.sweep import sweep
from tunix_grpo.benchmark.turns import take_turns, worker
from tunix_grpo.config.benchmark import BenchmarkConfig, to_values
from tunix_grpo.errors import UserError

# What a peer needs beyond this project, as Python imports it, and how it is installed.
_PACKAGES = {"trl": ("torch", "trl", "peft", "accelerate"), "tunix": ()}
_INSTALL = 'pip install "trl==1.16.*" peft accelerate torch'
# Two programs share a GPU: neither may take all of its memory at the start.
_SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
_QUIET = {"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

_log = logging.getLogger(__name__)


def benchmark(config: BenchmarkConfig) -> None:
    """Times steps and prints what came out, on standard output.

    Raises:
        UserError: something that the user can mend.
    """
    if config.timed == "evaluation":
        _benchmark_evaluation(config)
        return
    if config.sweep is not None:
        sweep(config)
        return
    if config.peer is not None:
        _require_packages(config.peer)
    with contextlib.ExitStack() as running:
        own = running.enter_context(worker("own", "the benchmark", _SHARING if config.peer else None))
        _log.info("measuring what the machine can do, and loading the model")
        about = cast(About, own.ask(**to_values(config)))  # JSON that `own.serve` has written
        workers, names = [own], ["ours"]
        if config.peer is not None:
            _require_one_device(config.peer, about)
            workers.append(running.enter_context(worker(config.peer, f"peer={config.peer}", _SHARING | _QUIET)))
            names.append(config.peer)
            _log.info("loading the model for %s", config.peer)
            workers[1].ask(**dataclasses.asdict(_job(config, about)))

        def show(step: int, measurements: list[dict[str, Any]]) -> None:
            seconds = ", ".join(f"{name} {m['step_s']:.2f} s" for name, m in zip(names, measurements, strict=True))
            kind = "" if step > 1 + config.warmup else " (not counted)"
            _log.info("step %d of %d%s: %s", step, about["total_steps"], kind, seconds)
            for sentence in measurements[0]["no_room"]:
                _log.warning("%s", sentence)

        measured = take_turns(workers, about["total_steps"], show)
    result = figures(about, config, *measured)
    if config.json:
        print_json(result)
    else:
        print_table(result)


def _benchmark_evaluation(config: BenchmarkConfig) -> None:
    with worker("answers", "the benchmark") as own:
        _log.info("loading the model, and compiling")
        about = own.ask(**to_values(config))
        rounds = []
        for number in range(1, about["rounds"] + 1):
            rounds.append(own.ask(round=number))
            _log.info(
                "round %d of %d: batches %.2f s, slots %.2f s",
                number,
                about["rounds"],
                rounds[-1]["batches_s"],
                rounds[-1]["slots_s"],
            )
    result = evaluation_figures(about, rounds)
    if config.json:
        print_json(result)
    else:
        print_evaluation(result)


def _require_packages(peer: str) -> None:
    missing = [name for name in _PACKAGES[peer] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"peer={peer}: {' and '.join(missing)} cannot be imported; {_INSTALL} brings what it needs")


def _require_one_device(peer: str, about: About) -> None:
    if about["num_devices"] > 1:
        raise UserError(
            f"peer={peer}: the peers are timed on one device, and this machine shows {about['num_devices']}; "
            "hide the others, with CUDA_VISIBLE_DEVICES=0 or device=cpu"
        )
    if peer == "trl" and about["platform"] == "tpu":
        raise UserError("peer=trl: it is timed on CPUs and NVIDIA GPUs; give peer=tunix, or device=cpu")


def _job(config: BenchmarkConfig, about: About) -> Job:
    """Returns what a peer is told: the work of our own program, to the letter."""
    work = about["work"]
    return Job(
        directory=about["directory"],
        tokenizer=config.model.tokenizer or about["directory"],
        device="cuda" if about["platform"] == "gpu" else about["platform"],
        dtype=about["dtype"],
        lora_rank=config.model.lora_rank,
        lora_alpha=config.model.lora_alpha,
        prompts=work["prompts"],
        generations=work["generations"],
        prompt_width=work["prompt_width"],
        completion_tokens=work["completion_tokens"],
        lengths=about["lengths"],
        micro_batch_size=config.training.micro_batch_size,
        beta=config.grpo.beta,
        learning_rate=config.optimizer.learning_rate,
        temperature=config.generation.temperature,
        seed=config.seed,
        total_steps=about["total_steps"],
        texts=about["texts"],
        answers=about["answers"],
    )

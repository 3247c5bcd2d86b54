"""TRL, timed on the same work: torch, transformers' generate, PEFT. Runs in a process of its own, see `worker`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import peft
import torch
import transformers
import trl

from tunix_grpo.benchmark.job import Job, worth
from tunix_grpo.benchmark.link import Link
from tunix_grpo.run.devices import process_peak_bytes


class _Turns(transformers.TrainerCallback):
    """Holds each step back until it is asked for, and measures it."""

    def __init__(self, link: Link, on_gpu: bool):
        self._link = link
        self._on_gpu = on_gpu
        self._start = 0.0

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Says that the first step can be asked for."""
        self._link.send(ready=True)

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Waits."""
        self._link.receive()
        self._start = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Answers."""
        if self._on_gpu:
            torch.cuda.synchronize()
        self._link.send(step_s=time.perf_counter() - self._start, peak_bytes=self._peak_bytes())

    def _peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if self._on_gpu else process_peak_bytes()


def serve(settings: Mapping[str, Any], link: Link) -> None:
    """Trains for as many steps as there are, each when it is asked for.

    Args:
        settings: of the `Job`.
    """
    job = Job(**settings)
    on_gpu = job.device == "cuda"
    trainer = trl.GRPOTrainer(
        model=transformers.AutoModelForCausalLM.from_pretrained(job.directory, dtype=vars(torch)[job.dtype]),
        reward_funcs=_reward,
        args=_settings(job, on_gpu),
        train_dataset=datasets.Dataset.from_dict({"prompt": job.texts, "answer": job.answers}),
        processing_class=transformers.AutoTokenizer.from_pretrained(job.tokenizer, padding_side="left"),
        peft_config=_adapter(job),
        callbacks=[_Turns(link, on_gpu)],
    )
    trainer.train()


def _settings(job: Job, on_gpu: bool) -> trl.GRPOConfig:
    return trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=job.total_steps,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        per_device_train_batch_size=job.micro_batch_size * job.generations,
        gradient_accumulation_steps=job.prompts // job.micro_batch_size,
        num_generations=job.generations,
        max_completion_length=job.completion_tokens,
        beta=job.beta,
        learning_rate=job.learning_rate,
        temperature=job.temperature,
        use_cpu=not on_gpu,
        bf16=on_gpu and job.dtype == "bfloat16",
        gradient_checkpointing=False,
        generation_kwargs={"eos_token_id": -1},  # no token ends a completion
        seed=job.seed,
    )


def _adapter(job: Job) -> peft.LoraConfig | None:
    if job.lora_rank is None:
        return None
    return peft.LoraConfig(r=job.lora_rank, lora_alpha=job.lora_alpha, target_modules="all-linear")


def _reward(completions: Sequence[str], answer: Sequence[str], **_: object) -> list[float]:
    return [worth(text, right) for text, right in zip(completions, answer, strict=True)]

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
    """Holds each step back until it is asked for, and measures it; rewards its completions, and counts their tokens."""

    def __init__(self, link: Link, on_gpu: bool):
        self._link = link
        self._on_gpu = on_gpu
        self._start = 0.0
        self._tokens = 0

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
        seconds = time.perf_counter() - self._start
        self._link.send(step_s=seconds, peak_bytes=self._peak_bytes(), tokens=self._tokens)

    def reward(
        self, completions: Sequence[str], completion_ids: Sequence[Sequence[int]], answer: Sequence[str], **_: object
    ) -> list[float]:
        """Returns what the completions of a step are worth."""
        self._tokens = sum(map(len, completion_ids))
        return [worth(text, right) for text, right in zip(completions, answer, strict=True)]

    def _peak_bytes(self) -> int:
        return torch.cuda.max_memory_allocated() if self._on_gpu else process_peak_bytes()


class _EndsAtLengths(transformers.LogitsProcessor):
    """Makes the end token certain at each row's length, and impossible before."""

    def __init__(self, lengths: torch.Tensor, prompt_width: int, end_ids: Sequence[int]):
        """
        Args:
            lengths: int[B].
            end_ids: whatever ends a completion; the first one of them does.
        """
        self._lengths, self._prompt_width, self._end_ids = lengths, prompt_width, list(end_ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Returns float[B, V] for the next token of rows int[B, S + t]."""
        drawn = input_ids.shape[1] - self._prompt_width
        scores[:, self._end_ids] = -torch.inf
        last = self._lengths == drawn + 1
        scores[last] = -torch.inf
        scores[last, self._end_ids[0]] = 0.0
        return scores


class _EndingGeneration:
    """A model's `generate` whose rows end at their lengths, in every step alike."""

    def __init__(self, model: transformers.PreTrainedModel, lengths: Sequence[int]):
        self._generate, self._lengths = model.generate, torch.tensor(lengths, device=model.device)

    def __call__(
        self, *, input_ids: torch.LongTensor, generation_config: transformers.GenerationConfig, **inputs: Any
    ) -> torch.LongTensor:
        """Returns int[B, S + T] for prompts int[B, S].

        Raises:
            RuntimeError: a row has another length than it was to have.
        """
        lengths, width = self._lengths.to(input_ids.device), input_ids.shape[1]
        end_ids: Any = generation_config.eos_token_id  # a list, as the trainer makes it
        processors = transformers.LogitsProcessorList([_EndsAtLengths(lengths, width, end_ids)])
        rows = self._generate(
            input_ids=input_ids, generation_config=generation_config, logits_processor=processors, **inputs
        )
        is_end = torch.isin(rows[:, width:], torch.tensor(end_ids, device=rows.device))
        found = is_end.int().argmax(dim=1) + 1
        if not torch.equal(found, lengths):
            raise RuntimeError(f"completions of {lengths.tolist()} tokens were asked for, and have {found.tolist()}")
        return rows


def serve(settings: Mapping[str, Any], link: Link) -> None:
    """Trains for as many steps as there are, each when it is asked for.

    Args:
        settings: of the `Job`.
    """
    job = Job(**settings)
    on_gpu = job.device == "cuda"
    model = transformers.AutoModelForCausalLM.from_pretrained(job.directory, dtype=vars(torch)[job.dtype])
    if job.lengths is not None:
        model.generate = _EndingGeneration(model, job.lengths)
    turns = _Turns(link, on_gpu)
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=turns.reward,
        args=_settings(job, on_gpu),
        train_dataset=datasets.Dataset.from_dict({"prompt": job.texts, "answer": job.answers}),
        processing_class=transformers.AutoTokenizer.from_pretrained(job.tokenizer, padding_side="left"),
        peft_config=_adapter(job),
        callbacks=[turns],
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
        # Without lengths no token ends a completion.
        generation_kwargs={"eos_token_id": -1} if job.lengths is None else None,
        seed=job.seed,
    )


def _adapter(job: Job) -> peft.LoraConfig | None:
    if job.lora_rank is None:
        return None
    return peft.LoraConfig(r=job.lora_rank, lora_alpha=job.lora_alpha, target_modules="all-linear")

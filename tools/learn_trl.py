"""Lets TRL learn what a run has learned: the same model, prompts in the same order, lengths, settings and seed.

    pip install "trl==1.16.*" peft accelerate torch
    python tools/learn_trl.py RUN FOLDER

RUN is the folder of a run that has ended, with an adapter, reward=[correctness], one micro batch a step and
training.log_interval_steps=1. FOLDER/metrics.jsonl gets TRL's numbers by the names of a run: reward and step_time, and
at the steps that RUN evaluated eval/accuracy and eval/truncated on the same held-out questions.
`tools/draw_learning.py` draws both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl

from tunix_grpo.config import Config, load, selected_rewards
from tunix_grpo.config.history import read_run_config
from tunix_grpo.files import read_json_lines
from tunix_grpo.run.saved_runs import open_run
from tunix_grpo.tasks.base import Question, Task
from tunix_grpo.tasks.builders import build_task
from tunix_grpo.text.prompt_set import PromptSet, prompt_set
from tunix_grpo.text.tokenizer import load_tokenizer


class Record(transformers.TrainerCallback):
    """Writes the numbers of each step; evaluates where the run did."""

    def __init__(
        self, config: Config, evaluated: set[int], file: Path, task: Task, asked: PromptSet, tokenizer: Any
    ) -> None:
        """
        Args:
            evaluated: the steps after which there is an evaluation.
        """
        self._config, self._evaluated, self._file = config, evaluated, file
        self._task, self._asked, self._tokenizer = task, asked, tokenizer
        self._reward = self._begun = 0.0

    def rewarded(self, rewards: Sequence[float]) -> None:
        """Keeps what the step's completions are worth."""
        self._reward = sum(rewards) / len(rewards)

    def on_train_begin(self, *_: object, model: Any, **__: object) -> None:
        """Evaluates the model that training begins with."""
        self._evaluate(0, model)

    def on_step_begin(self, *_: object, **__: object) -> None:
        """Starts the clock."""
        self._begun = time.perf_counter()

    def on_step_end(self, _: object, state: Any, __: object, *, model: Any, **___: object) -> None:
        """Stops the clock."""
        seconds = time.perf_counter() - self._begun
        self._write(step=state.global_step, reward=self._reward, step_time=seconds)
        self._evaluate(state.global_step, model)

    def _evaluate(self, step: int, model: Any) -> None:
        if step not in self._evaluated:
            return
        was_training = model.training
        model.eval()
        right = cut = 0
        size = self._config.evaluation.batch_size
        for start in range(0, len(self._asked), size):
            right_of_batch, cut_of_batch = self._answer(model, slice(start, start + size))
            right, cut = right + right_of_batch, cut + cut_of_batch
        model.train(was_training)
        accuracy, truncated = right / len(self._asked), cut / len(self._asked)
        self._write(step=step, **{"eval/accuracy": accuracy, "eval/truncated": truncated})

    @torch.no_grad()
    def _answer(self, model: Any, part: slice) -> tuple[int, int]:
        longest = self._config.generation.max_generation_steps
        encoded = self._tokenizer(
            self._asked.texts[part], padding=True, return_tensors="pt", add_special_tokens=False
        ).to(model.device)
        rows = model.generate(**encoded, max_new_tokens=longest, do_sample=False)[:, encoded["input_ids"].shape[1] :]
        ends = torch.isin(rows, torch.tensor(model.generation_config.eos_token_id))
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        pairs = zip(texts, self._asked.questions[part], strict=True)
        right = sum(self._task.score(text, question) == 1.0 for text, question in pairs)
        return right, int((~ends.any(dim=1)).sum())

    def _write(self, **numbers: float) -> None:
        with self._file.open("a") as out:
            out.write(json.dumps(numbers) + "\n")
        print(json.dumps(numbers), flush=True)


def require_comparable(run: Path, config: Config) -> None:
    """Refuses a run whose settings would mean something else in TRL."""
    if [*selected_rewards(config.reward)] != ["correctness"] or config.grpo.num_iterations != 1:
        raise SystemExit(f"{run}: only reward=[correctness] and grpo.num_iterations=1 are the same in TRL")
    if config.training.gradient_accumulation_steps != 1 or config.training.log_interval_steps != 1:
        raise SystemExit(f"{run}: wants one micro batch a step, and training.log_interval_steps=1")
    if config.model.lora_rank is None or config.model.path is None:
        raise SystemExit(f"{run}: wants model.lora_rank and model.path")


def prompts_of(run: Path, config: Config) -> list[str]:
    """Returns the prompts of all steps, in the run's order."""
    rows = read_json_lines(run / "completions.jsonl")
    return [str(row["prompt"]) for row in rows][:: config.grpo.num_generations]


def trl_settings(config: Config, steps: int) -> trl.GRPOConfig:
    """Returns the run's settings by TRL's names."""
    grpo, optimizer = config.grpo, config.optimizer
    rows = config.training.micro_batch_size * grpo.num_generations
    return trl.GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        per_device_train_batch_size=rows,
        num_generations=grpo.num_generations,
        max_completion_length=config.generation.max_generation_steps,
        temperature=config.generation.temperature,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        loss_type="grpo",
        scale_rewards="group",
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=optimizer.max_grad_norm,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        seed=config.training.seed,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    run, config = open_run(given.run), load(read_run_config(given.run))
    require_comparable(run.folder, config)
    prompts = prompts_of(run.folder, config)
    assert config.model.path is not None  # `require_comparable`
    directory = Path(config.model.path)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side="left")
    own_tokenizer = load_tokenizer(directory, model.config.vocab_size)
    task = build_task(config.task, config.training.seed)
    train = prompt_set("training", task.train, own_tokenizer, config)
    asked = prompt_set("held-out", task.heldout, own_tokenizer, config, config.evaluation.num_questions)
    questions: dict[str, Question] = dict(zip(train.texts, train.questions, strict=True))
    given.folder.mkdir(parents=True)
    evaluated = {step for step, row in run.metrics.items() if "eval/accuracy" in row}
    record = Record(config, evaluated, given.folder / "metrics.jsonl", task, asked, tokenizer)

    def correctness(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        pairs = zip(completions, prompts, strict=True)
        rewards = [task.score(completion, questions[prompt]) for completion, prompt in pairs]
        record.rewarded(rewards)
        return rewards

    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=correctness,
        args=trl_settings(config, len(prompts) // config.training.micro_batch_size),
        train_dataset=datasets.Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        peft_config=peft.LoraConfig(
            r=config.model.lora_rank, lora_alpha=config.model.lora_alpha, target_modules="all-linear"
        ),
        callbacks=[record],
    )
    trainer.train()


if __name__ == "__main__":
    main()

"""Steps of a small model on four made-up devices, and the programs that are compiled for them, as JSON on the screen.

    python several_devices.py numbers|more_numbers|programs|described FOLDER

A process has as many devices as it was started with, so that this is a program of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import hydra
import jax
import numpy as np
import optax
from jax.sharding import Sharding

from helpers.models import model_config
from helpers.trainer import NumberTokenizer, mean_token, number_prompts
from tunix_grpo.config import Config, load
from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.generation import Sampling
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo import at_once, engine, passes, stages
from tunix_grpo.grpo import trainer as trainer_module
from tunix_grpo.grpo.algorithms import Divisors
from tunix_grpo.grpo.loss import LossInputs
from tunix_grpo.grpo.trainer import Trainer
from tunix_grpo.model import gathering
from tunix_grpo.model.abstract import abstract_model
from tunix_grpo.model.gathering import rollout_mesh
from tunix_grpo.model.model import load_model
from tunix_grpo.model.placing import fitting_sharding
from tunix_grpo.preflight.collectives import collectives
from tunix_grpo.preflight.training_programs import Programs
from tunix_grpo.record.summary import _whole_everywhere as start_row
from tunix_grpo.rewards.base import Reward
from tunix_grpo.run.devices import Devices
from tunix_grpo.tasks.base import ExactTask

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
PROMPTS, GROUP = 8, 4
TP_LAST = jax.sharding.PartitionSpec("fsdp", "tp")
COMMON = {"head_dim": 16, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6}
# Everything divides by four.
DIVISIBLE = {
    **COMMON,
    "model_type": "gemma3_text",
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 16,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
# Neither the one key/value head does, nor vocabulary or hidden size; the head is a matrix of its own.
UNEVEN = {
    **COMMON,
    "model_type": "qwen2",
    "vocab_size": 97,
    "hidden_size": 66,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained on which mesh; always PROMPTS prompts a step."""

    model: dict[str, Any]
    fsdp: int
    tp: int
    rank: int | None = None
    accumulation: int = 1
    prompt_width: int = 8
    max_tokens: int = 6
    max_rows: int | None = None

    def mesh(self) -> jax.sharding.Mesh:
        devices = np.array(jax.devices()[: self.fsdp * self.tp]).reshape(self.fsdp, self.tp)
        return jax.sharding.Mesh(devices, ("fsdp", "tp"))

    def config(self, folder: Path) -> Config:
        (folder / "config.json").write_text(json.dumps(self.model))
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            words = {
                "output_dir": folder,
                "model": "hf",
                "model.path": folder,
                "device": "cpu",
                "grpo.num_generations": GROUP,
                "grpo.beta": 0.1,
                "training.micro_batch_size": PROMPTS // self.fsdp // self.accumulation,
                "training.gradient_accumulation_steps": self.accumulation,
                "generation.max_prompt_length": self.prompt_width,
                "generation.max_generation_steps": self.max_tokens,
                "generation.max_rows": self.max_rows or "null",
                "model.lora_rank": self.rank or "null",
                "model.dtype": "float32",
            }
            return load(hydra.compose("config", [f"{key}={word}" for key, word in words.items()]))

    def trainer(self, folder: Path) -> Trainer:
        config, mesh = self.config(folder), self.mesh()
        model = load_model(model_config(random_weights=True, lora_rank=self.rank), folder, mesh, 0)
        parts = (NumberTokenizer(), ExactTask("numbers", [], []), [Reward("mean_token", 1.0, mean_token)])
        return Trainer(config, mesh, model, *parts, optax.adamw(1e-3), prompt_width=self.prompt_width)


def share(tree: Any) -> float:
    """Returns the part of a tree's bytes that the first device holds."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)


def steps(case: Case, folder: Path) -> dict[str, Any]:
    """Returns the numbers of two steps, and how the arrays lie."""
    with layouts.on(case.mesh()):
        trainer = case.trainer(folder)
        held = [share(trainer.params), share(trainer.optimizer_state)]
        gradients = []

        def noted(*inputs: Any) -> Any:
            state, logps = passes.accumulate_pieces(*inputs)
            gradients.append(share(state[0]))
            return state, logps

        trainer_module.accumulate_pieces = noted
        batch = number_prompts(PROMPTS).batch(range(PROMPTS), GROUP)
        results = [trainer.step(step, batch) for step in (1, 2)]
    return {
        "completions": [result.rollout.token_ids for result in results],
        "metrics": [
            {name: value for name, value in result.metrics.items() if not name.startswith(("timing/", "step_time"))}
            for result in results
        ],
        "shares": [*held, share(trainer.params), share(trainer.optimizer_state), max(gradients)],
        "rollout": list(trainer._sampler._mesh.shape.values()),
    }


Placed: TypeAlias = list[tuple[tuple[int, ...], str, tuple[int, ...]]]  # shape, type, and shape on one device, each


def placed(inputs: Any) -> Placed:
    """Returns how arrays, or what describes them, lie."""
    leaves = [leaf for leaf in jax.tree.leaves(inputs) if isinstance(getattr(leaf, "sharding", None), Sharding)]
    return [(leaf.shape, str(leaf.dtype), leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves]


def size(inputs: Placed) -> int:
    return sum(math.prod(shape) for shape, _, _ in inputs)


def drawn_and_described(case: Case, folder: Path) -> tuple[dict[str, Placed], dict[str, Placed], dict[str, int]]:
    """Returns the inputs with which a step calls the programs of its rollout, and what preflight has for them.

    That are the inputs, and the bytes that live beside each program.
    """
    called: dict[str, Placed] = {}

    def noting(module: Any, name: str) -> Any:
        function = getattr(module, name)

        def noted(*arguments: Any, **keywords: Any) -> Any:
            # Of several calls that with the most rows and the largest cache, as preflight has it.
            called[name] = max(called.get(name, []), placed(arguments), key=size)
            return function(*arguments, **keywords)

        return mock.patch.object(module, name, noted)

    drawing = ((at_once, "completions_drawn"), (stages, "_started"), (stages, "_continued"), (engine, "_continued"))
    with layouts.on(case.mesh()):
        trainer = case.trainer(folder)
        with contextlib.ExitStack() as patches:
            for module, name in drawing:
                patches.enter_context(noting(module, name))
            trainer.step(1, number_prompts(PROMPTS).batch(range(PROMPTS), GROUP))
        config, mesh = case.config(folder), case.mesh()
        programs = [*Programs(config, abstract_model(config.model, folder, mesh), mesh).all()]
    described = {each.function.__name__: placed(each.arguments) for each in programs if "rollout" in each.name}
    return called, described, {each.name: each.beside for each in programs}


def described(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields what programs of a rollout are called with, and what preflight compiles: in one, in stages, in slots."""
    lora = functools.partial(Case, DIVISIBLE, rank=4)
    for case in (
        lora(2, 2),
        lora(4, 1, max_tokens=70),
        lora(1, 4, max_tokens=70),
        lora(4, 1, max_rows=8),
        lora(2, 2, max_rows=8),
        Case(UNEVEN, 2, 2, max_tokens=70),
    ):
        yield str(case), drawn_and_described(case, folder)
    gathering.memory = lambda: 1
    yield "small", drawn_and_described(lora(4, 1, max_tokens=70), folder)


def inputs_of(case: Case) -> Completions:
    rows = jax.sharding.NamedSharding(case.mesh(), jax.sharding.PartitionSpec("fsdp"))
    shapes = {
        "prompt_tokens": ((PROMPTS, case.prompt_width), np.int32),
        "prompt_valid": ((PROMPTS, case.prompt_width), bool),
        "tokens": ((PROMPTS * GROUP, case.max_tokens), np.int32),
        "lengths": ((PROMPTS * GROUP,), np.int32),
    }
    return Completions(**{name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()})


def update_program(trainer: Trainer, case: Case) -> jax.stages.Compiled:
    batch = inputs_of(case)
    per_row = jax.ShapeDtypeStruct(batch.lengths.shape, np.float32)
    scalar = jax.ShapeDtypeStruct((), np.float32)
    reference = jax.ShapeDtypeStruct(batch.tokens.shape, np.float32, sharding=batch.tokens.sharding)
    inputs = LossInputs(batch, per_row, per_row, Divisors(per_row, scalar), reference)
    return passes.accumulate.lower(trainer._form, trainer.params, trainer._frozen, None, inputs).compile()


def rollout_program(trainer: Trainer, case: Case) -> jax.stages.Compiled:
    batch = inputs_of(case)
    weights = trainer._sampler._gathering.weights((trainer.params, trainer._frozen))
    keys = jax.ShapeDtypeStruct(batch.lengths.shape, jax.random.key(0).dtype)
    sampling = Sampling(num_generations=GROUP, max_tokens=case.max_tokens, temperature=1.0)
    inputs = (trainer._sampler._form, *weights, batch.prompt_tokens, batch.prompt_valid, keys)
    return at_once.completions_drawn.lower(*inputs, config=sampling, stop_ids=(1,), pad_id=0).compile()


def facts(program: jax.stages.Compiled) -> dict[str, Any]:
    memory = program.memory_analysis()
    sent = [(*each, each.num_bytes) for each in collectives(program.as_text())]
    return {"temporaries": memory.temp_size_in_bytes, "arguments": memory.argument_size_in_bytes, "sent": sent}


def programs(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields what is in the compiled programs; long enough rows, so that these outweigh the weights."""
    long: Any = {"prompt_width": 32, "max_tokens": 48}
    for name, case in {
        "one": Case(DIVISIBLE, 1, 1, **long),
        "fsdp": Case(DIVISIBLE, 4, 1, **long),
        "tp": Case(DIVISIBLE, 1, 4, rank=4, **long),
    }.items():
        with layouts.on(case.mesh()):
            trainer = case.trainer(folder)
            if name != "tp":
                yield f"{name} update", facts(update_program(trainer, case))
            if name != "one":
                yield f"{name} rollout", facts(rollout_program(trainer, case))


def numbers(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields steps on one device and on several, and with too little memory for copies of the weights."""
    yield "full 1x1", steps(Case(DIVISIBLE, 1, 1, accumulation=2), folder)
    yield "full 4x1", steps(Case(DIVISIBLE, 4, 1, accumulation=2), folder)
    yield "lora 1x1", steps(Case(DIVISIBLE, 1, 1, rank=4), folder)
    uneven = Case(UNEVEN, 4, 1, rank=2)
    (folder / "config.json").write_text(json.dumps(UNEVEN))
    model = load_model(model_config(random_weights=True, lora_rank=2), folder, uneven.mesh(), 0)
    yield "whole", start_row(Devices(uneven.mesh(), "cpu"), model)
    weights = jax.ShapeDtypeStruct((100, 4), np.int8, sharding=fitting_sharding(uneven.mesh(), (100, 4), TP_LAST))
    meshes = {memory: rollout_mesh(uneven.mesh(), [weights], 100, memory) for memory in (None, 1200, 1199, 400, 1)}
    yield "meshes", {str(memory): list(mesh.shape.values()) for memory, mesh in meshes.items()}
    gathering.memory = lambda: 1
    yield "lora small 4x1", steps(Case(DIVISIBLE, 4, 1, rank=4), folder)
    yield "lora small slots 4x1", steps(Case(DIVISIBLE, 4, 1, rank=4, max_rows=8), folder)


def more_numbers(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yields steps on the other meshes, and of a model that does not divide."""
    for name, model, meshes in (
        ("full", {"model": DIVISIBLE, "accumulation": 1}, ((1, 1), (2, 2), (1, 4))),
        ("lora", {"model": DIVISIBLE, "rank": 4, "accumulation": 2}, ((1, 1), (4, 1), (2, 2), (1, 4))),
        ("uneven full", {"model": UNEVEN}, ((1, 1), (4, 1))),
        ("uneven lora", {"model": UNEVEN, "rank": 2}, ((1, 1), (2, 2), (1, 4))),
    ):
        for fsdp, tp in meshes:
            yield f"{name} {fsdp}x{tp}", steps(Case(fsdp=fsdp, tp=tp, **model), folder)


if __name__ == "__main__":
    kinds = {"numbers": numbers, "more_numbers": more_numbers, "programs": programs, "described": described}
    print(json.dumps(dict(kinds[sys.argv[1]](Path(sys.argv[2])))))

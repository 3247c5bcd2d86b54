"""GRPO steps on a small random model: what must hold whatever the model has learned."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from helpers.models import one_device_mesh
from helpers.trainer import arrays, mean_token, number_prompts, put_together, small_trainer
from tunix_grpo.decoder.rows import Completions
from tunix_grpo.grpo.algorithms import Divisors
from tunix_grpo.grpo.loss import LossInputs
from tunix_grpo.grpo.passes import accumulate, token_logps
from tunix_grpo.grpo.spikes import Limits
from tunix_grpo.model.model import load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.rewards.base import Failure, Reward, RewardError

PROMPTS = number_prompts(8)
ROWS = np.arange(4)


def moved(before, after) -> float:
    return max(np.abs(a - b).max() for a, b in zip(arrays(before), arrays(after), strict=True))


@pytest.mark.long
def test_a_step_follows_the_reward(compose, folder):
    """After some steps on one prompt set the sampled reward is higher, and every named metric is there."""
    trainer = small_trainer(compose, folder, "grpo.beta=0.01", tx=optax.adam(1e-2))
    results = [trainer.step(step, PROMPTS.batch(ROWS, 4)) for step in range(1, 16)]
    rewards = [np.mean(result.rewards.total) for result in results]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    assert results[0].metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert results[-1].metrics["kl"] > 0.0
    assert {"loss", "grad_norm", "entropy", "clip_ratio/region_mean", "timing/update"} <= results[0].metrics.keys()


@pytest.mark.long
@pytest.mark.parametrize("lora_rank", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_cutting_a_step_into_micro_batches_changes_nothing(compose, folder, lora_rank):
    """One and four micro batches: the same gradient within float32 rounding (Tunix averages per micro batch)."""
    after = []
    for micro, accumulation in ((4, 1), (1, 4)):
        trainer = small_trainer(
            compose,
            folder,
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
            "grpo.beta=0.1",
            lora_rank=lora_rank,
        )
        result = trainer.step(1, PROMPTS.batch(ROWS, 4))
        after.append((arrays(trainer.params), result.metrics))
    for other, metrics in after[1:]:
        for a, b in zip(after[0][0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
        for name in ("loss", "grad_norm", "entropy", "kl"):
            assert metrics[name] == pytest.approx(after[0][1][name], abs=1e-5)


def test_equal_rewards_give_exactly_zero_gradient_at_beta_zero(compose, folder):
    trainer = small_trainer(compose, folder, "grpo.beta=0.0", reward=lambda samples: [0.1] * len(samples))
    before = arrays(trainer.params)
    result = trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert result.metrics["grad_norm"] == 0.0
    assert moved(before, trainer.params) == 0.0
    assert "kl" not in result.metrics


def test_second_iteration_is_off_policy_and_clipped(compose, folder):
    """num_iterations=2: the first pass has ratio exactly 1, the second sees the moved policy and the clip counts."""
    once = small_trainer(compose, folder, "grpo.beta=0.0", tx=optax.sgd(3.0))
    twice = small_trainer(compose, folder, "grpo.beta=0.0", "grpo.num_iterations=2", tx=optax.sgd(3.0))
    first = once.step(1, PROMPTS.batch(ROWS[:2], 4))
    second = twice.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert first.metrics["clip_ratio/region_mean"] == 0.0
    assert second.metrics["clip_ratio/region_mean"] > 0.0
    # loss and grad_norm are reported of the weights that sampled: equal whatever follows
    assert second.metrics["loss"] == pytest.approx(first.metrics["loss"], abs=1e-6)
    assert second.metrics["grad_norm"] == pytest.approx(first.metrics["grad_norm"], rel=1e-5)
    assert moved(once.params, twice.params) > 0.0


def test_end_of_turn_is_trained(compose, folder):
    """A completion that is nothing but its stop token still moves the parameters; Tunix drops it from the loss."""
    gains = iter([1.0, 0.0, 0.0, 0.0] * 2)
    trainer = small_trainer(
        compose,
        folder,
        "grpo.beta=0.0",
        "generation.max_generation_steps=1",
        reward=lambda samples: [next(gains) for _ in samples.completions],
    )
    before = arrays(trainer.params)
    result = trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert result.metrics["grad_norm"] > 0.0
    assert moved(before, trainer.params) > 0.0


def test_a_group_that_a_reward_has_not_scored_moves_nothing(compose, folder):
    """The update is that of the other groups alone, divided by their own number, and their rewards are as they were.

    A group that is equal moves nothing either, but it counts in the number: so its rate is twice as high.
    """

    def reward(samples):
        scores = [float(row % 4) for row in range(len(samples))]
        return [Failure("error", "got no score") if row == 5 else score for row, score in enumerate(scores)]

    after = []
    for equal in (False, True):
        trainer = small_trainer(compose, folder, "grpo.beta=0.0", tx=optax.sgd(0.2 if equal else 0.1))
        if equal:  # the second group teaches nothing as it is
            trainer._rewards = [Reward("own", 1.0, lambda samples: [0, 1, 2, 3] + [1.0] * 4)]
        else:
            trainer._rewards = [Reward("own", 1.0, reward, on_error="skip_group")]
        result = trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
        assert result.advantages[4:].tolist() == [0.0] * 4 and result.advantages[0] < 0 < result.advantages[3]
        after.append(arrays(trainer.params))
    assert result.rewards.skipped == frozenset()
    assert moved(*after) < 1e-7


def test_the_reference_is_computed_while_rewards_are(compose, folder, monkeypatch):
    computed = []

    def reference(*words):
        computed.extend(token_logps(*words))
        return computed[-1:]

    def reward(samples):
        deadline = time.monotonic() + 60
        while not all(array.is_ready() for array in computed) and time.monotonic() < deadline:
            time.sleep(0.01)  # as a remote reward: the host does nothing meanwhile
        done.append(len(computed) == 2 and all(array.is_ready() for array in computed))
        return [0.0] * len(samples)

    done = []
    trainer = small_trainer(compose, folder, "grpo.beta=0.1", "training.micro_batch_size=1", reward=reward)
    monkeypatch.setattr("tunix_grpo.grpo.cutting.token_logps", reference)
    trainer.collect(1, number_prompts(2).batch(ROWS[:2], 4))
    assert done == [True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "none", "high"])
def test_a_broken_reward_stops_the_run_and_moves_nothing(compose, folder, bad):
    trainer = small_trainer(compose, folder, reward=lambda samples: [0.0] * (len(samples) - 1) + [bad])
    before = arrays(trainer.params)
    with pytest.raises(RewardError, match="mean_token"):
        trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert moved(before, trainer.params) == 0.0


def test_a_gradient_that_is_not_finite_moves_nothing(compose, folder):
    trainer = small_trainer(compose, folder, "grpo.beta=0.0", tx=optax.adam(1e-3))
    trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    params, state = arrays(trainer.params), arrays(trainer.optimizer_state)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, trainer.params)
    trainer.params, trainer.optimizer_state, norm, made = trainer._apply(
        trainer.params, trainer.optimizer_state, broken, np.float32(0), Limits()
    )
    assert np.isnan(norm) and not made
    assert moved(params, trainer.params) == 0.0
    assert moved(state, trainer.optimizer_state) == 0.0


def test_reference_is_the_base_with_lora_off_and_shares_its_memory(compose, folder):
    trainer = small_trainer(compose, folder, lora_rank=4)
    base = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trainer._model.reference)]
    assert base and set(base) <= {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trainer._frozen)}


def test_reference_of_full_fine_tuning_stays(compose, folder):
    """Tunix with one module for both measures a divergence of 0 for ever."""
    trainer = small_trainer(compose, folder, "grpo.beta=0.01", tx=optax.sgd(1.0))
    trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert trainer.step(2, PROMPTS.batch(ROWS[:2], 4)).metrics["kl"] > 1e-6


def test_the_rollout_sees_the_updated_weights(compose, folder):
    trainer = small_trainer(compose, folder, "grpo.beta=0.0", tx=optax.sgd(5.0))
    config = dataclasses.replace(trainer._sampling, num_generations=1, temperature=0.0)
    before = trainer.sample(PROMPTS.ids, config, 1)
    trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    after = trainer.sample(PROMPTS.ids, config, 1)
    assert np.abs(np.asarray(before.logps) - np.asarray(after.logps)).max() > 1e-3


@pytest.mark.long
def test_programs_are_compiled_once(compose, folder):
    """Over 20 steps whose prompts have different lengths."""
    from tunix_grpo.run.devices import CompilationCounter

    trainer = small_trainer(compose, folder, "grpo.beta=0.1", lora_rank=4)
    trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    counter = CompilationCounter()
    longest = set()
    for step in range(2, 21):
        rows = np.array([step % 8, step % 8])
        longest.add(max(len(PROMPTS.ids[row]) for row in rows))
        trainer.step(step, PROMPTS.batch(rows, 4))
    assert len(longest) > 2
    assert counter.count == 0


BUILDING = """
import json, sys, time
from pathlib import Path
import hydra, jax, optax
from helpers.models import one_device_mesh
from helpers.trainer import mean_token, put_together
from tunix_grpo.config import load
from tunix_grpo.model.model import load_model
from tunix_grpo.model.sources import resolve_directory

def megabytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(key + ":"))

with hydra.initialize_config_dir(sys.argv[1], version_base="1.3"):
    settings = ["output_dir=out", "model=gemma3_270m", "model.random_weights=true", "model.dtype=float32", "device=cpu"]
    config = load(hydra.compose("config", settings))
model = load_model(config.model, resolve_directory(config.model), one_device_mesh(), 0)
jax.block_until_ready((model.trained, model.reference))
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
before, start = megabytes("VmRSS"), time.perf_counter()
trainer = put_together(config, model, mean_token, optax.adamw(1e-6), prompt_width=256)
jax.block_until_ready((trainer.params, trainer.optimizer_state))
print(json.dumps([time.perf_counter() - start, megabytes("VmHWM") - before, trainer.parameter_counts()]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process needed at most")
def test_a_learner_of_gemma3_270m_is_built_in_a_second_and_copies_no_weights(tmp_path):
    """Beside the 1,072 MB of weights there are the adapters and Adam's two moments, 29 MB each; 300 MB allow for them
    and for what the compiler of their zeros may need (seen: 57 MB)."""
    found = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(found)}
    conf = str(Path(__file__).resolve().parent.parent / "conf")
    command = [sys.executable, "-c", BUILDING, conf]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    seconds, megabytes, (trained, total) = json.loads(done.stdout)
    assert (trained, total) == (7_225_344, 275_323_520)
    assert seconds < 1.0
    assert megabytes < 300


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_an_update_of_gemma3_270m_needs_little_memory(compose):
    """16 completions of 256 + 512 tokens, default settings: weights, optimizer and all temporaries in 3.5 GB.

    As compiled for a CPU, which computes bfloat16 products in float32; a GPU needs less.
    """
    config = compose("model=gemma3_270m", "model.random_weights=true", "model.dtype=bfloat16", "device=cpu")
    model = load_model(config.model, resolve_directory(config.model), one_device_mesh(), 0)
    trainer = put_together(config, model, mean_token, optax.adamw(1e-6), prompt_width=256)
    rows, length = config.completions_per_step(1), config.generation.max_generation_steps
    assert (rows, length) == (16, 512)

    def of(shape: tuple[int, ...], dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    completions = Completions(
        of((4, 256), np.int32), of((4, 256), bool), of((rows, length), np.int32), of((rows,), np.int32)
    )
    per_row = of((rows,), np.float32)
    micro = LossInputs(
        completions, per_row, per_row, Divisors(per_row, of((), np.float32)), of((rows, length), np.float32)
    )
    program = accumulate.lower(trainer._form, trainer.params, trainer._frozen, None, micro).compile()
    memory = program.memory_analysis()
    optimizer = sum(leaf.nbytes for leaf in jax.tree.leaves(trainer.optimizer_state))
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes + optimizer
    assert needed <= 3.5e9

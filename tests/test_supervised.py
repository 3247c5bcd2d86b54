"""Supervised steps, compared with transformers' cross-entropy in float64."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from helpers.models import load, one_device_mesh
from helpers.trainer import NumberTokenizer, arrays
from tunix_grpo.grpo.spikes import FEWEST, Spikes
from tunix_grpo.grpo.supervised import SupervisedTrainer, width_for
from tunix_grpo.tasks.demonstration_set import DemonstrationSet


def random_set(count: int = 4) -> DemonstrationSet:
    rng = np.random.default_rng(3)

    def texts(shortest: int, longest: int) -> list[list[int]]:
        return [[int(i) for i in rng.integers(3, 97, rng.integers(shortest, longest))] for _ in range(count)]

    return DemonstrationSet(texts(2, 30), [[*text, 1] for text in texts(1, 20)])


@pytest.fixture
def trainer_of(compose_sft, folder):
    """Makes a trainer of all weights of a random Llama; its rate is 1, so that an update shows the gradient."""

    def make(demonstrations: DemonstrationSet, *overrides: str, **model) -> SupervisedTrainer:
        config = compose_sft("model=hf", f"model.path={folder}", "device=cpu", "task=arithmetic", *overrides)
        loaded, mesh = load(folder, **model), one_device_mesh()
        return SupervisedTrainer(config, mesh, loaded, NumberTokenizer(), demonstrations, optax.sgd(1.0), 8)

    return make


def reference(folder, chosen: DemonstrationSet) -> tuple[float, float, float]:
    """Returns loss, token accuracy and gradient norm of transformers' model in float64, row by row."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double()
    total, hits = torch.zeros((), dtype=torch.float64), 0
    for prompt, answer in zip(chosen.prompts, chosen.completions, strict=True):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")
        hits += int((logits.argmax(-1) == torch.tensor(answer)).sum())
    tokens = sum(map(len, chosen.completions))
    (total / tokens).backward()
    norm = sum(float(each.grad.square().sum()) for each in model.parameters()) ** 0.5
    return total.item() / tokens, hits / tokens, norm


def test_loss_gradient_and_accuracy_equal_transformers(trainer_of, folder):
    chosen = random_set()
    result = trainer_of(chosen, "training.micro_batch_size=4").step(1)
    metrics = result.metrics
    loss, accuracy, norm = reference(folder, chosen)
    # float32 against float64: the seventh digit of a sum over 50 tokens.
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert metrics["mean_token_accuracy"] == pytest.approx(accuracy)
    assert result.num_tokens == sum(map(len, chosen.prompts + chosen.completions))
    assert metrics["completions/max_length"] == max(map(len, chosen.completions))


@pytest.mark.long
@pytest.mark.parametrize(("micro", "parts"), [(2, 2), (1, 4)])
def test_cutting_a_step_changes_nothing(trainer_of, micro, parts):
    """Rows of very unequal lengths, so that a mean over micro batches would weigh tokens differently."""
    chosen = random_set()
    steps = []
    for size, number in ((4, 1), (micro, parts)):
        words = (f"training.micro_batch_size={size}", f"training.gradient_accumulation_steps={number}")
        trainer = trainer_of(chosen, *words)
        steps.append((trainer.step(1).metrics, arrays(trainer.params)))
    (whole, params), (cut, cut_params) = steps
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert cut["mean_token_accuracy"] == pytest.approx(whole["mean_token_accuracy"])
    for one, other in zip(params, cut_params, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_only_the_adapter_moves(trainer_of):
    trainer = trainer_of(random_set(), "training.micro_batch_size=4", lora_rank=2)
    before, base = arrays(trainer.params), arrays(trainer._frozen)
    trainer.step(1)
    assert any((old != new).any() for old, new in zip(before, arrays(trainer.params), strict=True))
    assert all((old == new).all() for old, new in zip(base, arrays(trainer._frozen), strict=True))


def test_each_pass_has_every_demonstration_once_in_an_order_of_its_own(trainer_of):
    chosen = random_set(8)
    trainer = trainer_of(chosen, "training.micro_batch_size=4")
    seen: list[tuple[int, ...]] = []
    own = trainer._micro_batches
    trainer._micro_batches = lambda rows: (seen.append(tuple(rows)), own(rows))[1]
    for step in (1, 2, 3, 4):
        trainer.step(step)
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(8))
    assert {frozenset(seen[0]), frozenset(seen[1])} != {frozenset(seen[2]), frozenset(seen[3])}


def test_a_step_that_is_not_finite_moves_nothing(trainer_of):
    trainer = trainer_of(random_set(), "training.micro_batch_size=4")
    leaf = trainer.params["embedder"]["input_embedding"]
    trainer.params["embedder"]["input_embedding"] = leaf.at[1].set(np.nan)  # the end token, in every answer
    before = arrays(trainer.params)
    result = trainer.step(1)
    assert (result.health.not_finite, result.health.left_out, result.metrics["updates/left_out"]) == (1, 1, 1.0)
    assert np.isfinite(list(result.metrics.values())).all() and "loss" not in result.metrics
    for old, new in zip(before, arrays(trainer.params), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_spike_can_be_left_out(trainer_of):
    """Earlier losses were tiny, so that any is a spike."""
    trainer = trainer_of(random_set(), "training.micro_batch_size=4")
    for policy in ("skip", "report"):
        trainer.spikes = Spikes(policy, 6.0, [[0.0, 1e-6]] * FEWEST)
        before = arrays(trainer.params)
        health = trainer.step(1).health
        moved = any((old != new).any() for old, new in zip(before, arrays(trainer.params), strict=True))
        assert moved == (policy == "report") == (health.left_out == 0) and health.spikes


@pytest.mark.parametrize(
    ("lengths", "longest", "width"), [([3, 5], 200, 16), ([17], 200, 32), ([3, 130], 200, 208), ([40], 40, 48)]
)
def test_few_widths_are_compiled(lengths, longest, width):
    assert width_for([[0] * length for length in lengths], longest) == width

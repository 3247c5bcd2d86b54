"""The loss against TRL's own lines, executed.

Wants TRL: pip install "trl==1.16.*" peft accelerate torch
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import float64
from helpers.steps import GRPO, algorithm, one_group, our_losses, several_groups

pytestmark = pytest.mark.slow
# What TRL calls a case: loss_type, and what it names otherwise.
SHARED = [
    (GRPO, {"loss_type": "grpo"}),
    (GRPO | {"beta": 0.04}, {"loss_type": "grpo", "beta": 0.04}),
    (GRPO | {"beta": 0.04, "kl_estimator": "unbiased"}, {"loss_type": "grpo", "beta": 0.04, "unbiased": True}),
    (GRPO | {"advantage": "center", "aggregation": "constant_length"}, {"loss_type": "dr_grpo"}),
    (GRPO | {"high": 0.28, "aggregation": "token_mean"}, {"loss_type": "dapo", "high": 0.28}),
    (GRPO | {"delta": 1.3}, {"loss_type": "grpo", "delta": 1.3}),
    (GRPO | {"advantage": "batch_std", "aggregation": "token_mean"}, {"loss_type": "dapo"}),
    (
        GRPO | {"ratio": "sequence", "low": 3e-4, "high": 4e-4},
        {"loss_type": "grpo", "level": "sequence", "low": 3e-4, "high": 4e-4},
    ),
    (GRPO | {"ratio": "cispo", "cap": 5.0, "aggregation": "token_mean"}, {"loss_type": "cispo", "high": 5.0}),
    (GRPO | {"ratio": "cispo", "cap": 1.28, "aggregation": "token_mean"}, {"loss_type": "cispo", "high": 1.28}),
    (GRPO | {"ratio": "sapo", "pos": 1.0, "neg": 1.05}, {"loss_type": "sapo"}),
]


def trl_loss(step: float64.Step, gains: np.ndarray, settings: dict) -> tuple[float, np.ndarray]:
    """Returns what GRPOTrainer._compute_loss gives for a step that is one batch, and its gradient by token."""
    torch = pytest.importorskip("torch")
    trainer_class = pytest.importorskip("trl", minversion="1.16").GRPOTrainer
    logps, old, ref = (torch.tensor(np.nan_to_num(a, nan=-3.0)) for a in (step.logps, step.old, step.ref))
    logps.requires_grad_()
    mask = torch.tensor(np.arange(step.logps.shape[1]) < step.lengths[:, None]).double()
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor(gains),
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
        "num_items_in_batch": mask.sum(),
    }
    args = SimpleNamespace(
        delta=settings.get("delta"),
        use_bias_correction_kl=settings.get("unbiased", False),
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        steps_per_generation=1,
    )
    one_process = SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        args=args,
        accelerator=one_process,
        model=SimpleNamespace(training=True),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        _metrics={"train": defaultdict(list)},
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
        beta=settings.get("beta", 0.0),
        current_gradient_accumulation_steps=1,
        epsilon_high=settings.get("high", 0.2),
        epsilon_low=settings.get("low", 0.2),
        importance_sampling_level=settings.get("level", "token"),
        loss_type=settings["loss_type"],
        max_completion_length=step.max_tokens,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    loss = trainer_class._compute_loss(trainer, None, inputs)
    loss.backward()
    return loss.item(), logps.grad.numpy()


@pytest.mark.parametrize(("ours", "theirs"), SHARED, ids=lambda case: "-".join(map(str, case.values())))
@pytest.mark.parametrize("step", [one_group(), several_groups()], ids=["one group", "several groups"])
def test_the_loss_is_that_of_trl(step, ours, theirs):
    """float32 against TRL's float64, on the same advantages: loss, and gradient of every token."""
    loss, gradient = trl_loss(step, float64.advantages(ours["advantage"], step), theirs)
    ((mine, slope),) = our_losses(step, algorithm(ours), 1, len(step.rewards) // step.size)
    assert abs(loss) > 1e-3
    assert mine == pytest.approx(loss, rel=2e-5, abs=2e-6)
    np.testing.assert_allclose(slope, gradient, rtol=2e-5, atol=2e-6)

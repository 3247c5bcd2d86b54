"""The learning rate against numbers worked out by hand, and AdamW against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tunix_grpo.config import OptimizerConfig, SchedulerConfig
from tunix_grpo.grpo.optimizer import build_optimizer, build_schedule

TOLERANCE = 1e-6  # relative, float32


def optimizer_config(**changes) -> OptimizerConfig:
    values = {
        "name": "adamw",
        "learning_rate": 0.1,
        "beta1": 0.9,
        "beta2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1e9,
    }
    return OptimizerConfig(**{**values, **changes})


def rates(name: str, warmup_ratio: float, final_ratio: float, total: int, peak: float = 1.0) -> np.ndarray:
    """Returns the learning rate of every update of a run, and of the one that would follow."""
    scheduler = SchedulerConfig(name=name, warmup_ratio=warmup_ratio, final_ratio=final_ratio)
    schedule = build_schedule(optimizer_config(learning_rate=peak), scheduler, total)
    return np.array(schedule(np.arange(total + 1)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 2 of 10 updates rise: 1/2, 1; then 8 fall from 1 towards 0.2, which the update after the last would have.
        ("linear", {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.8, 6: 0.6, 9: 0.3, 10: 0.2}),
        # 0.2 + 0.8 (1 + cos(pi/4)) / 2 at a quarter of the way, cos(7 pi / 8) at the last update
        ("warmup_cosine", {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.8828427, 6: 0.6, 9: 0.2304482, 10: 0.2}),
        ("constant", {0: 0.5, 1: 1.0, 2: 1.0, 4: 1.0, 6: 1.0, 9: 1.0, 10: 1.0}),
    ],
)
def test_rates_at_named_updates(name, expected):
    found = rates(name, warmup_ratio=0.2, final_ratio=0.2, total=10, peak=3e-6)
    np.testing.assert_allclose(found[list(expected)], 3e-6 * np.array([*expected.values()]), rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["linear", "warmup_cosine", "constant"])
@pytest.mark.parametrize(("warmup_ratio", "total"), [(0.0, 7), (0.1, 3738), (0.1, 5), (0.5, 2), (1.0, 6), (1.0, 1)])
def test_no_update_is_lost_and_the_peak_is_reached(name, warmup_ratio, total):
    """Also for runs so short that no update rises, and for those that only rise."""
    found = rates(name, warmup_ratio, 0.0, total)[:-1]
    assert found.min() > 0.0
    assert found.max() == 1.0
    assert (np.diff(found[: int(warmup_ratio * total)]) > 0).all()
    assert (np.diff(found[int(warmup_ratio * total) :]) <= 0).all()


def adamw(params, gradients, *, rate, beta1, beta2, eps, decay, max_norm):
    """Decoupled weight decay (arXiv:1711.05101, algorithm 2), float64: yields the parameters after each update."""
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    for count, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
        for name, value in params.items():
            g = gradient[name] * min(1.0, max_norm / norm)
            first[name] = beta1 * first[name] + (1 - beta1) * g
            second[name] = beta2 * second[name] + (1 - beta2) * g**2
            change = first[name] / (1 - beta1**count) / (np.sqrt(second[name] / (1 - beta2**count)) + eps)
            kept = decay * value if value.ndim > 1 else 0.0
            params = {**params, name: value - rate(count - 1) * (change + kept)}
        yield params


@pytest.mark.parametrize("max_norm", [1e9, 0.1], ids=["not clipped", "clipped"])
def test_updates_equal_the_formula(max_norm):
    numbers = np.random.default_rng(0)
    shapes = {"matrix": (3, 4), "norm": (5,)}
    params = {name: numbers.standard_normal(shape) for name, shape in shapes.items()}
    gradients = [{name: numbers.standard_normal(shape) for name, shape in shapes.items()} for _ in range(5)]
    config = optimizer_config(weight_decay=0.3, max_grad_norm=max_norm, eps=1e-3)
    schedule = build_schedule(config, SchedulerConfig(name="linear", warmup_ratio=0.4, final_ratio=0.5), 5)
    rate = [0.05, 0.1, 0.1, 0.1 * 5 / 6, 0.1 * 4 / 6]  # 2 updates rise, 3 fall to a half
    expected = list(
        adamw(params, gradients, rate=rate.__getitem__, beta1=0.9, beta2=0.99, eps=1e-3, decay=0.3, max_norm=max_norm)
    )

    optimizer = build_optimizer(config, schedule)
    ours = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    state, update = optimizer.init(ours), jax.jit(optimizer.update)
    for gradient, theirs in zip(gradients, expected, strict=True):
        rounded = {name: jnp.asarray(value, jnp.float32) for name, value in gradient.items()}
        updates, state = update(rounded, state, ours)
        ours = optax.apply_updates(ours, updates)
        for name in shapes:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)  # float32 over five updates


def test_vectors_do_not_decay():
    optimizer = build_optimizer(optimizer_config(weight_decay=0.5), optax.constant_schedule(0.1))
    params = {"matrix": jnp.full((2, 2), 4.0), "bias": jnp.full(3, 4.0), "stacked": jnp.full((1, 3), 4.0)}
    gradient = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    assert {name: float(leaf.ravel()[0]) for name, leaf in updates.items()} == pytest.approx(
        {"matrix": -0.2, "bias": 0.0, "stacked": -0.2}
    )


def test_clipping_is_by_the_norm_of_the_whole_gradient():
    """With eps far above the gradient AdamW's change is the gradient itself, times a constant."""
    config = optimizer_config(max_grad_norm=1.0, eps=1e6, learning_rate=1e6)
    optimizer = build_optimizer(config, optax.constant_schedule(1e6))
    params = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[-4.0]])}  # norm 5
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.6, 0.0], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], [[0.8]], rtol=1e-5)

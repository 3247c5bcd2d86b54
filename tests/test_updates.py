"""Several updates of a step, groups that are replaced, and what a run says of both, on a small random model."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers.trainer import arrays, mean_token, number_prompts, small_trainer, uniform_order
from tunix_grpo.grpo.spikes import FEWEST, Limits, Spikes
from tunix_grpo.record.metrics import step_metrics
from tunix_grpo.rewards.base import Reward
from tunix_grpo.run.devices import CompilationCounter

PROMPTS = number_prompts(16)
ROWS = np.arange(4)


def assert_same(mine, theirs, atol: float) -> None:
    for a, b in zip(arrays(mine), arrays(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.long
def test_minibatches_are_updates_one_after_another(compose, folder):
    """Two minibatches of a step move the weights as two steps do whose prompts and completions are theirs.

    At a tiny learning rate the second minibatch's completions, sampled before the first update, still have ratio 1; so
    the two gradients are those of the two halves, each normalised by itself, and SGD adds them up.
    """
    slow = optax.sgd(1e-4)
    whole = small_trainer(compose, folder, "grpo.beta=0.0", "grpo.num_minibatches=2", tx=slow)
    before = arrays(whole.params)
    collected = whole.collect(1, PROMPTS.batch(ROWS, 4))
    halves = [piece.part for ((piece,),) in collected.minibatches]
    assert sorted(np.concatenate([half.prompts for half in halves])) == [0, 1, 2, 3]
    result = whole.update(collected)
    moved = [after - start for after, start in zip(arrays(whole.params), before, strict=True)]
    summed = [np.zeros_like(leaf) for leaf in before]
    for half in halves:
        alone = small_trainer(compose, folder, "grpo.beta=0.0", tx=slow)
        sampled = alone.collect(1, PROMPTS.batch(ROWS[half.prompts], 4))
        there = collected.groups.rollout
        ((piece,),) = sampled.minibatches[0]
        batch = piece.completions._replace(tokens=there.batch.tokens[half.rows], lengths=there.batch.lengths[half.rows])
        gains = collected.advantages[half.rows]
        part = piece.part._replace(divisors=half.divisors)
        sampled.minibatches[0][0] = [dataclasses.replace(piece, part=part, completions=batch)]
        alone.update(type(sampled)(sampled.sampled, sampled.groups, gains, sampled.minibatches, {}))
        summed = [
            total + after - start for total, after, start in zip(summed, arrays(alone.params), before, strict=True)
        ]
    assert max(np.abs(leaf).max() for leaf in moved) > 1e-5
    assert_same(moved, summed, atol=1.2e-7)  # one unit in the last place of a weight of size 1
    assert result.metrics["ratio/mean"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.long
def test_later_minibatches_are_off_policy_and_clipped(compose, folder):
    """A step's completions are sampled once: the second update sees a policy that the first has moved."""
    fast = optax.sgd(3.0)
    trainer = small_trainer(compose, folder, "grpo.beta=0.05", "grpo.num_minibatches=2", tx=fast)
    result = trainer.step(1, PROMPTS.batch(ROWS, 4))
    assert result.metrics["clip_ratio/region_mean"] > 0.0
    assert abs(result.metrics["ratio/mean"] - 1.0) > 1e-3
    assert result.metrics["sampling/sampling_logp_difference/max"] < 1e-4  # before either update


@pytest.mark.long
@pytest.mark.parametrize("iterations", [1, 2])
def test_minibatches_do_not_depend_on_how_they_are_cut(compose, folder, iterations):
    after = []
    for micro, accumulation in ((2, 1), (1, 2)):
        trainer = small_trainer(
            compose,
            folder,
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
            f"grpo.num_iterations={iterations}",
            "grpo.num_minibatches=2",
            "grpo.aggregation=token_mean",
            "grpo.beta=0.1",
        )
        result = trainer.step(1, PROMPTS.batch(ROWS, 4))
        after.append((trainer.params, result.metrics))
    assert_same(after[0][0], after[1][0], atol=2e-6)
    for name in ("loss", "grad_norm", "entropy", "kl", "ratio/mean"):
        assert after[0][1][name] == pytest.approx(after[1][1][name], abs=1e-5)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_update_that_is_not_finite_is_left_out_and_the_others_are_made(compose, folder, minibatches):
    """Without another one no bit moves, and the metrics say nothing of the update."""
    trainer = small_trainer(compose, folder, "grpo.beta=0.0", f"grpo.num_minibatches={minibatches}")
    before = arrays(trainer.params)
    collected = trainer.collect(1, PROMPTS.batch(ROWS[: 2 * minibatches], 4))
    ((piece,),) = collected.minibatches[-1]
    collected.advantages[piece.part.rows] = np.nan
    result = trainer.update(collected)
    moved = any((mine != theirs).any() for mine, theirs in zip(arrays(trainer.params), before, strict=True))
    assert moved == (minibatches > 1) == ("loss" in result.metrics)
    assert (result.health.not_finite, result.health.left_out, result.metrics["updates/left_out"]) == (1, 1, 1.0)
    assert np.isfinite(list(result.metrics.values())).all()


def test_a_loss_that_is_not_finite_moves_nothing_though_its_gradient_is(compose, folder):
    trainer = small_trainer(compose, folder, "grpo.beta=0.0")
    trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    for loss, limits in ((np.inf, Limits()), (0.5, Limits(loss=0.4)), (0.5, Limits(norm=1e-9)), (0.5, Limits())):
        before = arrays((trainer.params, trainer.optimizer_state))
        gradient = jax.tree.map(jnp.ones_like, trainer.params)
        trainer.params, trainer.optimizer_state, _, made = trainer._apply(
            trainer.params, trainer.optimizer_state, gradient, jnp.float32(loss), limits
        )
        pairs = zip(arrays((trainer.params, trainer.optimizer_state)), before, strict=True)
        assert made == any((mine != theirs).any() for mine, theirs in pairs) == (loss == 0.5 and limits == Limits())


@pytest.mark.parametrize("policy", ["report", "skip"])
def test_a_spike_of_the_gradient_is_reported_or_left_out(compose, folder, policy):
    """Earlier gradients were tiny, so that any is a spike."""
    window = [[0.0, 1e-6 * (1 + index / 100)] for index in range(FEWEST)]
    trainer = small_trainer(compose, folder, "grpo.beta=0.0")
    trainer.spikes = Spikes(policy, 6.0, window)
    before = arrays(trainer.params)
    result = trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    (words,) = [words for words in result.health.spikes if "norm" in words]
    assert words.startswith(f"a gradient norm of {result.metrics['grad_norm']:.4g} is a spike, above 1.")
    moved = any((mine != theirs).any() for mine, theirs in zip(arrays(trainer.params), before, strict=True))
    assert moved == (policy == "report") == (result.health.left_out == 0)
    assert trainer.spikes.window[-1][1] == pytest.approx(result.metrics["grad_norm"])


def test_truncated_completions_can_be_masked(compose, folder):
    """All are cut at one token unless it is a stop token: then nothing moves, and the share is logged."""
    trainer = small_trainer(
        compose, folder, "grpo.beta=0.0", "grpo.mask_truncated=true", "generation.max_generation_steps=1"
    )
    before = arrays(trainer.params)
    result = trainer.step(1, PROMPTS.batch(ROWS[:2], 4))
    assert result.metrics["completions/masked_ratio"] == np.mean(result.rollout.truncated) == 1.0
    assert_same(trainer.params, before, atol=0.0)


@pytest.mark.long
def test_groups_without_gradient_are_not_computed_and_change_nothing(compose, folder):
    """Two of four groups are equal: with one group a micro batch two are computed, with four all, at equal result."""

    def half_equal(samples):
        return [float(row % 4 == 0) if row >= 8 else 0.5 for row in range(len(samples))]

    after = []
    for micro, accumulation in ((4, 1), (1, 4)):
        trainer = small_trainer(
            compose,
            folder,
            f"training.micro_batch_size={micro}",
            f"training.gradient_accumulation_steps={accumulation}",
            "grpo.beta=0.0",
            reward=half_equal,
        )
        collected = trainer.collect(1, PROMPTS.batch(ROWS, 4))
        trainer.update(collected)
        after.append((collected, trainer.params))
    assert [len(collected.minibatches[0]) for collected, _ in after] == [1, 2]
    assert [piece.part.prompts.tolist() for (piece,) in after[1][0].minibatches[0]] == [[2], [3]]
    assert_same(after[0][1], after[1][1], atol=2e-6)


def test_a_group_whose_reward_could_not_be_had_is_left_out_of_the_update(compose, folder):
    """It has no KL term either, and the others are divided by their own number."""

    def fails_on_the_second(samples):
        assert PROMPTS.texts[1] not in samples.prompts
        return mean_token(samples)

    trainer = small_trainer(compose, folder, "grpo.beta=0.5")
    trainer._rewards = [Reward("mean_token", 1.0, fails_on_the_second, on_error="skip_group")]
    collected = trainer.collect(1, PROMPTS.batch(ROWS[:2], 4))
    (((piece,),),) = collected.minibatches
    assert collected.groups.rewards.skipped == frozenset({4, 5, 6, 7})
    assert piece.part.kept.tolist() == [1.0] * 4 + [0.0] * 4
    assert piece.part.divisors.whole == 4


def by_prompt(useful: set[str]):
    """Returns a reward that differs within the groups of some prompts and is equal within the others."""

    def reward(samples):
        places = range(len(samples))
        return [float(place % 4) if samples.prompts[place] in useful else 0.0 for place in places]

    return reward


def replacing_trainer(compose, folder, useful: set[str], *overrides: str):
    settings = ("grpo.beta=0.05", "grpo.replace_equal_groups=true", "training.micro_batch_size=4", *overrides)
    trainer = small_trainer(compose, folder, *settings, reward=by_prompt(useful))
    return trainer, uniform_order(PROMPTS, 4, 4)


def test_equal_groups_are_replaced_by_fresh_ones(compose, folder):
    order = uniform_order(PROMPTS, 4, 4)
    own, first, second = (order.batch(1, number).texts for number in (0, 1, 2))
    useful = {own[1], first[0], first[3], second[2]}
    trainer, order = replacing_trainer(compose, folder, useful)
    collected = trainer.collect(1, order.batch(1), functools.partial(order.batch, 1))
    assert collected.sampled.batch.texts == own
    assert collected.groups.batch.texts == [first[0], own[1], first[3], second[2]]
    rollout = collected.groups.rollout
    for source, place, number in ((1, 1, 0), (0, 0, 1), (3, 2, 1), (2, 3, 2)):
        drawn = trainer.draw(order.batch(1, number), 1, number, trainer.ahead())
        mine, theirs = slice(4 * place, 4 * place + 4), slice(4 * source, 4 * source + 4)
        assert rollout.texts[mine] == (collected.sampled.rollout if number == 0 else drawn).texts[theirs]
        assert (rollout.lengths[mine] == drawn.lengths[theirs]).all()
        np.testing.assert_array_equal(rollout.batch.tokens[mine], drawn.batch.tokens[theirs])
        np.testing.assert_array_equal(rollout.batch.prompt_tokens[place], drawn.batch.prompt_tokens[source])
        np.testing.assert_allclose(rollout.logps[mine], drawn.logps[theirs], atol=1e-6)
    result = trainer.update(collected)
    said = {name: value for name, value in result.metrics.items() if name.startswith("groups/")}
    assert said == {"groups/kept": 1, "groups/replaced": 3, "groups/given_up": 0, "groups/extra_rounds": 2}
    assert result.batch.texts == collected.groups.batch.texts
    drawn = [trainer.draw(order.batch(1, number), 1, number, trainer.ahead()).lengths.sum() for number in (1, 2)]
    prompts = 4 * sum(len(ids) for number in (0, 1, 2) for ids in order.batch(1, number).ids)
    # The weights have moved since, but only the first round's length can differ by that, and it is known.
    assert result.num_tokens == prompts + collected.sampled.rollout.lengths.sum() + sum(drawn)


def test_what_cannot_be_replaced_is_given_up_after_some_rounds(compose, folder):
    trainer, order = replacing_trainer(compose, folder, set(), "grpo.max_extra_rounds=2")
    result = trainer.update(trainer.collect(1, order.batch(1), functools.partial(order.batch, 1)))
    said = {name: value for name, value in result.metrics.items() if name.startswith("groups/")}
    assert said == {"groups/kept": 0, "groups/replaced": 0, "groups/given_up": 4, "groups/extra_rounds": 2}


def test_tokens_of_groups_that_are_given_back_were_generated_too(compose, folder):
    """The first round's groups are equal and so are the fresh ones: three times as much is drawn as trained on."""
    settings = ("grpo.beta=0.05", "grpo.replace_equal_groups=true", "grpo.max_extra_rounds=2")
    trainer = small_trainer(compose, folder, *settings, reward=lambda samples: [0.5] * len(samples))
    fresh = [PROMPTS.batch(ROWS[:2] + 2 * number, 4) for number in range(3)]
    drawn = sum(trainer.draw(batch, 1, number, trainer.ahead()).lengths.sum() for number, batch in enumerate(fresh))
    result = trainer.update(trainer.collect(1, fresh[0], fresh.__getitem__))
    assert result.num_drawn == drawn > 2 * result.rollout.lengths.sum()
    metrics = step_metrics(result)
    assert metrics["frac_reward_zero_std"] == 1.0
    others = dataclasses.replace(result.sampled, equal=np.array([True, False]))  # as with rewards normalised one by one
    assert step_metrics(dataclasses.replace(result, sampled=others))["frac_reward_zero_std"] == 0.5
    assert metrics["perf/tokens_per_second"] * metrics["step_time"] == pytest.approx(drawn)


def test_replacing_compiles_nothing_anew(compose, folder):
    useful = set(PROMPTS.texts[::3])
    trainer, order = replacing_trainer(compose, folder, useful)
    counts, rounds = [], set()
    counter = CompilationCounter()
    for step in range(1, 9):
        result = trainer.update(trainer.collect(step, order.batch(step), functools.partial(order.batch, step)))
        rounds.add(result.metrics["groups/extra_rounds"])
        counts.append(counter.count)
    assert len(rounds) > 1
    assert counts[-1] == counts[2]


def test_sampler_and_trainer_agree_in_every_run(compose, folder):
    trainer = small_trainer(compose, folder, "grpo.beta=0.0", "grpo.importance=tis")
    plain = small_trainer(compose, folder, "grpo.beta=0.0")
    results = [each.step(1, PROMPTS.batch(ROWS[:2], 4)) for each in (trainer, plain)]
    for result in results:
        mean, largest = (result.metrics[f"sampling/sampling_logp_difference/{name}"] for name in ("mean", "max"))
        assert 0.0 <= mean <= largest < 1e-4
    assert_same(trainer.params, plain.params, atol=1e-6)  # all weights are 1 where the two agree


def test_a_sampler_that_differs_is_measured_and_made_up_for(compose, folder):
    trainers = {
        name: small_trainer(compose, folder, "grpo.beta=0.0", f"grpo.importance={name}") for name in ("none", "icepop")
    }
    after = {}
    for name, trainer in trainers.items():
        collected = trainer.collect(1, PROMPTS.batch(ROWS[:2], 4))
        for micros in collected.minibatches:  # e times less likely than the trainer says
            micros[:] = [[dataclasses.replace(piece, sampled=piece.sampled - 1.0)] for (piece,) in micros]
        result = trainer.update(collected)
        assert result.metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(1.0, abs=1e-3)
        after[name] = (result.metrics["grad_norm"], trainer.params)
    assert after["none"][0] > 0.0
    assert after["icepop"][0] == 0.0  # every token is outside [0.5, 2]

"""Rows of uneven length: padded or cut by length, drawn whole, in stages or in slots, a step is the same step."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from helpers.trainer import NumberTokenizer, arrays, number_prompts, small_trainer
from tunix_grpo.benchmark.lengths import completion_lengths
from tunix_grpo.decoder.drawing import Sampling
from tunix_grpo.decoder.platform import Described, traced_for
from tunix_grpo.grpo import buckets, passes, rollout, stages
from tunix_grpo.grpo.buckets import cut_by_length, program_tokens, widths
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.text.prompt_set import Batch

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ROOT / "src" / "tunix_grpo" / "assets" / "shapes"
PROMPTS, GROUP, LENGTH = 4, 4, 40
BATCH = number_prompts(PROMPTS).batch(range(PROMPTS), GROUP)
SETTINGS = (
    f"training.micro_batch_size={PROMPTS // 2}",
    f"generation.max_generation_steps={LENGTH}",
    "grpo.num_minibatches=2",
    "grpo.num_iterations=2",
    "grpo.beta=0.1",
)
PROGRAMS = (
    passes.prefix_of,
    passes.accumulate_behind,
    passes.accumulate_prompts,
    passes.logps_behind,
    passes.whole_logps,
    passes.accumulate,
    stages._continued,
)


def padded(*sizes) -> list[buckets.Piece]:
    return [buckets.Piece(np.arange(len(sizes[0])), None, LENGTH)]


@pytest.fixture
def uneven(compose, folder, monkeypatch):
    """Returns what runs a step whose completions have between 1 and 40 tokens."""
    monkeypatch.setattr(NumberTokenizer, "stop_ids", tuple(range(1, 5)))
    monkeypatch.setattr(buckets, "_NARROWEST", 8)
    monkeypatch.setattr(stages, "STAGE", 8)

    def step(way: str, *overrides: str, steps: int = 1, batch: Batch = BATCH, **changes):
        with monkeypatch.context() as patches:
            patches.setattr(rollout, "SHORT", 16 if "stages" in way else LENGTH)
            if "pieces" not in way:
                patches.setattr("tunix_grpo.grpo.cutting.cut_by_length", padded)
            slots = ["generation.max_rows=5"] if "slots" in way else []
            trainer = small_trainer(compose, folder, *SETTINGS, *slots, *overrides, **changes)
            collected = [trainer.collect(number, batch) for number in range(1, steps + 1)]
            results = [trainer.update(each) for each in collected]
        return trainer, collected[-1], results[-1]

    return step


@pytest.mark.parametrize(
    ("lora_rank", "ways"),
    [
        pytest.param(None, ("pieces", "stages", "slots", "stages pieces"), marks=pytest.mark.slow),
        pytest.param(4, ("pieces", "stages", "slots"), marks=pytest.mark.slow),
        (4, ("stages pieces",)),
    ],
)
def test_a_step_is_the_same_however_its_rows_run(uneven, lora_rank, ways):
    """Completions bit for bit; log-probabilities, metrics and weights within 1e-5, since sums are added differently."""
    trainer, collected, expected = uneven("", lora_rank=lora_rank)
    lengths = expected.rollout.lengths
    assert len(set(lengths.tolist())) > 6 and lengths.max() == LENGTH and np.median(lengths) < LENGTH / 2
    before = arrays(trainer.params)
    for way in ways:
        other, cut, result = uneven(way, lora_rank=lora_rank)
        assert result.rollout.token_ids == expected.rollout.token_ids
        np.testing.assert_allclose(result.rollout.logps, expected.rollout.logps, atol=1e-5)
        for ours, theirs in zip(logps_by_row(cut), logps_by_row(collected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for name, value in expected.metrics.items():
            if not name.startswith(("timing/", "step_time")):
                assert result.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (way, name)
        for ours, theirs in zip(arrays(other.params), before, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        pieces = [len(micro) for minibatch in cut.minibatches for micro in minibatch]
        assert pieces == ([4, 4] if "pieces" in way else [1, 1])


@pytest.mark.long
def test_auto_keeps_more_of_pieces_than_of_whole_micro_batches(uneven, monkeypatch):
    """A piece has 2 x 40 tokens, a whole micro batch 8 x 40 and those of its prompts; the step is the same."""
    before, _, expected = uneven("", lora_rank=4)
    monkeypatch.setattr(passes, "choose_remat", lambda wanted, spec, tokens, dtype: "block" if tokens <= 80 else "full")
    traced = set()
    for name in ("completion_logprobs", "prompt_prefix"):
        original = getattr(passes, name)

        def noted(*arguments, _name=name, _original=original, remat, **named):
            traced.add((_name, remat))
            return _original(*arguments, remat=remat, **named)

        monkeypatch.setattr(passes, name, noted)
    trainer, _, result = uneven("pieces", lora_rank=4)
    assert trainer.remat == "full"
    assert traced == {(name, remat) for name in ("completion_logprobs", "prompt_prefix") for remat in ("none", "block")}
    assert result.rollout.token_ids == expected.rollout.token_ids
    for ours, theirs in zip(arrays(trainer.params), arrays(before.params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_completions_are_ended_where_their_batch_says(uneven, monkeypatch):
    """Each begins as it would without, and is trained to its last token unless it is as long as it may be."""
    monkeypatch.setattr(NumberTokenizer, "stop_ids", ())
    limits = np.array([1, 40, 7, 8, 9, 40, 16, 17, 3, 2, 30, 33, 5, 12, 24, 25])
    _, _, whole = uneven("")
    assert whole.rollout.truncated.all()
    for way in ("", "stages pieces", "slots"):
        ending = dataclasses.replace(BATCH, limits=limits)
        _, collected, result = uneven(way, "grpo.mask_truncated=true", batch=ending)
        expected = [ids[:limit] for ids, limit in zip(whole.rollout.token_ids, limits, strict=True)]
        assert result.rollout.token_ids == expected, way
        assert result.rollout.truncated.tolist() == (limits == LENGTH).tolist()
        for piece in (piece for minibatch in collected.minibatches for micro in minibatch for piece in micro):
            assert piece.completions.lengths.tolist() == limits[piece.part.rows].tolist()
            assert piece.part.kept.tolist() == (limits[piece.part.rows] < LENGTH).tolist()


def logps_by_row(collected) -> list[np.ndarray]:
    """Returns what the reference says of each completion."""
    found = {}
    for piece in (piece for minibatch in collected.minibatches for micro in minibatch for piece in micro):
        for row, length, logps in zip(piece.part.rows, piece.completions.lengths, piece.reference, strict=True):
            found[int(row)] = np.asarray(logps)[: int(length)]
    return [found[row] for row in sorted(found)]


@pytest.mark.long
def test_a_rollout_goes_on_in_fewer_rows(uneven, monkeypatch):
    """16 rows become 8 and 4 when so few go on; and each completion is told of while the others are drawn."""
    rows, told = [], []
    continued = stages._continued

    def noted(form, weights, growing, *rest):
        rows.append(len(growing.keys))
        return continued(form, weights, growing, *rest)

    monkeypatch.setattr(stages, "_continued", noted)
    trainer, _, _ = uneven("")
    monkeypatch.setattr(rollout, "SHORT", 16)
    weights = (trainer.params, trainer._frozen)
    drawn = trainer._sampler.sample(
        weights, BATCH.ids, trainer._sampling, 1, ended=lambda row, *_: told.append((row, len(rows)))
    )
    going_on = [int((drawn.lengths > 1 + 8 * stage).sum()) for stage in range(len(rows))]
    assert rows == [next(count for count in (4, 8, 16) if count >= left) for left in going_on]
    assert rows[0] == 16 and rows[-1] == 4
    assert sorted(row for row, _ in told) == list(range(PROMPTS * GROUP))
    # What ended in a stage is told of when the next one is on its way.
    assert all(stage == min(len(rows), 1 + max(1, -(-(drawn.lengths[row] - 1) // 8))) for row, stage in told)


@pytest.mark.long
def test_uneven_lengths_compile_few_programs(uneven, caplog):
    """Of each kind at most one for each width, and for each number of rows, however many steps there are."""
    for program in PROGRAMS:
        program.clear_cache()
    with caplog.at_level(logging.INFO):
        uneven("stages pieces", "grpo.num_minibatches=1", f"training.micro_batch_size={PROMPTS}", steps=20)
    said = [record.getMessage() for record in caplog.records if "compiles" in record.getMessage()]
    assert len(said) == len(set(said)) >= 1 and "4 completions of up to" in said[0]
    compiled = {program.__name__: program._cache_size() for program in PROGRAMS}
    most = len(widths(LENGTH))
    assert 1 < compiled["accumulate_behind"] <= 2 * most  # with and without log-probabilities of a pass before
    assert compiled["logps_behind"] <= most and compiled["whole_logps"] <= most
    assert compiled["prefix_of"] == 2  # of the policy and of the reference
    assert compiled["accumulate_prompts"] == 1
    assert compiled["_continued"] == 3


def test_widths_are_few_and_hold_everything():
    for longest in (1, 16, 32, 33, 256, 300, 512, 4096):
        choices = widths(longest)
        assert len(choices) <= buckets.MOST_WIDTHS and choices[-1] == longest and choices == sorted(set(choices))
    assert widths(256) == [32, 64, 96, 128, 160, 192, 224, 256]


def test_rows_are_cut_on_their_own_device_and_only_where_it_pays():
    sampling = Sampling(num_generations=4, max_tokens=256, temperature=1.0)
    lengths = np.array([10, 200, 30, 256, 60, 70, 20, 33, 9, 100, 90, 80, 250, 5, 6, 7])
    pieces = cut_by_length(lengths, 32, sampling, 2, 0.0)
    assert [piece.width for piece in pieces] == [32, 64, 96, 256]
    for piece in pieces:
        devices = piece.rows.reshape(2, -1) // 8
        assert (devices == [[0], [1]]).all()
        assert (piece.prompt == (piece.rows % 8) // 4).all()
        assert (lengths[piece.rows] <= piece.width).all()
    assert sorted(np.concatenate([piece.rows for piece in pieces])) == list(range(16))
    (whole,) = cut_by_length(np.full(16, 250), 32, sampling, 2, 0.0)
    assert whole.prompt is None and whole.width == 256 and whole.rows.tolist() == list(range(16))
    (short,) = cut_by_length(np.full(16, 40), 32, sampling, 1, 0.0)
    assert short.width == 64


@pytest.mark.parametrize(
    ("size", "prompts", "cut"),
    [("270m", 4, False), ("1b", 64, False), ("1b", 128, True), ("4b", 4, False), ("4b", 32, True), ("12b", 16, True)],
)
def test_an_accelerator_cuts_large_micro_batches_only(size, prompts, cut):
    """A program takes its time there however few its rows are; a CPU cuts all of these."""
    spec = read_spec(SHAPES / f"google--gemma-3-{size}-it")
    sampling = Sampling(num_generations=4, max_tokens=512, temperature=1.0)
    lengths = completion_lengths(4 * prompts, 512, seed=0)
    assert program_tokens(spec) == 0 and len(cut_by_length(lengths, 256, sampling, 1, program_tokens(spec))) == 4
    with traced_for(Described("gpu", memory=80 * 10**9)):
        per_program = program_tokens(spec)
    assert len(cut_by_length(lengths, 256, sampling, 1, per_program)) == (4 if cut else 1)
    # Each device runs each program: two of them cut what each would cut alone.
    both = cut_by_length(np.tile(lengths, 2), 256, sampling, 2, per_program)
    assert len(both) == (4 if cut else 1)

"""Nothing changes the numbers of a run unawares: short runs against what was recorded (see CONTRIBUTING.md)."""

from __future__ import annotations

import pytest

from helpers import golden

# Rounding differs in the last digits when XLA orders a sum differently; what a mistake changes is far above.
RELATIVE, ABSOLUTE = 1e-5, 1e-7


@pytest.fixture(scope="module")
def now(tmp_path_factory, jax_cache) -> dict[str, golden.Record]:
    return golden.run(golden.ROOT, tmp_path_factory.mktemp("golden_now"), jax_cache)


@pytest.fixture(scope="module")
def then(now, tmp_path_factory, jax_cache) -> dict[str, golden.Record]:
    """The saved records; on another kind of machine that does not meet them, those of the same commit, made here."""
    origin, saved = golden.origin(), golden.recorded()
    if golden.machine() == {key: origin[key] for key in golden.machine()} or all(
        differences(now[name], saved[name]) == [] for name in golden.RUNS
    ):
        return saved
    tree = golden.checkout(origin["commit"], tmp_path_factory.mktemp("golden") / "tree")
    return golden.run(tree, tmp_path_factory.mktemp("golden_then"), jax_cache)


def differences(now: golden.Record, then: golden.Record) -> list[str]:
    """Returns what is not as it was then, metric by metric; what later versions log beside it is not looked at."""
    found = [] if now.completions == then.completions else ["completions"]
    for mine, theirs in zip(now.metrics, then.metrics, strict=True):
        found += [
            f"{key}: {mine.get(key)}, was {value}"
            for key, value in theirs.items()
            if mine.get(key) != pytest.approx(value, rel=RELATIVE, abs=ABSOLUTE)
        ]
    return found


@pytest.mark.timeout(600)  # the first of these makes the runs of all
@pytest.mark.parametrize("name", golden.RUNS)
def test_the_numbers_are_those_recorded(now, then, name):
    assert differences(now[name], then[name]) == []


def test_the_recorded_runs_would_show_a_change():
    """Each run trains: its parameters move, its completions differ from those of the others, and its clip counts."""
    records = golden.recorded()
    for record in records.values():
        steps = [row for row in record.metrics if "loss" in row]
        assert all(row["grad_norm"] > 0 and row["learning_rate"] > 0 for row in steps)
        assert any(row["kl"] > 1e-4 for row in steps)
    texts = {name: [row["completion"] for row in record.completions] for name, record in records.items()}
    assert texts["plain"] != texts["cut"] != texts["lora"] != texts["plain"]
    assert texts["resumed"] == texts["plain"][len(texts["plain"]) // 2 :]
    assert any(row.get("clip_ratio/region_mean", 0) > 0 for row in records["cut"].metrics)


def test_what_differs_from_the_records_is_named():
    then = golden.Record([{"step": 1, "loss": 0.5, "kl": 0.0}], [{"completion": "four"}])
    rounded = golden.Record([{"step": 1, "loss": 0.5 + 4e-6, "kl": 5e-8, "added": 1.0}], [{"completion": "four"}])
    assert differences(rounded, then) == []
    moved = golden.Record([{"step": 1, "loss": 0.5 + 6e-6}], [{"completion": "five"}])
    assert differences(moved, then) == ["completions", "loss: 0.500006, was 0.5", "kl: None, was 0.0"]

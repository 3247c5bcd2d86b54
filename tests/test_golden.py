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
def then(tmp_path_factory, jax_cache) -> dict[str, golden.Record]:
    """The saved records where they were made on this kind of machine; elsewhere those of the same commit, made here."""
    origin = golden.origin()
    if golden.machine() == {key: origin[key] for key in golden.machine()}:
        return golden.recorded()
    tree = golden.checkout(origin["commit"], tmp_path_factory.mktemp("golden") / "tree")
    return golden.run(tree, tmp_path_factory.mktemp("golden_then"), jax_cache)


@pytest.mark.timeout(600)  # the first of these makes the runs of all
@pytest.mark.parametrize("name", golden.RUNS)
def test_the_numbers_are_those_recorded(now, then, name):
    assert now[name].completions == then[name].completions
    for mine, theirs in zip(now[name].metrics, then[name].metrics, strict=True):
        recorded = {key: value for key, value in mine.items() if key in theirs}  # later versions log more
        assert recorded == pytest.approx(theirs, rel=RELATIVE, abs=ABSOLUTE)


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

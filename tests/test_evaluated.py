"""Which step is the best, and when a run ends early, by the values of its evaluations alone."""

import pytest

from tunix_grpo.run.evaluated import best_first, early_end, not_better, values_of

ACCURACY = "eval/accuracy"


def rows(*values: float) -> list[dict]:
    """Evaluations at the steps 0, 10, 20, ..."""
    return [{"step": 10 * place, ACCURACY: value} for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "steps", "row"),
    [
        ([], [], 0),
        ([0.5], [0], 0),
        ([0.1, 0.3, 0.2], [10, 20, 0], 1),
        ([0.3, 0.3, 0.3], [20, 10, 0], 2),  # the latest of equals is the best, and no better than the first
        ([0.1, 0.3, 0.2, 0.3], [30, 10, 20, 0], 2),
        ([0.9, 0.1, 0.2, 0.3], [0, 30, 20, 10], 3),
        ([-2.0, -1.0], [10, 0], 0),
    ],
)
def test_the_best_comes_first_and_a_row_without_a_better_one_is_counted(values, steps, row):
    found = values_of(rows(*values), ACCURACY)
    assert best_first(found) == steps
    assert not_better(found) == row


def test_an_evaluation_without_the_metric_is_none():
    lacking = [*rows(0.1, 0.2), {"step": 30, "eval/truncated": 1.0}]
    assert values_of(lacking, ACCURACY) == {0: 0.1, 10: 0.2}
    assert values_of(lacking, "eval/hard/accuracy") == {}


@pytest.mark.parametrize(
    ("values", "patience", "said"),
    [
        ([0.1, 0.3, 0.2, 0.3], None, None),
        ([0.1, 0.3, 0.2, 0.3], 3, None),
        ([0.1, 0.3, 0.2, 0.3], 2, "eval/accuracy was 0.3 at step 10, and not better in all 2 evaluations since"),
        ([0.1, 0.3, 0.2, 0.3], 1, "eval/accuracy was 0.3 at step 10, and not better in all 2 evaluations since"),
        ([0.1, 0.3, 0.2], 1, "eval/accuracy was 0.3 at step 10, and not better in the evaluation since"),
        ([], 1, None),
    ],
)
def test_patience(values, patience, said):
    assert early_end(rows(*values), ACCURACY, patience) == said

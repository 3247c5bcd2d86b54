"""What is called a spike, against scipy; and what a run does about steps of broken numbers."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from tunix_grpo.grpo.spikes import FEWEST, WINDOW, Limits, Spikes


def test_the_limits_are_those_of_scipys_robust_deviation():
    values = np.random.default_rng(0).lognormal(size=(WINDOW, 2))
    spikes = Spikes("skip", 4.0, values.tolist())
    expected = np.median(values, axis=0) + 4.0 * stats.median_abs_deviation(values, scale="normal")
    assert spikes.limits_of_updates() == pytest.approx(expected, rel=1e-4)  # 1.4826 has five digits
    loss, norm = expected
    assert len(spikes.note([(loss * 1.01, norm * 0.9), (0.1, norm * 1.02)])) == 2
    assert spikes.note([(-100.0, 0.01)]) == []  # what is small is no spike


def test_only_the_last_updates_with_a_gradient_are_compared():
    spikes = Spikes("skip", 3.0)
    for index in range(FEWEST - 1):
        assert spikes.note([(0.0, 1.0 + index % 2), (0.0, 0.0), (math.nan, 1.0), (0.0, math.inf)]) == []
        assert spikes.limits_of_updates() == Limits()
    spikes.note([(0.0, 1.0)])
    assert spikes.limits_of_updates() == pytest.approx((0.15, 1.3))  # where values hardly differ, a least deviation
    for _ in range(WINDOW):
        spikes.note([(0.0, 100.0)])
    assert spikes.limits_of_updates().norm == pytest.approx(130.0) and len(spikes.window) == WINDOW


def test_reporting_leaves_out_nothing_and_off_knows_nothing():
    window = [[0.0, 1.0]] * FEWEST
    assert Spikes("report", 3.0, window).limits_of_updates() == Limits()
    assert Spikes("report", 3.0, window).note([(0.0, 2.0)]) == ["a gradient norm of 2 is a spike, above 1.3"]
    off = Spikes("off", 3.0, window)
    assert off.note([(0.0, 2.0)]) == [] and off.limits_of_updates() == Limits() and off.window == window


def test_the_window_goes_through_a_checkpoint():
    spikes = Spikes("skip", 3.0)
    for index in range(FEWEST):
        spikes.note([(0.1 * index, 1 / (index + 1))])
    again = Spikes("skip", 3.0, json.loads(json.dumps(spikes.window)))
    assert again.limits_of_updates() == spikes.limits_of_updates()

"""Interval: a float that formats itself one way, and the half-samples behind most of them."""

import copy
import json
import math
import pickle

import numpy as np
import pytest

from intrinsic.properties.interval import Interval, class_halves, digits, half_sample, halves


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"), (0.0945, "0.0945"), (12.345, "12.3"), (1234.5, "1,230"), (-0.5, "−0.5"), (0, "0"),
        (999.6, "1,000"), (10.0, "10"), (1.23e-7, "1.23e−07"), (math.inf, "∞"), (math.nan, "not measured"),
    ],
)  # fmt: skip
def test_digits_are_three_with_commas_and_a_true_minus(value, text):
    assert digits(value) == text


def test_it_is_a_float_with_facts():
    found = Interval(0.25, 0.09, 0.41, "how", 40, pair=(1, 2))
    assert str(found) == repr(found) == f"{found}" == "0.25 [0.09, 0.41]"
    assert f"{found:.3f}" == "0.250"
    assert str(Interval(2)) == "2"
    assert found + 1 == 1.25
    assert json.dumps(found) == "0.25"
    for again in (pickle.loads(pickle.dumps(found)), copy.copy(found)):
        assert (again, again.low, again.high, again.n, again.pair) == (0.25, 0.09, 0.41, 40, (1, 2))
    assert found.to_dict() == {"value": 0.25, "low": 0.09, "high": 0.41}
    assert Interval(math.nan, method="why").to_dict() == {"value": None, "low": None, "high": None, "reason": "why"}


def test_half_samples_cover_a_mean():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        x = rng.exponential(size=200)
        sides = [[x[half].mean(), x[~half].mean()] for half in halves(200, None, seed)]
        found = half_sample(x.mean(), np.array(sides), 25)
        hits += found.low <= 1 <= found.high
    assert 180 <= hits <= 198


def test_halves_keep_groups_whole_and_classes_balanced():
    group, labels = np.repeat(np.arange(30), 4), np.repeat(np.arange(30) % 2, 4)
    for half in halves(120, group, 0):
        assert all(len(set(half[group == g])) == 1 for g in range(30))
    for half in class_halves(labels, group, 0):
        assert all(len(set(half[group == g])) == 1 for g in range(30))
        assert {int(half[labels == c].sum()) for c in (0, 1)} <= {28, 32}

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from intrinsic.inference.effects import (
    NotEnough,
    correlation,
    families_needed,
    holm,
    leave_one_out,
    mean_effect,
    mixed_slope,
    ols,
    permutation_p,
    power,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_slope_of_one_column_is_that_of_scipy():
    x, y = normal(0, 2, 12)
    fit, known = ols(y, x=x), stats.linregress(x, y)
    assert fit["x"] == pytest.approx(known.slope)
    assert fit["x"].p == pytest.approx(known.pvalue)
    assert fit["x"].error == pytest.approx(known.stderr)
    assert fit.r2 == pytest.approx(known.rvalue**2)


def test_an_exact_plane_is_found_and_rows_without_a_value_are_left_out():
    x, z = normal(1, 2, 8)
    y = 1 + 2 * x - 3 * z
    y[3] = math.nan
    fit = ols(y, x=x, z=z)
    assert [float(c) for c in fit.coefficients.values()] == pytest.approx([1, 2, -3])
    assert fit.n == 7


def test_prediction_intervals_hold_a_new_family_as_often_as_they_say():
    inside = []
    for i in range(400):
        x, e = normal(i, 2, 13)
        found = ols(2 * x[:12] + e[:12], x=x[:12]).predict(x=x[12])
        inside.append(found["low"][0] <= 2 * x[12] + e[12] <= found["high"][0])
    assert stats.binomtest(sum(inside), 400, 0.95).pvalue > 0.001


@pytest.mark.parametrize(
    "make", [lambda: ols([1, 2, 3], x=[1, 1, 1]), lambda: ols([1.0], x=[1.0]), lambda: mean_effect([1])]
)
def test_too_few_or_constant_values_are_refused(make):
    with pytest.raises(NotEnough):
        make()


def test_the_permutation_p_counts_all_orders_of_few_families():
    x, y = np.array([1.0, 2, 4, 7, 9]), np.array([2.0, 1, 5, 6, 9])
    r = [abs(np.corrcoef(x, order)[0, 1]) for order in itertools.permutations(y)]
    assert permutation_p(y, "x", x=x) == pytest.approx(np.mean(np.array(r) >= r[0] - 1e-9))


def test_freedman_and_lane_count_orders_of_residuals():
    x, y, z = normal(2, 3, 6)
    design = np.column_stack([np.ones(6), z])
    hat = design @ np.linalg.pinv(design)
    rest = y - hat @ y
    t = [
        abs(stats.linregress(x - hat @ x, (np.eye(6) - hat) @ np.array(e)).rvalue) for e in itertools.permutations(rest)
    ]
    assert permutation_p(y, "x", x=x, z=z) == pytest.approx(np.mean(np.array(t) >= t[0] - 1e-9))


def test_without_an_effect_p_is_below_its_level_as_often_as_that():
    p = []
    for i in range(300):
        x, z, e = normal(100 + i, 3, 12)
        p.append(permutation_p(z + e, "x", x=x + z, z=z, permutations=199))
    assert stats.binomtest(sum(one <= 0.1 for one in p), 300, 0.1).pvalue > 0.001


def test_sign_flips_are_all_counted_and_the_interval_is_students():
    values = np.array([0.3, -0.1, 0.8, 0.5, 0.2])
    means = [abs(np.mean(values * signs)) for signs in itertools.product([1, -1], repeat=5)]
    effect = mean_effect(values)
    assert effect.p == np.mean(np.array(means) >= means[0] - 1e-12)
    ends = stats.ttest_1samp(values, 0).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx((ends.low, ends.high))


def test_fishers_interval_is_that_of_scipy_and_ranks_take_ranks():
    x, y = normal(3, 2, 15)
    found, known = correlation(x, y), stats.pearsonr(x, y)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))
    assert correlation(x, y, kind="spearman") == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_partial_correlation_follows_from_the_three_pairs():
    x, y, z = normal(4, 3, 20)
    xy, xz, yz = (np.corrcoef(*pair)[0, 1] for pair in ((x, y), (x, z), (y, z)))
    known = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert correlation(x, y, z) == pytest.approx(known)


def test_the_mixed_model_finds_the_slope_within_families_whatever_lies_between_them():
    slopes, inside = [], 0
    for i in range(12):
        rng = np.random.default_rng(i)
        family = np.repeat(np.arange(8), 8)
        x = rng.normal(size=64) + 3 * family
        y = (1 + 0.3 * rng.normal(size=8))[family] * (x - 3 * family) - 5 * family + 0.5 * rng.normal(size=64)
        found = mixed_slope(y, x, family)
        slopes.append(float(found))
        inside += found.low <= 1 <= found.high
    assert np.mean(slopes) == pytest.approx(1, abs=0.1)
    assert inside >= 9
    assert found.families == 8
    assert found.df == 7
    assert 0.05 < found.deviation < 0.8


def test_holm_multiplies_by_the_tests_that_are_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([math.nan]))[0]


def test_power_is_that_of_simulated_t_tests_and_grows_to_what_was_asked():
    found = np.mean([stats.ttest_1samp(0.8 + normal(i, 10), 0).pvalue <= 0.05 for i in range(1000)])
    assert power(0.8, 1, 10) == pytest.approx(found, abs=0.04)
    n = families_needed(0.8, 1)
    assert power(0.8, 1, n) >= 0.8 > power(0.8, 1, n - 1)


def test_each_family_is_left_out_once():
    table = pd.DataFrame({"family": list("aabc"), "value": [1.0, 3, 5, 9]})
    left = leave_one_out(table, lambda rest: rest["value"].mean())
    assert left["left_out"].tolist() == ["a", "b", "c"]
    assert left["value"].tolist() == pytest.approx([7, 13 / 3, 3])

"""Fits, exact tests and verdicts: against brute force, scipy, and simulated data whose truth is known."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from simulated_runs import simulated

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.inference import statistics
from intrinsic.inference.statistics import (
    MIN_SETS,
    NOT_MEASURED,
    TOO_FEW_SETS,
    NoRecords,
    NotEnough,
    StatisticsError,
    Verdict,
    claim_data_dimension,
    claim_representation_bound,
    claim_sharpness_generalization,
    claim_sharpness_robustness,
    claims,
    correlation,
    correlation_table,
    domain_difference,
    group_difference,
    holm,
    leave_one_out,
    mean_effect,
    ols,
    ordering_by_dimension,
    paired_bound,
    regression,
    scaling_exponents,
    set_levels,
    set_means,
    sharpness_regression,
)

CLAIMS = (
    claim_data_dimension,
    claim_sharpness_generalization,
    claim_sharpness_robustness,
    claim_representation_bound,
)


STRONG = {"excess": 0.4, "slope": 2.0, "fragility": 20.0, "ratio": -0.7}
REVERSED = {"excess": -0.4, "slope": -2.0, "fragility": -20.0, "ratio": 0.7}


# ------------------------------------------------------------------------------------- fits and tests


def test_a_line_is_that_of_scipy_and_its_interval_is_t():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    fit, known = ols(x, y), stats.linregress(x, y)
    half = stats.t.ppf(0.975, 7) * known.stderr
    assert [fit.slope, fit.intercept, fit.p] == pytest.approx([known.slope, known.intercept, known.pvalue])
    assert [fit.low, fit.high] == pytest.approx([known.slope - half, known.slope + half])
    assert (fit.n, fit.df, fit.dropped) == (9, 7, 0)
    assert float(fit) == fit.slope


def test_two_points_make_a_line_without_an_interval_and_values_that_are_not_finite_are_counted():
    fit = ols([0, 1, 2, np.nan], [1, 3, np.inf, 0])
    assert (fit.slope, fit.intercept, fit.n, fit.df, fit.dropped) == (2, 1, 2, 0, 2)
    assert math.isnan(fit.low)
    assert math.isnan(fit.p)


def test_an_exact_line_has_no_width_and_a_flat_one_no_significance():
    assert ols([0, 1, 2], [0, 2, 4]).p == 0
    assert ols([0, 1, 2], [1, 1, 1]).p == 1


@pytest.mark.parametrize("x", [[1.0], [2.0, 2.0, 2.0], []])
def test_a_line_through_one_x_is_refused(x):
    with pytest.raises(NotEnough, match="two different values of x"):
        ols(x, x)


def test_values_of_different_length_are_refused():
    with pytest.raises(StatisticsError, match="lengths 2, 3"):
        correlation([1, 2], [1, 2, 3])


def test_a_regression_on_two_columns_is_that_of_least_squares():
    rng = np.random.default_rng(1)
    a, b, e = rng.normal(size=(3, 10))
    y = 2 + 3 * a - b + 0.1 * e
    rows = regression(y, {"a": a, "b": b}).set_index("term")
    design = np.column_stack([np.ones(10), a, b])
    slopes, rest, *_ = np.linalg.lstsq(design, y)
    se = np.sqrt(rest[0] / 7 * np.diag(np.linalg.inv(design.T @ design)))
    assert rows["slope"].to_numpy() == pytest.approx(slopes[1:])
    assert (rows["high"] - rows["slope"]).to_numpy() == pytest.approx(stats.t.ppf(0.975, 7) * se[1:])
    assert set(rows["df"]) == {7}
    with pytest.raises(NotEnough, match="linearly independent"):
        regression(y, {"a": a, "twice": 2 * a})


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
@pytest.mark.parametrize("ties", [False, True])
def test_the_exact_p_of_a_correlation_is_that_of_brute_force(kind, ties):
    x, y = np.random.default_rng(5).normal(size=(2, 6))
    if ties:
        x, y = np.round(x), np.round(2 * y)
    statistic = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[kind]
    null = np.abs([statistic(x, order).statistic for order in itertools.permutations(y)])
    found = correlation(x, y, kind)
    assert found.value == pytest.approx(statistic(x, y).statistic)
    assert found.p == np.mean(null >= abs(found.value) - 1e-9)
    assert found.smallest_p == np.mean(null >= null.max() - 1e-9)
    assert found.p >= found.smallest_p


def test_the_exact_p_of_a_correlation_is_that_of_scipy():
    x, y = np.random.default_rng(2).normal(size=(2, 6))
    known = stats.permutation_test(
        (x,), lambda x: stats.pearsonr(x, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    # scipy doubles the smaller tail; here |r| is counted in both
    null = np.abs(known.null_distribution)
    assert correlation(x, y).p == np.mean(null >= abs(known.statistic) - 1e-12)
    assert len(null) == math.factorial(6)


def test_smallest_attainable_p_without_ties():
    x, y = np.random.default_rng(3).normal(size=(2, 5))
    assert correlation(x, y).smallest_p == 1 / 120
    assert correlation(x, y, "spearman").smallest_p == 2 / 120  # the reversed order is as far
    assert correlation(np.arange(8), np.arange(8), "spearman").p == 2 / math.factorial(8)


def test_random_orders_give_b_plus_one_over_m_plus_one():
    x = np.arange(10.0)
    found = correlation(x, x**1.01, permutations=199)
    assert found.p == found.smallest_p == 1 / 200
    y = np.random.default_rng(4).normal(size=10)
    one, same = correlation(x, y, permutations=999), correlation(x, y, permutations=999)
    assert one.p == same.p
    assert (one.p * 1000) == pytest.approx(round(one.p * 1000))
    assert correlation(x, y, permutations=20_000).p == pytest.approx(stats.pearsonr(x, y).pvalue, abs=0.02)


def test_a_correlation_has_the_fisher_interval_of_scipy():
    x, y = np.random.default_rng(6).normal(size=(2, 12))
    known = stats.pearsonr(x, y).confidence_interval()
    found = correlation(x, y, permutations=99)
    assert [found.low, found.high] == pytest.approx([known.low, known.high])
    ranks = correlation(x, y, "spearman", permutations=99)
    width = 2 * stats.norm.ppf(0.975) * math.sqrt((1 + ranks.value**2 / 2) / 9)
    assert math.atanh(ranks.high) - math.atanh(ranks.low) == pytest.approx(width)


def test_three_pairs_have_a_correlation_without_an_interval_and_two_have_none():
    found = correlation([1, 2, 4, np.nan], [1, 5, 3, 2])
    assert (found.n, found.dropped) == (3, 1)
    assert math.isnan(found.low)
    assert math.isnan(correlation([1, 2, 3, 4], [1, 2, 3, 5], "spearman").high)  # |r| = 1
    with pytest.raises(NotEnough):
        correlation([1, 2], [2, 1])
    with pytest.raises(NotEnough):
        correlation([1, 2, 3, 4], [7, 7, 7, 7])
    with pytest.raises(StatisticsError, match="kendall"):
        correlation([1, 2, 3], [1, 3, 2], "kendall")


def test_sign_flips_are_those_of_brute_force_and_the_interval_that_of_t():
    values = np.random.default_rng(7).normal(0.5, 1, 7)
    found = mean_effect(values)
    null = [abs(np.mean(values * signs)) for signs in itertools.product((-1, 1), repeat=7)]
    assert found.p == np.mean(np.array(null) >= abs(values.mean()) - 1e-9)
    assert found.smallest_p == 2 / 2**7
    known = stats.ttest_1samp(values, 0).confidence_interval()
    assert [found.low, found.high] == pytest.approx([known.low, known.high])
    assert mean_effect(np.ones(20), permutations=99).smallest_p == 1 / 100
    assert mean_effect([3.0, np.nan]).dropped == 1
    with pytest.raises(NotEnough):
        mean_effect([np.nan])


def test_a_difference_of_groups_is_that_of_scipy():
    rng = np.random.default_rng(8)
    a, b = rng.normal(1, 1, 5), rng.normal(0, 2, 4)
    values, inside = np.concatenate([a, b]), np.arange(9) < 5
    found = group_difference(values, inside)
    known = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert [found.low, found.high] == pytest.approx([known.low, known.high])
    ways = [values[list(c)].mean() - np.delete(values, list(c)).mean() for c in itertools.combinations(range(9), 5)]
    assert found.p == np.mean(np.abs(ways) >= abs(found.value) - 1e-9)
    assert (found.n_in, found.n_out) == (5, 4)


def test_seven_sets_against_five_reach_one_in_792_and_no_less():
    values = np.random.default_rng(9).normal(size=12)
    top = np.argsort(values) >= 5
    found = group_difference(values, top)
    assert found.smallest_p == 1 / 792
    separated = np.sort(values)
    assert group_difference(separated, np.arange(12) >= 5).p == pytest.approx(1 / 792)


def test_a_group_of_one_has_no_interval_and_an_empty_one_is_refused():
    assert math.isnan(group_difference([1.0, 2, 3], [True, False, False]).low)
    with pytest.raises(NotEnough, match="0 sets are inside"):
        group_difference([1.0, 2, 3], [False] * 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)
    assert len(holm([])) == 0
    with pytest.raises(StatisticsError, match="-3"):
        holm([0.1, -3])


# ------------------------------------------------------------------- coverage and false positives


@pytest.mark.parametrize("n_sets", [6, 12])
def test_intervals_cover_the_truth_in_about_95_of_100(n_sets):
    draws, rho = 2000, 0.6
    x, noise = np.random.default_rng(n_sets).normal(size=(2, draws, n_sets))
    y = rho * x + math.sqrt(1 - rho**2) * noise
    pairs = list(zip(x, y, strict=True))
    for fits, truth in (
        ([ols(a, b) for a, b in pairs], rho),
        ([correlation(a, b, permutations=1) for a, b in pairs], rho),
        ([correlation(a, b, "spearman", permutations=1) for a, b in pairs], 6 / math.pi * math.asin(rho / 2)),
        ([mean_effect(1 + e) for e in noise], 1.0),
        ([group_difference(e, np.arange(n_sets) < n_sets // 2) for e in noise], 0.0),
    ):
        bounds = np.array([(f.low, f.high) for f in fits])
        known = np.isfinite(bounds).all(axis=1)  # ranks of six sets agree fully now and then
        assert known.mean() > 0.95
        assert 0.90 <= np.mean((bounds[known, 0] <= truth) & (truth <= bounds[known, 1])) <= 0.99


@pytest.mark.parametrize("n_sets", [6, 12])
def test_tests_find_nothing_in_95_of_100_where_nothing_is(n_sets):
    draws = 5000  # at a true 5 %, more than 6 % of 5,000 has a chance of 0.001
    x, noise = np.random.default_rng([n_sets, 1]).normal(size=(2, draws, n_sets))
    pairs = list(zip(x, noise, strict=True))
    for tests in (
        [ols(a, e) for a, e in pairs],
        [correlation(a, e, permutations=999) for a, e in pairs],
        [correlation(a, e, "spearman", permutations=999) for a, e in pairs],
        [mean_effect(e) for e in noise],
        [group_difference(e, np.arange(n_sets) < n_sets // 2) for e in noise],
    ):
        assert np.mean([t.p <= 0.05 for t in tests]) <= 0.06


@pytest.mark.parametrize("n_sets", [6, 12])
def test_runs_of_one_set_are_not_taken_as_independent(n_sets):
    """Null claims: sets differ, K_F says nothing. Single runs would find effects in most of the draws."""
    draws, pooled, found, held, gaps, exponents = 200, 0, [], [], [], []
    for seed in range(draws):
        frame = simulated(n_sets, seed, spread=0.5, models=1).drop(columns=["d_repr_untrained", "d_repr_random_map"])
        pooled += stats.pearsonr(np.log(frame["k_f"]), np.log(frame["test_loss_nats"])).pvalue <= 0.05
        rows = sharpness_regression(frame)
        found.append(rows["p"].iloc[0])
        held.append((rows["low"].iloc[0] <= 0) & (rows["high"].iloc[0] >= 0))
        gaps.append(paired_bound(frame, permutations=399)["p"].iloc[0])
        rates = scaling_exponents(frame)
        excess = mean_effect(rates["exponent"] - rates["predicted"], permutations=399)
        exponents.append((excess.p, excess.low <= 0 <= excess.high))
    assert pooled / draws > 0.3
    # 200 draws: at a true 5 %, more than 9 % has a chance of 0.007
    assert np.mean(np.array(found) <= 0.05) <= 0.09
    assert np.mean(np.array(gaps) <= 0.05) <= 0.09
    assert np.mean([p <= 0.05 for p, _ in exponents]) <= 0.09
    assert 0.90 <= np.mean(held) <= 0.99
    assert 0.90 <= np.mean([inside for _, inside in exponents]) <= 0.99


@pytest.mark.parametrize("n_sets", [6, 12])
def test_both_terms_of_the_law_are_covered(n_sets):
    covered = []
    for seed in range(200):
        # in `simulated` the loss holds -(1/d) log(N/128); adding log 128 makes the law exact
        frame = simulated(n_sets, seed, slope=1.0, models=1, spread=0.1)
        frame["test_loss_nats"] *= 128 ** (-1 / frame["d_data"])
        rows = sharpness_regression(frame).iloc[1:]
        covered.append((rows["low"] <= 1).to_numpy() & (rows["high"] >= 1).to_numpy())
    assert ((np.mean(covered, axis=0) >= 0.90) & (np.mean(covered, axis=0) <= 0.99)).all()


# --------------------------------------------------------------------------------- from runs to sets


def test_an_exact_power_law_gives_its_exponent():
    frame = simulated(3, models=2)
    frame["test_loss_nats"] = np.where(frame["model"] == "vgg13", 5, 1) * frame["n_train"] ** -0.37
    table = scaling_exponents(frame)
    assert table["exponent"].to_numpy() == pytest.approx(0.37)
    assert len(table) == 6
    assert set(table["n_runs"]) == {6}
    assert set(table["n_sizes"]) == {3}
    assert table["predicted"].to_numpy() == pytest.approx(1 / table["d_data"])
    assert table["predicted_low"].to_numpy() == pytest.approx(1 / (1.1 * table["d_data"]))
    assert table["predicted_high"].to_numpy() == pytest.approx(1 / (0.9 * table["d_data"]))
    one = scaling_exponents(frame[~((frame["model"] == "vgg13") & (frame["n_train"] > 64))], by_model=False)
    assert one["exponent"].to_numpy() == pytest.approx(0.37)  # models of unequal level and size do not mix


def test_the_exponent_has_the_interval_of_the_line():
    frame = simulated(1, models=1)
    row = scaling_exponents(frame).iloc[0]
    fit = ols(np.log(frame["n_train"]), np.log(frame["test_loss_nats"]))
    assert [row["exponent"], row["low"], row["high"]] == pytest.approx([-fit.slope, -fit.high, -fit.low])


def test_losses_of_zero_are_left_out_and_counted():
    frame = simulated(1, models=1)
    expected = scaling_exponents(frame.drop(index=[0, 5])).iloc[0]
    frame.loc[0, "test_loss_nats"] = 0.0
    frame.loc[5, "test_loss_nats"] = np.nan
    row = scaling_exponents(frame).iloc[0]
    assert (row["n_zero"], row["n_missing"], row["n_runs"]) == (1, 1, 4)
    assert row["exponent"] == pytest.approx(expected["exponent"])
    assert "1 run with test_loss_nats of 0 or less left out" in claim_data_dimension(frame).sentence


def test_one_size_has_no_exponent():
    row = scaling_exponents(simulated(1, models=1).query("n_train == 64")).iloc[0]
    assert math.isnan(row["exponent"])
    assert row["n_sizes"] == 1


def test_a_model_with_more_runs_does_not_weigh_more():
    frame = pd.DataFrame(
        {
            "dataset": ["a", "a", "a", "b"],
            "model": ["r", "r", "v", "r"],
            "n_train": 64,
            "x": [1.0, 3.0, 6.0, np.nan],
        }
    )
    table = set_means(frame, ["x"])
    assert table["x"].iloc[0] == 4  # (mean(1, 3) + 6) / 2
    assert math.isnan(table["x"].iloc[1])
    assert list(table["n_runs"]) == [3, 1]


def test_a_size_with_more_seeds_does_not_weigh_more():
    frame = pd.DataFrame({"dataset": "a", "model": "r", "n_train": [64, 64, 64, 256], "x": [1.0, 1, 1, 5]})
    assert set_means(frame, "x")["x"].iloc[0] == 3
    sizes = pd.DataFrame({"dataset": "a", "model": ["r", "r", "v"], "n_train": [64, 256, 64], "x": [0.0, 2, 5]})
    assert set_means(sizes, "x")["x"].iloc[0] == 3  # nor does a model that was run at more sizes


def test_a_level_is_that_of_the_average_model_at_the_average_size():
    rows = itertools.product(["a", "b"], ["r", "v"], [64, 256])
    frame = pd.DataFrame(rows, columns=["dataset", "model", "n_train"])
    frame["y"] = 2.0 * (frame["model"] == "v") + np.log2(frame["n_train"])
    assert set_levels(frame, "y")["level"].to_numpy() == pytest.approx([1 + 7, 1 + 7])


def test_levels_do_not_mistake_models_or_sizes_for_sets():
    rows = [
        ("a", "r", 64, 0.0), ("a", "r", 256, 0.0), ("a", "v", 64, 0.0),
        ("b", "r", 64, 1.0),
        ("c", "r", 256, -1.0), ("c", "v", 256, -1.0),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["dataset", "model", "n_train", "set"])
    frame["y"] = frame["set"] + 3.0 * (frame["model"] == "v") - 0.4 * np.log(frame["n_train"])
    levels = set_levels(frame, "y")["level"].to_numpy()
    assert levels - levels[0] == pytest.approx([0, 1, -1])
    logs = set_levels(frame.assign(y=np.exp(frame["y"])), "y", log=True)["level"].to_numpy()
    assert logs == pytest.approx(levels)


def test_sets_that_share_no_model_are_not_compared():
    frame = simulated(10, **STRONG)
    odd = frame["dataset"].isin(["set1", "set3"])
    frame = frame[(frame["model"] == "vgg13") == odd]
    with pytest.raises(NotEnough, match="do not overlap"):
        set_levels(frame, "test_loss_nats")
    found = claim_sharpness_generalization(frame)
    assert found.verdict == NOT_MEASURED
    assert "do not overlap" in found.sentence
    assert math.isnan(claim_sharpness_robustness(frame).effect)


def test_a_family_of_correlations_is_corrected_by_its_largest():
    frame = simulated(6, 3, fragility=2.0, models=1)
    frame["noise"] = frame["dataset"].map(dict(zip(frame["dataset"].unique(), [3, 1, 2, 9, 4, 5], strict=True)))
    family = ["loss_penalty_nats_eps2", "noise"]
    table = correlation_table(frame, "k_f", family)
    sets = set_levels(frame, family[0]).assign(noise=[3, 1, 2, 9, 4, 5], k_f=set_means(frame, "k_f")["k_f"])
    alone = correlation(sets["k_f"], sets["level"])
    first = table.iloc[0]
    assert [first["value"], first["p"], first["low"]] == pytest.approx([alone.value, alone.p, alone.low])
    largest = [
        max(abs(stats.pearsonr(order, sets[c]).statistic) for c in ("level", "noise"))
        for order in itertools.permutations(sets["k_f"])
    ]
    expected = [np.mean(np.array(largest) >= abs(r) - 1e-9) for r in table["value"]]
    assert list(table["p_family"]) == pytest.approx(expected)
    assert (table["p_family"] >= table["p"] - 1e-12).all()
    few = correlation_table(simulated(2), "k_f", ["d_data"], kind="spearman")
    assert few[["value", "p", "p_family"]].isna().all(axis=None)


def test_the_difference_of_domains_counts_sets_and_no_runs():
    frame = simulated(7)
    sets = set_means(frame, "k_f")
    found = domain_difference(frame, "k_f", log=True)
    known = group_difference(np.log(sets["k_f"]), sets["domain"] == "medical")
    assert [found.value, found.p, found.low, found.n] == [known.value, known.p, known.low, 7]
    assert domain_difference(sets.assign(domain="natural"), "k_f").n == 7
    assert math.isnan(domain_difference(sets.assign(domain="natural"), "k_f").value)
    assert math.isnan(domain_difference(sets.assign(domain="synthetic"), "k_f").value)
    assert math.isnan(domain_difference(sets.iloc[:0], "k_f").value)
    assert "not available" in domain_difference(sets.iloc[:1], "k_f")._repr_markdown_()
    with pytest.raises(NoRecords, match="other"):
        domain_difference(sets, "other")


def test_leave_one_out_names_the_set_that_carries_the_result():
    frame = pd.DataFrame({"dataset": list("abcd"), "x": [1.0, 1.0, 1.0, 9.0]})
    table = leave_one_out(frame, lambda rest: rest["x"].mean())
    assert dict(zip(table["left_out"], table["value"], strict=True)) == {
        "a": 11 / 3,
        "b": 11 / 3,
        "c": 11 / 3,
        "d": 1,
    }
    runs = pd.concat([frame, frame.assign(x=frame["x"] + 2)])
    assert leave_one_out(runs, lambda rest: rest["x"].mean())["value"].iloc[3] == 2
    lines = leave_one_out(frame[:2], lambda rest: ols(rest["x"], rest["x"]))
    assert lines["value"].isna().all()


def test_the_bound_is_paired_within_runs_and_averaged_within_sets():
    frame = pd.DataFrame(
        {
            "dataset": ["a", "a", "b"],
            "model": "r",
            "n_train": [64, 128, 64],
            "fitted": True,
            "d_data_same_images": [10.0, 20.0, 10.0],
            "d_repr": [5.0, 40.0, 5.0],
            "d_repr_untrained": [10.0, 20.0, np.nan],
        }
    )
    table = paired_bound(frame).set_index("map")
    trained = table.loc["trained network"]
    assert trained["mean_log_ratio"] == pytest.approx((0 + math.log(0.5)) / 2)
    assert trained["ratio"] == pytest.approx(math.exp(trained["mean_log_ratio"]))
    assert trained["share_above"] == pytest.approx(1 / 3)
    assert (trained["n_runs"], trained["n_sets"]) == (3, 2)
    untrained = table.loc["untrained network"]
    assert (untrained["mean_log_ratio"], untrained["n_missing"], untrained["n_sets"]) == (0, 1, 1)
    assert "random linear map" not in table.index
    with pytest.raises(StatisticsError, match="twonn"):
        paired_bound(frame, "pca")


# ------------------------------------------------------------------------------------------- verdicts


def a_verdict(**fields):
    defaults = dict.fromkeys(("claim", "hypothesis", "test", "supported_if", "refuted_if"), "text")
    defaults |= {"quantity": "the effect", "effect": 0.0, "p": 0.01, "smallest_p": 0.001}
    return Verdict(**(defaults | {"n_sets": MIN_SETS, "n_runs": 99} | fields))


@pytest.mark.parametrize(
    ("low", "high", "fields", "verdict"),
    [
        (0.1, 0.9, {}, "supported"),
        (0.1, 0.9, {"p": 0.06}, "undecided"),
        (0.1, 0.9, {"p": 0.02, "p_holm": 0.08}, "undecided"),  # Holm decides where it is given
        (-0.1, 0.9, {}, "undecided"),
        (-0.9, -0.1, {}, "not supported"),
        (-0.9, -0.1, {"p": 0.2}, "undecided"),
        (-0.9, -0.1, {"side": -1}, "supported"),
        (0.1, 0.9, {"side": -1}, "not supported"),
        (-0.1, 0.9, {"claimed": 1.0}, "not supported"),  # no effect, and the claimed one is ruled out
        (-0.1, 1.1, {"claimed": 1.0}, "undecided"),
        (0.1, 0.9, {"claimed": 1.0}, "supported"),
        (0.1, 0.9, {"n_sets": MIN_SETS - 1}, TOO_FEW_SETS),
        (-0.9, -0.1, {"n_sets": 1}, TOO_FEW_SETS),
        (math.nan, math.nan, {}, "undecided"),
    ],
)
def test_the_rule_of_the_verdict(low, high, fields, verdict):
    assert a_verdict(low=low, high=high, **fields).verdict == verdict


@pytest.mark.parametrize("claim", CLAIMS)
def test_reversed_data_reverse_the_verdict(claim):
    assert claim(simulated(10, **STRONG)).verdict == "supported"
    assert claim(simulated(10, **REVERSED)).verdict == "not supported"


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("n_sets", [1, 2, 3, 7])
def test_under_eight_sets_there_is_only_an_illustration(claim, n_sets):
    found = claim(simulated(n_sets, **STRONG))
    assert found.verdict == "illustration: too few sets"
    assert found.n_sets == n_sets
    assert found.sentence.endswith("verdict: illustration: too few sets.")
    assert "**illustration: too few sets**" in found._repr_markdown_()
    assert found.all_runs.verdict == "illustration: too few sets"


def test_an_upper_bound_is_refuted_by_smaller_exponents_only():
    assert claim_data_dimension(simulated(12, excess=0.0)).verdict == "undecided"
    assert claim_data_dimension(simulated(12, excess=3.0)).verdict == "supported"  # far above the bound agrees
    # the order of sets turned around: a prediction of its own, the bound stands
    frame = simulated(12, excess=0.4)
    frame["test_loss_nats"] *= np.exp(-frame["d_data"])
    found = claim_data_dimension(frame)
    assert ordering_by_dimension(frame).value < -0.9
    assert found.verdict == "supported"
    beside = found.beside["Another prediction: the order of sets"]
    assert beside.startswith("rank correlation of log loss with d_data -1 ")


@pytest.mark.parametrize(("excess", "said"), [(-0.4, "not supported"), (0.4, "supported")])
def test_sets_about_which_a_bound_says_nothing_decide_nothing(excess, said):
    frame = simulated(20, excess=excess)
    assert claim_data_dimension(frame).verdict == said
    number = frame["dataset"].str.removeprefix("set").astype(int)
    for below, verdict in ((20, said), (8, said), (7, "undecided"), (0, "undecided")):
        found = claim_data_dimension(frame.assign(least_bound=np.where(number < below, 0.5, 1.0)))
        assert found.verdict == verdict
        assert found.testable == (below >= 8)
        assert found.n_sets == (below if below >= 8 else 20)
        assert any("decide nothing either way" in caveat for caveat in found.caveats) == (below < 8)
        assert found.beside["Sets about which the bound says anything"].startswith(f"{below} set")
    # the sets that can speak say the opposite of the others, and are heard
    mixed = frame.assign(least_bound=np.where(number < 8, 0.5, np.nan))
    mixed["test_loss_nats"] *= np.where(number < 8, frame["n_train"] ** (2.0 * excess), 1)
    found = claim_data_dimension(mixed)
    assert found.verdict == {"supported": "not supported", "not supported": "supported"}[said]


def test_networks_at_one_size_enter_no_exponent_and_are_counted():
    frame = simulated(9, excess=0.4)
    model, size = frame["model"].iloc[0], frame["n_train"].iloc[0]
    alone = (frame["model"] == model) & (frame["n_train"] != size)
    found = claim_data_dimension(frame[~alone])
    left = int(((frame["model"] == model) & ~alone).sum())
    assert f"{left} runs of networks at one size N only" in found.sentence
    assert model not in found.sentence


def test_an_effect_of_zero_is_told_from_one_of_the_size_claimed():
    assert claim_sharpness_generalization(simulated(12, slope=0.0)).verdict == "not supported"
    assert claim_sharpness_generalization(simulated(12, slope=0.0, spread=2)).verdict == "undecided"
    assert claim_sharpness_generalization(simulated(12, slope=0.5)).verdict == "supported"


def test_the_null_maps_stand_beside_the_representation():
    found = claim_representation_bound(simulated(9, ratio=-0.5))
    assert found.effect == pytest.approx(-0.5, abs=0.1)
    assert found.beside["Runs above the diagonal"] == "0 of 108"
    assert "-0.105" in found.beside["Mean log ratio, untrained network over images"]
    assert found.beside["Mean log ratio, random linear map over images"].startswith("0 ")


def test_effects_are_those_that_were_put_in():
    frame = simulated(40, seed=1, excess=0.25, slope=0.8, ratio=-0.3)
    found = claims(frame, permutations=999)
    for name, truth in (
        ("data_dimension", 0.25),
        ("sharpness_generalization", 0.8),
        ("representation_bound", -0.3),
    ):
        assert found[name].effect == pytest.approx(truth, abs=0.06)
        assert 0 < found[name].high - found[name].low < 0.2


def test_four_claims_are_adjusted_by_holm():
    found = claims(simulated(9, excess=0.02, slope=0.05, fragility=0.1, ratio=-0.02))
    assert list(found) == [
        "data_dimension",
        "sharpness_generalization",
        "sharpness_robustness",
        "representation_bound",
    ]
    assert [v.p_holm for v in found.values()] == pytest.approx(list(holm([v.p for v in found.values()])))
    assert all("after Holm" in v.sentence for v in found.values())
    assert all(v.all_runs.p_holm is not None for v in found.values())


def test_only_fitted_runs_decide_and_all_runs_stand_beside():
    good, bad = simulated(9, **STRONG), simulated(9, 1, **REVERSED).assign(fitted=False, seed=9)
    bad["k_f"], bad["d_data"] = good["k_f"], good["d_data"]
    both = pd.concat([good, bad, bad], ignore_index=True)
    for claim in CLAIMS:
        found, alone = claim(both), claim(good)
        assert found.effect == pytest.approx(alone.effect)
        assert found.n_runs == len(good)
        assert found.verdict == "supported"
        assert "216 runs that did not fit left out" in found.sentence
        every = claim(both, fitted_only=False)
        assert (every.effect - found.effect) * found.side < 0
        assert found.all_runs.effect == every.effect
        assert every.n_runs == len(both)
        assert every.all_runs is None
    none = claim_data_dimension(good.assign(fitted=False))
    assert (none.n_sets, none.verdict) == (0, NOT_MEASURED)
    assert "cannot be computed" in none.sentence
    assert none.all_runs.verdict == "supported"


def test_what_cannot_enter_is_left_out_and_counted():
    frame = simulated(10, **STRONG)
    frame["k_f"] = frame["k_f"].astype(object).where(frame["dataset"] != "set4", None)  # null: infinite K_F
    frame.loc[frame["dataset"] == "set5", "k_f"] = np.inf
    found = claim_sharpness_robustness(frame)
    assert found.n_sets == 8
    assert "24 runs without k_f left out" in found.sentence
    assert "2 sets left without a run (set4, set5)" in found.sentence
    assert claim_data_dimension(frame).n_sets == 10


def test_synthetic_sets_are_experiments_and_do_not_decide():
    frame = simulated(9, **STRONG)
    frame.loc[frame["dataset"].isin(["set1", "set2"]), "domain"] = "synthetic"
    for claim in CLAIMS:
        found = claim(frame)
        assert (found.n_sets, found.verdict) == (7, TOO_FEW_SETS)
        assert "2 synthetic sets not counted (set1, set2)" in found.sentence
        assert claim(frame, exclude=()).n_sets == 9


def test_sets_of_one_family_count_once():
    frame = simulated(10, **STRONG)
    frame["family"] = frame["dataset"].replace({"set7": "digits", "set8": "digits", "set9": "digits"})
    for claim in CLAIMS:
        found, single = claim(frame), claim(frame.drop(columns="family"))
        assert (found.n_sets, single.n_sets) == (8, 10)
        assert "10 sets of 8 families" in found.sentence
        assert "Over 8 families" in found.sentence
        assert "Over 10 image sets" in single.sentence
        assert found.n_runs == single.n_runs
        assert set(found.sets["dataset"]) == {*(f"set{i}" for i in range(7)), "digits"}
    assert paired_bound(frame)["n_sets"].iloc[0] == 8


def test_a_set_alone_in_its_family_keeps_its_name():
    frame = simulated(9, **STRONG).assign(family="one source")
    frame["family"] = frame["dataset"].map({f"set{i}": f"source {i}" for i in range(8)} | {"set8": "source 0"})
    found = claim_data_dimension(frame)
    assert set(found.leave_one_out["left_out"]) == {*(f"set{i}" for i in range(1, 8)), "source 0"}


def steep_none():
    found = claim_sharpness_generalization(simulated(9, **STRONG))
    return replace(found, effect=0.3, low=-0.7, high=1.3, p=0.5)


def test_one_that_cannot_be_computed_counts_in_holms_adjustment():
    frame = simulated(9, **STRONG).assign(k_f=2.0)
    found = claims(frame)
    assert math.isnan(found["sharpness_generalization"].p)
    least = min(v.p for v in found.values() if math.isfinite(v.p))
    assert min(v.p_holm for v in found.values() if math.isfinite(v.p_holm)) == pytest.approx(4 * least)


def test_a_verdict_says_what_it_does_not_say():
    strong = claim_data_dimension(simulated(9, **STRONG))
    assert strong.caveats == ()
    assert "decide nothing either way" in replace(strong, testable=False).caveats[0]
    assert replace(strong, testable=False).verdict == "undecided"
    moved = replace(steep_none(), claimed=2.0, claimed_before=1.0)
    assert moved.verdict == "not supported"
    assert moved.caveats == ("with 1, the size claimed before it was amended: undecided",)
    assert replace(moved, claimed_before=2.0).caveats == ()
    steep = replace(claim_sharpness_generalization(simulated(9, **STRONG)), effect=3.0, low=2.0, high=4.0)
    assert steep.verdict == "supported"
    assert steep.caveats == ("1, the size claimed, is outside the interval",)
    assert steep.caveats[0] in steep._repr_markdown_().splitlines()[-1]
    assert replace(steep, low=0.5).caveats == ()
    assert replace(steep, low=-0.5, high=0.5).caveats == ()  # not supported: nothing to take back


def test_an_order_of_dimensions_that_training_does_not_make_is_said_to_be_none_of_learning():
    frame = simulated(9, **STRONG)
    lower = frame.assign(d_repr_untrained=2 * frame["d_repr"], d_repr_twonn=frame["d_repr"])
    lower["d_data_same_images_twonn"] = frame["d_data_same_images"]
    same = lower.assign(d_repr_untrained=frame["d_repr"] * np.where(np.arange(len(frame)) % 2, 1.01, 0.99))
    below = "trained networks are not shown to lie below untrained ones"
    assert below not in claim_representation_bound(lower).caveats
    assert below in claim_representation_bound(same).caveats
    other = lower.assign(d_repr_twonn=2 * lower["d_data_same_images_twonn"])
    assert "not seen by TwoNN" not in claim_representation_bound(lower).caveats
    assert "not seen by TwoNN" in claim_representation_bound(other).caveats


@pytest.mark.parametrize(
    ("claim", "column"),
    [
        (claim_data_dimension, "d_data"),
        (claim_data_dimension, "fitted"),
        (claim_sharpness_generalization, "k_f"),
        (claim_sharpness_robustness, "loss_penalty_nats_eps2"),
        (claim_representation_bound, "d_repr"),
        (sharpness_regression, "k_f"),
        (paired_bound, "d_data_same_images"),
        (scaling_exponents, "n_train"),
    ],
)
def test_missing_records_name_the_command_that_makes_them(claim, column):
    frame = simulated(2)
    with pytest.raises(NoRecords, match=f"'{column}'.*intrinsic run"):
        claim(frame.drop(columns=column))
    with pytest.raises(ValueError, match="intrinsic run"):
        claim(frame.iloc[:0])


def test_the_budget_chooses_the_column():
    frame = simulated(9, **STRONG).rename(columns={"loss_penalty_nats_eps2": "loss_penalty_nats_eps8"})
    assert claim_sharpness_robustness(frame, grey_level=8).verdict == "supported"
    with pytest.raises(NoRecords, match="eps2"):
        claim_sharpness_robustness(frame)


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_sentence_and_the_table_hold_the_numbers(claim):
    found = claim(simulated(9, **STRONG))
    assert found.sentence.count("verdict:") == 1
    assert f"{found.effect:.3g}" in found.sentence
    assert f"{found.low:.3g} to {found.high:.3g}" in found.sentence
    assert "9 image sets" in found.sentence
    assert "smallest attainable" in found.sentence
    lines = found._repr_markdown_().splitlines()
    assert lines[1] == "|:--|:--|"
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    for name in (
        "Hypothesis",
        "Primary test",
        "Refuted if",
        "With all runs",
        "With one set left out",
        "Verdict",
    ):
        assert any(line.startswith(f"| {name} |") for line in lines)
    assert len(found.leave_one_out) == len(found.sets) == 9
    assert found.row()["verdict"] == found.verdict


def test_random_orders_do_not_depend_on_the_global_random_state():
    frame = simulated(10, **STRONG)
    np.random.seed(0)  # noqa: NPY002
    one = claims(frame)["sharpness_robustness"].p
    statistics._orders.cache_clear()
    np.random.seed(1)  # noqa: NPY002
    assert claims(frame)["sharpness_robustness"].p == one


# -------------------------------------------------------------------------------------- primary tests


def changed_claims(tmp_path, change):
    body = yaml.safe_load((images.REPOSITORY / "params" / "claims.yaml").read_text(encoding="utf-8"))
    change(body)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def test_verdicts_say_what_the_file_of_claims_says():
    verdicts = statistics.claims(simulated(10), permutations=99)
    tests = statistics.primary_tests()
    assert list(verdicts) == list(tests)
    for name, verdict in verdicts.items():
        assert (verdict.claim, verdict.side, verdict.claimed) == (
            tests[name].claim,
            tests[name].side,
            tests[name].claimed,
        )
        assert "{" not in verdict.hypothesis + verdict.test + verdict.supported_if + verdict.refuted_if
    assert tests["sharpness_robustness"].grey_level == campaign.Params().grey_level


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.pop("data_dimension"),
        lambda body: body["data_dimension"].pop("refuted_if"),
        lambda body: body["data_dimension"].update(beta=1),
        lambda body: body["sharpness_generalization"].update(outcome="test_accuracy"),
        lambda body: body["sharpness_generalization"].update(alternative="greater"),
        lambda body: body["representation_bound"].update(alpha=5.0),
        lambda body: body["sharpness_robustness"].update(grey_level=None),
        lambda body: body["data_dimension"].update(amended=[{"date": "2024-05-01"}]),
    ],
)
def test_a_primary_test_that_the_package_does_not_compute_is_refused(tmp_path, change):
    with pytest.raises(statistics.WrongClaims, match=r"claims\.yaml"):
        statistics.read_primary_tests(changed_claims(tmp_path, change))


def test_alpha_decides_the_verdict():
    fields = {"effect": 1.0, "low": 0.1, "high": 2.0, "p": 0.03, "p_holm": None}
    assert a_verdict(**fields).verdict == "supported"
    assert a_verdict(**fields, alpha=0.01).verdict == "undecided"


def test_the_table_of_verdicts_names_the_set_that_carries_an_effect():
    left = pd.DataFrame({"left_out": ["a", "b", "c"], "value": [0.9, -0.1, 1.1]})
    carried = a_verdict(effect=1.0, low=0.5, high=1.5, leave_one_out=left)
    steady = a_verdict(effect=1.0, low=0.5, high=1.5, leave_one_out=left.assign(value=[0.9, 1.3, 1.1]))
    table = statistics.verdict_table(
        {"x": carried, "y": steady, "z": a_verdict(effect=1.0, low=0.5, high=1.5)}
    ).set_index("name")
    assert (table["loo_low"]["x"], table["loo_high"]["x"], table["loo_without"]["x"]) == (-0.1, 1.1, "b")
    assert [table["same_sign"][name] for name in "xyz"] == [False, True, None]


@pytest.mark.parametrize("effect", [0.0, 0.5, 1.0])
def test_power_is_the_share_of_simulated_tests_that_find_the_effect(effect):
    g = np.random.default_rng(0)
    one = stats.ttest_1samp(g.normal(effect, 1, (20_000, 9)), 0, axis=1).pvalue
    assert statistics.power_mean(effect, 1.0, 9) == pytest.approx((one <= 0.05).mean(), abs=0.015)
    two = stats.ttest_ind(g.normal(effect, 1, (20_000, 7)), g.normal(0, 1, (20_000, 5)), axis=1).pvalue
    assert statistics.power_difference(effect, 1.0, 7, 5) == pytest.approx((two <= 0.05).mean(), abs=0.015)


def test_power_without_spread_is_refused():
    with pytest.raises(statistics.NotEnough):
        statistics.power_mean(1.0, 0.0, 9)
    with pytest.raises(statistics.NotEnough):
        statistics.power_difference(1.0, 1.0, 1, 1)


# ------------------------------------------------------------------------------------------ growth of sharpness


def test_a_partial_correlation_is_that_of_residuals_and_of_its_formula():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(40)
    x, y = z + rng.standard_normal(40), 2 * z + rng.standard_normal(40)
    found = statistics.partial_correlation(x, y, z, permutations=199)
    r = np.corrcoef([x, y, z])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    assert statistics.partial_correlation(x - 3 * z, y, z, permutations=199).value == pytest.approx(expected)
    assert abs(statistics.correlation(x, y, permutations=199).value) > abs(expected)
    with pytest.raises(statistics.NotEnough):
        statistics.partial_correlation(z, y, z)
    with pytest.raises(statistics.NotEnough):
        statistics.partial_correlation(x[:3], y[:3], z[:3])


def test_a_partial_correlation_finds_nothing_in_at_most_5_percent_where_there_is_nothing():
    """x and y follow the third value and are otherwise unrelated; 5.8 % is two standard errors above 5 %."""
    rng, n, hits = np.random.default_rng(3), 3000, 0
    for _ in range(n):
        z = rng.standard_normal(9)
        x, y = z + rng.standard_normal((2, 9))
        hits += statistics.partial_correlation(x, y, z, permutations=199).p <= 0.05
    assert hits / n <= 0.058


def test_the_interval_of_a_partial_correlation_covers_it():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        z = rng.standard_normal(14)
        u = rng.standard_normal((2, 14))
        x, y = z + u[0], z + 0.6 * u[0] + 0.8 * u[1]
        found = statistics.partial_correlation(x, y, z, permutations=9)
        hits += found.low <= 0.6 <= found.high
    assert 0.91 <= hits / 300 <= 0.98


def test_so_many_sets_see_a_correlation_as_power_says():
    n = statistics.sets_for_correlation(0.7, given=1)
    assert n == 15
    assert statistics.sets_for_correlation(0.7) == 14
    assert statistics.sets_for_correlation(0.3) > 80
    with pytest.raises(statistics.StatisticsError):
        statistics.sets_for_correlation(1.0)


def growth_sets(n, c, seed=0):
    """Sets whose K_F is C M^(2/d) exactly, with a response that is c log C + 2/d."""
    rng = np.random.default_rng(seed)
    power, log_c = rng.uniform(0.1, 0.3, n), rng.normal(-3, 0.5, n)
    frame = pd.DataFrame({"dataset": [f"s{i}" for i in range(n)], "k_f": np.exp(log_c + power * math.log(250))})
    return frame.assign(two_over_d=power, loss=c * log_c + power + 1e-3 * rng.standard_normal(n))


def test_the_constant_is_found_when_the_power_is_taken_out():
    table = statistics.power_taken_out(growth_sets(12, 1.0), ["loss"]).set_index(["predictor", "given"])
    assert table.loc[("log K_F", "2/d"), "value"] > 0.99
    assert table.loc[("log C", ""), "value"] > 0.95
    assert table.loc[("log K_F", "2/d"), "smallest"] > 0.99
    nothing = statistics.power_taken_out(growth_sets(40, 0.0), ["loss"]).set_index(["predictor", "given"])
    assert nothing.loc[("2/d", "log K_F"), "value"] > 0.99
    assert nothing.loc[("log K_F", "2/d"), "low"] < 0 < nothing.loc[("log K_F", "2/d"), "high"]
    few = statistics.power_taken_out(growth_sets(2, 1.0), ["loss"])
    assert few["value"].isna().all()
    assert (few["n_sets"] == 2).all()


def growth_rows(n, factor, spread=0.02, low=0.01, seed=0):
    power = np.random.default_rng(seed).uniform(0.1, 0.3, n)
    e = power * factor * np.exp(spread * np.random.default_rng([seed, 1]).standard_normal(n))
    names = [f"s{i}" for i in range(n)]
    return pd.DataFrame({"dataset": names, "exponent": e, "exponent_low": low, "2/d of pairs": power})


@pytest.mark.parametrize(
    ("rows", "zero", "law"),
    [
        (growth_rows(12, 1.0), "refuted", "not refuted"),
        (growth_rows(12, 0.7), "refuted", "refuted"),
        (growth_rows(12, 1.0, spread=0.5), "refuted", "refuted"),  # right on average, off set by set
        (growth_rows(12, 1.0, low=-0.01), "not refuted", "not refuted"),
        (growth_rows(5, 0.5), statistics.GROWTH_OPEN, statistics.GROWTH_OPEN),
    ],
)
def test_the_verdict_on_growth_follows_its_rules(rows, zero, law):
    assert statistics.growth_verdict(rows)["verdict"].tolist() == [zero, law]


def test_sets_that_do_not_grow_are_off_the_law():
    rows = growth_rows(12, 1.0)
    rows.loc[:3, "exponent"] = [-0.05, 0.0, -0.01, -0.2]
    found = statistics.growth_verdict(rows).iloc[1]
    assert found["off"] == pytest.approx(4 / 12)
    assert found["verdict"] == "refuted"


def test_sets_of_one_family_count_once_in_the_verdict_on_growth():
    rows = growth_rows(12, 1.0).assign(family=["a"] * 5 + [f"f{i}" for i in range(7)])
    assert statistics.growth_verdict(rows)["n_sets"].tolist() == [8, 8]


def test_the_verdict_on_growth_says_whether_one_set_carries_it():
    rows = growth_rows(12, 0.9, spread=0.03)
    rows.loc[0, "exponent"] *= 0.01
    found = statistics.growth_verdict(rows).iloc[1]
    assert found["smallest"] < found["effect"] < found["largest"]
    assert found["largest"] == pytest.approx(np.log(0.9), abs=0.05)
    few = statistics.growth_verdict(growth_rows(8, 0.7)).iloc[1]
    assert (few["verdict"], few["stands"]) == ("refuted", False)  # seven are too few
    assert statistics.growth_verdict(growth_rows(12, 0.7)).iloc[1]["stands"]


def test_predictors_of_sets_that_share_no_model_are_nan():
    frame = simulated(2, models=1)
    frame["model"] = frame["dataset"].map({"set0": "resnet18", "set1": "vgg13"})
    frame["growth_exponent"] = 0.2
    rows = statistics.separate_predictors(frame)
    assert len(rows) == 20
    assert rows["value"].isna().all()
    assert (rows["n_sets"] == 0).all()


def test_chance_of_departures_is_that_of_simulated_sets():
    errors = np.array([0.05, 0.1, 0.15, 0.2, 0.3])
    share, more = statistics.chance_of_departures(errors, 0.2, 0.25)
    off = np.abs(np.random.default_rng(0).normal(size=(200_000, 5)) * errors) > math.log(1.2)
    assert share == pytest.approx(off.mean(), abs=0.003)
    assert more == pytest.approx((off.mean(axis=1) > 0.25).mean(), abs=0.004)
    same, _ = statistics.chance_of_departures([0.1] * 4)
    assert same == pytest.approx(2 * stats.norm.sf(math.log(1.2) / 0.1))
    with pytest.raises(statistics.NotEnough):
        statistics.chance_of_departures([math.nan, 0.0])

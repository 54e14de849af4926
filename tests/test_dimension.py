"""Dimension estimators: closed forms, reference values, manifolds of known dimension, coverage of intervals."""

import copy
import importlib.util
import itertools
import json
import math
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import skdim
import torch
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from intrinsic.images import REPOSITORY, ImageSet, TooFewImages, balanced_draws
from intrinsic.images.manifolds import ball, cube, flat_torus, sphere, torus_images
from intrinsic.properties import dimension
from intrinsic.properties.dimension import (
    DuplicatePoints,
    Estimate,
    EstimatorFailed,
    OutsideReference,
    bias_adjusted,
    expected_dimension,
    mean_dimensions,
    mle_dimension,
    mle_profile,
    other_dimension,
    twonn_dimension,
)
from intrinsic.properties.neighbors import BadPoints, neighbors

TABLES = REPOSITORY / "book" / "methods" / "tables"


def plain(x, k):
    """Sorted distances to the k nearest others, float64."""
    squares = ((x[:, None] - x) ** 2).sum(axis=2)
    np.fill_diagonal(squares, np.inf)
    return np.sqrt(np.sort(squares, axis=1)[:, :k])


@pytest.fixture(scope="module")
def cube_in_50():
    """2,000 uniform points in the 5-cube among 50 coordinates, whose estimates are known."""
    x = np.zeros((2000, 50))
    x[:, :5] = np.random.default_rng(0).random((2000, 5))
    return neighbors(x, 20)


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (lambda x: mle_dimension(x, 20, norm="k-2"), 4.247),
        (lambda x: mle_dimension(x, 20), 4.483),
        (lambda x: twonn_dimension(x, discard=0), 4.719),
        (lambda x: twonn_dimension(x, discard=0.1), 4.723),
        (lambda x: twonn_dimension(x, discard=0, fit="likelihood"), 4.739),
    ],
)
def test_reference_values(cube_in_50, estimate, expected):
    assert estimate(cube_in_50) == pytest.approx(expected, abs=5.1e-4)


@pytest.mark.parametrize("k", [2, 3, 20])
def test_mle_is_its_formula(k):
    x = np.random.default_rng(1).standard_normal((200, 6))
    t = plain(x, k)
    inverse = np.mean(np.log(t[:, -1:] / t[:, :-1]).sum(axis=1) / (k - 1))
    assert mle_dimension(x, k) == pytest.approx(1 / inverse, rel=1e-12)
    if k > 2:
        assert mle_dimension(x, k, norm="k-2") == pytest.approx((k - 2) / (k - 1) / inverse, rel=1e-12)


@pytest.mark.parametrize("discard", [0.1, 0.25, 0.57])
def test_twonn_is_its_formula(discard):
    x = np.random.default_rng(2).standard_normal((100, 4))
    t = plain(x, 2)
    logs = np.sort(np.log(t[:, 1] / t[:, 0]))
    m = round(100 * (1 - discard))
    y = -np.log(1 - np.arange(1, 101)[:m] / 100)
    expected = (logs[:m] * y).sum() / (logs[:m] ** 2).sum()
    assert twonn_dimension(x, discard) == pytest.approx(expected, rel=1e-12)


def test_twonn_without_discard_drops_only_the_largest_ratio():
    x = np.random.default_rng(3).standard_normal((50, 3))
    t = plain(x, 2)
    logs = np.sort(np.log(t[:, 1] / t[:, 0]))[:-1]
    y = -np.log(1 - np.arange(1, 50) / 50)
    assert twonn_dimension(x, 0) == pytest.approx((logs @ y) / (logs @ logs), rel=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fit", ["line", "likelihood"])
def test_twonn_needs_ratios_that_it_keeps(fit):
    grid = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    grid[70] += 0.1  # its ratio, and those of its neighbors, are discarded; all others are 1
    found = twonn_dimension(grid, fit=fit)
    assert math.isnan(found)
    assert math.isnan(found.low)
    few = np.random.default_rng(0).random((15, 3))
    found = twonn_dimension(few, 0.9, fit=fit)  # a half keeps none of its seven
    assert math.isfinite(found)
    assert math.isnan(found.low) == math.isnan(found.high)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("estimate", [lambda x: mle_dimension(x, 2), twonn_dimension])
def test_four_points_have_an_estimate_and_no_interval(estimate):
    found = estimate(np.random.default_rng(0).random((4, 3)))
    assert found > 0
    assert math.isnan(found.low) == math.isnan(found.high)


def test_estimates_agree_with_scikit_dimension():
    x = ball(300, 4, ambient=12, seed=4)
    assert mle_dimension(x, 15) == pytest.approx(skdim.id.MLE().fit(x, n_neighbors=15, comb="mle").dimension_, rel=1e-9)
    assert twonn_dimension(x, 0.1) == pytest.approx(skdim.id.TwoNN(0.1).fit(x).dimension_, rel=1e-9)
    other = skdim.id.TwoNN(0.1, method="mle").fit(x).dimension_  # the same with m - 1 in place of m
    assert twonn_dimension(x, 0.1, fit="likelihood") == pytest.approx(other * 270 / 269, rel=1e-9)


BENCHMARK = {name: facts[:2] for name, facts in skdim.datasets.BenchmarkManifolds()._dict_truth.items()}


@pytest.mark.parametrize("name", BENCHMARK)
def test_the_formulas_of_scikit_dimension_give_the_same_on_its_benchmark_manifolds(name):
    d, ambient = BENCHMARK[name]
    x = skdim.datasets.BenchmarkManifolds(random_state=0).generate(name, n=250, dim=ambient, d=d)
    near, exact = neighbors(x, 20), cdist(x, x)
    np.fill_diagonal(exact, np.inf)
    t = np.sort(exact, axis=1)[:, :20]  # its own search loses digits where there are many coordinates
    known = (t, np.argsort(exact, axis=1)[:, :20])
    mle = skdim.id.MLE().fit(x, precomputed_knn_arrays=known, comb="mle").dimension_
    paper = skdim.id.MLE(unbiased=True).fit(x, precomputed_knn_arrays=known, comb="mle").dimension_
    assert mle_dimension(near, interval=False) == pytest.approx(mle, rel=1e-9)
    assert mle_dimension(near, norm="k-2", interval=False) == pytest.approx(paper, rel=1e-9)
    for discard in (0.1, 0.25):
        twonn = skdim.id.TwoNN(discard, dist=True).fit(t[:, :2]).dimension_
        assert twonn_dimension(near, discard, interval=False) == pytest.approx(twonn, rel=1e-9)
    assert other_dimension(x, "MLE", n_neighbors=20) == pytest.approx(mle, rel=1e-5)
    assert other_dimension(x, "TwoNN") == pytest.approx(twonn_dimension(near, interval=False), rel=1e-5)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_dimension_of_a_flat_torus_is_recovered(d):
    near = neighbors(flat_torus(2500, d, ambient=30, seed=d), 20)
    assert mle_dimension(near) == pytest.approx(d, rel=0.08)
    assert twonn_dimension(near) == pytest.approx(d, rel=0.08)


def test_the_dimension_of_a_sphere_is_recovered():
    assert mle_dimension(sphere(2500, 3, ambient=20), 10) == pytest.approx(3, rel=0.08)


def test_log_ratios_on_a_torus_follow_the_gamma_law():
    """d * sum_j log(T_k/T_j) is Gamma(k - 1): mean and variance k - 1, so k-1 is the unbiased norm."""
    k, d = 20, 2
    t = neighbors(flat_torus(8000, d, seed=5), k).distances[::80]  # far enough apart to be independent
    sums = d * np.log(t[:, -1:] / t).sum(axis=1)
    assert kstest(sums, "gamma", args=(k - 1,)).pvalue > 0.01
    assert sums.mean() == pytest.approx(k - 1, abs=3 * math.sqrt((k - 1) / len(sums)))


def test_ratios_of_two_neighbors_on_a_torus_are_pareto():
    t = neighbors(flat_torus(6000, 3, seed=6), 2).distances[::10]
    assert kstest(3 * np.log(t[:, 1] / t[:, 0]), "expon").pvalue > 0.01


def test_scale_shift_rotation_and_repeated_channels_change_nothing():
    x = np.random.default_rng(7).standard_normal((300, 5))
    turned = 1e4 + 37.5 * x @ np.linalg.qr(np.random.default_rng(8).standard_normal((5, 5)))[0]
    images = torus_images(200, 3, size=16)[0]
    rgb = np.repeat(images[..., None], 3, axis=3)
    for estimate in (mle_dimension, twonn_dimension):
        one, other = estimate(x), estimate(turned)
        assert (other, other.low, other.high) == pytest.approx((one, one.low, one.high), rel=1e-6)
        assert estimate(rgb) == pytest.approx(estimate(images), rel=1e-12)
        assert estimate(images) == pytest.approx(estimate(images / 255), rel=1e-9)


def test_one_pass_serves_all_estimates():
    images, labels, _ = torus_images(150, 2, size=16)
    group = np.arange(150) // 3
    near = neighbors(ImageSet(images, labels, ("a", "b"), group=group), 20)
    for k in (5, 20):
        for other in (images, torch.from_numpy(images), ImageSet(images, labels, ("a", "b"))):
            assert mle_dimension(near, k, interval=False) == mle_dimension(other, k, interval=False)
    assert twonn_dimension(near, interval=False) == twonn_dimension(images, interval=False)
    assert mle_dimension(near).low == mle_dimension(images, group=group).low
    assert mle_dimension(near).low != mle_dimension(images).low
    profile = mle_profile(near, [3, 10, 20])
    assert [float(d) for d in profile] == [float(mle_dimension(images, k)) for k in (3, 10, 20)]
    assert [d.low for d in profile] == [mle_dimension(near, k).low for k in (3, 10, 20)]
    assert [d.k for d in profile] == [3, 10, 20]


def test_without_neighbors_of_the_same_group_near_duplicates_do_no_harm():
    rng = np.random.default_rng(9)
    x = np.repeat(flat_torus(1000, 2, ambient=20, seed=9), 2, axis=0)
    x += 1e-6 * rng.standard_normal(x.shape)
    group = np.repeat(np.arange(1000), 2)
    assert mle_dimension(x, interval=False) < 1.2
    assert mle_dimension(neighbors(x, 20, group=group, exclude_group=True), interval=False) == pytest.approx(2, rel=0.1)


# ------------------------------------------------------------------------------------------------ intervals


def coverage(estimates):
    """Share of intervals that hold the mean of the estimates."""
    target = np.mean([float(e) for e in estimates])
    return np.mean([e.low <= target <= e.high for e in estimates])


@pytest.mark.parametrize("d", [2, 5])
def test_intervals_cover_the_expectation(d):
    near = [neighbors(flat_torus(400, d, seed=1000 + s), 20) for s in range(60)]
    for estimate in (mle_dimension, twonn_dimension):
        found = [estimate(one) for one in near]
        assert coverage(found) >= 0.86
        widths = [math.log(e.high / e.low) / 2 for e in found]
        spread = np.std([math.log(e) for e in found])
        assert 1.6 < np.mean(widths) / spread < 2.8  # about 2.06, so neither is it too wide


def test_intervals_over_groups_cover_and_those_that_ignore_them_do_not():
    grouped, ignored = [], []
    group = np.repeat(np.arange(60), 8)
    for s in range(60):
        rng = np.random.default_rng(s)
        radius = np.repeat(10.0 ** rng.uniform(-4, -1, 60), 8)[:, None]  # each group has its own scale
        x = np.repeat(flat_torus(60, 3, seed=s), 8, axis=0)
        x += radius * rng.standard_normal(x.shape) * (np.arange(6) < np.repeat(rng.integers(1, 7, 60), 8)[:, None])
        near = neighbors(x, 5, group=group)
        grouped.append(mle_dimension(near, 5))
        ignored.append(mle_dimension(x, 5))
    assert coverage(grouped) >= 0.86
    assert coverage(ignored) < coverage(grouped)


@pytest.mark.parametrize("ratio", [1, 3])
def test_intervals_of_means_over_draws_cover_the_population(ratio):
    found = ([], [])
    for s in range(30):
        n = 2 * 60 * ratio
        for one, value in zip(found, mean_dimensions(
            flat_torus(n, 3, seed=s), np.arange(n) % 2, per_class=60, draws=5, k=10), strict=True):  # fmt: skip
            one.append(value)
    for one in found:
        assert coverage(one) >= 0.8


def test_the_interval_is_reproducible_and_shrinks_with_n():
    def width(n):
        return np.mean([math.log(d.high / d.low) for d in (mle_dimension(flat_torus(n, 3, seed=s)) for s in range(8))])

    small = mle_dimension(flat_torus(300, 3, seed=0))
    assert small.low < small < small.high
    assert width(300) / width(1200) == pytest.approx(2, rel=0.3)
    again = mle_dimension(flat_torus(300, 3, seed=0))
    assert (again.low, again.high) == (small.low, small.high)
    assert mle_dimension(flat_torus(300, 3, seed=0), seed=1).low != small.low


def test_the_mean_over_draws_is_that_of_the_draws():
    x, y = flat_torus(300, 2, seed=1), np.arange(300) % 3
    mle, twonn = mean_dimensions(x, y, per_class=50, draws=4, k=8, seed=5)
    draws = balanced_draws(y, 50, 4, 5)
    assert mle == pytest.approx(np.mean([mle_dimension(x[c], 8, interval=False) for c in draws]), rel=1e-12)
    assert twonn == pytest.approx(np.mean([twonn_dimension(x[c], interval=False) for c in draws]), rel=1e-12)
    assert mle.low < mle < mle.high
    assert (mle.n, mle.k, mle.per_class, mle.draws) == (150, 8, 50, 4)
    images, labels, _ = torus_images(120, 2, size=16)
    own = mean_dimensions(ImageSet(images, labels, ("a", "b")), per_class=40, draws=2, k=5)
    assert own == mean_dimensions(neighbors(images, 3), labels, per_class=40, draws=2, k=5)
    group = np.arange(300) // 2
    apart, _ = mean_dimensions(x, y, per_class=50, draws=1, k=8, group=group, exclude_group=True, interval=False)
    chosen = balanced_draws(y, 50, 1, 0)[0]
    near = neighbors(x[chosen], 8, group=group[chosen], exclude_group=True)
    assert apart == mle_dimension(near, 8, interval=False)


def test_draws_read_from_one_pass_are_those_of_a_pass_each(monkeypatch):
    images, labels, _ = torus_images(160, 3, size=16, seed=2)
    group = np.arange(160) // 2
    options = {"per_class": 40, "draws": 3, "k": 6, "group": group}
    monkeypatch.setattr(dimension, "KEEP_POINTS", 0)
    each = [mean_dimensions(images, labels, exclude_group=exclude, **options) for exclude in (False, True)]
    monkeypatch.undo()
    one = [mean_dimensions(images, labels, exclude_group=exclude, **options) for exclude in (False, True)]
    nears = [neighbors(images, 9, labels, group=group, exclude_group=exclude) for exclude in (False, True)]
    given = [
        mean_dimensions(near, exclude_group=exclude, **options) for near, exclude in zip(nears, (0, 1), strict=True)
    ]
    crossed = [
        mean_dimensions(near, exclude_group=exclude, **options) for near, exclude in zip(nears, (1, 0), strict=True)
    ]
    facts = [[(float(e), e.low, e.high, e.excludes_group) for pair in found for e in pair] for found in (
        each, one, given, crossed[::-1])]  # fmt: skip
    assert facts[1:] == [facts[0]] * 3
    assert facts[0][0] != facts[0][2]


def test_neighbors_beyond_k_serve_the_halves_whatever_k_the_pass_had():
    x, group = flat_torus(150, 2, seed=3), np.arange(150) // 10
    for options in ({}, {"group": group}, {"group": group, "exclude_group": True}):
        few, many = (mle_dimension(neighbors(x, k, **options), 5) for k in (5, 40))
        assert (few, few.low, few.high) == pytest.approx((many, many.low, many.high), rel=1e-12)


def test_few_points_and_few_groups_still_have_an_answer():
    x = np.random.default_rng(0).standard_normal((6, 2))
    assert math.isfinite(mle_dimension(x, 3))
    assert math.isfinite(twonn_dimension(x))
    one_group = mle_dimension(x, 3, group=np.zeros(6))
    assert math.isnan(one_group.low)
    two = mle_dimension(np.random.default_rng(0).standard_normal((40, 2)), 3, group=np.arange(40) // 20)
    assert two.low < two < two.high
    assert "t(1)" in two.method


@pytest.mark.parametrize("table", ["coverage", "means"])
def test_published_coverage_is_within_what_is_asked_and_quoted_as_it_is(table):
    rows = pd.DataFrame(json.loads((TABLES / f"dimension_{table}.json").read_text())["rows"])
    known = rows[~rows["manifold"].str.endswith("ignored")]
    assert ((known["coverage_high"] >= 0.90) & (known["coverage_low"] <= 0.99)).all()
    assert known["coverage"].between(0.90, 0.99).mean() > 0.9
    text = " ".join({"coverage": mle_dimension, "means": mean_dimensions}[table].__doc__.split())
    quoted = re.search(r"Coverage: ([\d.]+) to ([\d.]+) % ", text).groups()
    assert quoted == tuple(f"{100 * v:.1f}" for v in (known["coverage"].min(), known["coverage"].max()))
    for estimator, part in rows[rows["manifold"].str.endswith("ignored")].groupby("estimator"):
        quoted = re.search(rf"([\d.]+) to ([\d.]+) % \({estimator}\)", text).groups()
        assert quoted == tuple(f"{100 * v:.1f}" for v in (part["coverage"].min(), part["coverage"].max()))


# ----------------------------------------------------------------------------------------------------- bias


def test_averaged_inverses_are_unbiased_with_k_minus_1_and_off_by_18_to_19_with_k_minus_2():
    for d in (1, 2):
        mean, error = expected_dimension("flat_torus", d, 800, samples=20)
        other, _ = expected_dimension("flat_torus", d, 800, norm="k-2", samples=20)
        assert (
            abs(mean - d) < 4 * error + 0.004 * d
        )  # the expectation of d is above d by d / (n k), and a torus is bent
        assert other == pytest.approx(18 / 19 * mean, rel=1e-12)
        assert abs(other - d) > 8 * error


def test_an_expectation_is_the_mean_over_its_samples_and_tells_its_error():
    mean, error = expected_dimension("cube", 4, 150, 8, samples=40, seed=1)
    again, _ = expected_dimension("cube", 4, 150, 8, samples=40, seed=1)
    other, other_error = expected_dimension("cube", 4, 150, 8, samples=40, seed=2)
    assert again == mean
    assert 0 < abs(other - mean) < 4 * math.hypot(error, other_error)
    own = [float(mle_dimension(cube(150, 4, seed=9000 + s), 8, interval=False)) for s in range(40)]
    assert error == pytest.approx(np.std(own, ddof=1) / math.sqrt(40), rel=0.6)
    assert abs(np.mean(own) - mean) < 4.5 * error
    twonn, _ = expected_dimension("cube", 4, 150, 2, estimator="twonn", samples=40)
    own = [float(twonn_dimension(cube(150, 4, seed=9000 + s), interval=False)) for s in range(40)]
    assert twonn == pytest.approx(np.mean(own), rel=0.06)


@pytest.mark.parametrize("estimator", ["mle", "twonn"])
@pytest.mark.parametrize("reference", ["flat_torus", "cube", "sphere"])
def test_adjusting_the_expectation_of_a_reference_gives_its_dimension(reference, estimator):
    k = 10 if estimator == "mle" else 2
    options = {"norm": "k-1"} if estimator == "mle" else {"discard": 0.1, "fit": "line"}
    means = [expected_dimension(reference, d, 200, k, estimator=estimator)[0] for d in (4, 5, 6)]
    facts = {"n": 200, "k": k, "estimator": estimator, "excludes_group": False} | options
    found = bias_adjusted(Estimate(means[1], means[0], means[2], **facts), reference)
    assert (found, found.low, found.high) == pytest.approx((5, 4, 6), rel=1e-9)
    middle = bias_adjusted(Estimate(math.sqrt(means[0] * means[1]), **facts), reference)
    assert middle == pytest.approx(4.5, rel=1e-9)
    assert math.isnan(middle.low)
    assert found.reference == reference
    assert reference in found.method
    assert found.unadjusted == means[1]
    assert 0 < found.reference_error < 0.05
    assert found.reason == ""


def test_a_larger_estimate_is_never_adjusted_to_a_smaller_dimension():
    facts = {"n": 100, "k": 2, "estimator": "twonn", "discard": 0.1, "fit": "line", "excludes_group": False}
    means = [expected_dimension("cube", d, 100, 2, estimator="twonn", samples=2)[0] for d in range(1, 25)]
    assert min(np.diff(means)) < 0  # two samples are few: the expectation itself does not rise everywhere
    values = np.linspace(2, 8, 60)
    found = [float(bias_adjusted(Estimate(v, **facts), "cube", samples=2)) for v in values]
    assert min(np.diff(found)) >= 0


@pytest.mark.parametrize("manifold", ["cube", "flat_torus", "sphere"])
def test_published_expectations_rise_with_the_dimension(manifold):
    rows = pd.DataFrame(json.loads((TABLES / "dimension_bias.json").read_text())["rows"])
    rows = rows[rows["manifold"] == manifold]
    for _, line in rows.groupby(["estimator", "n"]):
        rise = np.diff(line.sort_values("d")["estimate"])
        error = line.sort_values("d")["standard_error"].to_numpy()
        assert (rise > -3.5 * np.hypot(error[1:], error[:-1])).all()
        assert len(line) == 20


def test_adjusted_to_a_torus_new_tori_have_their_dimension_and_cubes_do_not():
    tori = [mle_dimension(flat_torus(500, 8, seed=70 + s), interval=False) for s in range(6)]
    cubes = [mle_dimension(cube(500, 8, seed=70 + s), interval=False) for s in range(6)]
    assert np.mean(tori) > 8 * 1.2
    assert np.mean([bias_adjusted(e) for e in tori]) == pytest.approx(8, rel=0.02)
    assert np.mean([bias_adjusted(e) for e in cubes]) < np.mean(cubes) < 8  # adjusting to a torus does harm
    assert np.mean([bias_adjusted(e, "cube") for e in cubes]) == pytest.approx(8, rel=0.05)


def test_an_adjusted_value_says_where_it_cannot_be_had():
    x = flat_torus(120, 1, seed=1)
    one = mle_dimension(x, 5)
    low = Estimate(0.5, n=120, k=5, estimator="mle", norm="k-1", excludes_group=False)
    with pytest.raises(OutsideReference, match=r"estimate 0\.5 at n = 120 and k = 5 is not among those of flat_torus"):
        bias_adjusted(low)
    high = Estimate(1e3, n=120, k=5, estimator="mle", norm="k-1", excludes_group=False)
    with pytest.raises(OutsideReference, match="1 to 40"):
        bias_adjusted(high)
    with pytest.raises(OutsideReference, match="no Estimate of mle_dimension"):
        bias_adjusted(3.0)
    apart = mle_dimension(neighbors(x, 5, group=np.arange(120) // 2, exclude_group=True), 5)
    with pytest.raises(OutsideReference, match="same group"):
        bias_adjusted(apart)
    mean, _ = expected_dimension("flat_torus", 2, 120, 5)
    part = bias_adjusted(Estimate(mean, 0.5, mean, n=120, k=5, estimator="mle", norm="k-1", excludes_group=False))
    assert part == pytest.approx(2)
    assert math.isnan(part.low)
    assert part.high == part
    assert "not among the estimates of flat_torus" in part.reason
    assert one.estimator == "mle"
    draws = mean_dimensions(flat_torus(240, 2), np.arange(240) % 2, per_class=60, draws=3, k=5)
    for estimate in draws:
        assert bias_adjusted(estimate) == pytest.approx(2, rel=0.2)


# ------------------------------------------------------------------------------- estimators of scikit-dimension


def test_other_estimators_are_those_of_scikit_dimension():
    x = ball(300, 4, ambient=8, seed=5)
    for name, options, direct in (
        ("lPCA", {}, skdim.id.lPCA().fit(x)),
        ("CorrInt", {"k1": 5}, skdim.id.CorrInt(k1=5).fit(x)),
        ("MiND_ML", {"k": 10}, skdim.id.MiND_ML(k=10).fit(x)),
        ("TLE", {"n_neighbors": 30, "comb": "median"}, skdim.id.TLE().fit(x, n_neighbors=30, comb="median")),
        ("KNN", {"random_state": 3}, skdim.id.KNN(random_state=3).fit(x)),
    ):
        found = other_dimension(x, name, **options)
        assert found == float(direct.dimension_), name
        assert math.isnan(found.low)
        assert (found.n, found.estimator, found.options) == (300, name, options)
    assert other_dimension(x, "KNN", seed=4) == other_dimension(x, "KNN", seed=4)
    assert other_dimension(torch.from_numpy(x), "lPCA") == other_dimension(x)


def test_other_estimators_see_pixels_as_they_are_and_keep_their_warnings(capsys):
    images, labels, _ = torus_images(120, 2, size=16)
    found = other_dimension(ImageSet(images, labels, ("a", "b")), "CorrInt")
    assert found == pytest.approx(float(skdim.id.CorrInt().fit(images.reshape(120, -1) / 255).dimension_), rel=1e-12)
    few = other_dimension(images[:10], "CorrInt")
    assert any("k2 larger" in text for text in few.warnings)
    assert other_dimension(images, "lPCA").warnings == ()
    assert capsys.readouterr().out == ""


def test_the_interval_of_another_estimator_is_that_of_ours_where_it_is_the_same():
    x, group = ball(200, 3, seed=6), np.arange(200) // 4
    ours = mle_dimension(x, 10, group=group, seed=2)
    other = other_dimension(x, "MLE", n_neighbors=10, interval=True, group=group, seed=2)
    assert (other, other.low, other.high) == pytest.approx((ours, ours.low, ours.high), rel=1e-6)
    assert "25 splits" in other.method


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: other_dimension(X, "lpca"), BadPoints, r"did you mean 'lPCA'.*CorrInt, DANCo"),
        (lambda: other_dimension(X, "MIND_ML"), BadPoints, r"did you mean 'MiND_ML'"),
        (lambda: other_dimension(X, "CorrInt", k3=5), BadPoints, r"no option 'k3' \(did you mean 'k[12]'\?\): it"),
        (lambda: other_dimension(neighbors(X, 3), "lPCA"), BadPoints, "reads coordinates"),
        (lambda: other_dimension(np.concatenate([X, X[:2]]), "CorrInt"), DuplicatePoints, "4 of 32 points"),
        (lambda: other_dimension(np.array([[0.0, 1], [-0.0, 1], [1, 2]])), DuplicatePoints, "2 of 3 points"),
        (lambda: other_dimension(X[:, :1], "lPCA"), EstimatorFailed, r"lPCA of scikit-dimension ends in ValueError"),
        (lambda: other_dimension(X, "lPCA", ver="none"), EstimatorFailed, "'none'"),
        (lambda: other_dimension(X, "GRIDE", n2=40), EstimatorFailed, r"GRIDE .*41 samples.*30 points in 3 coord"),
        (lambda: expected_dimension("torus", 2, 50, 5), BadPoints, r"did you mean 'flat_torus'"),
        (lambda: expected_dimension("cube", 2.5, 50, 5), BadPoints, r"d=2.5 is no dimension.*1 to 40"),
        (lambda: expected_dimension("cube", 2, 50, 5, estimator="lPCA"), BadPoints, "no simulated expectation"),
        (lambda: expected_dimension("cube", 2, 50, 5, samples=1), BadPoints, "at least 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_estimated_ends_in_one_sentence(call, kind, says):
    with pytest.raises(kind, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_estimate_that_is_no_number_is_refused(monkeypatch):
    class Nothing:
        def fit(self, X, y=None):
            self.dimension_ = float("nan")
            return self

    monkeypatch.setattr(skdim.id, "Nothing", Nothing, raising=False)
    with pytest.raises(EstimatorFailed, match="Nothing of scikit-dimension gives nan on 30 points in 3 coordinates"):
        other_dimension(X, "Nothing")


# ------------------------------------------------------------------------------------------ published tables


@pytest.fixture
def script(tmp_path, monkeypatch):
    path = REPOSITORY / "benchmarks" / "dimension_simulations.py"
    spec = importlib.util.spec_from_file_location("dimension_simulations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TABLES", tmp_path / "tables")
    monkeypatch.setattr(module, "WORK", tmp_path / "work")
    monkeypatch.setattr(module.images, "REPOSITORY", tmp_path)
    return module


def test_a_stopped_simulation_goes_on_and_gives_the_same_table(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PLAN", [("flat torus", 2, 60, 6), ("groups of near points", 3, 60, 6)])
    tables, stops = {}, 0
    for seconds in (math.inf, 5):
        monkeypatch.setattr(script, "clock", itertools.count().__next__)  # a second passes at every look
        while True:
            try:
                script.coverage(script.Part("coverage", script.clock() + seconds, anew=False))
                break
            except script.OutOfTime:
                stops += 1
        tables[seconds] = json.loads((tmp_path / "tables" / "dimension_coverage.json").read_text())
        for file in tmp_path.glob("*/*.json"):
            file.unlink()
    assert stops > 1
    assert tables[5] == tables[math.inf]
    rows = tables[5]["rows"]
    assert [(r["manifold"], r["estimator"], r["simulations"]) for r in rows][1] == ("flat torus", "TwoNN", 6)
    values = [float(mle_dimension(flat_torus(60, 2, seed=1000 + s), interval=False)) for s in range(6)]
    assert rows[0]["expectation"] == pytest.approx(np.mean(values), rel=1e-5)


def test_coverage_is_counted_and_its_interval_is_exact(script):
    rows = [[1.0, 0.9, 1.1]] * 18 + [[1.0, 1.01, 1.1], [1.0, 0.8, 0.99]]
    found = script._covered(rows)
    assert (found["coverage"], found["simulations"], found["expectation"]) == (0.9, 20, 1.0)
    assert (found["coverage_low"], found["coverage_high"]) == pytest.approx((0.68302, 0.98765), abs=1e-5)  # binomial
    assert script._covered(rows[:18])["coverage_high"] == 1.0


def test_a_fit_beyond_its_time_is_stopped_and_an_error_is_the_reason(script, monkeypatch):
    monkeypatch.setattr(script, "FIT_SECONDS", 0.2)

    def slow():
        try:
            while True:
                sum(range(1000))
        except Exception:
            return 1.0

    found = script._limited(slow)
    assert found["reason"] == "no result within 0.2 s"
    assert found["seconds"] < 2
    assert script._limited(lambda: 3)["value"] == 3.0
    assert "did you mean" in script._limited(lambda: other_dimension(X, "lpca"))["reason"]


def test_settings_are_compared_over_the_sets_that_have_both(script):
    rows = []
    for i, name in enumerate(script.SOURCE):
        for estimator in ("MLE", "TwoNN"):
            for size in (28, 64):
                d = (10.0 + i) * (1 if size == 28 else 1.5) * (1 if estimator == "MLE" else 2)
                d += 100 * (name == "mnist" and size == 64)
                rows.append({"set": name, "size": size, "channels": 1, "estimator": estimator, "d": d})
    rows += [r | {"channels": 3, "d": 1.1 * r["d"]} for r in rows if r["set"] in ("cifar10", "cats_dogs")]
    found = {(c["first"], c["second"]): c for c in script._comparisons(rows)}
    sizes = found["MLE, 28 pixels, grey", "MLE, 64 pixels, grey"]
    assert (sizes["sets"], sizes["ratio_median"], sizes["ratio_low"]) == pytest.approx((12, 1.5, 1.5))
    assert sizes["low"] < sizes["correlation"] < sizes["high"] < 1
    color = found["MLE, 28 pixels, grey", "MLE, 28 pixels, color"]
    assert (color["sets"], color["ratio_high"]) == (2, pytest.approx(1.1))
    assert color["correlation"] is None
    assert "too few" in color["reason"]


def test_what_is_published_is_not_computed_again_and_a_missing_folder_is_said(script, monkeypatch, capsys):
    script.TABLES.mkdir(parents=True)
    (script.TABLES / "dimension_bias.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["script", "bias"])
    script.main()
    assert "--anew computes it again" in capsys.readouterr().out
    for arguments, says in ((["sets"], "--folder names none"), (["biass"], "there is no part biass")):
        monkeypatch.setattr("sys.argv", ["script", *arguments])
        with pytest.raises(SystemExit, match="2"):
            script.main()
        assert says in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["script", "means", "--seconds", "0"])
    monkeypatch.setattr(script, "clock", itertools.count().__next__)
    with pytest.raises(SystemExit, match="3"):
        script.main()


def test_the_table_of_peers_has_every_estimator_of_scikit_dimension_on_every_manifold():
    table = json.loads((TABLES / "dimension_others.json").read_text())
    rows = pd.DataFrame(table["rows"])
    names = {name for name, kind in vars(skdim.id).items() if isinstance(kind, type)}
    assert names <= set(rows["estimator"])
    assert set(BENCHMARK) <= set(rows["manifold"])
    assert (rows["estimate"].notna() | rows["reason"].notna()).all()
    wide = rows.pivot(index="manifold", columns="estimator", values="estimate")
    for name in ("MLE", "TwoNN"):
        assert wide[name].to_numpy() == pytest.approx(wide[f"{name}, ours"].to_numpy(), rel=1e-5)


def test_tables_hold_their_command_seeds_versions_and_no_path():
    parts = ("coverage", "means", "bias", "adjusted", "others", "sets")
    for part in parts:
        text = (TABLES / f"dimension_{part}.json").read_text(encoding="utf-8")
        table = json.loads(text)
        assert table["command"].startswith(f"python benchmarks/dimension_simulations.py {part}")
        assert table["seeds"]
        assert {"numpy", "scikit-dimension", "python"} <= set(table["versions"])
        assert "/home" not in text
        assert str(REPOSITORY.parent) + "/" not in text
        assert json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n" == text


# --------------------------------------------------------------------------------------- numbers and errors


def test_an_estimate_is_a_number():
    d = mle_dimension(flat_torus(100, 2), 5)
    assert isinstance(d, float)
    assert f"{d:.2f}" == f"{float(d):.2f}"
    assert f"{d}" == f"{float(d)}"
    assert json.dumps(d) == json.dumps(float(d))
    assert d + 1 == float(d) + 1
    assert sorted([3.0, d, 1.0])[1] is d
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert (other, other.low, other.high, other.method, other.n, other.k) == (d, d.low, d.high, d.method, 100, 5)
    plain_one = Estimate(2.5)
    assert math.isnan(plain_one.low)
    assert math.isnan(mle_dimension(flat_torus(100, 2), 5, interval=False).high)


X = np.random.default_rng(0).standard_normal((30, 3))


@pytest.mark.parametrize("estimate", [mle_dimension, twonn_dimension, lambda x: mle_profile(x, [5, 6])])
def test_copies_are_refused_and_counted(estimate):
    with pytest.raises(DuplicatePoints, match=r"4 of 32 points have an exact copy.*drop"):
        estimate(np.concatenate([X, X[:2]]))
    images = torus_images(50, 2, size=16)[0]
    images[7] = images[9]
    with pytest.raises(DuplicatePoints, match="2 of 50"):
        estimate(images)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mle_dimension(X, 1), r"k=1 leaves no ratio.*at least 2"),
        (lambda: mle_dimension(X, 2, norm="k-2"), r"k=2 leaves no ratio.*at least 3"),
        (lambda: mle_dimension(X, 30), r"k=30 neighbors.*k below 30"),
        (lambda: mle_dimension(X, norm="k"), r"norm='k' is unknown"),
        (lambda: mle_dimension(neighbors(X, 5), 6), r"hold 5 of each point and k=6 are needed"),
        (lambda: twonn_dimension(neighbors(X, 1)), r"hold 1 of each point"),
        (lambda: twonn_dimension(X, 1.0), r"discard=1.0 is no fraction"),
        (lambda: twonn_dimension(X, -0.1), r"discard=-0.1 is no fraction"),
        (lambda: twonn_dimension(X, 0.99), r"discard=0.99 of 30 points leaves no ratio"),
        (lambda: twonn_dimension(X, fit="spline"), r"fit='spline' is unknown"),
        (lambda: twonn_dimension(X[:2]), r"k=2 neighbors"),
        (lambda: mle_profile(X, []), r"ks is empty"),
        (lambda: mle_dimension(np.eye(20), 5), r"one and the same distance"),
        (lambda: mle_dimension(X, 5, group=np.zeros(3)), r"groups have shape \(3,\)"),
        (lambda: mle_dimension(neighbors(X, 5), 5, group=np.zeros(3)), r"groups have shape \(3,\)"),
        (lambda: mle_dimension(X[:, 0], 5), r"shape \(30,\)"),
        (lambda: mean_dimensions(X, per_class=5), r"need labels"),
    ],
)
def test_bad_input_ends_in_one_sentence(call, says):
    with pytest.raises(BadPoints, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_too_few_images_for_a_draw():
    with pytest.raises(TooFewImages, match="20"):
        mean_dimensions(X, np.arange(30) % 2, per_class=20, k=5)

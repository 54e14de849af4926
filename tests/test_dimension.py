"""Dimension estimators: closed forms, reference values, manifolds of known dimension, coverage of intervals."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import skdim
import torch
from scipy.stats import kstest

from intrinsic.dimension import (
    DuplicatePoints,
    Estimate,
    mean_dimensions,
    mle_dimension,
    mle_profile,
    twonn_dimension,
)
from intrinsic.images import ImageSet, TooFewImages, balanced_draws
from intrinsic.manifolds import ball, flat_torus, sphere, torus_images
from intrinsic.neighbors import BadPoints, neighbors


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


def test_estimates_agree_with_scikit_dimension():
    x = ball(300, 4, ambient=12, seed=4)
    assert mle_dimension(x, 15) == pytest.approx(skdim.id.MLE().fit(x, n_neighbors=15, comb="mle").dimension_, rel=1e-9)
    assert twonn_dimension(x, 0.1) == pytest.approx(skdim.id.TwoNN(0.1).fit(x).dimension_, rel=1e-9)
    other = skdim.id.TwoNN(0.1, method="mle").fit(x).dimension_  # the same with m - 1 in place of m
    assert twonn_dimension(x, 0.1, fit="likelihood") == pytest.approx(other * 270 / 269, rel=1e-9)


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


def test_few_points_and_few_groups_still_have_an_answer():
    x = np.random.default_rng(0).standard_normal((6, 2))
    assert math.isfinite(mle_dimension(x, 3))
    assert math.isfinite(twonn_dimension(x))
    one_group = mle_dimension(x, 3, group=np.zeros(6))
    assert math.isnan(one_group.low)
    two = mle_dimension(np.random.default_rng(0).standard_normal((40, 2)), 3, group=np.arange(40) // 20)
    assert two.low < two < two.high
    assert "t(1)" in two.method


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

"""Intrinsic dimension from nearest-neighbor distances, with intervals.

Where N points spread over a d-dimensional set, the number of them within distance r of a point grows as r^d. Both
estimators read d from ratios of distances, so neither depends on scale. Both are biased at finite N (edges,
curvature, high d), and their intervals are for the estimator's expectation at this N and k, not for the true d.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.stats import t as student

from intrinsic.images import balanced_draws
from intrinsic.neighbors import RELATIVE_ERROR, BadPoints, Neighbors, as_points, labels_and_group, neighbors

SPLITS = 25  # random halvings behind an interval
LEVEL = 0.95


class DuplicatePoints(ValueError):
    """Points at distance 0, where a logarithm of a distance is infinite."""


class Estimate(float):
    """A number with an interval: compares, computes and formats as a float.

    low, high  a 95 % interval for the estimator's expectation at this sample size; NaN where none was made
    method     how value and interval were made
    Further facts, such as n and k, are attributes.
    """

    def __new__(cls, value, low=math.nan, high=math.nan, method="", **facts):
        """The number `value` with its interval, method and further facts."""
        self = super().__new__(cls, value)
        self.low, self.high, self.method = float(low), float(high), method
        self.__dict__.update(facts)
        return self

    def __getnewargs__(self):
        return (float(self),)


def mle_dimension(x, k=20, *, norm="k-1", interval=True, group=None, seed=0):
    """Intrinsic dimension by maximum likelihood on k-nearest-neighbor distances.

        1 / d = mean_i  1/(k-1) * sum_{j<k} log( T_k(x_i) / T_j(x_i) )

    x         images, points (n, D), a tensor or Neighbors with at least k; the estimate does not depend on scale
    k         2 <= k < n, with norm "k-2" from 3
    norm      "k-1" as above, unbiased for 1/d; "k-2" is what Pope et al. (2021) and the paper's code divide by,
              which gives (k-2)/(k-1) of it
    interval  False leaves low and high NaN
    group     one a point; an ImageSet or Neighbors has its own: whole groups stay together in a half
    seed      of the halvings
    Raises DuplicatePoints where T_1 = 0.

    Interval: for the estimator's expectation at this n and k, not for the true dimension. The points (or groups)
    are split at random into halves A and B, SPLITS times, and log d is computed in each half from the neighbors it
    holds. The halves are independent samples of n/2, and the variance of log d goes as 1/n, so
        se^2 = mean over splits of (log d_A - log d_B)^2 / 4,    interval d exp(+- t se),
    t the quantile of Student's t with min(SPLITS, groups - 1) degrees of freedom. (A jackknife that deletes blocks
    and looks up the next neighbors gives a standard error 1.6 times too large, for TwoNN 1.7 times: the new
    neighbors add noise of their own. Deleting points but not neighbors gives one 15 to 20 % too small.)
    Measured coverage, at 95 %: tori, d = 2 and 5, n = 500 and 1,000 (300 to 400 samples each): MLE 94 to 97 %, TwoNN
    93 to 97 %; 100 groups of 6 near one another: 95 % and 95 % (77 % where groups are ignored).
    Source: Levina & Bickel 2004, eq. 8; inverses averaged as in MacKay & Ghahramani 2005; half-samples:
    McCarthy 1969; Shao & Tu 1995, chapter 5.
    """
    near = _near(x, k, group)
    return _mle(near, k, norm, interval, seed)


def mle_profile(x, ks, *, norm="k-1", interval=True, group=None, seed=0):
    """mle_dimension for each k in ks, from one pass: a list of Estimates, each with its k.

    A dimension that changes much with k is a dimension of that scale only.
    """
    ks = [int(k) for k in ks]
    if not ks:
        raise BadPoints("ks is empty, so there is no estimate to make: give at least one k")
    near = _near(x, max(ks), group)
    return [_mle(near, k, norm, interval, seed) for k in ks]


def twonn_dimension(x, discard=0.1, *, fit="line", interval=True, group=None, seed=0):
    """Intrinsic dimension from the ratio of the second to the first neighbor's distance.

        mu_i = T_2(x_i) / T_1(x_i),  sorted,   F_i = i / n,
        d = sum_i x_i y_i / sum_i x_i^2   over i <= (1 - discard) n,   x_i = log mu_i,  y_i = -log(1 - F_i)

    the slope, through the origin, of a line that a Pareto law of exponent d follows.

    x         as for mle_dimension; a Neighbors needs k >= 2
    discard   fraction of the largest ratios left out, 0 <= discard < 1. F_n = 1 cannot be drawn, so discard=0
              leaves out the largest ratio alone: this is what the paper's code does
    fit       "line" as above; "likelihood": m / (sum_{i<=m} x_i + (n - m) x_m), m = floor((1 - discard) n), the
              maximum likelihood where larger ratios are only known to be larger; n / sum log mu for discard=0
    interval, group, seed    as for mle_dimension
    Raises DuplicatePoints where T_1 = 0.
    Source: Facco et al. 2017, eq. 5, with their F_i = i/n (some codes use (i-1)/n).
    """
    near = _near(x, 2, group)
    if not 0 <= discard < 1:
        raise BadPoints(f"discard={discard} is no fraction of points to leave out: give 0 <= discard < 1")
    if fit not in ("line", "likelihood"):
        raise BadPoints(f'fit={fit!r} is unknown, so no dimension can be fitted: give "line" or "likelihood"')
    if _kept(near.n, discard, fit) < 1:
        raise BadPoints(f"discard={discard} of {near.n} points leaves no ratio to fit: give a smaller fraction")

    def inverse(values):
        return _twonn_inverse(values, discard, fit)

    return _estimate(near, 2, inverse, interval, seed, f"TwoNN, {fit}, discard {discard:g}")


def mean_dimensions(
    x, y=None, *, per_class=250, draws=25, k=20, group=None, exclude_group=False, interval=True, seed=0
):
    """(MLE, TwoNN), each the mean over seeded balanced draws of per_class points of each class.

    Both estimates change with n, so sets of different size are compared at one. The draws are those of
    images.balanced_draws(labels, per_class, draws, seed); norm is "k-1", discard 0.1, fit "line".

    x, y           as for sharpness.mean_sharpness
    exclude_group  points of the same group do not count as neighbors
    The interval is for the expectation over the population, not over draws alone: a split halves all draws at once,
    so that the halves share no point, and the mean over draws is compared between them as in mle_dimension. This
    holds at any ratio of per_class to the size of a class: measured coverage on tori, d = 5, per_class = 100, classes
    of 1, 2 and 5 times as many (150 samples each): 95 to 97 %.
    Raises BadPoints, DuplicatePoints, images.TooFewImages.
    """
    points = as_points(x)
    labels, group = labels_and_group(x, y, group)
    if labels is None:
        raise BadPoints("balanced draws need labels, and there are none: give y, one a point")
    codes = np.unique(labels, return_inverse=True)[1]
    halves = _halves(points.n, group, seed) if interval else []
    kinds = (
        ("MLE, k-1", k, np.mean),
        ("TwoNN, line, discard 0.1", 2, lambda values: _twonn_inverse(values, 0.1, "line")),
    )
    values, split = ([], []), ([], [])
    for chosen in balanced_draws(codes, per_class, draws, seed):
        own = None if group is None else group[chosen]
        near = neighbors(points.take(chosen), k, group=own, exclude_group=exclude_group)
        for kind, (_, used, inverse) in enumerate(kinds):
            values[kind].append(1 / _whole(near, used, inverse))
            split[kind].append(1 / _both_halves(near, used, inverse, [a[chosen] for a in halves]))
    n = per_class * (codes.max() + 1)
    return tuple(
        _with_interval(
            np.mean(values[kind]),
            np.log(np.mean(split[kind], axis=0)),
            _degrees(points.n, group),
            f"{title}, mean of {draws} balanced draws",
            {"n": int(n), "k": used, "per_class": per_class, "draws": draws},
        )
        for kind, (title, used, _) in enumerate(kinds)
    )


# ---------------------------------------------------------------------------------------------------- parts


def _near(x, k, group):
    """Neighbors of x with at least k, and with these groups."""
    if not isinstance(x, Neighbors):
        return neighbors(as_points(x), k, group=labels_and_group(x, None, group)[1])
    if x.k < k:
        raise BadPoints(f"these Neighbors hold {x.k} of each point and k={k} are needed: make them with k={k}")
    return x if group is None else replace(x, group=labels_and_group(x, None, group)[1])


def _mle(near, k, norm, interval, seed):
    if norm not in ("k-1", "k-2"):
        raise BadPoints(f'norm={norm!r} is unknown, so the estimate is undefined: give "k-1" or "k-2"')
    least = 2 if norm == "k-1" else 3
    if k < least:
        raise BadPoints(f'k={k} leaves no ratio of distances to average: norm "{norm}" needs k of at least {least}')
    factor = 1 if norm == "k-1" else (k - 1) / (k - 2)
    return _estimate(near, k, lambda v: factor * v.mean(), interval, seed, f"MLE, {norm}")


def _twonn_inverse(values, discard, fit):
    """1 / d from log(T_2 / T_1) of each point."""
    values = np.sort(values)
    n, kept = len(values), _kept(len(values), discard, fit)
    x = values[:kept]
    if fit == "likelihood":
        return (x.sum() + (n - kept) * x[-1]) / kept
    y = -np.log1p(-np.arange(1, kept + 1) / n)
    return (x @ x) / (x @ y)


def _kept(n, discard, fit):
    """How many of n ratios are used; the line cannot use the largest, where F = 1."""
    return min(math.floor(n * (1 - discard) + 1e-9), n - 1 if fit == "line" else n)


def _estimate(near, k, inverse, interval, seed, title):
    """Estimate whose inverse is `inverse` of the log ratios of each point."""
    value = 1 / _whole(near, k, inverse)
    halves = _halves(near.n, near.group, seed) if interval else []
    split = -np.log(_both_halves(near, k, inverse, halves))
    return _with_interval(value, split, _degrees(near.n, near.group), title, {"n": near.n, "k": k})


def _with_interval(value, split, degrees, title, facts):
    """Estimate with the interval of `split`: log d of both halves of each split, (splits, 2) or empty."""
    if not split.size:
        return Estimate(value, method=title, **facts)
    half = student.ppf((1 + LEVEL) / 2, degrees) * math.sqrt(np.mean((split[:, 0] - split[:, 1]) ** 2) / 4)
    method = f"{title}; half-samples, {len(split)} splits, t({degrees})"
    return Estimate(value, value * math.exp(-half), value * math.exp(half), method, **facts)


def _whole(near, k, inverse):
    """The statistic of all points; raises where it is not defined."""
    copies = int((near.distances[:, 0] == 0).sum())
    if copies:
        raise DuplicatePoints(
            f"{copies} of {near.n} points have an exact copy, where the logarithm of T_k/T_1 is infinite; "
            "drop copies first: images = images.drop_duplicates(), or points = np.unique(points, axis=0)"
        )
    near_log = np.log(near.distances[:, :k])
    values = _log_ratios(near_log, np.ones(near_log.shape, dtype=bool))
    if values.max() < 4 * RELATIVE_ERROR:
        raise BadPoints(
            f"every point has its {k} nearest neighbors at one and the same distance, which no dimension explains: "
            "these points are no sample of a manifold"
        )
    return inverse(values)


def _both_halves(near, k, inverse, halves):
    """The statistic in both halves of each split, (splits, 2), from the neighbors among the points of each.

    Neighbors in the other half are replaced by the next ones at hand, the 3k + 20 nearest in all. Where these do
    not reach k, which takes a large group in the other half, the fewer there are count, as unbiased for 1/d as k
    are; a point with fewer than 2 is left out.
    """
    distances, index = near.nearest(min(3 * k + 20, near.n - 1))
    known = index >= 0
    logs = np.log(np.where(known, distances, 1.0))
    found = []
    for half in halves:
        mine = known & (half[index] == half[:, None])
        mine &= np.cumsum(mine, axis=1, dtype=np.int32) <= k
        found.append([inverse(_log_ratios(logs[side], mine[side])) for side in (half, ~half)])
    return np.array(found)


def _log_ratios(logs, used):
    """1/(m-1) sum_{j<m} log(T_m/T_j) of each point, over its m used neighbors; points with m < 2 are left out.

    logs  log T_j, ascending, (n, columns); used  bool, the same shape
    """
    enough = used.sum(axis=1) >= 2
    logs, used = logs[enough], used[enough]
    count = used.sum(axis=1)
    last = np.where(used, logs, -np.inf).max(axis=1)
    return (count * last - np.where(used, logs, 0.0).sum(axis=1)) / (count - 1)


def _halves(n, group, seed):
    """SPLITS random halves, bool (n,), of the points or of whole groups; empty where there is one group only."""
    units = np.arange(n) if group is None else group
    n_units = int(units.max()) + 1
    if n_units < 2:
        return []
    rng = np.random.default_rng(seed)
    return [(rng.permutation(n_units) < n_units // 2)[units] for _ in range(SPLITS)]


def _degrees(n, group):
    return max(1, min(SPLITS, (n if group is None else int(group.max()) + 1) - 1))

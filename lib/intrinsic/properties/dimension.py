"""Intrinsic dimension from nearest-neighbor distances, with intervals.

Where N points spread over a d-dimensional set, the number of them within distance r of a point grows as r^d. Both
estimators read d from ratios of distances, so neither depends on scale. Both are biased at finite N (edges,
curvature, high d), and their intervals are for the estimator's expectation at this N and k, not for the true d.

Half-sample interval: the points (or groups) are split at random into halves A and B, SPLITS times, and log d is taken
in each half from the neighbors it holds. The halves are independent samples of n/2, and the variance of log d goes as
1/n, so se^2 = mean over splits of (log d_A - log d_B)^2 / 4, and the interval is d exp(+- t se). Measured coverage:
benchmarks/dimension_simulations.py.
"""

import math
from dataclasses import replace

import numpy as np

from intrinsic.properties.interval import Interval, degrees, half_sample, halves
from intrinsic.properties.neighbors import RELATIVE_ERROR, BadPoints, Neighbors, as_points, neighbors
from intrinsic.properties.products import labels_and_group
from intrinsic.properties.selection import compiled

DISCARD = 0.1  # share of the largest ratios that TwoNN leaves out
TITLES = {"mle": "MLE, k-1", "twonn": f"TwoNN, line, discard {DISCARD:g}"}


class DuplicatePoints(ValueError):
    """Points at distance 0, where a logarithm of a distance is infinite."""


def mle_dimension(x, k=20, *, interval=True, group=None, seed=0) -> Interval:
    """Estimate the intrinsic dimension by maximum likelihood on k-nearest-neighbor distances.

        1 / d = mean_i  1/(k-1) * sum_{j<k} log( T_k(x_i) / T_j(x_i) )

    which is unbiased for 1/d. Pope et al. (2021) and the paper's code have k-2 in place of k-1.

    Parameters
    ----------
    x : ImageSet, array (n, ...), tensor or Neighbors
        Images or points; Neighbors hold at least k. The estimate does not depend on scale.
    k : int
        Neighbors, 2 <= k < n.
    interval : bool
        False leaves low and high NaN.
    group : array (n,), optional
        Whole groups stay together in a half; an ImageSet or Neighbors has its own.
    seed : int
        Seed of the halvings.

    Returns
    -------
    Interval
        With facts k and excludes_group.

    Raises
    ------
    DuplicatePoints
        Where a point has an exact copy.
    BadPoints
        Where k does not fit, or all neighbors are at one distance.

    References
    ----------
    Levina & Bickel 2004, eq. 8; inverses averaged as in MacKay & Ghahramani 2005; half-samples: McCarthy 1969.

    Examples
    --------
    >>> import numpy as np
    >>> square = np.random.default_rng(0).random((1000, 2))
    >>> mle_dimension(square)
    1.93 [1.9, 1.97]
    """
    if k < 2:
        raise BadPoints(f"k={k} leaves no ratio of distances to average: give k of at least 2")
    return _estimate(x, "mle", k, interval, group, seed, norm="k-1")


def twonn_dimension(x, *, interval=True, group=None, seed=0) -> Interval:
    """Estimate the intrinsic dimension from the ratio of the second to the first neighbor's distance.

        mu_i = T_2(x_i) / T_1(x_i),  sorted,   F_i = i / n,
        d = sum_i u_i v_i / sum_i u_i^2   over i <= 0.9 n,   u_i = log mu_i,  v_i = -log(1 - F_i)

    the slope, through the origin, of a line that a Pareto law of exponent d follows.

    Parameters
    ----------
    x, interval, group, seed
        As for mle_dimension; Neighbors hold at least 2.

    Returns
    -------
    Interval
        NaN where no ratio that is kept is above 1, as on a grid.

    Raises
    ------
    DuplicatePoints, BadPoints
        As mle_dimension.

    References
    ----------
    Facco et al. 2017, eq. 5, with their F_i = i/n.

    Examples
    --------
    >>> import numpy as np
    >>> square = np.random.default_rng(0).random((1000, 2))
    >>> twonn_dimension(square)
    1.93 [1.77, 2.1]
    """
    return _estimate(x, "twonn", 2, interval, group, seed, discard=DISCARD)


def mean_dimensions(x, y=None, *, per_class=250, draws=25, k=20, group=None, interval=True, seed=0):
    """Average both estimates over seeded balanced draws of M images a class, which makes sets of any size comparable.

    x, y, interval, seed   as for label_sharpness; the draws are those of mean_sharpness
    per_class, draws       M, images of each class in a draw, and how many draws
    k                      neighbors of the MLE
    group                  where it is given, points of the same group do not count as neighbors

    Returns two Intervals, MLE and TwoNN, for the expectation over the population: a split halves all draws at once, and
    the means over draws are compared between the halves. Raises BadPoints, DuplicatePoints, images.TooFewImages.
    """
    from intrinsic.images.splits import balanced_draws

    points, exclude_group = as_points(x), group is not None
    labels, group = labels_and_group(x, y, group, points.n)
    classes, codes = np.unique(labels, return_inverse=True)
    split = halves(points.n, group, seed) if interval else ()
    used, found = {"mle": k, "twonn": 2}, {"mle": [], "twonn": []}
    for chosen in balanced_draws(codes, per_class, draws, seed):
        own = None if group is None else group[chosen]
        deep, within = reserve(k) if interval else 0, [half[chosen] for half in split]
        near = neighbors(points.take(chosen), k, group=own, exclude_group=exclude_group, reserve=deep)
        for name, of in used.items():
            found[name].append(_all_and_halves(near, name, of, within))
    facts = {"n": per_class * len(classes), "per_class": per_class, "draws": draws, "excludes_group": exclude_group}
    freedom, out = degrees(points.n, group), []
    for name, of in used.items():
        value, sides = (np.mean(part, axis=0) for part in zip(*found[name], strict=True))
        method = f"{TITLES[name]}, mean of {draws} balanced draws"
        out.append(half_sample(value, sides, freedom, method=method, k=of, **facts))
    return tuple(out)


def reserve(k):
    """How many neighbors of each point an interval needs, so that k of them are in its own half."""
    return 3 * k + 20


def _estimate(x, name, k, interval, group, seed, **facts):
    """Interval of a dimension."""
    if not isinstance(x, Neighbors):
        points = as_points(x)
        near = neighbors(points, k, group=labels_and_group(x, None, group, points.n)[1], reserve=reserve(k))
    elif x.k < k:
        raise BadPoints(f"these Neighbors hold {x.k} of each point and k={k} are needed: make them with k={k}")
    else:
        near = x if group is None else replace(x, group=labels_and_group(x, None, group, x.n)[1])
    split = halves(near.n, near.group, seed) if interval else ()
    value, sides = _all_and_halves(near, name, k, split)
    facts = {"estimator": name, **facts, "k": k, "excludes_group": near.excludes_group}
    return half_sample(value, sides, degrees(near.n, near.group), method=TITLES[name], n=near.n, **facts)


def _all_and_halves(near, name, k, split):
    """The dimension of all points, and in both halves of each split; raises where it is not defined.

    In a half, neighbors in the other half are replaced by the next ones at hand, the 3k + 20 nearest in all. Where
    these do not reach k, which takes a large group in the other half, the fewer there are count, as unbiased for 1/d as
    k are; a point with fewer than 2 is left out.
    """
    copies = int((near.distances[:, 0] == 0).sum())
    if copies:
        raise DuplicatePoints(
            f"{copies} of {near.n} points have an exact copy, where log(T_k/T_1) is infinite: "
            "drop copies first, with images.drop_duplicates() or np.unique(points, axis=0)"
        )
    distances, index = near.nearest(reserve(k) if len(split) else k)
    logs = np.log(np.where(index >= 0, distances, 1.0))
    values = (k * logs[:, k - 1] - logs[:, :k].sum(axis=1)) / (k - 1)
    if values.max() < 4 * RELATIVE_ERROR:
        raise BadPoints(f"all {k} nearest neighbors are at one distance, so these points sample no manifold")
    inverse, sides = _mean if name == "mle" else _line, []
    for half in split:
        ratios = _ratios(logs, index, half, k)
        known = np.isfinite(ratios)
        sides.append([1 / inverse(ratios[side & known]) for side in (half, ~half)])
    return 1 / inverse(values), sides


def _mean(ratios):
    """1 / d of the MLE from 1/(k-1) sum_j log(T_k / T_j) of each point."""
    return ratios.mean() if len(ratios) else math.nan


def _line(ratios):
    """1 / d of a TwoNN line from log(T_2 / T_1) of each point; the line cannot use the largest, where F = 1."""
    n = len(ratios)
    u = np.sort(ratios)[: min(math.floor(n * (1 - DISCARD) + 1e-9), n - 1)]
    if not (u > 4 * RELATIVE_ERROR).any():  # none, or none is nearer to one neighbor than to another
        return math.nan
    return (u @ u) / (u @ -np.log1p(-np.arange(1, len(u) + 1) / n))


@compiled()
def _ratios(logs, index, half, k):
    """1/(m-1) sum_{j<m} log(T_m/T_j) of each point over its m <= k nearest in its own half; NaN for m < 2."""
    out = np.full(len(logs), np.nan)
    for i in range(len(logs)):
        m, total, last = 0, 0.0, 0.0
        for c in range(logs.shape[1]):
            j = index[i, c]
            if j < 0 or m == k:
                break
            if half[j] == half[i]:
                m, last = m + 1, logs[i, c]
                total += last
        if m >= 2:
            out[i] = (m * last - total) / (m - 1)
    return out

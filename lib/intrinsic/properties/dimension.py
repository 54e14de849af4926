"""Intrinsic dimension from nearest-neighbor distances, with intervals.

Where N points spread over a d-dimensional set, the number of them within distance r of a point grows as r^d. Both
estimators read d from ratios of distances, so neither depends on scale. Both are biased at finite N (edges,
curvature, high d), and their intervals are for the estimator's expectation at this N and k, not for the true d.
How far that expectation is from the true d on manifolds where d is known is `expected_dimension`; what a value would
mean on one of them is `bias_adjusted`. `other_dimension` reaches every estimator of scikit-dimension.

Coverage and bias quoted here are measured by benchmarks/dimension_simulations.py, in the tables
book/methods/tables/dimension_*.json.
"""

import contextlib
import difflib
import inspect
import io
import math
import warnings
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

from intrinsic.images import ImageSet, balanced_draws, manifolds
from intrinsic.properties.neighbors import (
    RELATIVE_ERROR,
    BadPoints,
    Neighbors,
    Points,
    as_points,
    labels_and_group,
    neighbors,
)
from intrinsic.properties.tiles import KEEP_POINTS

SPLITS = 25  # random halvings behind an interval
LEVEL = 0.95
REFERENCES = {"flat_torus": manifolds.flat_torus, "cube": manifolds.cube, "sphere": manifolds.sphere}
REFERENCE_DIMENSIONS = range(1, 41)  # in which a reference manifold is simulated
REFERENCE_POINTS = 8_000  # in the samples of a reference together, at least; and at least REFERENCE_SAMPLES of them
REFERENCE_SAMPLES = 8


class DuplicatePoints(ValueError):
    """Points at distance 0, where a logarithm of a distance is infinite."""


class OutsideReference(ValueError):
    """An estimate that a reference manifold does not give at any dimension simulated, or that has none of its own."""


class EstimatorFailed(ValueError):
    """An estimator of scikit-dimension that ends in an error or in no finite number."""


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
    t the quantile of Student's t with min(SPLITS, groups - 1) degrees of freedom.
    Coverage: 91.0 to 96.7 % over flat tori (d = 1 to 20), a sphere, a cube, a Gaussian cloud, images and groups of near
    points, n = 200 to 2,000, MLE and TwoNN: dimension_coverage.json. Where groups are there and ignored, intervals are
    wrong: 79.7 to 82.3 % (MLE), 98.7 to 100.0 % (TwoNN).
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
    NaN where no ratio that is kept is above 1: as on a grid, whose points have several neighbors at one distance.
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

    facts = {"estimator": "twonn", "discard": discard, "fit": fit}
    return _estimate(near, 2, inverse, interval, seed, f"TwoNN, {fit}, discard {discard:g}", facts)


def mean_dimensions(
    x, y=None, *, per_class=250, draws=25, k=20, group=None, exclude_group=False, interval=True, seed=0
):
    """(MLE, TwoNN), each the mean over seeded balanced draws of per_class points of each class.

    Both estimates change with n, so sets of different size are compared at one. The draws are those of
    images.balanced_draws(labels, per_class, draws, seed); norm is "k-1", discard 0.1, fit "line".

    x, y           as for sharpness.mean_sharpness
    exclude_group  points of the same group do not count as neighbors
    The interval is for the expectation over the population, not over draws alone: a split halves all draws at once,
    so that the halves share no point, and the mean over draws is compared between them as in mle_dimension.
    Coverage: 91.7 to 98.3 % over flat tori and groups of near points, classes of 1 to 5 times per_class points:
    dimension_means.json.
    Up to 8,000 points there is one pass over all of them, or none where x is a Neighbors.
    Raises BadPoints, DuplicatePoints, images.TooFewImages.
    """
    points = as_points(x)
    labels, group = labels_and_group(x, y, group)
    if labels is None:
        raise BadPoints("balanced draws need labels, and there are none: give y, one a point")
    codes = np.unique(labels, return_inverse=True)[1]
    halves = _halves(points.n, group, seed) if interval else []
    kinds = (
        ("MLE, k-1", k, np.mean, {"estimator": "mle", "norm": "k-1"}),
        (
            "TwoNN, line, discard 0.1",
            2,
            lambda values: _twonn_inverse(values, 0.1, "line"),
            {"estimator": "twonn", "discard": 0.1, "fit": "line"},
        ),
    )
    values, split = ([], []), ([], [])
    chosen_draws = balanced_draws(codes, per_class, draws, seed)
    everything = _pass_over_all(x, points, k, group, exclude_group)
    for chosen in chosen_draws:
        if everything is not None:
            near = everything.subset(chosen, k)
        else:
            own = None if group is None else group[chosen]
            near = neighbors(points.take(chosen), k, group=own, exclude_group=exclude_group)
        for kind, (_, used, inverse, _) in enumerate(kinds):
            values[kind].append(1 / _whole(near, used, inverse))
            if halves:
                split[kind].append(1 / _both_halves(near, used, inverse, [a[chosen] for a in halves]))
    n = per_class * (codes.max() + 1)
    return tuple(
        _with_interval(
            np.mean(values[kind]),
            np.log(np.mean(split[kind], axis=0)) if halves else np.empty((0, 2)),
            _degrees(points.n, group),
            f"{title}, mean of {draws} balanced draws",
            {"n": int(n), "k": used, "per_class": per_class, "draws": draws, "excludes_group": bool(exclude_group)}
            | facts,
        )
        for kind, (title, used, _, facts) in enumerate(kinds)
    )


# ---------------------------------------------------------------------------------------------------- bias


def expected_dimension(
    reference, d, n, k=20, *, estimator="mle", norm="k-1", discard=0.1, fit="line", samples=None, seed=0
):
    """(mean, standard error) of an estimate over samples of a manifold whose dimension is known.

        E_ref(d) = mean over samples s of  estimate( reference(n, d, seed=s) )

    reference  a name in REFERENCES: "flat_torus" (no edge), "cube" (edges), "sphere" (no edge, curved), uniform each
    d, n, k    its dimension, in REFERENCE_DIMENSIONS; points of a sample; neighbors (2 for TwoNN)
    estimator  "mle" with norm, or "twonn" with discard and fit, as in mle_dimension and twonn_dimension
    samples    by default as many as hold REFERENCE_POINTS points together, at least REFERENCE_SAMPLES
    E_ref(d) - d is the bias on that manifold at this n and k, and on no other.
    Raises BadPoints.
    """
    _reference(reference)
    if isinstance(d, bool) or d not in REFERENCE_DIMENSIONS:
        raise BadPoints(
            f"d={d} is no dimension in which a reference is simulated: give a whole number from "
            f"{REFERENCE_DIMENSIONS[0]} to {REFERENCE_DIMENSIONS[-1]}"
        )
    if estimator not in ("mle", "twonn"):
        raise BadPoints(f'estimator={estimator!r} has no simulated expectation: give "mle" or "twonn"')
    if samples is None:
        samples = max(REFERENCE_SAMPLES, -(-REFERENCE_POINTS // n))
    if samples < 2:
        raise BadPoints(f"samples={samples} leave the standard error unknown: give at least 2")
    options = (norm,) if estimator == "mle" else (discard, fit)
    found = [_reference_estimate(reference, int(d), n, k, estimator, options, (seed, s)) for s in range(samples)]
    return float(np.mean(found)), float(np.std(found, ddof=1) / math.sqrt(samples))


def bias_adjusted(estimate, reference="flat_torus", *, samples=None, seed=0):
    """The dimension at which a reference manifold gives this estimate on average, at the same n and k.

        d_ref = E_ref^(-1)(estimate),    E_ref(d) = expected_dimension(reference, d, n, k)

    between whole d by a straight line in log E_ref. It says "these points look like a `reference` of dimension d_ref"
    and no more: on a set with other edges, bends or density it may be further from the truth than the estimate
    (measured: book/methods/tables/dimension_adjusted.json). It is not the dimension of the set.

    estimate  of mle_dimension, mle_profile, twonn_dimension or mean_dimensions; its n, k and options are used
    reference, samples, seed    as for expected_dimension; takes seconds at n = 1,000
    Returns an Estimate with facts reference, unadjusted (the estimate), reference_error (relative standard error of
    E_ref where it was inverted), n, k. The interval is the estimate's own, carried through the monotone map, so it
    is for d_ref of the expectation; an end beyond the simulated dimensions is NaN, and `reason` says so.
    Raises OutsideReference where the estimate itself is beyond them, or left out neighbors of the same group.
    """
    _reference(reference)
    if not isinstance(estimate, Estimate) or getattr(estimate, "estimator", None) not in ("mle", "twonn"):
        raise OutsideReference(
            "this is no Estimate of mle_dimension or twonn_dimension, so its n, k and options are unknown and there is "
            "nothing to invert: give one of theirs"
        )
    if estimate.excludes_group:
        raise OutsideReference(
            f"this estimate leaves out neighbors of the same group, and a {reference} has no groups to leave out: "
            "give an estimate from all neighbors"
        )
    names = ("norm",) if estimate.estimator == "mle" else ("discard", "fit")
    options = {"estimator": estimate.estimator} | {name: getattr(estimate, name) for name in names}

    def expectation(d):
        return expected_dimension(reference, d, estimate.n, estimate.k, **options, samples=samples, seed=seed)

    value, error = _inverted(float(estimate), expectation)
    where = f"{reference}s of dimension {REFERENCE_DIMENSIONS[0]} to {REFERENCE_DIMENSIONS[-1]}"
    if math.isnan(value):
        raise OutsideReference(
            f"the estimate {float(estimate):.3g} at n = {estimate.n} and k = {estimate.k} is not among those of "
            f"{where}, so nothing can be inverted: take another reference or leave the estimate as it is"
        )
    ends = [_inverted(end, expectation)[0] if math.isfinite(end) else end for end in (estimate.low, estimate.high)]
    lost = any(math.isnan(end) for end in ends) and math.isfinite(estimate.low)
    facts = {
        "n": estimate.n,
        "k": estimate.k,
        "reference": reference,
        "unadjusted": float(estimate),
        "reference_error": error,
        "reason": f"an end of the interval is not among the estimates of {where}" if lost else "",
    }
    return Estimate(value, *ends, f"{estimate.method}; as a {reference} of the same n and k", **facts)


# -------------------------------------------------------------------------------- estimators of scikit-dimension


def other_dimension(x, estimator="lPCA", *, interval=False, group=None, seed=0, **options):
    """Intrinsic dimension by an estimator of scikit-dimension.

    x          images or points (n, D), or a tensor; not Neighbors, since most of these estimators read coordinates
    estimator  a class of skdim.id: CorrInt, DANCo, ESS, FisherS, GRIDE, KNN, lPCA, MADA, MiND_ML, MLE, MOM, PH, TLE,
               TwoNN
    options    what its constructor takes, and what its fit takes (n_neighbors, comb)
    interval   True: half-samples as in mle_dimension, by fitting 2 SPLITS times; an estimator that gives whole numbers
               may have an interval of length 0
    seed       of the estimator where it draws random numbers, and of the halvings
    Its MLE (comb="mle", unbiased=False) and TwoNN (method="linear") are mle_dimension and twonn_dimension.
    The Estimate has facts n, estimator, options, and warnings, the texts of those that were raised.
    Raises BadPoints (unknown estimator or option), DuplicatePoints, EstimatorFailed.
    Source: Bac et al. 2021, Entropy 23, 1368; each estimator's own source is in its docstring.
    """
    kind = _skdim_class(estimator)
    if isinstance(x, Neighbors | Points):
        raise BadPoints(
            f"{estimator} reads coordinates, and Neighbors hold distances: give the images or points themselves"
        )
    rows, group = _rows(x), labels_and_group(x, None, group)[1]
    made, fitted = _skdim_options(kind, estimator, options, seed)
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
    _, position, counts = np.unique(whole, return_inverse=True, return_counts=True)
    _refuse_copies(int((counts[position] > 1).sum()), len(rows))
    value, said = _skdim_fit(kind, estimator, rows, made, fitted)
    facts = {"n": len(rows), "estimator": estimator, "options": dict(options), "warnings": said}
    title = f"scikit-dimension, {estimator}"
    if not interval:
        return Estimate(value, method=title, **facts)
    halves = _halves(len(rows), group, seed)
    split = np.array(
        [[_skdim_fit(kind, estimator, rows[side], made, fitted)[0] for side in (half, ~half)] for half in halves]
    )
    if value <= 0 or (split <= 0).any():
        raise EstimatorFailed(
            f"{estimator} gives {min(value, split.min(initial=value)):.3g} for these points or half of them, which has "
            "no logarithm and so no interval: use interval=False"
        )
    return _with_interval(value, np.log(split), _degrees(len(rows), group), title, facts)


# ---------------------------------------------------------------------------------------------------- parts


def _near(x, k, group):
    """Neighbors of x with at least k, and with these groups."""
    if not isinstance(x, Neighbors):
        points, group = as_points(x), labels_and_group(x, None, group)[1]
        return neighbors(points, k, group=group, keep=False, reserve=min(reserve(k), points.n - 1))
    if x.k < k:
        raise BadPoints(f"these Neighbors hold {x.k} of each point and k={k} are needed: make them with k={k}")
    return x if group is None else replace(x, group=labels_and_group(x, None, group)[1])


def reserve(k):
    """How many neighbors of each point an interval needs, so that k of them are in its own half."""
    return 3 * k + 20


def _pass_over_all(x, points, k, group, exclude_group):
    """Neighbors whose subsets serve the draws: x itself where it is of the same kind; None above 8,000 points."""
    same = isinstance(x, Neighbors) and x.excludes_group == bool(exclude_group)
    if same and (not exclude_group or np.array_equal(x.group, group)):
        return x
    if points.n > KEEP_POINTS or not 1 <= k < points.n:
        return None
    return neighbors(points, k, group=group, exclude_group=exclude_group)


def _mle(near, k, norm, interval, seed):
    if norm not in ("k-1", "k-2"):
        raise BadPoints(f'norm={norm!r} is unknown, so the estimate is undefined: give "k-1" or "k-2"')
    least = 2 if norm == "k-1" else 3
    if k < least:
        raise BadPoints(f'k={k} leaves no ratio of distances to average: norm "{norm}" needs k of at least {least}')
    factor = 1 if norm == "k-1" else (k - 1) / (k - 2)
    facts = {"estimator": "mle", "norm": norm}

    def inverse(values):  # no point of a half may have two neighbors in it
        return factor * values.mean() if len(values) else math.nan

    return _estimate(near, k, inverse, interval, seed, f"MLE, {norm}", facts)


def _twonn_inverse(values, discard, fit):
    """1 / d from log(T_2 / T_1) of each point."""
    values = np.sort(values)
    n, kept = len(values), _kept(len(values), discard, fit)
    x = values[:kept]
    if not (x > 4 * RELATIVE_ERROR).any():  # none, or none is nearer to one neighbor than to another
        return math.nan
    if fit == "likelihood":
        return (x.sum() + (n - kept) * x[-1]) / kept
    y = -np.log1p(-np.arange(1, kept + 1) / n)
    return (x @ x) / (x @ y)


def _kept(n, discard, fit):
    """How many of n ratios are used; the line cannot use the largest, where F = 1."""
    return min(math.floor(n * (1 - discard) + 1e-9), n - 1 if fit == "line" else n)


def _estimate(near, k, inverse, interval, seed, title, facts):
    """Estimate whose inverse is `inverse` of the log ratios of each point."""
    value = 1 / _whole(near, k, inverse)
    halves = _halves(near.n, near.group, seed) if interval else []
    split = -np.log(_both_halves(near, k, inverse, halves))
    facts = {"n": near.n, "k": k, "excludes_group": near.excludes_group} | facts
    return _with_interval(value, split, _degrees(near.n, near.group), title, facts)


def _with_interval(value, split, degrees, title, facts):
    """Estimate with the interval of `split`: log d of both halves of each split, (splits, 2) or empty."""
    split = split[np.isfinite(split).all(axis=1)] if split.size else split
    if not len(split):
        return Estimate(value, method=title, **facts)
    half = student.ppf((1 + LEVEL) / 2, degrees) * math.sqrt(np.mean((split[:, 0] - split[:, 1]) ** 2) / 4)
    method = f"{title}; half-samples, {len(split)} splits, t({degrees})"
    return Estimate(value, value * math.exp(-half), value * math.exp(half), method, **facts)


def _refuse_copies(copies, n):
    if copies:
        raise DuplicatePoints(
            f"{copies} of {n} points have an exact copy, where the logarithm of T_k/T_1 is infinite; "
            "drop copies first: images = images.drop_duplicates(), or points = np.unique(points, axis=0)"
        )


def _whole(near, k, inverse):
    """The statistic of all points; raises where it is not defined."""
    _refuse_copies(int((near.distances[:, 0] == 0).sum()), near.n)
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
    if not halves:
        return np.empty((0, 2))
    distances, index = near.nearest(min(reserve(k), near.n - 1))
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


def _reference(name):
    if name not in REFERENCES:
        close = difflib.get_close_matches(str(name), REFERENCES, n=1)
        raise BadPoints(
            f"reference={name!r} is no manifold that is simulated{_meant(close)}: give one of {', '.join(REFERENCES)}"
        )


def _meant(close):
    return f" (did you mean {close[0]!r}?)" if close else ""


@lru_cache(maxsize=64)
def _reference_distances(reference, d, n, k, seed):
    """T_1 to T_k of one sample of a reference manifold, as Neighbors."""
    sample = int(np.random.SeedSequence([REFERENCE_DIMENSIONS[-1], *seed, d, n]).generate_state(1)[0])
    return neighbors(REFERENCES[reference](n, d, seed=sample), k, keep=False)


@lru_cache(maxsize=4096)
def _reference_estimate(reference, d, n, k, estimator, options, seed):
    near = _reference_distances(reference, d, n, k, seed)
    if estimator == "mle":
        return float(mle_dimension(near, k, norm=options[0], interval=False))
    return float(twonn_dimension(near, options[0], fit=options[1], interval=False))


def _inverted(value, expectation):
    """(d, relative standard error) with expectation(d) = value; NaN where no simulated d is that low or high.

    expectation(d) gives (mean, standard error) at whole d. It is taken to rise with d but for its own error: meant is
    the first d that reaches the value, seen from one that is far below, so larger values never give smaller d.
    """
    first, last = REFERENCE_DIMENSIONS[0], REFERENCE_DIMENSIONS[-1]
    d = min(max(round(value), first), last)
    while d > first and expectation(d)[0] > 0.8 * value:
        d -= 1
    while d < last and expectation(d + 1)[0] < value:
        d += 1
    if (d == first and expectation(d)[0] > value) or d == last:
        return math.nan, math.nan
    (below, error), (above, other) = expectation(d), expectation(d + 1)
    share = math.log(value / below) / math.log(above / below)
    return d + share, max(error / below, other / above)


def _rows(x):
    """Coordinates, float64 (n, D), of what as_points accepts; pixels in [0, 1]."""
    points = as_points(x)
    if isinstance(x, ImageSet):
        x = x.images
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).numpy()
    rows = np.asarray(x).reshape(points.n, -1).astype(np.float64)
    return rows / 255 if points.integers else rows + 0.0  # + 0.0 makes -0.0 equal to 0.0 in every bit


def _skdim_class(name):
    import skdim

    known = {key: value for key, value in vars(skdim.id).items() if inspect.isclass(value)}
    if name not in known:
        folded = {key.lower(): key for key in known}
        close = [folded[c] for c in difflib.get_close_matches(str(name).lower(), folded, n=1)]
        raise BadPoints(
            f"estimator={name!r} is not in scikit-dimension{_meant(close)}: give one of {', '.join(sorted(known))}"
        )
    return known[name]


def _skdim_options(kind, name, options, seed):
    """(options of the constructor, options of fit); the seed and silence where the constructor takes them."""
    constructor = [p for p in inspect.signature(kind.__init__).parameters if p != "self"]
    internal = ("self", "X", "y", "precomputed_knn_arrays", "smooth", "n_jobs")
    fit = [p for p in inspect.signature(kind.fit).parameters if p not in internal]
    strange = [option for option in options if option not in (*constructor, *fit)]
    if strange:
        close = difflib.get_close_matches(strange[0], [*constructor, *fit], n=1, cutoff=0.5)
        raise BadPoints(
            f"{name} has no option {strange[0]!r}{_meant(close)}: it takes {', '.join([*constructor, *fit]) or 'none'}"
        )
    defaults = {"random_state": seed, "verbose": False}
    made = {key: value for key, value in defaults.items() if key in constructor}
    made |= {key: value for key, value in options.items() if key in constructor}
    return made, {key: value for key, value in options.items() if key in fit}


def _skdim_fit(kind, name, rows, made, fitted):
    """(dimension, texts of warnings) of one fit."""
    try:
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            value = float(kind(**made).fit(rows, **fitted).dimension_)
    except Exception as error:  # whatever it is, the caller learns which estimator, which points and why
        words = " ".join(str(error).split())[:200] or "no message"
        raise EstimatorFailed(
            f"{name} of scikit-dimension ends in {type(error).__name__} ({words}) on {rows.shape[0]} points in "
            f"{rows.shape[1]} coordinates, so there is no dimension: use other options or another estimator"
        ) from error
    if not math.isfinite(value):
        raise EstimatorFailed(
            f"{name} of scikit-dimension gives {value} on {rows.shape[0]} points in {rows.shape[1]} coordinates, "
            "which is no dimension: use other options or another estimator"
        )
    texts = tuple(dict.fromkeys(f"{w.category.__name__}: {' '.join(str(w.message).split())[:200]}" for w in caught))
    return value, texts

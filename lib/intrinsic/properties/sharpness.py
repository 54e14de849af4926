"""Label sharpness K_F: how fast labels change with the image.

    K_F = max over pairs  |y_i - y_j| / |x_i - x_j|          (for classes: 1 / distance, where labels differ)

over all pairs of a sample, exactly. It is a maximum, so it grows with the sample, and without limit where classes
overlap: a value means nothing without its number of images. Size, channels and range of the images change it too.

    label_sharpness         all pairs: a lower bound of the supremum, for certain
    mean_sharpness          its mean over draws of M images a class
    quantile_sharpness      1 / quantile of the distance to the nearest image of another label
    same_label_control      1 / smallest distance within a label, and the ratio of K_F to it
    class_pair_sharpness    K_F between each two classes, the control on the diagonal
    growth, growth_exponent K_F against M, and its slope in logarithms
    sharpness_limit         an upper limit for 1 / gap, where the data allow one

Measured coverage of the intervals stands in book/methods/tables/sharpness_coverage.json and sharpness_limit.json,
which benchmarks/sharpness_simulations.py writes; it also says what the samples named in the docstrings are.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

from intrinsic.images import balanced_draws
from intrinsic.properties.dimension import LEVEL, SPLITS, Estimate, mle_dimension
from intrinsic.properties.neighbors import (
    BadPoints,
    Neighbors,
    Pairs,
    as_points,
    closest_pairs,
    labels_and_group,
    neighbors,
)

REPLICATES = 200  # subsamples behind an interval
SHARE = 8  # each of them holds one in SHARE images (or groups) of each class
LIST_LIMIT = 8_000  # points up to which draws are looked up in one list of closest pairs
SAME_LABEL_PAIRS = 20_000  # closest pairs within each class that are listed
QUANTILES = (0.01, 0.05, 0.1, 0.5)
LIMIT_TEST = 0.03  # level of the test behind the 95 % limit: closest pairs share images, which costs up to 5 % at 0.05


class Sharpness(Estimate):
    """Label sharpness: a float with an interval (low, high, method), and

    pair            (i, j), i < j, the images that set it; None where no two labels differ
    labels_of_pair  their labels
    distance        between them; infinity where there is no pair
    """


def label_sharpness(x, y=None, *, labels="classes", interval=True, group=None, seed=0):
    """Label sharpness over all pairs, with the pair that sets it.

        K_F = max_{i,j} |y_i - y_j| / |x_i - x_j|

    x         images (pixels in [0, 1]), points (n, D), a tensor or Neighbors with labels (no second pass)
    y         labels (n,); by default those of x
    labels    "classes": |y_i - y_j| is 1 where labels differ, so K_F = 1 / smallest distance between classes;
              "ordered": labels are numbers and their difference counts
    interval  False leaves low and high NaN
    group     one a point; an ImageSet or Neighbors has its own: whole groups enter a subsample
    seed      of the subsamples
    Unit: per unit of distance. Equal labels throughout give 0, with no pair. Copies with different labels give
    infinity, with that pair and no interval. Of equally sharp pairs the one with the smallest (i, j) is given.

    Interval (95 %): for the geometric mean of K_F over samples of this size and make-up from the same population
    (exp of the expectation of log K_F; the plain mean is infinite in one dimension). It is not for the supremum
    over the population, to which K_F need not converge. A bootstrap with replacement cannot serve a maximum.
    Instead K_F is taken from REPLICATES subsamples without replacement that hold one in SHARE images (or groups) of
    each class, and the spread of log K_F in these stands for its spread at n:
        low, high = K_F exp(-q_.975), K_F exp(-q_.025),    q the quantiles of log K*_b - mean log K*.
    Where classes overlap in d dimensions, K_F M^(-2/d) has a limiting law, so the spread does not depend on n; where
    classes are apart, it shrinks with n and the interval is too wide.
    Measured coverage (120 samples each; book/methods/tables/sharpness_coverage.json): grouped 96 %, groups_ignored 82
    %, mixed_scales 98 %, overlapping 92 to 98 %, slabs 99 to 100 %. Groups of six near one another need to be given:
    where they are ignored the interval is too narrow.
    Source: definition: Konz & Mazurowski 2024, eq. 1; subsampling: Politis, Romano & Wolf 1999, chapter 2.
    """
    points, y, group = _parts(x, y, group)
    ordered = _ordered(labels)
    if not ordered and not interval and _own(x, y):
        pairs = _closest_opposite(x)
    elif ordered:
        pairs = closest_pairs(points, y, ordered=True)
    else:
        pairs = _all_pairs(x, points, y)
    if not len(pairs):
        return _no_difference(points.n)
    value = float(pairs.sharpness[0])
    facts = _facts(pairs, 0, y) | {"n": points.n}
    if not interval or not math.isfinite(value):
        return Sharpness(value, method="all pairs", **facts)
    look = SubsetSharpness(points, y, pairs, ordered)
    logs = np.log(_positive(look(kept)[0] for kept in _subsamples(y, group, ordered, seed)))
    low, high = value / np.exp(np.quantile(logs - logs.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2]))
    method = f"all pairs; {REPLICATES} subsamples of 1/{SHARE} without replacement, log scale"
    return Sharpness(value, low, high, method, **facts)


def mean_sharpness(x, y=None, per_class=250, draws=25, seed=0, *, interval=True, group=None):
    """Mean label sharpness of seeded balanced draws of M = per_class images of each class.

    K_F grows with the number of images, so image sets are compared by this value at one M. The draws are those of
    images.balanced_draws(labels, per_class, draws, seed). x, y, group are as for label_sharpness; pair,
    labels_of_pair and distance are those of the sharpest pair in any draw. A draw that holds copies with different
    labels makes it infinite.

    Interval (95 %): for the expectation of K_F at M images a class over the population that x is a sample of, not
    over draws from x alone (draws share images, so their spread says too little). The whole procedure is repeated
    on REPLICATES subsamples of one in SHARE images (or groups) of each class, with M / SHARE images a class in each
    of as many draws; with U the value and U*_b those of the subsamples
        low, high = U / q_.975, U / q_.025,    q the quantiles of U*_b / mean U*.
    The relative spread depends on the ratio of M to the size of a class, which is the same in both, and on M only as
    in label_sharpness.
    Measured coverage (120 samples each; book/methods/tables/sharpness_coverage.json): grouped 99 %, groups_ignored 71
    %, mixed_scales 98 %, overlapping 88 to 96 %, slabs 100 %. In two dimensions K_F has no finite variance, which shows
    where M is nearly the whole class.
    Raises images.TooFewImages.
    """
    points, y, group = _parts(x, y, group)
    codes = np.unique(y, return_inverse=True)[1]
    chosen = balanced_draws(codes, per_class, draws, seed)
    if not codes.any():
        return _no_difference(points.n)
    look = _lookup(x, points, y)
    found = [look.at(draw) for draw in chosen]
    value = float(np.mean([sharpness for sharpness, _ in found]))
    facts = max(found, key=lambda one: one[0])[1] | {"n": points.n, "per_class": per_class, "draws": draws}
    method = f"mean of {draws} balanced draws"
    if not interval or not math.isfinite(value):
        return Sharpness(value, method=method, **facts)
    few = max(1, round(per_class / SHARE))
    rng = np.random.default_rng([seed, SHARE])
    replicates = []
    for kept in _subsamples(y, group, False, seed):
        members = [np.flatnonzero(kept & (codes == code)) for code in range(codes.max() + 1)]
        means = [
            look.at(np.concatenate([rng.choice(m, min(few, len(m)), replace=False) for m in members]))[0]
            for _ in range(draws)
        ]
        replicates.append(np.mean(means))
    replicates = _positive(replicates)
    low, high = value / np.quantile(replicates / replicates.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Sharpness(value, low, high, f"{method}; {REPLICATES} subsamples of 1/{SHARE}", **facts)


def quantile_sharpness(x, y=None, quantiles=QUANTILES, *, interval=True, group=None, seed=0):
    """Label sharpness of a typical image: 1 / q-quantile of r_i, for each q; a list of Sharpness with its `quantile`.

        r_i = distance of image i to the nearest image with another label,     q = 0 gives K_F itself

    Unlike the maximum it is no matter of a single pair: a few wrong labels or copies change it little while they are
    fewer than q n. It depends on the number of images too: where classes overlap in d dimensions r_i falls, and the
    value rises, as M^(1/d) (K_F as M^(2/d)); where they are apart it has a finite limit.

    x, y, group, interval, seed   as for label_sharpness; quantiles: 0 <= q <= 1, linear between order statistics
    pair, labels_of_pair          None: no pair sets it; distance is the quantile
    Interval (95 %): for the geometric mean of the estimator at this n. The images (or groups) are split at random into
    halves, SPLITS times, r_i is taken anew inside each, and as the variance of log Q goes as 1/n,
        se^2 = mean over splits of (log Q_A - log Q_B)^2 / 4,    interval Q exp(+- t se),
    with t as in dimension.mle_dimension. Below q n = 5 the quantile is an extreme, whose variance does not fall with n,
    and no interval is given (low and high are NaN).
    Measured coverage (120 samples each; book/methods/tables/sharpness_coverage.json): over all q, grouped 88 to 98 %,
    groups_ignored 53 to 74 %, overlapping 88 to 98 %, slabs 90 to 93 %. So most are a
    little too narrow.
    Source: half-samples: McCarthy 1969; Shao & Tu 1995, chapter 5.
    """
    quantiles = [float(q) for q in np.atleast_1d(quantiles)]
    if not quantiles or not all(0 <= q <= 1 for q in quantiles):
        raise BadPoints(f"quantiles={quantiles} hold a number that is no share of the images: give 0 <= q <= 1")
    points, y, group = _parts(x, y, group)
    near = _opposites(x, points, y)
    distance = near.opposite_distance
    if not np.isfinite(distance).any():
        return [Sharpness(0.0, 0.0, 0.0, "all labels are equal", **_no_pair(points.n), quantile=q) for q in quantiles]
    values = np.quantile(distance, quantiles)
    widths = [math.nan] * len(quantiles)
    enough = [interval and q * points.n >= 5 and value > 0 for q, value in zip(quantiles, values, strict=True)]
    if any(enough):
        look = _Halved(near, points, y)
        split = np.array([[look(side, quantiles) for side in (half, ~half)] for half in halves(y, group, seed)])
        units = points.n if group is None else int(group.max()) + 1
        t = student.ppf((1 + LEVEL) / 2, max(1, min(SPLITS, units - 1)))
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = np.diff(np.log(split), axis=1)[:, 0]  # (splits, quantiles)
        usable = np.isfinite(gaps)
        enough = [wanted and found for wanted, found in zip(enough, usable.any(axis=0), strict=True)]
        gaps[~usable] = 0.0
        widths = t * np.sqrt((gaps**2).sum(axis=0) / np.maximum(usable.sum(axis=0), 1) / 4)
    out = []
    for q, value, width, known in zip(quantiles, values, widths, enough, strict=True):
        factor = math.exp(width) if known else math.nan
        method = f"{q:g}-quantile of {points.n} nearest opposite distances"
        method += f"; half-samples, {SPLITS} splits" if known else ""
        facts = _no_pair(points.n) | {"distance": float(value), "quantile": q}
        sharp = 1 / value if value > 0 else math.inf
        out.append(Sharpness(sharp, sharp / factor, sharp * factor, method, **facts))
    return out


def same_label_control(x, y=None, *, interval=True, group=None, seed=0):
    """1 / smallest distance between two images of the same label, and the ratio of K_F to it.

        control = 1 / min_{i != j, y_i = y_j} |x_i - x_j| ,      ratio = K_F / control

    If labels had nothing to do with the images, two balanced classes would give a ratio near 1 (on geometric average):
    they have as many pairs with different labels as with equal ones (C classes have C - 1 times as many). A ratio
    well below 1 means that classes keep their distance; a high K_F with a ratio near 1 only that the images crowd.
    The released code of the paper returns this control, over random pairs, instead of K_F.

    x, y, interval, group, seed    as for label_sharpness
    Returns a Sharpness with the pair, and `ratio`, an Estimate. Copies with equal labels make the control infinite
    and the ratio 0; drop them first. Where no class has two images, the control is 0 and the ratio is NaN.
    Intervals (95 %) as for label_sharpness: from the same REPLICATES subsamples, log scale, the ratio from its
    logarithm in each.
    Measured coverage (120 samples each; book/methods/tables/sharpness_coverage.json): overlapping 94 to 98 %, slabs 94
    to 96 %.
    """
    points, y, group = _parts(x, y, group)
    codes = np.unique(y, return_inverse=True)[1]
    same = _same_label_pairs(points, codes)
    k_f = _all_pairs(x, points, y)
    top = float(k_f.sharpness[0]) if len(k_f) else 0.0
    if not len(same):
        nothing = Estimate(math.nan, method="no class has two images")
        return Sharpness(0.0, 0.0, 0.0, "no class has two images", **_no_pair(points.n), ratio=nothing)
    value = float(same.sharpness[0])
    ratio = math.nan if math.isinf(value) and math.isinf(top) else top / value
    facts = _facts(same, 0, y) | {"n": points.n}
    low = high = low_ratio = high_ratio = math.nan
    method = "all pairs of equal labels"
    if interval and math.isfinite(value) and 0 < top < math.inf:
        look, control = SubsetSharpness(points, y, k_f), _SameLabel(points, codes, same)
        both = [(look(kept)[0], control(kept)) for kept in _subsamples(y, group, False, seed)]
        logs = np.log(np.array([pair for pair in both if min(pair) > 0]).reshape(-1, 2))
        if len(logs):
            low, high = value / _spread(logs[:, 1])
            low_ratio, high_ratio = ratio / _spread(logs[:, 0] - logs[:, 1])
            method += f"; {REPLICATES} subsamples of 1/{SHARE} without replacement, log scale"
    ratio = Estimate(ratio, low_ratio, high_ratio, f"K_F / control: {method}", n=points.n)
    return Sharpness(value, low, high, method, **facts, ratio=ratio)


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """Sharpness between each two of C classes: symmetric matrices (C, C), the control of each class on the diagonal.

    classes         labels, ascending
    sharpness       K_F between two classes; 1 / smallest distance within a class on the diagonal
    low, high       95 % intervals, or NaN
    distance        1 / sharpness of the classes form: the smallest distance (of draws: the smallest in any)
    counts          images of each class
    per_class, draws    of the mean, or None for all pairs
    """

    classes: np.ndarray
    sharpness: np.ndarray
    low: np.ndarray
    high: np.ndarray
    distance: np.ndarray
    counts: np.ndarray
    per_class: int | None
    draws: int | None
    method: str

    def rows(self, names=None):
        """One dict an entry, a <= b: first, second (names of classes), sharpness, low, high, distance, same_label."""
        names = [str(c) for c in self.classes] if names is None else [str(names[int(c)]) for c in self.classes]
        return [
            {
                "first": names[a],
                "second": names[b],
                "sharpness": float(self.sharpness[a, b]),
                "low": float(self.low[a, b]),
                "high": float(self.high[a, b]),
                "distance": float(self.distance[a, b]),
                "same_label": a == b,
            }
            for a in range(len(names))
            for b in range(a, len(names))
        ]


def class_pair_sharpness(x, y=None, *, labels="classes", per_class=None, draws=25, interval=False, group=None, seed=0):
    """K_F between each two classes: which classes set it, and which are as close as images of one class.

        K[a, b] = max_{y_i = a, y_j = b} w / |x_i - x_j| ,    w = 1, or |a - b| for labels="ordered"
        K[a, a] = 1 / smallest distance within class a, the control (in both forms)

    x, y, labels, group, seed   as for label_sharpness
    per_class   None: all images. Classes of different size then have different numbers of pairs; a number M gives the
                mean over `draws` balanced draws of M images of each class, as mean_sharpness does
    interval    True: intervals as for label_sharpness or mean_sharpness, from REPLICATES subsamples; takes longer
    Returns ClassPairs; the largest entry off the diagonal, all images, is label_sharpness(x, y, labels=labels).
    A class with one image has control 0; copies make an entry infinite, and it has no interval.
    """
    ordered = _ordered(labels)
    points, y, group = _parts(x, y, group)
    classes, codes = np.unique(y, return_inverse=True)
    weight = np.ones((len(classes), len(classes)))
    if ordered:
        value = _numbers(classes)
        weight = np.abs(value[:, None] - value) + np.eye(len(classes))
    look = _Matrix(x, points, y, codes)
    everything = np.ones(points.n, dtype=bool)
    if per_class is None:
        whole = look(everything)
        smallest, method = whole, "all pairs"
    else:
        inside = [_mask(chosen, points.n) for chosen in balanced_draws(codes, per_class, draws, seed)]
        found = np.array([look(one) for one in inside])
        whole, smallest, method = found.mean(axis=0), found.max(axis=0), f"mean of {draws} balanced draws"
    low = high = np.full(whole.shape, math.nan)
    if interval:
        replicates = np.array(list(look.replicates(y, group, per_class, draws, seed)))
        replicates[~(replicates > 0)] = math.nan
        low, high = low.copy(), high.copy()
        for a, b in np.ndindex(whole.shape):
            one = replicates[:, a, b]
            one = one[np.isfinite(one)]
            if len(one) > REPLICATES / 2 and math.isfinite(whole[a, b]):
                spread = _spread(np.log(one)) if per_class is None else _ratios(one)
                low[a, b], high[a, b] = whole[a, b] / spread
        method += f"; {REPLICATES} subsamples of 1/{SHARE}"
    with np.errstate(divide="ignore"):
        distance = 1 / smallest
    counts = np.bincount(codes)
    drawn = None if per_class is None else draws
    parts = (whole * weight, low * weight, high * weight, distance, counts, per_class, drawn, method)
    return ClassPairs(classes, *parts)


def growth(x, y=None, per_class=None, draws=25, seed=0):
    """(M, K_F(M)): mean label sharpness of balanced draws of M images a class, for each M in per_class.

    Overlapping classes grow as M^(2/d), classes a gap apart level off at 1 / gap. By default M doubles from 16 to the
    size of the smallest class. int64 and float64 arrays; the draws at each M are those of mean_sharpness.
    """
    points, y, _ = _parts(x, y, None)
    codes = np.unique(y, return_inverse=True)[1]
    if per_class is None:
        least = int(np.bincount(codes).min())
        per_class = [2**e for e in range(4, least.bit_length())]
        if not per_class:
            raise BadPoints(f"the smallest class has {least} images and M starts at 16: give smaller per_class=[...]")
    if np.ndim(per_class) != 1 or np.size(per_class) == 0:
        raise BadPoints(f"per_class={per_class} is no list of numbers M to measure at: give at least one, as a list")
    chosen = [balanced_draws(codes, m, draws, seed) for m in per_class]
    look = _lookup(x, points, y)
    return np.array(per_class, dtype=np.int64), np.array([np.mean([look.at(c)[0] for c in d]) for d in chosen])


def growth_exponent(x, y=None, per_class=None, draws=50, *, interval=True, group=None, seed=0):
    """Slope of mean log K_F(M) on log M: 2/d where classes overlap, 2/(d+1) where they touch, 0 on a plateau.

        exponent = least-squares slope of  mean over draws log K_F(M)  on  log M,     M = per_class

    x, y, group, seed   as for label_sharpness
    per_class   by default a quarter of the smallest class, halved up to four times as long as 8 are left. Draws of
                more than a quarter share most of their pairs, and one set then says little about the mean over sets
    draws       nested: in each, the images of M are among those of 2M
    Returns an Estimate with per_class, log_k_f (the means), closest (1 / K_F of all pairs) and halves (means in both
    halves of each split behind the interval, (SPLITS, 2, sizes); none without one). Copies with different labels are at
    distance 0, so the exponent is undefined: BadPoints.

    Interval (95 %): for the expectation of this slope, at these M, over sets of this size; it is not said to hold 2/d,
    which is a limit of large M. Draws share images, so their spread says too little. Instead the images (or groups)
    are split at random into halves, SPLITS times, and the slope is taken in each, with M halved too: the law of
    K_F(M) then is that of the whole set up to a factor where classes overlap, hence also the variance of the slope:
        se^2 = mean over splits of (slope_A - slope_B)^2 / 2,    interval slope +- t se, t as in mle_dimension.
    On a plateau the variance falls with n and the interval is too wide.
    Measured coverage (120 samples each; book/methods/tables/sharpness_coverage.json): grouped 98 %, groups_ignored 73
    %, mixed_scales 98 %, overlapping 91 to 92 %, sheets 100 %, slabs 93 to 98 %.
    """
    points, y, group = _parts(x, y, group)
    codes = np.unique(y, return_inverse=True)[1]
    least = int(np.bincount(codes).min())
    if per_class is None and least < 64:
        raise BadPoints(f"the smallest class has {least} images, and 64 are needed")
    if per_class is None:
        per_class = [least // 4 >> step for step in range(5) if least // 4 >> step >= 8]
    sizes = np.unique(np.array(per_class, dtype=np.int64))
    if not codes.any():
        facts = {"n": points.n, "per_class": sizes, "log_k_f": np.array([]), "halves": np.empty((0, 2, 0))}
        facts["closest"] = math.inf
        return Estimate(0.0, 0.0, 0.0, "all labels are equal", **facts)
    if len(sizes) < 2 or sizes[0] < 2 or sizes[-1] > least:
        raise BadPoints(
            f"the smallest class has {least} images and per_class={list(per_class)} holds no two numbers of them to "
            "compare: give a list of at least two, from 2 to the size of the smallest class (by default 64 are needed)"
        )
    pairs = _all_pairs(x, points, y) if points.n <= LIST_LIMIT or isinstance(x, Neighbors) else None
    pairs = closest_pairs(points, y) if pairs is None else pairs
    if not math.isfinite(pairs.sharpness[0]):
        raise BadPoints(
            "copies with different labels are at distance 0, where log K_F is infinite: drop them first, "
            "images = images.drop_duplicates(conflicting=True)"
        )
    look = _Nested(points, y, codes, pairs)
    logs = look(np.ones(points.n, dtype=bool), sizes, draws, seed)
    value = log_slope(sizes, logs)
    facts = {"n": points.n, "per_class": sizes, "log_k_f": logs, "closest": float(pairs.distance[0])}
    facts["halves"] = np.empty((0, 2, len(sizes)))
    method = f"slope of log K_F over M = {sizes[0]} to {sizes[-1]}, {draws} draws"
    units = points.n if group is None else int(group.max()) + 1
    if not interval or units < 4:
        return Estimate(value, method=method, **facts)
    fewer = np.maximum(sizes // 2, 1)
    found = [[look(side, fewer, draws, seed + 1) for side in (half, ~half)] for half in halves(y, group, seed)]
    facts["halves"] = np.array(found)
    split = np.array([[log_slope(fewer, one) for one in both] for both in found])
    split = split[np.isfinite(split).all(axis=1)]
    if not len(split):
        return Estimate(value, method=method, **facts)
    width = student.ppf((1 + LEVEL) / 2, min(SPLITS, units - 1)) * math.sqrt(
        np.mean((split[:, 0] - split[:, 1]) ** 2) / 2
    )
    method += f"; half-samples, {SPLITS} splits"
    return Estimate(value, value - width, value + width, method, **facts)


def growth_kind(exponent, d):
    """What the interval of a growth exponent says beside the dimension, in a few words.

    exponent   of growth_exponent; d   Estimate of the dimension of the same images
    "a plateau"            the interval holds 0 and excludes 2/(d+1): classes a gap apart
    "like 2/d"             it meets the interval of 2/d and excludes 0: classes overlap (or touch, if d is large)
    "steeper than 2/d"     it lies above: pairs that draws seldom complete, such as near-copies with different labels
    "slower than 2/d, like 2/(d+1)"   it lies above 0 and below 2/d, and meets that of 2/(d+1): classes touch
    "slower than 2/d, still rising"   it lies above 0 and below both
    "undecided: too few images"       it holds 0 and 2/(d+1);  "undecided: no interval" where there is none
    Uses the intervals alone; the bias of the dimension (edges, curvature) is in neither.
    """
    low, high = exponent.low, exponent.high
    d_low, d_high = (d.low, d.high) if math.isfinite(d.low) else (float(d), float(d))
    if not (math.isfinite(low) and math.isfinite(high) and d_low > 0):
        return "undecided: no interval"
    if low > 2 / d_low:
        return "steeper than 2/d"
    if low <= 0:
        return "a plateau" if high < 2 / (d_high + 1) else "undecided: too few images"
    if high >= 2 / d_high:
        return "like 2/d"
    if high >= 2 / (d_high + 1):
        return "slower than 2/d, like 2/(d+1)"
    return "slower than 2/d, still rising"


def sharpness_limit(x, y=None, *, count=None, dimension=None, group=None):
    """An upper limit for the supremum 1 / gap, at 95 % confidence, or "not identified".

    Below the gap g there is no pair with different labels; above it, the number of pairs within r of each other rises
    as (r - g)^a, with an exponent a that depends on dimension and on how the classes face each other. So of the
    count + 1 smallest distances r_1 <= ... <= r_k <= R between classes, given R, the
        z_i = log( (R - g) / (r_i - g) ),   i = 1 ... k,
    are like k independent exponential variables of rate a, and T(g) = max z / sum z, a statistic without a, has the
    known law of Fisher's g. T(g) rises with g: if the g at hand is below the true one, the smallest distance is not
    small enough. Hence
        gap_low = smallest g >= 0 with T(g) >= the 3 % quantile of that law,        high = 1 / gap_low.
    (The quantile would be 5 % if the pairs shared no image. They do, the more the lower the dimension, and with 5 % the
    limit held in fewer than 90 % of simulations at d = 2.)
    At gap_low = 0 classes that touch or overlap are not excluded, and the limit is infinite: not identified.

    count       k; by default a quarter of the smallest class, at most 100; below 20 nothing is identified
    dimension   Estimate of the dimension; by default mle_dimension of x (k = 20 or fewer), without an interval
    group       one a point; of each two groups only the closest pair counts
    Two conditions, both decided from the data, are part of the rule, and of the simulations:
    1. dimension at least 1.5: on lines the closest pairs share the same few points and are not independent;
    2. a negative control: gap_low must exceed the smallest distance between images of the *same* label (of different
       groups), which are no gap apart. Below that distance this sample is empty anyway, from few images, high
       dimension or pixel noise, and nothing can be said of what separates the classes.

    Returns a Sharpness: value and low are K_F of all pairs, a certain lower bound of the supremum; high the limit, or
    infinity; identified, reason, gap_low, count.
    Measured (book/methods/tables/sharpness_limit.json): on slabs and sheets of d = 2 to 8 with gaps of 0.1 to 1 the
    limit, infinite where nothing is identified, holds 1 / gap in 91.5 to 99.5 % of simulations, with other seeds
    than the rule was chosen with; where classes touch, overlap, have tails, noise or wrong labels, it is finite in at
    most 4.5 %. Where few samples of a kind give a finite limit (high dimension, small gap), many of these few are
    wrong. It rests on the power law over the k closest pairs, and cannot see a second way from class to class that no
    sampled pair is near to.
    Source: the likelihood of the smallest order statistics above an endpoint: Hall 1982; limits from spacings:
    Robson & Whitlock 1964, de Haan 1981; the law of T: Fisher 1929.
    """
    points, y, group = _parts(x, y, group)
    codes = np.unique(y, return_inverse=True)[1]
    pairs = _all_pairs(x, points, y)
    if not len(pairs):
        return Sharpness(0.0, 0.0, 0.0, "all labels are equal", **_no_pair(points.n), identified=True, reason="",
                         gap_low=math.inf, count=0)  # fmt: skip
    value = float(pairs.sharpness[0])
    units = np.arange(points.n) if group is None else group
    least = min(len(np.unique(units[codes == code])) for code in range(codes.max() + 1))
    count = min(100, least // 4) if count is None else int(count)
    gap, reason = 0.0, ""
    if value == math.inf:
        reason = "copies with different labels: there is no gap"
    elif count < 20:
        reason = f"the smallest class has {least} images or groups, and 80 are needed"
    else:
        distances = _between_units(pairs, units, count + 1)
        if len(distances) <= count:
            reason = f"fewer than {count + 1} pairs of images or groups are listed"
        else:
            gap = _endpoint(distances)
            reason = "" if gap > 0 else "classes that touch or overlap are not excluded"
    if gap > 0:
        d = dimension
        if d is None:
            near = x if isinstance(x, Neighbors) else neighbors(points, min(20, points.n - 1))
            d = mle_dimension(near, min(20, near.k), interval=False)
        if not d >= 1.5:
            gap, reason = 0.0, f"dimension {float(d):.2f}: below 1.5 the closest pairs share the same few images"
        else:
            same = _between_units(_same_label_pairs(points, codes), units, 1)
            if not len(same):
                gap, reason = 0.0, "no two images of one label (and of different groups), so there is no control"
            elif gap <= same[0]:
                nearest = f"{same[0]:.3g}, the smallest distance within a label"
                gap, reason = 0.0, f"what is excluded, a gap below {gap:.3g}, is less than {nearest}"
    facts = _facts(pairs, 0, y) | {
        "n": points.n,
        "identified": gap > 0,
        "reason": reason,
        "gap_low": gap,
        "count": count,
    }
    high = max(value, 1 / gap) if gap > 0 else math.inf
    method = f"endpoint of the {count} closest pairs, one-sided 95 %" if gap > 0 else f"not identified: {reason}"
    return Sharpness(value, value, high, method, **facts)


def sharpest_pairs(x, y=None, n=5, *, labels="classes"):
    """The n sharpest pairs, each image in one of them at most: a list of (i, j, distance, sharpness).

    The sharpest pair first, then the sharpest among the other images, and so on; fewer where pairs run out.
    """
    points, y, _ = _parts(x, y, None)
    ordered = _ordered(labels)
    count = None
    pairs = x.pairs if isinstance(x, Neighbors) and not ordered and np.array_equal(y, x.labels) else None
    while True:
        pairs = closest_pairs(points, y, ordered=ordered, count=count) if pairs is None else pairs
        free, chosen = np.ones(points.n, dtype=bool), []
        for m in range(len(pairs)):
            i, j = int(pairs.i[m]), int(pairs.j[m])
            if len(chosen) < n and free[i] and free[j]:
                free[[i, j]] = False
                chosen.append((i, j, float(pairs.distance[m]), float(pairs.sharpness[m])))
            if len(chosen) >= n:
                return chosen
        if pairs.complete:
            return chosen
        count, pairs = 8 * len(pairs), None


# ---------------------------------------------------------------------------------------------------- parts


def _parts(x, y, group):
    """(points, labels, group); a Neighbors stands for its points, since it may spare products."""
    points = x if isinstance(x, Neighbors) else as_points(x)
    y, group = labels_and_group(x, y, group)
    if y is None:
        raise BadPoints("label sharpness needs labels, and there are none: give y, one a point")
    return points, y, group


def _ordered(labels):
    if labels not in ("classes", "ordered"):
        raise BadPoints(f'labels={labels!r} is unknown, so differences are undefined: give "classes" or "ordered"')
    return labels == "ordered"


def _no_pair(n):
    return {"pair": None, "labels_of_pair": None, "distance": math.inf, "n": n}


def _numbers(labels):
    try:
        return labels.astype(np.float64)
    except ValueError as error:
        raise BadPoints('labels="ordered" needs numbers as labels: give numbers, or labels="classes"') from error


def _mask(chosen, n):
    inside = np.zeros(n, dtype=bool)
    inside[chosen] = True
    return inside


def _spread(logs):
    """exp of the quantiles of logs about their mean, the upper one first: a value over it is an interval."""
    return np.exp(np.quantile(logs - logs.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2]))


def _ratios(values):
    """Quantiles of values over their mean, the upper one first."""
    return np.quantile(values / values.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2])


def _own(x, y):
    """Whether x is a Neighbors with these labels."""
    return isinstance(x, Neighbors) and x.labels is not None and np.array_equal(y, x.labels)


def _closest_opposite(near):
    """The closest pair with different labels, which the nearest opposite points hold, as Pairs."""
    i = int(near.opposite_distance.argmin())
    distance = near.opposite_distance[[i]]
    j = near.opposite_index[[i]]
    known = np.isfinite(distance)
    with np.errstate(divide="ignore"):
        return Pairs(np.array([i])[known], j[known], distance[known], 1 / distance[known], False)


def _all_pairs(x, points, y):
    """The list of closest pairs with different labels: that of x, or a new one."""
    return x.pairs if _own(x, y) and x.pairs is not None else closest_pairs(points, y)


def _opposites(x, points, y):
    """Neighbors that know the nearest opposite distances."""
    return x if _own(x, y) and x.opposite_distance is not None else neighbors(points, 1, y)


def _same_label_pairs(points, codes):
    """The closest pairs of equal labels, all classes together, as far as the list is whole."""
    own = np.arange(points.n)  # each point a label of its own: all pairs of a class count
    lists = []
    for code in range(codes.max() + 1):
        rows = np.flatnonzero(codes == code)
        if len(rows) > 1:
            lists.append(closest_pairs(points, own, count=SAME_LABEL_PAIRS, rows=rows))
    if not lists:
        none = np.zeros(0, dtype=np.int64)
        return Pairs(none, none, none.astype(float), none.astype(float), True)
    reach = min((one.distance[-1] for one in lists if not one.complete), default=math.inf)
    i, j, distance, sharpness = (
        np.concatenate([getattr(one, name) for one in lists]) for name in ("i", "j", "distance", "sharpness")
    )
    order = np.lexsort((j, i, distance))
    order = order[distance[order] <= reach]
    return Pairs(i[order], j[order], distance[order], sharpness[order], all(one.complete for one in lists))


def _between_units(pairs, units, count):
    """The smallest distances between two units (images or groups), ascending, each two units once, at most `count`."""
    start, step, seen, out = 0, 4 * count, set(), []
    while start < len(pairs) and len(out) < count:
        part = slice(start, start + step)
        for a, b, distance in zip(units[pairs.i[part]], units[pairs.j[part]], pairs.distance[part], strict=True):
            key = (a, b) if a < b else (b, a)
            if a != b and key not in seen and len(out) < count:
                seen.add(key)
                out.append(distance)
        start += step
    return np.array(out)


@lru_cache(maxsize=64)
def _fisher_quantile(k, level):
    """The quantile at `level` of max z / sum z of k independent exponential variables.

    P(T > t) = sum_{j >= 1} (-1)^(j-1) C(k, j) (1 - j t)_+^(k-1), Fisher 1929; summed exactly, in fractions of integers,
    because its terms are large and alternate.
    """
    bits = 400
    one = 1 << bits

    def above(t):
        t = int(t * 2**60) << (bits - 60)
        total = 0
        for j in range(1, k + 1):
            base = one - j * t
            if base <= 0:
                break
            power, exponent, factor = one, k - 1, base
            while exponent:
                if exponent & 1:
                    power = power * factor >> bits
                factor = factor * factor >> bits
                exponent >>= 1
            total += (-1) ** (j - 1) * math.comb(k, j) * power
        return total / one

    low, high = 1 / k, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > 1 - level else (low, middle)
    return (low + high) / 2


def _endpoint(distances):
    """Lower 95 % limit for the endpoint g >= 0 of distances r_1 <= ... <= r_k <= R; 0 if 0 is not excluded."""
    r, outer = distances[:-1], distances[-1]
    limit = _fisher_quantile(len(r), LIMIT_TEST)

    def statistic(g):
        z = np.log((outer - g) / (r - g))
        return z.max() / z.sum() if z.any() else 0.0

    if r[0] <= 0 or statistic(0.0) >= limit:
        return 0.0
    low, high = 0.0, float(r[0])
    for _ in range(60):
        middle = (low + high) / 2
        if middle >= r[0] or statistic(middle) >= limit:
            high = middle
        else:
            low = middle
    return low


def log_slope(sizes, logs):
    """Slope of the least-squares line of logs against log sizes."""
    centered = np.log(sizes) - np.log(sizes).mean()
    return float(centered @ logs / (centered @ centered))


def halves(labels, group, seed):
    """SPLITS random halves, bool (n,), of the points (or groups, by their first label) of each class."""
    units = np.arange(len(labels)) if group is None else group
    first = np.unique(units, return_index=True)[1]
    stratum = np.unique(labels[first], return_inverse=True)[1]
    rng = np.random.default_rng([seed, 2])
    for _ in range(SPLITS):
        half = np.zeros(len(first), dtype=bool)
        odd = int(rng.integers(2))  # the odd one of a class goes to either side
        for s in range(stratum.max() + 1):
            members = rng.permutation(np.flatnonzero(stratum == s))
            half[members[: (len(members) + odd) // 2]] = True
        yield half[units]


def _no_difference(n):
    return Sharpness(0.0, 0.0, 0.0, "all labels are equal", **_no_pair(n))


def _facts(pairs, m, labels):
    i, j = int(pairs.i[m]), int(pairs.j[m])
    return {
        "pair": (i, j),
        "labels_of_pair": (labels[i].item(), labels[j].item()),
        "distance": float(pairs.distance[m]),
    }


def _lookup(x, points, y):
    """Lookup of draws: in the list of closest pairs, unless there are too many points for a pass over all."""
    if isinstance(x, Neighbors) and x.pairs is not None and np.array_equal(y, x.labels):
        return SubsetSharpness(points, y, x.pairs)
    return SubsetSharpness(points, y, closest_pairs(points, y) if points.n <= LIST_LIMIT else None)


class SubsetSharpness:
    """The sharpest pair within a subset: the first in the list of closest pairs that has both its ends there.

    Where the list holds none, or there is no list, distances within the subset are computed.
    """

    def __init__(self, points, labels, pairs=None, ordered=False):
        self.points, self.labels, self.pairs, self.ordered = points, labels, pairs, ordered

    def at(self, chosen):
        """(sharpness, facts) of the subset with indices `chosen`."""
        inside = np.zeros(self.points.n, dtype=bool)
        inside[chosen] = True
        return self(inside)

    def listed(self, inside):
        """(sharpness, facts) of the subset from the list; None where the list does not hold it."""
        pairs, start, step = self.pairs, 0, 1024
        while pairs is not None and start < len(pairs):
            part = slice(start, start + step)
            hit = inside[pairs.i[part]] & inside[pairs.j[part]]
            m = int(hit.argmax())
            if hit[m]:
                return float(pairs.sharpness[start + m]), _facts(pairs, start + m, self.labels)
            start, step = start + step, 2 * step
        return None

    def __call__(self, inside):
        found, pairs = self.listed(inside), self.pairs
        if found is not None:
            return found
        if pairs is None or not pairs.complete:
            rows = np.flatnonzero(inside)
            pairs = closest_pairs(self.points, self.labels, ordered=self.ordered, count=1, rows=rows)
            if len(pairs):
                return float(pairs.sharpness[0]), _facts(pairs, 0, self.labels)
        return 0.0, {}


class _Halved:
    """Quantiles of nearest opposite distances within a subset, from the list of closest pairs where it reaches.

    A point whose nearest opposite one within the subset is not in the list has it beyond the end of the list, so a
    quantile below that is known; else distances within the subset are computed.
    """

    def __init__(self, near, points, labels):
        pairs = near.pairs if near.pairs is not None else closest_pairs(points, labels)
        self.near, self.points, self.labels, self.pairs = near, points, labels, pairs
        self.end = math.inf if pairs.complete else float(pairs.distance[-1])

    def __call__(self, inside, quantiles):
        if not inside.any():  # classes of one image have no half
            return np.full(len(quantiles), math.nan)
        pairs = self.pairs
        hit = np.flatnonzero(inside[pairs.i] & inside[pairs.j])[::-1]
        nearest = np.full(self.points.n, math.inf)
        nearest[pairs.i[hit]] = pairs.distance[hit]  # the last write, of the closest pair, stays
        other = np.full(self.points.n, math.inf)
        other[pairs.j[hit]] = pairs.distance[hit]
        nearest = np.minimum(nearest, other)[inside]
        if not np.isfinite(nearest).all() or not pairs.complete:
            reached = np.sort(nearest)[min(len(nearest) - 1, math.ceil(max(quantiles) * (len(nearest) - 1)))]
            if not reached <= self.end or not math.isfinite(reached):
                chosen = np.flatnonzero(inside)
                if not (self.labels[chosen] != self.labels[chosen[0]]).any():
                    return np.full(len(quantiles), math.nan)
                nearest = self.near.subset(chosen, 1).opposite_distance
        nearest = np.where(np.isfinite(nearest), nearest, np.nanmax(nearest[np.isfinite(nearest)], initial=0))
        return np.quantile(nearest, quantiles)


class _SameLabel:
    """The smallest distance within a label in a subset, inverted: from the list, else computed."""

    def __init__(self, points, codes, pairs):
        self.points, self.codes = points, codes
        self.look = SubsetSharpness(points, np.arange(points.n), pairs)

    def __call__(self, inside):
        found = self.look.listed(inside)
        if found is not None:
            return found[0]
        again = [
            closest_pairs(self.points, self.look.labels, count=1, rows=rows)
            for rows in (np.flatnonzero(inside & (self.codes == c)) for c in range(self.codes.max() + 1))
            if len(rows) > 1
        ]
        return max((float(one.sharpness[0]) for one in again if len(one)), default=0.0)


class _Matrix:
    """The matrix of class pairs within a subset: one lookup an entry."""

    def __init__(self, x, points, y, codes):
        self.points, self.codes, self.n_classes = points, codes, int(codes.max()) + 1
        pairs = _all_pairs(x, points, y)
        low, high = np.sort([codes[pairs.i], codes[pairs.j]], axis=0)
        entry = low * self.n_classes + high
        order = np.argsort(entry, kind="stable")
        starts = np.searchsorted(entry[order], np.arange(self.n_classes**2 + 1))
        self.lookups = {}
        own = np.arange(points.n)
        for a in range(self.n_classes):
            rows = np.flatnonzero(codes == a)
            if len(rows) > 1:
                same = closest_pairs(points, own, count=SAME_LABEL_PAIRS, rows=rows)
                self.lookups[a, a] = SubsetSharpness(points, own, same)
            for b in range(a + 1, self.n_classes):
                code = a * self.n_classes + b
                part = order[starts[code] : starts[code + 1]]
                some = Pairs(pairs.i[part], pairs.j[part], pairs.distance[part], pairs.sharpness[part], pairs.complete)
                self.lookups[a, b] = SubsetSharpness(points, codes, some)

    def __call__(self, inside):
        out = np.zeros((self.n_classes, self.n_classes))
        for (a, b), look in self.lookups.items():
            out[a, b] = out[b, a] = look(inside & ((self.codes == a) | (self.codes == b)))[0]
        return out

    def replicates(self, y, group, per_class, draws, seed):
        """The matrix, or its mean over draws of M / SHARE a class, in each subsample."""
        rng = np.random.default_rng([seed, SHARE])
        for kept in _subsamples(y, group, False, seed):
            if per_class is None:
                yield self(kept)
                continue
            few = max(2, round(per_class / SHARE))
            members = [np.flatnonzero(kept & (self.codes == c)) for c in range(self.n_classes)]
            yield np.mean(
                [
                    self(_mask(np.concatenate([rng.choice(m, min(few, len(m)), replace=False) for m in members]),
                               self.points.n))
                    for _ in range(draws)
                ],
                axis=0,
            )  # fmt: skip


class _Nested:
    """Mean log K_F over nested draws of M images a class within a subset, for several M at once."""

    def __init__(self, points, labels, codes, pairs):
        self.points, self.codes, self.pairs = points, codes, pairs
        self.look = SubsetSharpness(points, labels, pairs)

    def __call__(self, inside, sizes, draws, seed):
        members = [np.flatnonzero(inside & (self.codes == c)) for c in range(self.codes.max() + 1)]
        if sum(len(m) > 0 for m in members) < 2:
            return np.full(len(sizes), math.nan)
        total = np.zeros(len(sizes))
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            rank = np.full(self.points.n, self.points.n)
            for m in members:
                rank[m] = rng.permutation(len(m))
            total += np.log(self._sharpness(rank, sizes))
        return total / draws

    def _sharpness(self, rank, sizes):
        """K_F of the points with rank below M, for each M: the first pair in the list with both ranks below M."""
        pairs, start, step = self.pairs, 0, 1024
        out, left = np.full(len(sizes), math.nan), len(sizes)  # sizes ascend; the largest is found first
        while start < len(pairs) and left:
            part = slice(start, start + step)
            worst = np.maximum(rank[pairs.i[part]], rank[pairs.j[part]])
            while left:
                hit = worst < sizes[left - 1]
                m = int(hit.argmax())
                if not hit[m]:
                    break
                out[left - 1] = pairs.sharpness[start + m]
                left -= 1
            start, step = start + step, 2 * step
        for m in range(left):
            out[m] = self.look(rank < sizes[m])[0]
        return out


def _positive(replicates):
    """Those with a pair; a subsample of groups with mixed labels may have none."""
    replicates = np.array(list(replicates))
    return replicates[replicates > 0] if (replicates > 0).any() else np.full(1, np.nan)


def _subsamples(labels, group, ordered, seed):
    """REPLICATES random subsets, bool (n,): one in SHARE points (or groups, by their first label) of each class."""
    units = np.arange(len(labels)) if group is None else group
    first = np.unique(units, return_index=True)[1]
    stratum = np.zeros(len(first), dtype=int) if ordered else np.unique(labels[first], return_inverse=True)[1]
    members = [np.flatnonzero(stratum == s) for s in range(stratum.max() + 1)]
    rng = np.random.default_rng(seed)
    for _ in range(REPLICATES):
        kept = np.zeros(len(first), dtype=bool)
        for m in members:
            kept[rng.choice(m, max(1, round(len(m) / SHARE)), replace=False)] = True
        yield kept[units]

"""Label sharpness K_F: how fast labels change with the image.

    K_F = max over pairs with different labels of  1 / |x_i - x_j|

over all pairs of a sample, exactly. It is a maximum, so it grows with the sample, and without limit where classes
overlap: a value means nothing without its number of images. Size, channels and range of the images change it too.

Subsample interval: K_F is taken from REPLICATES subsamples without replacement that hold one in SHARE images (or
groups) of each class, and the spread of log K_F in these stands for its spread at n. A bootstrap with replacement
cannot serve a maximum. Measured coverage: benchmarks/sharpness_simulations.py.
"""

import math
from dataclasses import dataclass

import numpy as np

from intrinsic.properties.interval import LEVEL, Interval, class_halves, degrees, half_sample
from intrinsic.properties.neighbors import (
    FEW,
    OPPOSITES,
    BadPoints,
    Neighbors,
    as_points,
    labels_and_group,
    neighbors,
)
from intrinsic.properties.pairs import Lookup, Pairs, closest_pairs, closest_same
from intrinsic.properties.selection import compiled

REPLICATES = 200  # subsamples behind an interval
SHARE = 8  # each of them holds one in SHARE images (or groups) of each class
LIST_LIMIT = 8_000  # points up to which draws are looked up in one list of closest pairs
QUANTILES = (0.01, 0.05, 0.1, 0.5)
SAMPLED = f"{REPLICATES} subsamples of 1/{SHARE} without replacement, log scale"


def label_sharpness(x, y=None, *, interval=True, group=None, seed=0) -> Interval:
    """Measure label sharpness over all pairs, with the pair that sets it.

        K_F = max over pairs with y_i != y_j of 1 / |x_i - x_j|

    Parameters
    ----------
    x : ImageSet, array, tensor or Neighbors
        uint8 images, floats in [0, 1] of image shape, or points (n, D) in their own unit. Neighbors with labels spare
        a second pass.
    y : array (n,), optional
        Labels, numbers or texts; by default those of x.
    interval : bool
        False leaves low and high NaN.
    group : array (n,), optional
        Whole groups enter a subsample; an ImageSet or Neighbors has its own.
    seed : int
        Seed of the subsamples.

    Returns
    -------
    Interval
        Per unit of L2 distance, with facts pair (i, j), labels_of_pair and distance. Equal labels give 0 and no pair.
        Copies with different labels give infinity and no interval. The 95 % interval is for the geometric mean of
        K_F over samples of this size; it is not for the supremum over the population.

    Raises
    ------
    BadPoints
        No labels, labels that do not fit, or images of floats above 1.

    References
    ----------
    Konz & Mazurowski 2024, eq. 1; subsampling: Politis, Romano & Wolf 1999, chapter 2.

    Examples
    --------
    >>> import numpy as np
    >>> found = label_sharpness(np.array([[0.0], [1.0], [1.5], [4.0]]), [0, 0, 1, 1], interval=False)
    >>> found, found.pair, found.distance
    (2, (1, 2), 0.5)
    """
    points, y, group = _parts(x, y, group)
    pairs = _closest_opposite(x) if not interval and _own(x, y) else _all_pairs(x, points, y)
    if not len(pairs):
        return _no_difference(points.n)
    value, facts = float(pairs.sharpness[0]), _facts(points, y, (int(pairs.i[0]), int(pairs.j[0])))
    if not interval or not math.isfinite(value):
        return Interval(value, method="all pairs", **facts)
    look = Lookup(points, _codes(y), pairs)
    logs = np.log(_positive(look(kept)[0] for kept in _subsamples(y, group, seed)))
    return Interval(value, *value / _spread(logs), f"all pairs; {SAMPLED}", **facts)


def mean_sharpness(x, y=None, per_class=250, draws=25, seed=0, *, interval=True, group=None) -> Interval:
    """Average label sharpness over seeded balanced draws of M images of each class.

    K_F grows with the number of images, so image sets are compared by this value at one M.

    Parameters
    ----------
    x, y, interval, group, seed
        As for label_sharpness; the draws are those of images.balanced_draws(labels, per_class, draws, seed).
    per_class : int
        M, images of each class in a draw.
    draws : int

    Returns
    -------
    Interval
        With facts per_class, draws, and the sharpest pair in any draw. The 95 % interval is for the expectation of
        K_F at M over the population: the procedure is repeated in subsamples with M / SHARE images a class, and their
        spread relative to their mean is that of the value.

    Raises
    ------
    BadPoints, images.TooFewImages

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((400, 2))
    >>> found = mean_sharpness(x, np.arange(400) % 2, per_class=50)
    >>> found.low < found < label_sharpness(x, np.arange(400) % 2)
    True
    """
    from intrinsic.images.splits import balanced_draws

    points, y, group = _parts(x, y, group)
    codes = _codes(y)
    chosen = balanced_draws(codes, per_class, draws, seed)
    if not codes.any():
        return _no_difference(points.n)
    look = lookup_of(x, points, y)
    found = [look.at(draw) for draw in chosen]
    value = float(np.mean([sharpness for sharpness, _ in found]))
    facts = _facts(points, y, max(found, key=lambda one: one[0])[1]) | {"per_class": per_class, "draws": draws}
    method = f"mean of {draws} balanced draws"
    if not interval or not math.isfinite(value):
        return Interval(value, method=method, **facts)
    few = max(1, round(per_class / SHARE))
    rng, replicates = np.random.default_rng([seed, SHARE]), []
    for kept in _subsamples(y, group, seed):
        members = [np.flatnonzero(kept & (codes == code)) for code in range(codes.max() + 1)]
        chosen = ([rng.choice(m, min(few, len(m)), replace=False) for m in members] for _ in range(draws))
        replicates.append(np.mean([look.at(np.concatenate(one))[0] for one in chosen]))
    replicates = _positive(replicates)
    ends = np.quantile(replicates / replicates.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Interval(value, *value / ends, f"{method}; {REPLICATES} subsamples of 1/{SHARE}", **facts)


def quantile_sharpness(x, y=None, quantiles=QUANTILES, *, interval=True, group=None, seed=0) -> list[Interval]:
    """Measure the sharpness of a typical image: 1 / q-quantile of the distance to the nearest image of another label.

    Unlike the maximum it does not hang on a single pair. Where classes overlap in d dimensions it rises as M^(1/d).

    Parameters
    ----------
    x, y, interval, group, seed
        As for label_sharpness.
    quantiles : sequence of float
        0 <= q <= 1; 0 gives K_F itself.

    Returns
    -------
    list of Interval
        With facts quantile and distance; pair is None. Half-sample intervals, for the geometric mean of the estimator
        at this n; none below q n = 5, where the quantile is an extreme.

    Raises
    ------
    BadPoints

    References
    ----------
    Half-samples: McCarthy 1969; Shao & Tu 1995, chapter 5.
    """
    quantiles = [float(q) for q in np.atleast_1d(quantiles)]
    if not quantiles or not all(0 <= q <= 1 for q in quantiles):
        raise BadPoints(f"quantiles={quantiles} hold a number that is no share of the images: give 0 <= q <= 1")
    points, y, group = _parts(x, y, group)
    near = x if _own(x, y) and x.opposite_distance is not None else neighbors(points, 1, y, reserve=1)
    if not np.isfinite(near.opposite_distance).any():
        return [_no_difference(points.n, quantile=q) for q in quantiles]
    values = np.quantile(near.opposite_distance, quantiles)
    wanted = [interval and q * points.n >= 5 and v > 0 for q, v in zip(quantiles, values, strict=True)]
    splits = class_halves(y, group, seed) if any(wanted) else []
    pairs = np.array([[_halved(near, side, quantiles) for side in (half, ~half)] for half in splits])
    freedom, out = degrees(points.n, group), []
    for m, (q, value) in enumerate(zip(quantiles, values, strict=True)):
        both = pairs[:, :, m] if wanted[m] else np.empty((0, 2))
        method = f"{q:g}-quantile of {points.n} nearest opposite distances"
        found = half_sample(float(value), both, freedom, method=method)
        facts = {"pair": None, "labels_of_pair": None, "distance": float(value), "quantile": q, "n": points.n}
        ends = (1 / found.high, 1 / found.low) if found.low > 0 else (math.nan, math.nan)
        out.append(Interval(1 / value if value > 0 else math.inf, *ends, found.method, **facts))
    return out


def same_label_control(x, y=None, *, interval=True, group=None, seed=0) -> Interval:
    """Invert the smallest distance between two images of one label, and compare K_F with it.

        control = 1 / min over y_i = y_j, i != j of |x_i - x_j| ,      ratio = K_F / control

    If labels had nothing to do with the images, two balanced classes would give a ratio near 1. A ratio well below 1
    means that classes keep their distance. The paper's released code returns this control instead of K_F.

    Parameters
    ----------
    x, y, interval, group, seed
        As for label_sharpness.

    Returns
    -------
    Interval
        With the pair, and `ratio`, an Interval. Copies with equal labels make the control infinite and the ratio 0:
        drop them first. Where no class has two images, the control is 0 and the ratio NaN.

    Raises
    ------
    BadPoints
    """
    points, y, group = _parts(x, y, group)
    codes, k_f, same = _codes(y), _all_pairs(x, points, y), _same_pairs(x, points, y)
    top = float(k_f.sharpness[0]) if len(k_f) else 0.0
    if not len(same):
        nothing = Interval(math.nan, method="no class has two images")
        return _no_difference(points.n, nothing.method, ratio=nothing)
    value = float(same.sharpness[0])
    ratio = math.nan if math.isinf(value) and math.isinf(top) else top / value
    facts = _facts(points, y, (int(same.i[0]), int(same.j[0])))
    ends = of_ratio = (math.nan, math.nan)
    method = "all pairs of equal labels"
    if interval and math.isfinite(value) and 0 < top < math.inf:
        looks = Lookup(points, codes, k_f), Lookup(points, codes, same, same=True)
        both = np.array([[look(kept)[0] for look in looks] for kept in _subsamples(y, group, seed)])
        logs = np.log(both[(both > 0).all(axis=1)])
        if len(logs):
            ends, of_ratio = value / _spread(logs[:, 1]), ratio / _spread(logs[:, 0] - logs[:, 1])
            method += f"; {SAMPLED}"
    ratio = Interval(ratio, *of_ratio, f"K_F / control: {method}", n=points.n)
    return Interval(value, *ends, method, **facts, ratio=ratio)


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """Sharpness between each two classes, a symmetric matrix with the same-label control on its diagonal."""

    classes: np.ndarray
    sharpness: np.ndarray

    def rows(self, names=None):
        """One dict an entry, a <= b: first, second (names of classes), sharpness, same_label."""
        names = [str(c) if names is None else str(names[int(c)]) for c in self.classes]
        return [
            {"first": a, "second": names[j], "sharpness": float(self.sharpness[i, j]), "same_label": i == j}
            for i, a in enumerate(names)
            for j in range(i, len(names))
        ]


def class_pair_sharpness(x, y=None, *, per_class=None, draws=25, seed=0) -> ClassPairs:
    """Measure K_F between each two classes, which shows the classes that set it.

    Parameters
    ----------
    x, y
        As for label_sharpness.
    per_class : int, optional
        M: the mean over `draws` balanced draws of M images a class. By default all images.
    draws, seed : int

    Returns
    -------
    ClassPairs
        Its largest entry off the diagonal, for all images, is label_sharpness. A class of one image has control 0.
    """
    from intrinsic.images.splits import balanced_draws

    points, y, _ = _parts(x, y, None)
    classes, codes = np.unique(y, return_inverse=True)
    inside = np.ones((1, points.n), dtype=bool)
    if per_class is not None:
        chosen = balanced_draws(codes, per_class, draws, seed)
        inside = np.zeros((draws, points.n), dtype=bool)
        np.put_along_axis(inside, np.array(chosen), True, axis=1)
    found = np.zeros((len(inside), len(classes), len(classes)))
    across, same = _all_pairs(x, points, y), _same_pairs(x, points, y)
    for a in range(len(classes)):
        for b in range(a, len(classes)):
            mine, pairs = (codes == a) | (codes == b), same if a == b else across
            look = Lookup(points, codes, pairs.part(mine[pairs.i] & mine[pairs.j]), same=a == b)
            found[:, a, b] = found[:, b, a] = [look(one & mine)[0] for one in inside]
    return ClassPairs(classes, found.mean(axis=0))


def sharpest_pairs(x, y=None, n=5) -> list[tuple]:
    """The n sharpest pairs (i, j, distance, sharpness), the sharpest first, each image in one of them at most."""
    points, y, _ = _parts(x, y, None)
    pairs = _all_pairs(x, points, y)
    while True:
        free, chosen = np.ones(points.n, dtype=bool), []
        for m, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)):
            if len(chosen) == n:
                break
            if free[i] and free[j]:
                free[[i, j]] = False
                chosen.append((i, j, float(pairs.distance[m]), float(pairs.sharpness[m])))
        if len(chosen) == n or pairs.complete:
            return chosen
        pairs = closest_pairs(points, y, count=8 * len(pairs))


# ---------------------------------------------------------------------------------------------------- parts


def _parts(x, y, group):
    """(points, labels, group), checked; images of floats above 1 are refused, since K_F is per unit of [0, 1]."""
    shape, kind = getattr(x, "shape", ()), str(getattr(x, "dtype", ""))
    if len(shape) > 2 and "float" in kind and len(x) and float(x.max()) > 1:
        raise BadPoints(f"the images run up to {float(x.max()):g}, and K_F is per unit of [0, 1]: divide by 255")
    points = as_points(x)
    y, group = labels_and_group(x, y, group, points.n)
    if y is None:
        raise BadPoints("label sharpness needs labels, and there are none: give y, one a point")
    return points, y, group


def _codes(y):
    return np.unique(y, return_inverse=True)[1]


def _own(x, y):
    """Whether x is a Neighbors with these labels."""
    return isinstance(x, Neighbors) and x.labels is not None and np.array_equal(y, x.labels)


def _closest_opposite(near):
    """The closest pair with different labels, which the nearest opposite points hold, as Pairs."""
    i = int(near.opposite_distance.argmin())
    known = np.isfinite(near.opposite_distance[[i]])
    with np.errstate(divide="ignore"):
        distance = near.opposite_distance[[i]][known]
        return Pairs(np.array([i])[known], near.opposite_index[[i]][known], distance, 1 / distance, False)


def _all_pairs(x, points, y):
    """The list of closest pairs with different labels: that of x, or a new one."""
    return x.pairs if _own(x, y) else closest_pairs(points, y)


def _same_pairs(x, points, y):
    """The list of closest pairs with equal labels: that of x, or a new one."""
    return x.same_pairs if _own(x, y) else closest_same(points, y)


def lookup_of(x, points, y):
    """Lookup of draws: in the list of closest pairs, unless there are too many points for a pass over all."""
    listed = _own(x, y) or points.n <= LIST_LIMIT
    return Lookup(points, _codes(y), _all_pairs(x, points, y) if listed else None)


def _facts(points, labels, pair):
    i, j = pair
    distance = float(points.distance(points.differences(np.array([i]), np.array([j])))[0])
    return {"pair": pair, "labels_of_pair": (labels[i].item(), labels[j].item()), "distance": distance, "n": points.n}


def _no_difference(n, method="all labels are equal", **facts):
    return Interval(0.0, 0.0, 0.0, method, n=n, pair=None, labels_of_pair=None, distance=math.inf, **facts)


def _spread(logs):
    """exp of the quantiles of logs about their mean, the upper one first: a value over it is an interval."""
    return np.exp(np.quantile(logs - logs.mean(), [(1 + LEVEL) / 2, (1 - LEVEL) / 2]))


def _positive(replicates):
    """Those with a pair; a subsample of groups with mixed labels may have none."""
    replicates = np.array(list(replicates))
    return replicates[replicates > 0] if (replicates > 0).any() else np.full(1, np.nan)


def _subsamples(labels, group, seed):
    """REPLICATES random subsets, bool (n,): one in SHARE points (or groups, by their first label) of each class."""
    units = np.arange(len(labels)) if group is None else group
    first = np.unique(units, return_index=True)[1]
    stratum = _codes(labels[first])
    members = [np.flatnonzero(stratum == s) for s in range(stratum.max() + 1)]
    rng = np.random.default_rng(seed)
    for _ in range(REPLICATES):
        kept = np.zeros(len(first), dtype=bool)
        for m in members:
            kept[rng.choice(m, max(1, round(len(m) / SHARE)), replace=False)] = True
        yield kept[units]


def _halved(near, inside, quantiles):
    """Quantiles of nearest opposite distances within a half; NaN where it has one label.

    The nearest opposite point within the half is among the nearest ones at hand, but for few points, whose distances
    to the half are computed.
    """
    if not inside.any() or (near.labels[inside] == near.labels[inside.argmax()]).all():
        return np.full(len(quantiles), math.nan)
    nearest = _nearest_inside(*near.opposites(OPPOSITES if near.group is None else 4 * OPPOSITES), inside)
    rows = np.flatnonzero(inside)
    missed = rows[~np.isfinite(nearest[rows])]
    if len(missed) > FEW:
        nearest[rows], missed = near.subset(rows, 1).opposite_distance, []
    for i in missed:
        others = rows[near.labels[rows] != near.labels[i]]
        nearest[i] = near.points.distance(near.points.differences(np.full(len(others), i), others).min())
    return np.quantile(nearest[rows], quantiles)


@compiled()
def _nearest_inside(distances, index, inside):
    out = np.full(len(index), np.inf)
    for i in range(len(index)):
        for c in range(index.shape[1]):
            if index[i, c] >= 0 and inside[index[i, c]]:
                out[i] = distances[i, c]
                break
    return out
